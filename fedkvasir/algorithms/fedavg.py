"""FedAvg: every hospital trains, the server takes the weighted mean.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, Algorithm 1.
"""

from dataclasses import dataclass
from typing import ClassVar

from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

from fedkvasir.algorithms.base import FLOWER, Algorithm


@dataclass(frozen=True)
class FedAvg(Algorithm):
    summary: ClassVar[str] = "weighted mean of the hospitals' weights"
    paper: ClassVar[str] = "McMahan et al., AISTATS 2017"

    def strategy(self, total: float) -> FlowerFedAvg:
        return FlowerFedAvg(**FLOWER)
