"""Ensembles: several networks on the same image, their answers fused into one.

Thambawita et al., DivergentNets: Medical Image Segmentation by Network Ensemble, EndoCV 2021, section 2.2 and figure 3.
Every member is trained on its own, one after another; the ensemble is formed from their selected checkpoints.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fedkvasir.errors import UserError
from fedkvasir.scenario import CenterName, Model, name_alone, sentence

ByName = BeforeValidator(name_alone)


class Fusion(BaseModel):
    """How the members' answers become one: ``mean`` of their probabilities (the paper's), ``weighted`` by the members'
    validation scores, or ``learned``: a small network on top, fitted on the training hospitals' validation images."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["mean", "weighted", "learned"] = "mean"
    rounds: Annotated[int, Field(ge=1)] = 5
    """learned: rounds of federated averaging; this and the next two mean nothing to the others."""
    epochs: Annotated[int, Field(ge=1)] = 2
    lr: Annotated[float, Field(gt=0)] = 1e-2


class Members(BaseModel):
    """Any models of the scenario's task, each trained on its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    members: Annotated[tuple[Annotated[Model, ByName], ...], Field(min_length=2)]
    """A name each, or a name with the model's own parameters; encoder and weights are the ensemble's unless given."""
    labels: tuple[CenterName, ...] = ()
    """What the members are called, in order; their names where it is empty."""
    fusion: Annotated[Fusion, ByName] = Fusion()
    decoder_channels: tuple[int, ...] | None = None
    """For the members that take a list of them (unet, unetplusplus, manet, triunet)."""

    @model_validator(mode="after")
    def _a_label_each(self) -> Self:
        if self.labels and len(set(self.labels)) != len(self.members):
            raise ValueError(f"labels: {len(self.members)} members need as many different labels")
        return self


class DivergentNets(Members):
    """DivergentNets (Thambawita et al., EndoCV 2021): five architectures, softmax, mean, round."""

    members: Annotated[tuple[Annotated[Model, ByName], ...], Field(min_length=2)] = tuple(
        Model(name=name) for name in ("unetplusplus", "fpn", "deeplabv3", "deeplabv3plus", "triunet")
    )


ENSEMBLES: dict[str, dict[str, type[Members]]] = {
    "segmentation": {"ensemble": Members, "divergentnets": DivergentNets},
    "classification": {"ensemble": Members},
}
WEIGHTS = "fusion.weights"
"""Of the members, under ``mean`` and ``weighted``: the name of the tensor."""
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
        if parsed and parsed.decoder_channels and member.name in CHANNEL_LISTS:
            own["decoder_channels"] = list(parsed.decoder_channels)
        # A label names a module, a folder and a run.
        names.append(label or re.sub(r"[^a-z0-9]", "-", member.name.lower())[:36])
        number = names.count(names[-1])
        labelled[names[-1] if number == 1 else f"{names[-1]}-{number}"] = member.model_copy(update=own)
    return labelled


class WeightedMean(nn.Module):
    """The members' probabilities, averaged by fixed weights; back to logits, so that what follows need not know."""

    weights: Tensor

    def __init__(self, members: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((members,), 1 / members))

    def forward(self, logits: Sequence[Tensor]) -> Tensor:
        """M tensors (B, K, H, W) or (B, K) -> one; a class a pixel of its own, or one class an image."""
        stacked = torch.stack(tuple(logits)).float()
        weights = self.weights.log().view(-1, *[1] * (stacked.ndim - 1))
        if stacked.ndim == 3:
            return (weights + stacked.log_softmax(dim=-1)).logsumexp(dim=0)
        # The means of p and of 1 - p, in logarithms: the log-odds stay finite however sure the members are.
        inside, outside = ((weights + logsigmoid(part)).logsumexp(dim=0) for part in (stacked, -stacked))
        return inside - outside


class Learned(nn.Module):
    """A small network on the members' logits: one 1 x 1 convolution for maps, a perceptron with one hidden layer for
    classes (Borgli et al., HyperKvasir, Scientific Data 2020). It begins as the mean of the logits."""

    def __init__(self, members: int, classes: int, task: str) -> None:
        super().__init__()
        width = members * classes
        mean = torch.eye(classes).repeat(1, members) / members
        if task == "segmentation":
            self.layers = nn.Sequential(nn.Conv2d(width, classes, 1))
            start = mean[:, :, None, None]
        else:
            # relu(x) - relu(-x) = x: the hidden layer holds both signs, so the start is the mean exactly.
            self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, classes))
            both = torch.cat([torch.eye(width), -torch.eye(width)])
            self.layers[0].load_state_dict({"weight": both, "bias": torch.zeros(2 * width)})
            start = torch.cat([mean, -mean], dim=1)
        self.layers[-1].load_state_dict({"weight": start, "bias": torch.zeros(classes)})

    def forward(self, logits: Sequence[Tensor]) -> Tensor:
        """As :class:`WeightedMean`."""
        return self.layers(torch.cat(tuple(logits), dim=1))


class OneAtATime(nn.Module):
    """A member that is loaded for every batch and forgotten after it: one is in memory, never all."""

    def __init__(self, load: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._load = load

    def forward(self, images: Tensor) -> Tensor:
        return self._load().to(images.device).eval()(images)


class Ensemble(nn.Module):
    """Members whose weights no longer change, and a fusion."""

    def __init__(self, members: Mapping[str, nn.Module], fusion: Fusion, classes: int, task: str) -> None:
        super().__init__()
        self.members = nn.ModuleDict(members).requires_grad_(False)
        learned = fusion.name == "learned"
        self.weighted = fusion.name == "weighted"
        self.fusion = Learned(len(members), classes, task) if learned else WeightedMean(len(members))

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) float32 in 0..1; logits: (B, C, H, W) or (B, K), as of one network."""
        with torch.no_grad():
            logits = [member(images) for member in self.members.values()]
        return self.fusion(logits)

    def train(self, mode: bool = True) -> "Ensemble":
        """Only the fusion is trained: the members' running statistics stay as they are."""
        super().train(mode)
        self.members.eval()
        return self

    @property
    def frozen(self) -> set[str]:
        """Names of the members' tensors: they are sent to hospitals and never back."""
        return {name for name in self.state_dict() if name.startswith("members.")}
