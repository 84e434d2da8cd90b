"""One center: what it owns and what it does when a message arrives. It knows its own samples and nobody else's."""

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from clients.evaluate import evaluate
from clients.gallery import draw_gallery
from clients.state import CenterState
from fedkvasir import exchange
from fedkvasir.algorithms import build_algorithm
from fedkvasir.algorithms.base import Visit, to_state, to_tensors
from fedkvasir.data.augment import AUGMENTS, Augment
from fedkvasir.data.loader import Batch, Samples, train_batches
from fedkvasir.exchange import State
from fedkvasir.faults import mislabel
from fedkvasir.models import build_model
from fedkvasir.plan import Plan
from fedkvasir.randomness import derive_seed
from fedkvasir.scenario import POOLED
from fedkvasir.training import learning_rate, make_optimizer, settle_arithmetic, train_epochs


@dataclass
class Weights:
    """A model as it travels."""

    shared: State
    buffers: State
    local: State = field(default_factory=dict)
    """The mean of the layers that stay at centers, for a center that has none of its own."""
    frozen: State = field(default_factory=dict)
    """An ensemble's members."""


@dataclass
class Update:
    """What a hospital sends back after training."""

    weights: Weights
    extra: dict[str, State]
    metrics: dict[str, float]


class Hospital:
    """A center of a plan. ``folder`` is where it keeps state and draws its gallery."""

    def __init__(self, plan: Plan, center: str, network: nn.Module, folder: Path) -> None:
        self.plan, self.center, self.network, self.folder = plan, center, network, folder
        self.scenario = plan.scenario
        self.role = str(plan.centers.loc[center, "role"])
        self.algorithm = build_algorithm(self.scenario.algorithm)
        self.state = CenterState(folder / "centers" / center)
        self.device = torch.device(plan.device)

    def train(self, number: int, start_from: int, keep: int, weights: Weights, extra: dict[str, State]) -> Update:
        """One round of local training.

        number: the round; start_from: the round whose kept state to begin with (0: none); keep: the round whose kept
        state the best model needs (0: none). Raises NonFiniteLoss where the loss is no longer a number.
        """
        began = self._begin()
        scenario, training, algorithm, network = self.scenario, self.scenario.training, self.algorithm, self.network
        # Dropout and stochastic depth draw from torch's global stream.
        torch.manual_seed(derive_seed(scenario.seed, "train", self.center, number))
        kept = self.state.load(start_from)
        self._receive(weights, kept)
        optimizer = make_optimizer(network, training)
        if training.optimizer_state == "keep" and "optimizer" in kept:
            _restore(optimizer, network, kept["optimizer"])
        visit = Visit(
            network,
            to_tensors(weights.shared, self.device),
            {name: to_tensors(state, self.device) for name, state in extra.items()},
            {name: to_tensors(state, self.device) for name, state in kept.items() if name not in OWN},
        )
        algorithm.begin(visit)
        first, total = (number - 1) * training.epochs, scenario.federation.rounds * training.epochs
        trained = train_epochs(
            network,
            self._batches,
            self.plan.loss(),
            optimizer,
            {epoch: learning_rate(training, epoch, total) for epoch in range(first, first + training.epochs)},
            self.device,
            self.plan.precision,
            self.plan.batches_of_steps(self.center),
            partial(algorithm.penalty, visit),
            partial(algorithm.correct, visit),
        )
        visit.lr_sum = trained.lr_sum
        algorithm.end(visit)
        local = exchange.read(network, self.layout.local)
        groups = {name: to_state(tensors) for name, tensors in visit.kept.items()}
        if local:
            groups["local"] = local
        if training.optimizer_state == "keep":
            groups["optimizer"] = _moments(optimizer, network)
        if groups:
            self.state.save(number, groups, start_from, keep)
        return Update(
            Weights(
                exchange.read(network, self.layout.shared),
                exchange.read(network, self.layout.buffers),
                local,
            ),
            {name: to_state(tensors) for name, tensors in visit.reply.items()},
            {
                "loss": trained.loss,
                "samples": len(self._training),
                "steps": trained.steps,
                "state": int(bool(groups)),
                "seconds": time.perf_counter() - began,
                "peak_mib": self._peak_mib(),
            },
        )

    def evaluate(
        self, split: str, start_from: int, weights: Weights, gallery: bool
    ) -> tuple[pd.DataFrame, dict[str, float]]:
        """Per-image records of one split, and what it cost. ``gallery``: also draw best, median, worst and missed
        cases."""
        began = self._begin()
        self._receive(weights, {name: s for name, s in self.state.load(start_from).items() if name == "local"})
        samples = self.plan.part(self.center, split)
        rows, network_s = evaluate(
            self.network, samples, self.scenario, self.plan.classes, self.device, self.plan.precision, self._beside
        )
        rows.insert(0, "center", self.center)
        rows.insert(1, "role", self.role)
        rows.insert(2, "split", split)
        if gallery:
            draw_gallery(
                self.network, samples, rows, self.scenario, self.device, self.plan.precision, self.folder / "gallery"
            )
        cost = {
            "samples": len(samples),
            "seconds": time.perf_counter() - began,
            "network_s": network_s,
            "peak_mib": self._peak_mib(),
        }
        return rows, cost

    @cached_property
    def layout(self) -> exchange.Layout:
        """What travels, and what stays."""
        return exchange.layout(self.network, self.algorithm.local(self.network), self.scenario.federation.buffers)

    @cached_property
    def _training(self) -> Samples:
        return mislabel(self.plan.part(self.center, "train"), self.scenario)

    @cached_property
    def _augment(self) -> Augment:
        return Augment(AUGMENTS[self.scenario.training.augment](self.scenario.data.image_size))

    def _batches(self, epoch: int) -> Iterator[Batch]:
        seed = derive_seed(self.scenario.seed, "epoch", self.center, epoch)
        pieces = sum(self.plan.batches_of_steps(POOLED)) if self.center == POOLED else None
        batch_size = self.scenario.training.batch_size
        return train_batches(self._training, batch_size, self._augment, seed, pieces, self._beside)

    @property
    def _beside(self) -> int:
        """Threads that are free while a GPU computes."""
        return self.scenario.resources.threads_per_center if self.device.type == "cuda" else 0

    def _receive(self, weights: Weights, kept: dict[str, State]) -> None:
        """Fill the network: what was sent, and this center's own layers where it has them."""
        own = kept.get("local", weights.local)
        exchange.write(self.network, weights.shared | weights.buffers | own | weights.frozen)

    def _begin(self) -> float:
        """The time; from now on counts the most memory held on a GPU."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return time.perf_counter()

    def _peak_mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


OWN = ("local", "optimizer")
"""Groups of a center's state that are not the algorithm's."""


def load_network(plan: Plan) -> nn.Module:
    """A network of the plan's architecture; its weights come with the first message."""
    settle_arithmetic(plan.scenario.resources.threads_per_center)
    network = build_model(plan.scenario.model, plan.scenario.task, len(plan.classes)).to(plan.device)
    if plan.scenario.training.compile:
        network.compile()  # in place, at the first batch: names in the state_dict stay
    return network


def _moments(optimizer: torch.optim.Optimizer, network: nn.Module) -> State:
    """The optimiser's state as ``<parameter>|<slot>`` arrays."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"{names[parameter]}|{slot}": torch.as_tensor(value).detach().cpu().numpy()
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
        if value is not None
    }


def _restore(optimizer: torch.optim.Optimizer, network: nn.Module, moments: State) -> None:
    parameters = dict(network.named_parameters())
    for key, array in moments.items():
        name, slot = key.rsplit("|", 1)
        value = torch.from_numpy(array)
        optimizer.state[parameters[name]][slot] = value if slot == "step" else value.to(parameters[name].device)
