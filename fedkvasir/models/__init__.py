"""A name in a scenario becomes a network: images in 0..1 in, logits out."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import nn

from fedkvasir import ensembles
from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.models import classifier, encoder_decoder, triunet
from fedkvasir.models.ensemble import Ensemble
from fedkvasir.models.network import Network, at_timm
from fedkvasir.models.weights import load_weights
from fedkvasir.pretrained import check_weights
from fedkvasir.scenario import Model

MODELS: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "segmentation": encoder_decoder.MODELS | triunet.MODELS,
    "classification": classifier.MODELS,
}


def parameters_of(builder: Callable[..., nn.Module]) -> dict[str, inspect.Parameter]:
    """What a scenario may set of a model, with its defaults."""
    known = inspect.signature(builder).parameters
    return {name: known[name] for name in known if name not in ("classes", "in_channels")}


def check_model(spec: Model, task: str, image_size: int) -> Network | None:
    """Name, encoder, parameters and weights of a model and of its members, and that they can be built and take pictures
    of ``image_size``; in a blink.

    Returns the network, without weights; None for an ensemble.
    Raises UserError with the nearest spelling, or with what the architecture says against the encoder.
    """
    if task == "classification" and spec.activation != "sigmoid":
        raise UserError("model.activation is for segmentation; a classifier's is always a softmax over its classes")
    members = ensembles.members_of(spec, task)
    for member in members.values():
        check_model(member, task, image_size)
    if members:
        return None
    network = _built(spec.model_dump_json(exclude={"weights"}), task, image_size)
    check_weights(spec.weights, network.encoder)
    return network


@lru_cache(maxsize=16)  # the points of a sweep ask for the same again and again
def _built(spec_json: str, task: str, image_size: int) -> Network:
    spec = Model.model_validate_json(spec_json)
    try:
        with torch.device("meta"):  # shapes without numbers
            network = build_network(spec, task, classes=1)
    except UserError:  # so it is, or the encoder looks at numbers while it is built (mit_*)
        network = build_network(spec, task, classes=1).to("meta")
    if refusal := _refusal(network, image_size):
        known, given = at_timm(network.encoder), _given(spec)
        own = known.input_size[-1] if known else image_size
        advice = (
            "choose another size or model" if _refusal(network, own) else f"set data.image_size={own}, which it takes"
        )
        named = f"{spec.name} with {given}" if given else spec.name
        raise UserError(f"model: {named} cannot be applied at data.image_size = {image_size}: {refusal}; {advice}")
    return network


def _refusal(network: Network, image_size: int) -> str:
    """What an architecture on the meta device says against pictures of that size; empty if it takes them."""
    try:
        with torch.no_grad():
            network(torch.zeros(2, 3, image_size, image_size, device="meta"))
    except Exception as error:  # each in its own way, some without a word
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ""


def _given(spec: Model) -> dict[str, Any]:
    """What the scenario sets for the builder."""
    return spec.parameters | ({} if spec.encoder is None else {"encoder": spec.encoder})


def find_model(spec: Model, task: str) -> Callable[..., nn.Module]:
    """The builder of a model; checks its name, encoder and parameters. Raises UserError with the nearest spelling."""
    known = MODELS[task]
    builder = known.get(spec.name) or (classifier.any_timm(spec.name) if task == "classification" else None)
    if builder is None:
        names = [*known, *ensembles.ENSEMBLES[task]]
        several = task == "classification"
        near = did_you_mean(spec.name, [*names, *(timm.list_models() if several else [])])
        known_too = ", and any timm model" if several else ""
        raise UserError(f"model.name: unknown {task} model {spec.name!r}{near}; known: {', '.join(names)}{known_too}")
    defaults = {name: parameter.default for name, parameter in parameters_of(builder).items()}
    given = _given(spec)
    for key, value in given.items():
        if key not in defaults:
            takes = f"{did_you_mean(key, [*defaults])}; it takes {', '.join(defaults) or 'no parameters'}"
            anew = f"leave it out, on the command line with 'model={{name: {spec.name}, ...}}' for the whole group"
            raise UserError(f"model.{key}: {spec.name} does not take it{takes}; {anew}")
        if isinstance(value, list | tuple) != isinstance(defaults[key], tuple) and isinstance(
            defaults[key], tuple | int
        ):
            kind = "a list" if isinstance(defaults[key], tuple) else "a number"
            raise UserError(f"model.{key} = {value}: {spec.name} takes {kind}, by default {defaults[key]}")
    if spec.encoder is not None:
        encoder_decoder.check_encoder(spec.encoder)
    if "nodes" in given:
        triunet.check_nodes(given["nodes"])
    return builder


def with_defaults(spec: Model, task: str) -> Model:
    """The model with the defaults of its builder, or with its members and theirs. Raises UserError as
    :func:`find_model`."""
    given = {key: value for key, value in spec.model_dump().items() if value is not None}
    if parsed := ensembles.parse(spec, task):
        members = [with_defaults(own, task).model_dump() for own in ensembles.members_of(spec, task).values()]
        return Model.model_validate(given | parsed.model_dump(mode="json") | {"members": members})
    defaults = {name: parameter.default for name, parameter in parameters_of(find_model(spec, task)).items()}
    lists = {name: list(value) for name, value in defaults.items() if isinstance(value, tuple)}
    return Model.model_validate(defaults | lists | given)


def build_model(spec: Model, task: str, classes: int, seed: int | None = None) -> Network | Ensemble:
    """The network of a scenario: (B, 3, H, W) float32 in 0..1 -> logits (B, classes, H, W) or (B, classes).

    With a ``seed`` the network is initialised (random weights by the seed, then ``spec.weights``): the server's job.
    Without, its weights are whatever they are, to be overwritten by what the server sends.
    """
    parsed = ensembles.parse(spec, task)
    if parsed:
        members = {
            name: build_model(own, task, classes, seed) for name, own in ensembles.members_of(spec, task).items()
        }
        return Ensemble(members, parsed.fusion, classes, task)
    return build_network(spec, task, classes, seed)


def build_network(spec: Model, task: str, classes: int, seed: int | None = None) -> Network:
    """:func:`build_model` of a model that is no ensemble."""
    builder = find_model(spec, task)
    parameters = _given(spec)
    softmax = spec.activation == "softmax"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if seed is None else seed)
        try:
            body = builder(classes=classes + softmax, **parameters)
        except UserError:
            raise
        except Exception as error:  # smp and timm refuse encoders and parameters each in their own ways
            reason = " ".join(str(error).split())
            raise UserError(f"model: {spec.name} cannot be built with {parameters}: {reason}") from error
    default = parameters_of(builder).get("encoder")
    encoder = spec.encoder or (default.default if default else spec.name)
    if task == "segmentation":
        encoder_decoder.check_sizes(body, encoder)
    network = Network(body, encoder, softmax)
    if seed is not None and spec.weights is not None:
        load_weights(network, spec)
    return network.to(memory_format=torch.channels_last)
