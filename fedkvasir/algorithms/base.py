"""The contract of a federated algorithm: a frozen parameter dataclass with two halves.

The hospital half has five hooks with neutral defaults; the server half is a Flower ``Strategy``. What crosses between
them is a message: ``arrays`` (shared parameters) always, and whatever named records the two halves agree on.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.constant import SType
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedkvasir.exchange import State
from fedkvasir.scenario import Scenario

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Tensors = dict[str, "Tensor"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Of a moving average: the share of what it was."""


@dataclass
class Visit:
    """One hospital's training in one round, as the hospital half sees it."""

    model: "nn.Module"
    received: Tensors
    """The shared parameters as they came from the server, by name, on the training device."""
    extra: dict[str, Tensors]
    """Further records the server half sent."""
    kept: dict[str, Tensors]
    """What this center kept from its last round; empty at first. Changes are kept for the next."""
    reply: dict[str, Tensors] = field(default_factory=dict)
    """Further records for the server half."""
    lr_sum: float = 0.0

    def parameters(self) -> "list[tuple[str, nn.Parameter]]":
        """The shared parameters by name."""
        own = dict(self.model.named_parameters())
        return [(name, own[name]) for name in self.received]


@dataclass(frozen=True)
class Algorithm(ABC):
    """Parameters are dataclass fields, typed by what they may be; every hook of the hospital half may stay as it is."""

    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    server_state: ClassVar[tuple[str, ...]] = ()
    """Attributes of the strategy that a checkpoint must hold; each is None or a dict of arrays."""
    replies: ClassVar[tuple[str, ...]] = ()
    """Records that hospitals send back beside the weights; each is made like the shared parameters."""

    def check(self, scenario: Scenario, network: "nn.Module | None") -> None:
        """Raise UserError for a combination that cannot be right. ``network`` has no weights; None: an ensemble."""

    # ---- hospital half

    def local(self, model: "nn.Module") -> set[str]:
        """Names of tensors that stay with their center."""
        return set()

    def begin(self, visit: Visit) -> None:
        """Before the first step."""

    def penalty(self, visit: Visit) -> "Tensor | None":
        """Added to the loss of every step."""
        return None

    def correct(self, visit: Visit) -> None:
        """After backward, before the optimiser's step."""

    def end(self, visit: Visit) -> None:
        """After the last step: fill ``visit.reply`` and ``visit.kept``."""

    # ---- server half

    def cohort(self, centers: Sequence[str], number: int) -> list[str] | None:
        """Who of ``centers`` trains in round ``number`` (1, 2, ...); None: drawn by ``federation.fraction``."""
        return None

    @abstractmethod
    def strategy(self, total: float) -> Strategy:
        """A Flower strategy; ``total`` is the weight of all training centers together, not of a round's alone."""


FLOWER: dict[str, Any] = {
    "fraction_train": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
    "weighted_by_key": "weight",
}
"""For every Flower strategy here: the round loop chooses the centers and shows the strategy only those."""


def to_record(state: State) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in state.items()})


def arrays_of(content: RecordDict) -> dict[str, ArrayRecord]:
    """A message's arrays by name.

    Flower's ``content.array_records`` and its like refer to themselves and to the content, which would then stay in
    memory until Python looks for cycles: a worker would hold the weights of many messages.
    """
    return {name: record for name, record in content.items() if isinstance(record, ArrayRecord)}


def from_record(record: Mapping[str, Array]) -> State:
    return {name: _decoded(array) for name, array in record.items()}


def _decoded(array: Array) -> np.ndarray:
    """``array.numpy()``, but headers are parsed once: a network has hundreds of small arrays, whose headers are alike.
    What is not as numpy writes it is numpy's own to refuse."""
    data = array.data
    if array.stype != SType.NUMPY or data[:8] != b"\x93NUMPY\x01\x00":
        return array.numpy()
    end = 10 + int.from_bytes(data[8:10], "little")
    shape, by_column, dtype = _header(data[:end])
    if dtype.hasobject:
        return array.numpy()
    return np.ndarray(shape, dtype, data, end, order="F" if by_column else "C").copy("K")


@lru_cache(maxsize=512)
def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type."""
    file = BytesIO(data)
    np.lib.format.read_magic(file)
    return np.lib.format.read_array_header_1_0(file)


def to_tensors(state: State, device: "torch.device") -> Tensors:
    import torch

    return {name: torch.from_numpy(np.array(array)).to(device) for name, array in state.items()}


def to_state(tensors: Tensors) -> State:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
