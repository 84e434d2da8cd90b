"""Each algorithm against its paper's arithmetic, over real messages and a real hospital half."""

import sys

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from torch import nn

from fedkvasir.algorithms import ALGORITHMS
from fedkvasir.algorithms.base import Algorithm, Visit, from_record, to_record, to_state, to_tensors
from fedkvasir.algorithms.fedadam import FedAdam
from fedkvasir.algorithms.fedavg import FedAvg
from fedkvasir.algorithms.fedbn import FedBN
from fedkvasir.algorithms.fedprox import FedProx
from fedkvasir.algorithms.scaffold import Scaffold
from fedkvasir.exchange import State, normalisation
from server.grid import LocalGrid, Node
from server.rounds import CohortGrid

CPU = torch.device("cpu")
WEIGHTS = {"oslo": 30.0, "rome": 10.0}


TOTAL = sum(WEIGHTS.values())


def grid_of(*cohort: str) -> CohortGrid:
    """The grid as a round's hospitals make it."""
    nodes = [Node(center, "", 1, 1) for center in WEIGHTS]
    return CohortGrid(LocalGrid(nodes, "clients.app:app", 1), [node.id for node in nodes if node.center in cohort])


@pytest.fixture
def grid() -> CohortGrid:
    return grid_of(*WEIGHTS)


def round_trip(
    strategy: object, grid: CohortGrid, number: int, start: State, answers: dict[str, tuple[State, dict[str, State]]]
) -> State:
    """One round of a strategy over messages: what it sends, the given answers, what it makes of them."""
    messages = list(strategy.configure_train(number, to_record(start), ConfigRecord(), grid))  # type: ignore[attr-defined]
    by_node = {Node(center, "", 1, 1).id: center for center in WEIGHTS}
    replies = []
    for message in sorted(messages, key=lambda message: by_node[message.metadata.dst_node_id]):
        center = by_node[message.metadata.dst_node_id]
        state, extra = answers[center]
        content = {"arrays": to_record(state), "metrics": MetricRecord({"weight": WEIGHTS[center], "loss": 0.0})}
        content |= {name: to_record(value) for name, value in extra.items()}
        replies.append(Message(RecordDict(content), reply_to=message))
    arrays, _ = strategy.aggregate_train(number, replies)  # type: ignore[attr-defined]
    return from_record(arrays)


def states(*values: list[float]) -> list[State]:
    return [{"w": np.array(value, dtype=np.float32)} for value in values]


def test_every_algorithm_says_what_it_is_and_where_it_comes_from() -> None:
    for kind in ALGORITHMS.values():
        assert kind.summary and kind.paper and issubclass(kind, Algorithm)


def test_fedavg_is_algorithm_1_of_mcmahan(grid: CohortGrid) -> None:
    start, oslo, rome = states([0, 0], [1, 2], [5, -2])
    new = round_trip(FedAvg().strategy(TOTAL), grid, 1, start, {"oslo": (oslo, {}), "rome": (rome, {})})
    np.testing.assert_allclose(new["w"], [0.75 * 1 + 0.25 * 5, 0.75 * 2 + 0.25 * -2])


def test_fedprox_adds_half_mu_times_the_squared_distance() -> None:
    network = nn.Linear(3, 1, bias=False)
    visit = Visit(network, {"weight": torch.tensor([[1.0, 2.0, 3.0]])}, {}, {})
    penalty = FedProx(mu=0.4).penalty(visit)
    distance = (network.weight.detach() - torch.tensor([[1.0, 2.0, 3.0]])).numpy()
    assert float(penalty.detach()) == pytest.approx(0.2 * float((distance**2).sum()))
    (gradient,) = torch.autograd.grad(penalty, network.weight)
    np.testing.assert_allclose(gradient.numpy(), 0.4 * distance, rtol=1e-5)


def test_fedbn_keeps_exactly_the_normalisation() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert FedBN().local(network) == normalisation(network)


def test_fedadam_is_algorithm_2_of_reddi_with_flowers_bias_correction(grid: CohortGrid) -> None:
    algorithm = FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
    strategy, x = algorithm.strategy(TOTAL), np.array([1.0, -1.0])
    m, v = np.zeros(2), np.zeros(2)
    for number in (1, 2, 3):
        oslo, rome = states(list(x + 0.3), list(x - 0.5))
        new = round_trip(strategy, grid, number, *states(list(x)), {"oslo": (oslo, {}), "rome": (rome, {})})  # type: ignore[arg-type]
        delta = np.full(2, 0.75 * 0.3 - 0.25 * 0.5)
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        eta = 0.1 * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
        x = x + eta * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(new["w"], x, rtol=1e-5)
        assert set(algorithm.server_state) == {"m_t", "v_t"} and strategy.m_t is not None


