"""FedBN: batch normalisation stays with its hospital, everything else is averaged.

Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021, Algorithm 1.
What a hospital that took no part gets is outside the paper; here it is the mean of the layers of the round's hospitals
(``federation.unseen: average``), which is why hospitals send theirs along.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedkvasir.algorithms.fedavg import FedAvg
from fedkvasir.errors import UserError
from fedkvasir.exchange import normalisation
from fedkvasir.scenario import Scenario

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class FedBN(FedAvg):
    summary: ClassVar[str] = "FedAvg without batch normalisation, which stays with each hospital"
    paper: ClassVar[str] = "Li et al., ICLR 2021"

    def check(self, scenario: Scenario, network: "nn.Module | None") -> None:
        if network and not self.local(network):
            raise UserError(
                "algorithm fedbn keeps batch normalisation at each hospital, and model.name = "
                f"{scenario.model.name} has none: set algorithm=fedavg, or choose a model with batch normalisation"
            )

    def local(self, model: "nn.Module") -> set[str]:
        return normalisation(model)
