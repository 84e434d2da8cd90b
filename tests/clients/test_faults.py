"""Declared faults: who is struck depends on seed, fault, center and occasion alone; each kind does what it says."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from clients.app import app, forget
from clients.faults import inject, striking
from fedkvasir import exchange
from fedkvasir.algorithms.base import from_record, to_record
from fedkvasir.exchange import State
from fedkvasir.models import build_model
from fedkvasir.plan import make_plan
from fedkvasir.scenario import Scenario
from server.answers import complaint
from server.grid import LocalGrid, Node

OCCASIONS = [(number, attempt) for number in range(1, 101) for attempt in (1, 2, 3)]


# ---- who is struck


def test_draws_are_replayed_and_attempts_rounds_centers_and_seeds_have_their_own(
    faulty: Callable[..., Scenario],
) -> None:
    def struck(seed: int, center: str, attempt: int) -> list[bool]:
        half = faulty("{kind: dropout, probability: 0.5}", f"seed={seed}")
        return [bool(striking(half, center, number, attempt)) for number in range(1, 101)]

    cases = [(0, "alta", 1), (1, "alta", 1), (0, "bergen", 1), (0, "alta", 2)]
    drawn = [struck(*case) for case in cases]
    assert drawn == [struck(*case) for case in cases]
    assert len({tuple(draw) for draw in drawn}) == 4


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9, 1.0])
def test_as_many_are_struck_as_the_probability_says(faulty: Callable[..., Scenario], probability: float) -> None:
    fault = faulty(f"{{kind: dropout, probability: {probability}}}")
    share = np.mean([bool(striking(fault, "alta", *occasion)) for occasion in OCCASIONS])
    assert share == 1 if probability == 1 else abs(share - probability) < 0.1


@given(st.integers(1, 9), st.sampled_from(["alta", "bergen"]))
def test_a_fault_strikes_where_and_when_it_is_declared(
    faulty: Callable[..., Scenario], number: int, center: str
) -> None:
    declared = faulty("{kind: dropout, center: bergen, rounds: [2, 5]}")
    assert bool(striking(declared, center, number, 1)) == (center == "bergen" and number in (2, 5))


def test_only_a_crash_is_drawn_anew_when_a_message_is_handed_out_again(faulty: Callable[..., Scenario]) -> None:
    """A worker that somebody else killed must not change what the scenario's faults do."""
    for kind, alike in (("dropout", True), ("crash", False)):
        half = faulty(f"{{kind: {kind}, probability: 0.5}}")
        first, second = ([bool(striking(half, "alta", *when, n)) for when in OCCASIONS] for n in (1, 2))
        assert (first == second) == alike


# ---- what each kind does


Answer = Callable[[Scenario], tuple[Message, dict[str, State], float]]


@pytest.fixture
def answer(tmp_path: Path) -> Answer:
    """Alta's reply to a train message of round 1, the arrays it was sent by record, and the seconds it took."""

    def ask(scenario: Scenario) -> tuple[Message, dict[str, State], float]:
        plan = make_plan(scenario)
        plan.save(tmp_path)
        forget()
        network = build_model(scenario.model, scenario.task, len(plan.classes), seed=1)
        names = exchange.layout(network, set(), "average")
        groups = {"arrays": names.shared, "buffers": names.buffers, "local": names.local}
        sent = {name: exchange.read(network, group) for name, group in groups.items()}
        config = {"server-round": 1, "attempt": 1, "start-from": 0, "keep": 0, "member": "", "validate": ""}
        node = Node("alta", str(tmp_path), 1, 1)
        grid = LocalGrid([node], "clients.app:app", 1)
        records = {name: to_record(state) for name, state in {**sent, "frozen": {}}.items()}
        message = grid.create_message(RecordDict({**records, "config": ConfigRecord(config)}), "train", node.id, "")
        began = time.monotonic()
        (reply,) = grid.send_and_receive([message])
        return reply, sent, time.monotonic() - began

    torch.set_num_threads(1)
    return ask


def arrays(reply: Message) -> State:
    return from_record(reply.content.array_records["arrays"])


def test_who_drops_out_answers_with_that_and_does_not_train(faulty: Callable[..., Scenario], answer: Answer) -> None:
    reply, sent, _ = answer(faulty("{kind: dropout, center: alta}"))
    assert complaint(reply, sent) == "dropped out, as the scenario's faults say"


def test_slow_and_late_answers_are_right_and_take_longer(faulty: Callable[..., Scenario], answer: Answer) -> None:
    plain, _, _ = answer(faulty("{kind: dropout, center: bergen}"))
    for fault, times, more_s in (
        ("{kind: slow, seconds: 0.7}", 1, 0.7),
        ("{kind: slow, factor: 3}", 3, 0.0),
        ("{kind: late, seconds: 0.5}", 0, 1.5),
    ):
        reply, _, took_s = answer(faulty(fault, "federation.deadline_s=1"))
        assert exchange.sha256(arrays(reply)) == exchange.sha256(arrays(plain))
        assert took_s >= times * reply.content.metric_records["metrics"]["seconds"] + more_s


def test_corrupt_updates_and_what_the_server_says_to_them(faulty: Callable[..., Scenario], answer: Answer) -> None:
    plain, sent, _ = answer(faulty("{kind: dropout, center: bergen}"))
    trained = arrays(plain)
    assert complaint(plain, sent) == ""
    nan, _, _ = answer(faulty("{kind: corrupt, how: nan}"))
    assert complaint(nan, sent) == "sent values that are not numbers"
    misshapen, _, _ = answer(faulty("{kind: corrupt, how: wrong-shape}"))
    assert complaint(misshapen, sent) == "sent arrays of other names, shapes or types"
    scaled, _, _ = answer(faulty("{kind: corrupt, how: scaled, factor: -10}"))
    assert complaint(scaled, sent) == ""
    for name, array in arrays(scaled).items():
        start = sent["arrays"][name]
        np.testing.assert_allclose(array - start, -10 * (trained[name] - start), rtol=1e-3, atol=1e-5)


def in_a_fork(scenario: Scenario) -> int:
    """The id of a process that answers a train message of alta's."""
    LocalGrid([], "clients.app:app", 1)
    config = ConfigRecord({"server-round": 1, "attempt": 1})
    message = Message(RecordDict({"config": config}), 7, "train")
    context = Context(1, 7, {}, RecordDict(), {})
    child = os.fork()
    if not child:
        inject(scenario, "alta", message, context, app)
        os._exit(0)
    return child


def test_a_crash_is_kill_9_of_the_own_process(faulty: Callable[..., Scenario]) -> None:
    _, status = os.waitpid(in_a_fork(faulty("{kind: crash}")), 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_who_hangs_never_answers(faulty: Callable[..., Scenario]) -> None:
    child = in_a_fork(faulty("{kind: hang}", "federation.deadline_s=1"))
    time.sleep(1.5)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