@pytest.mark.parametrize(
    ("update", "farther"), [(1e-4, (1.47, 0.98, 0.92)), (1e-3, (1.35, 0.82, 0.72)), (1e-2, (0.89, 0.55, 0.52))]
)
def test_fedadam_goes_as_far_against_the_papers_algorithm_as_it_says(
    grid: CohortGrid, update: float, farther: tuple[float, ...]
) -> None:
    algorithm = FedAdam()
    strategy, x, expected, m, v = algorithm.strategy(TOTAL), np.zeros(1), 0.0, 0.0, algorithm.tau**2
    ratios = []
    for number in range(1, 31):
        start, same, too = states(list(x), list(x + update), list(x + update))
        x = round_trip(strategy, grid, number, start, {"oslo": (same, {}), "rome": (too, {})})["w"].astype(float)
        m, v = 0.9 * m + 0.1 * update, 0.99 * v + 0.01 * update**2
        expected += algorithm.eta * m / (np.sqrt(v) + algorithm.tau)
        ratios.append(float(x[0]) / expected)
    assert [ratios[number - 1] for number in (1, 10, 30)] == pytest.approx(farther, abs=0.005)
    said = " ".join((sys.modules[FedAdam.__module__].__doc__ or "").split())
    assert all(f"{ratio:.2f}" in said for ratio in farther)


class Quadratic(nn.Module):
    """f(w) = 1/2 |w - target|^2, whose gradient is w - target: SCAFFOLD can be worked by hand on it."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self.target = target
        self.w = nn.Parameter(torch.zeros(2))


def local_visit(
    algorithm: Algorithm,
    start: State,
    extra: dict[str, State],
    kept: dict[str, State],
    target: list[float],
    lr: float,
    steps: int,
) -> Visit:
    network = Quadratic(torch.tensor(target))
    network.w.data = torch.from_numpy(start["w"].copy())
    groups = [{name: to_tensors(state, CPU) for name, state in group.items()} for group in (extra, kept)]
    visit = Visit(network, to_tensors(start, CPU), *groups)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    algorithm.begin(visit)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (network.w - network.target).pow(2).sum()).backward()
        algorithm.correct(visit)
        optimizer.step()
    visit.lr_sum = steps * lr
    algorithm.end(visit)
    return visit


def test_scaffold_is_algorithm_1_option_2_of_karimireddy(grid: CohortGrid) -> None:
    lr, steps = 0.1, {"oslo": 3, "rome": 5}
    targets = {"oslo": np.array([1.0, 0.0]), "rome": np.array([0.0, -2.0])}
    strategy = Scaffold(server_lr=0.8).strategy(TOTAL)
    x, c = np.zeros(2), np.zeros(2)
    own = {center: np.zeros(2) for center in WEIGHTS}
    kept: dict[str, dict[str, State]] = {center: {} for center in WEIGHTS}
    for number in (1, 2, 3):
        start = {"w": x.astype(np.float32)}
        extra = {} if strategy.control is None else {"control": strategy.control}
        answers, y, changes = {}, {}, {}
        for center, target in targets.items():
            visit = local_visit(Scaffold(), start, extra, kept[center], list(target), lr, steps[center])
            kept[center] = {name: to_state(tensors) for name, tensors in visit.kept.items()}
            reply = {name: to_state(tensors) for name, tensors in visit.reply.items()}
            answers[center] = ({"w": visit.model.w.detach().numpy().copy()}, reply)  # type: ignore[union-attr]
            # by hand
            y[center] = x.copy()
            for _ in range(steps[center]):
                y[center] = y[center] - lr * ((y[center] - target) - own[center] + c)
            after = own[center] - c + (x - y[center]) / (steps[center] * lr)
            changes[center], own[center] = after - own[center], after
        new = round_trip(strategy, grid, number, start, answers)
        x = x + 0.8 * (0.75 * y["oslo"] + 0.25 * y["rome"] - x)
        c = c + 0.75 * changes["oslo"] + 0.25 * changes["rome"]
        np.testing.assert_allclose(new["w"], x, atol=1e-5)
        np.testing.assert_allclose(strategy.control["w"], c, atol=1e-5)
        np.testing.assert_allclose(kept["rome"]["control"]["w"], own["rome"], atol=1e-5)


def test_scaffold_minimises_what_fedavg_does_whoever_takes_part() -> None:
    """Of two quadratics weighted 30:10 the minimum lies at the mean of their targets weighted so; the variates then
    are the gradients there, and no hospital leaves it."""
    targets = {"oslo": [0.0, 0.0], "rome": [1.0, -2.0]}
    optimum = 0.75 * np.array(targets["oslo"]) + 0.25 * np.array(targets["rome"])
    both, alone = tuple(WEIGHTS), ("rome",)
    for algorithm, cohorts in ((FedAvg(), [both]), (Scaffold(), [both]), (Scaffold(), [both, alone])):
        strategy, x = algorithm.strategy(TOTAL), {"w": np.array([5, 5], dtype=np.float32)}
        kept: dict[str, dict[str, State]] = {center: {} for center in WEIGHTS}
        for number in range(1, 101):
            cohort = cohorts[number % len(cohorts)]
            sent = {"control": strategy.control} if getattr(strategy, "control", None) else {}
            answers = {}
            for center in cohort:
                visit = local_visit(algorithm, x, sent, kept[center], targets[center], 0.1, 5)
                kept[center], reply = (
                    {name: to_state(tensors) for name, tensors in group.items()} for group in (visit.kept, visit.reply)
                )
                answers[center] = (to_state({"w": visit.model.w}), reply)  # type: ignore[dict-item]
            x = round_trip(strategy, grid_of(*cohort), number, x, answers)
        np.testing.assert_allclose(x["w"], optimum, atol=1e-4)
