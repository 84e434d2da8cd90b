"""The round loop as real sites have it, where one message validates a round and trains the next, and as a simulation
has it; the hospitals are in this process, and what they answer can be spoilt on its way."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedkvasir.errors import RunFailed
from fedkvasir.plan import make_plan
from fedkvasir.runs import Run
from fedkvasir.scenario import load
from server.grid import LocalGrid, Node
from server.rounds import federate, roll_call

Spoil = Callable[[Message, Message], Message]
"""A message and its answer -> what the server gets."""


class SpoiltGrid(LocalGrid):
    spoil: Spoil

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        messages = list(messages)
        replies = super().send_and_receive(messages, timeout=timeout)
        return [self.spoil(message, reply) for message, reply in zip(messages, replies, strict=True)]


def untouched(message: Message, reply: Message) -> Message:
    return reply


def trains(message: Message, number: int) -> bool:
    return message.metadata.message_type == "train" and message.content["config"]["server-round"] == number


def failing(center: str, number: int, attempts: int) -> Spoil:
    """A hospital's GPU is full in its training of a round, so many times."""

    def spoil(message: Message, reply: Message) -> Message:
        here = message.metadata.dst_node_id == Node(center, "", 1, 1).id and trains(message, number)
        if not here or message.content["config"]["attempt"] > attempts:
            return reply
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "CUDA out of memory"), reply_to=message)

    return spoil


def run_of(scenario: Path, out: Path, *overrides: str, spoil: Spoil = untouched, remote: bool = True) -> Run:
    """A run to its end, or on from where it stopped; remote: over real sites."""
    plan = make_plan(load(scenario, overrides))
    run = Run(out / plan.name)
    grid = SpoiltGrid([Node(str(center), str(run.folder), 1, 1) for center in plan.centers.index], "clients.app:app", 1)
    grid.spoil = spoil
    with run.writing():
        run.start(plan, "sites", 1)
        federate(grid, roll_call(grid, plan), plan, run, remote=remote)
    return run


class Cut(Exception):
    pass


@pytest.mark.parametrize("algorithm", ["scaffold", "fedbn"])
def test_hospitals_keep_the_state_that_a_run_cut_off_goes_on_from(tiny: Path, tmp_path: Path, algorithm: str) -> None:
    """Round 3 is validated in the message that trains round 4: all hospitals kept their state of round 4 while round 2
    is the last that is committed, and round 1 the best."""

    def cut(message: Message, reply: Message) -> Message:
        if trains(message, 4):
            raise Cut
        return reply

    overrides = (f"algorithm={algorithm}", "federation.rounds=4")
    with pytest.raises(Cut):
        run_of(tiny, tmp_path / "cut", *overrides, spoil=cut)
    committed = Run(next((tmp_path / "cut").iterdir())).latest()
    assert committed is not None and (committed.round, committed.best) == (2, 1)
    resumed, whole = run_of(tiny, tmp_path / "cut", *overrides), run_of(tiny, tmp_path / "whole", *overrides)
    assert resumed.result["weights_sha256"] == whole.result["weights_sha256"] and not resumed.result["failures"]


@pytest.mark.parametrize("quorum", [0.6, 1.0])
def test_an_error_in_training_is_no_error_of_the_validation_it_came_with(
    tiny: Path, tmp_path: Path, quorum: float
) -> None:
    """Over sites as in a simulation: gone on without, or mended when it is asked again, and no round unvalidated."""
    overrides = ("federation.rounds=2", f"federation.quorum={quorum}", "federation.deadline_s=600")
    simulation, sites = (
        run_of(tiny, tmp_path / str(remote), *overrides, spoil=failing("bergen", 2, attempts=1), remote=remote)
        for remote in (False, True)
    )
    (failure,) = sites.result["failures"]
    assert (failure["round"], failure["center"], failure["mended"]) == (2, "bergen", quorum == 1.0)
    assert sites.result["failures"] == simulation.result["failures"]
    assert sites.result["weights_sha256"] == simulation.result["weights_sha256"]
    assert sites.checkpoint().scores == simulation.checkpoint().scores and set(sites.checkpoint().scores) == {1, 2}


def test_a_round_is_kept_when_the_next_one_finds_no_quorum(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"round 2: 2 of 3 .*bergen: CUDA out of memory.* asked 3 times; round 1 is"):
        run_of(tiny, tmp_path, "federation.rounds=2", spoil=failing("bergen", 2, attempts=3))
    latest = Run(next(tmp_path.glob("tiny-*"))).latest()
    assert latest is not None and latest.round == 1 and set(latest.scores) == {1}
