"""What a scenario says of an ensemble: its members, and how their answers become one.

Apart from the network in :mod:`fedkvasir.models.ensemble`, so that reports are made without torch.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from fedkvasir.errors import UserError
from fedkvasir.scenario import CenterName, Frozen, Model, name_alone, sentence

ByName = BeforeValidator(name_alone)


class Fusion(Frozen):
    """How the members' answers become one: ``mean`` of their probabilities (the paper's), ``weighted`` by the members'
    validation scores, or ``learned``: a small network on top, fitted on half of each training hospital's validation
    groups and scored on the other half."""

    name: Literal["mean", "weighted", "learned"] = "mean"
    rounds: Annotated[int, Field(ge=1)] = 5
    """learned: rounds of federated averaging; this and the next two mean nothing to the others."""
    epochs: Annotated[int, Field(ge=1)] = 2
    lr: Annotated[float, Field(gt=0)] = 1e-2


class Members(Frozen):
    """Any models of the scenario's task, each trained on its own."""

    members: Annotated[tuple[Annotated[Model, ByName], ...], Field(min_length=2)]
    """A name each, or a name with the model's own parameters; encoder and weights are the ensemble's unless given."""
    labels: tuple[CenterName, ...] = ()
    """What the members are called, in order; their names where it is empty."""
    fusion: Annotated[Fusion, ByName] = Fusion()
    decoder_channels: tuple[int, ...] | None = None
    """For the members that take a list of them (unet, unetplusplus, manet, triunet) and have none of their own."""

    @model_validator(mode="after")
    def _a_label_each(self) -> Self:
        if self.labels and not len({*self.labels}) == len(self.labels) == len(self.members):
            raise ValueError(f"labels: {len(self.members)} members need as many different labels")
        return self


class DivergentNets(Members):
    """DivergentNets (Thambawita et al., EndoCV 2021): five architectures and their mean.

    Their softmax, and how they are trained, is the recipe of this name."""

    members: Annotated[tuple[Annotated[Model, ByName], ...], Field(min_length=2)] = tuple(
        Model(name=name) for name in ("unetplusplus", "fpn", "deeplabv3", "deeplabv3plus", "triunet")
    )


ENSEMBLES: dict[str, dict[str, type[Members]]] = {
    "segmentation": {"ensemble": Members, "divergentnets": DivergentNets},
    "classification": {"ensemble": Members},
}
CHANNEL_LISTS = ("unet", "unetplusplus", "manet", "triunet")


def parse(spec: Model, task: str) -> Members | None:
    """What a model says of its members; None for a model that is no ensemble. Raises UserError with the key's path."""
    kind = ENSEMBLES[task].get(spec.name)
    if kind is None:
        return None
    try:
        return kind.model_validate(spec.parameters)
    except ValidationError as error:
        raise UserError(sentence(error, kind, under=("model",))) from error


def members_of(spec: Model, task: str) -> dict[str, Model]:
    """The members by label, in order: the name, with a number where it is not the first of its name. Empty for a model
    that is no ensemble."""
    parsed, labelled = parse(spec, task), dict[str, Model]()
    given = parsed.members if parsed else ()
    labels = (parsed and parsed.labels) or ("",) * len(given)
    names: list[str] = []
    for label, member in zip(labels, given, strict=True):
        if member.name in ENSEMBLES[task]:
            raise UserError(f"model.members: {member.name} is an ensemble itself; name its members instead")
        own: dict[str, Any] = {
            key: getattr(spec, key)
            for key in ("encoder", "weights", "activation")
            if key not in member.model_fields_set
        }
        channels = "decoder_channels"
        if parsed and parsed.decoder_channels and member.name in CHANNEL_LISTS and channels not in member.parameters:
            own[channels] = list(parsed.decoder_channels)
        # A label names a module, a folder and a run.
        names.append(label or re.sub(r"[^a-z0-9]", "-", member.name.lower())[:36])
        number = names.count(names[-1])
        labelled[names[-1] if number == 1 else f"{names[-1]}-{number}"] = member.model_copy(update=own)
    return labelled
