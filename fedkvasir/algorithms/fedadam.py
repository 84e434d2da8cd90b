"""FedAdam: the mean update is a pseudo-gradient for Adam on the server.

Reddi et al., Adaptive Federated Optimization, ICLR 2021, Algorithm 2; the arithmetic is Flower's, with a bias
correction that Algorithm 2 has not, and that counts rounds from 2, so that the first steps are smaller. Flower's v
begins at 0, Algorithm 2's at tau^2 at least, which halves the steps of updates that are small against tau: without it
an update that stays at tau / 10 has gone 1.98, 1.92 and 1.84 times as far after 1, 10 and 30 rounds, one of tau 1.82,
1.61 and 1.44, one of 10 tau 1.21, 1.07 and 1.03 times (the default decays). Buffers are averaged, never fed to the
optimiser.
"""

from dataclasses import dataclass
from typing import ClassVar

from flwr.serverapp.strategy import FedAdam as FlowerFedAdam

from fedkvasir.algorithms.base import FLOWER, Algorithm, Decay, Positive


@dataclass(frozen=True)
class FedAdam(Algorithm):
    summary: ClassVar[str] = "Adam on the server over the mean of the hospitals' updates"
    paper: ClassVar[str] = "Reddi et al., ICLR 2021"
    server_state: ClassVar[tuple[str, ...]] = ("m_t", "v_t")

    eta: Positive = 0.01
    beta_1: Decay = 0.9
    beta_2: Decay = 0.99
    tau: Positive = 1e-3

    def strategy(self, total: float) -> FlowerFedAdam:
        return FlowerFedAdam(**FLOWER, eta=self.eta, beta_1=self.beta_1, beta_2=self.beta_2, tau=self.tau)
