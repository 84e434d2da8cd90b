"""state_dict <-> arrays: what travels, how it is averaged, how it is hashed. Used by both sides.

Kinds of tensors:
``shared``  parameters, aggregated by the algorithm's strategy;
``buffers`` running statistics and counters, averaged here and never touched by a server optimiser;
``local``   parameters and buffers that stay with their center (FedBN, or ``buffers: local``);
``frozen``  the members of an ensemble, which only travel to hospitals.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from fedkvasir.files import write_atomic

if TYPE_CHECKING:
    from torch import nn

State = dict[str, np.ndarray]
"""Tensor name -> array, as in the network's state_dict."""
SERVER = "server."
"""Begins the groups of a checkpoint that hold an algorithm's state at the server."""


@dataclass(frozen=True)
class Layout:
    """The names in a network's state_dict, sorted, by kind."""

    shared: tuple[str, ...]
    buffers: tuple[str, ...]
    local: tuple[str, ...]
    """What is frozen is in none of them."""


def normalisation(model: "nn.Module") -> set[str]:
    """Every tensor of every batch normalisation, found by module type, however deeply nested."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for name in module.state_dict()
    }


def layout(model: "nn.Module", local: set[str], buffers: str) -> Layout:
    """Sort a network's tensors into kinds.

    local: names the algorithm keeps at the center; buffers: ``average`` or ``local`` (federation.buffers).
    """
    frozen: set[str] = getattr(model, "frozen", set())
    parameters, named = (
        {name for name, _ in model.named_parameters(remove_duplicate=once)} - frozen for once in (True, False)
    )
    everything = set(model.state_dict()) - frozen - (named - parameters)  # tied layers are one parameter of two names
    stays = local | (everything - parameters if buffers == "local" else set())
    return Layout(
        tuple(sorted(parameters - stays)),
        tuple(sorted(everything - parameters - stays)),
        tuple(sorted(stays)),
    )


def read(model: "nn.Module", names: Iterable[str]) -> State:
    """Copies of the named tensors as C-contiguous arrays on the host."""
    state = model.state_dict()
    return {name: np.array(state[name].detach().cpu().numpy(), order="C") for name in names}


def write(model: "nn.Module", state: State) -> None:
    """Copy arrays into the network. Raises ValueError that names a tensor of another shape, KeyError an unknown one."""
    import torch

    own = model.state_dict()
    with torch.no_grad():
        for name, array in state.items():
            if own[name].shape != array.shape:
                raise ValueError(f"tensor {name} is {array.shape}, expected {tuple(own[name].shape)}")
            own[name].copy_(torch.from_numpy(np.array(array)))


def average(states: Sequence[State], weights: Sequence[float]) -> State:
    """Weighted mean in float64, in the order given; integers are rounded and stay integers.

    Callers sort by center first, so that the sum does not depend on who answered first.
    """
    total = float(sum(weights))
    mean: State = {}
    for name, first in states[0].items():
        value = sum(
            state[name].astype(np.float64) * (weight / total) for state, weight in zip(states, weights, strict=True)
        )
        if np.issubdtype(first.dtype, np.integer):
            value = np.rint(value)
        mean[name] = np.asarray(value).astype(first.dtype)
    return mean


def sha256(state: State) -> str:
    """Of names, types, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_groups(path: Path, groups: dict[str, State], note: str = "") -> None:
    """Write named groups of arrays and a text as one safetensors file, whole or not at all."""
    # In C order: safetensors takes the bytes as they lie, and the moments of channels-last weights lie otherwise.
    tensors = {
        f"{group}/{name}": np.asarray(array, order="C")
        for group, state in groups.items()
        for name, array in state.items()
    }
    # To bytes first: safetensors' own writer hides a full disk behind an error of its own kind.
    write_atomic(path, save(tensors, {"note": note}))


def load_groups(path: Path, arrays: bool = True) -> tuple[dict[str, State], str]:
    """What :func:`save_groups` wrote, or its text alone. Raises FileNotFoundError, or SafetensorError for a file cut
    short."""
    groups: dict[str, State] = {}
    with safe_open(path, framework="numpy") as file:
        for key in file.keys() if arrays else ():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = file.get_tensor(key)
        return groups, file.metadata()["note"]
