"""The round loop as real sites have it, where one message validates a round and trains the next, and as a simulation
has it; the hospitals are in this process, and what they answer can be spoilt on its way."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from flwr.app import Message

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
