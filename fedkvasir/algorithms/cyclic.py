"""Cyclic weight transfer: one model goes from hospital to hospital, round after round; nothing is averaged.

Chang et al., Distributed deep learning networks among institutions for medical imaging, JAMIA 25(8), 2018.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedkvasir.algorithms.fedavg import FedAvg


@dataclass(frozen=True)
class Cyclic(FedAvg):
    summary: ClassVar[str] = "one hospital a round, in turn: n hospitals go round once in n rounds"
    paper: ClassVar[str] = "Chang et al., JAMIA 2018"

    def cohort(self, centers: Sequence[str], number: int) -> list[str]:
        return [centers[(number - 1) % len(centers)]]
