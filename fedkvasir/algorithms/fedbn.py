"""FedBN: batch normalisation stays with its hospital, everything else is averaged.

Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021, Algorithm 1.
What a hospital that took no part gets is outside the paper; here it is the mean of the training hospitals' layers
(``federation.unseen: average``), which is why hospitals send theirs along.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedkvasir.algorithms.fedavg import FedAvg
from fedkvasir.exchange import normalisation

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class FedBN(FedAvg):
    summary: ClassVar[str] = "FedAvg without batch normalisation, which stays with each hospital"
    paper: ClassVar[str] = "Li et al., ICLR 2021"

    def local(self, model: "nn.Module") -> set[str]:
        return normalisation(model)
