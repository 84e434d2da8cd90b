"""SCAFFOLD: control variates take the drift out of local steps.

Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020, Algorithm 1 with
option II for the hospital's variate. It divides by steps times learning rate, so it is right for plain SGD only.

The paper minimises the plain mean of the hospitals' losses. Here a hospital i counts by its weight w_i, as in FedAvg,
in the server's variate as well: c <- c + sum over the round's hospitals of w_i / W dc_i, where W is the weight of all
that train. So c stays the weighted mean of the c_i; with equal weights (``federation.weighting: uniform``) w_i / W is
the paper's 1 / N.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

from fedkvasir.algorithms.base import FLOWER, Algorithm, Positive, Visit, from_record, to_record
from fedkvasir.errors import UserError
from fedkvasir.exchange import State, average
from fedkvasir.scenario import Scenario

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Scaffold(Algorithm):
    summary: ClassVar[str] = "control variates correct every local step; plain SGD only"
    paper: ClassVar[str] = "Karimireddy et al., ICML 2020"
    server_state: ClassVar[tuple[str, ...]] = ("control",)
    replies: ClassVar[tuple[str, ...]] = ("control",)

    server_lr: Positive = 1.0

    def check(self, scenario: Scenario, network: "nn.Module | None") -> None:
        training = scenario.training
        if training.optimizer != "sgd" or training.momentum or training.weight_decay:
            raise UserError(
                "algorithm scaffold needs plain SGD: "
                "set training.optimizer=sgd, training.momentum=0 and training.weight_decay=0"
            )

    def begin(self, visit: Visit) -> None:
        import torch

        for record in (visit.extra, visit.kept):
            if "control" not in record:
                record["control"] = {name: torch.zeros_like(value) for name, value in visit.received.items()}

    def correct(self, visit: Visit) -> None:
        server, own = visit.extra["control"], visit.kept["control"]
        for name, parameter in visit.parameters():
            if parameter.grad is not None:
                parameter.grad += server[name] - own[name]

    def end(self, visit: Visit) -> None:
        server, own = visit.extra["control"], visit.kept["control"]
        change = {
            name: (visit.received[name] - parameter.detach()) / visit.lr_sum - server[name]
            for name, parameter in visit.parameters()
        }
        visit.kept["control"] = {name: own[name] + change[name] for name in own}
        visit.reply["control"] = change

    def strategy(self, total: float) -> "ScaffoldStrategy":
        return ScaffoldStrategy(total, self.server_lr)


class ScaffoldStrategy(FlowerFedAvg):
    """Adds the server's control variate to what is sent, and takes the changes out of what comes back."""

    def __init__(self, total: float, server_lr: float) -> None:
        super().__init__(**FLOWER)
        self.total, self.server_lr = total, server_lr
        self.control: State | None = None
        self._sent: State = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._sent = from_record(arrays)
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if self.control is not None:
            record = to_record(self.control)
            for message in messages:
                message.content["control"] = record
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        changes = [from_record(cast(ArrayRecord, reply.content.pop("control"))) for reply in replies]
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return arrays, metrics
        # c <- c + sum(w)/W mean(dc); x <- x + server_lr (mean(y) - x); both means are weighted by w
        weights = [cast(float, reply.content["metrics"][self.weighted_by_key]) for reply in replies]
        mean, part = average(changes, weights), np.float32(sum(weights) / self.total)
        before = self.control or {name: np.zeros_like(value) for name, value in mean.items()}
        self.control = {name: before[name] + part * mean[name] for name in mean}
        new = from_record(arrays)
        step = np.float32(self.server_lr)
        return to_record({name: x + step * (new[name] - x) for name, x in self._sent.items()}), metrics
