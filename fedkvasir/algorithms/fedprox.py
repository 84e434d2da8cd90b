"""FedProx: FedAvg with a proximal term that holds local weights near the received ones.

Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, Eq. 2.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flwr.serverapp.strategy import FedProx as FlowerFedProx

from fedkvasir.algorithms.base import FLOWER, Algorithm, NotNegative, Visit

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FedProx(Algorithm):
    summary: ClassVar[str] = "FedAvg plus mu/2 |w - w_received|^2 in every hospital's loss"
    paper: ClassVar[str] = "Li et al., MLSys 2020"

    mu: NotNegative = 0.01

    def penalty(self, visit: Visit) -> "Tensor":
        import torch

        distances = [(parameter - visit.received[name]).pow(2).sum() for name, parameter in visit.parameters()]
        return self.mu / 2 * torch.stack(distances).sum()

    def strategy(self, total: float) -> FlowerFedProx:
        return FlowerFedProx(**FLOWER, proximal_mu=self.mu)
