"""At the coordinator: an answer is that of the hospital that was asked, whatever it says of itself; and who is waited
for."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedkvasir import deployment
from fedkvasir.errors import RunFailed
from fedkvasir.evaluation.shared import compare_here
from fedkvasir.methods import methods_of
from fedkvasir.packing import pack
from fedkvasir.plan import make_plan
from fedkvasir.runs import Checkpoint, Run
from fedkvasir.scenario import Scenario, load
from fedkvasir.sites.federation import Federation, ServerKit
from fedkvasir.sites.kit import revoke, write_kits
from fedkvasir.sites.plan import facts_of
from server import lab
from server.grid import _address, _identify
from server.lab import LabGrid, _ask, compare, enrol
from tests.report.crafted import CENTERS, make_run
from tests.report.crafted import make_plan as craft_plan

HOSPITALS = {7: "alta", 8: "bergen"}


@pytest.fixture
def kit(tmp_path: Path) -> ServerKit:
    path = tmp_path / "federation.yaml"
    path.write_text("{name: lab, address: 'localhost:8000', hospitals: [alta, bergen, cadiz, edinburgh]}")
    write_kits(Federation.load(path), tmp_path / "kits")
    return ServerKit.load(tmp_path / "kits" / "server")


class Mailbox(LabGrid):
    """A SuperLink that has every answer at once; ``answer`` makes alta's."""

    def __init__(self, kit: ServerKit, answer: Callable[[Message], Message]) -> None:
        self._kit = kit
        self.lost, self.hospitals, self.on_reply = "", HOSPITALS, lambda center: None
        self.said: list[str] = []
        self.on_notice = self.said.append
        self._answers: dict[int, Callable[[Message], Message | None]] = {7: answer, 8: good}
        self._sent: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        (message,) = map(_address, messages)
        self._sent[message.metadata.message_id] = message
        return [message.metadata.message_id]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        asked = (self._sent[number] for number in message_ids)
        return [reply for each in asked if (reply := self._answers[each.metadata.dst_node_id](each))]

    def close(self) -> None:
        pass


def good(message: Message) -> Message:
    return Message(pack(RecordDict({"arrays": ArrayRecord({"a": Array(np.ones(3))})})), reply_to=message)


def never(message: Message) -> None:
    return None


def from_bergen(message: Message) -> Message:
    reply = good(message)
    reply.metadata.__dict__["_src_node_id"] = 8
    return reply


def to_another(message: Message) -> Message:
    reply = good(message)
    reply.metadata.__dict__["_reply_to_message_id"] = "f" * 64
    return reply


def unpackable(message: Message) -> Message:
    return Message(RecordDict({"layout": ConfigRecord({"arrays": "[" * 5000})}), reply_to=message)


def unreadable(message: Message) -> Message:
    raise IndexError("list index out of range")  # as Flower does where an array lacks a part


@pytest.mark.parametrize("answer", [from_bergen, to_another, unpackable, unreadable])
def test_an_answer_that_is_none_is_an_error_of_its_own_hospital_and_the_others_are_taken(
    kit: ServerKit, answer: Callable[[Message], Message]
) -> None:
    _identify()
    asked = [Message(RecordDict(), node, "query.survey") for node in HOSPITALS]
    replies = {reply.metadata.src_node_id: reply for reply in Mailbox(kit, answer).send_and_receive(asked, timeout=20)}
    assert replies.keys() == HOSPITALS.keys()
    assert replies[7].error.reason.startswith("sent what cannot be read: ")
    np.testing.assert_array_equal(replies[8].content.array_records["arrays"]["a"].numpy(), np.ones(3))


# ---- who is waited for


class Waiting(Mailbox):
    """Alta is on line from the beginning, others from when the coordinator asks who is for the third time."""

    def __init__(self, kit: ServerKit, *others: str) -> None:
        super().__init__(kit, good)
        self.hospitals = {7: "alta"}
        self._asked, self._late = 0, dict(enumerate(others, start=8))

    def _hospitals(self) -> dict[int, str]:
        self._asked += 1
        return {7: "alta"} | (self._late if self._asked > 2 else {})


def test_who_is_waited_for_is_said_once(kit: ServerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "NOTICE_S", 0.5)
    grid = Waiting(kit, "bergen")
    assert grid.nodes_of(["alta", "bergen"], 60) == {"alta": 7, "bergen": 8}
    assert grid.said == ["waiting for bergen (off line), up to 60 s"]
    grid = Waiting(kit)
    with pytest.raises(RunFailed, match="roll call: off line for 1 s: bergen"):
        grid.nodes_of(["alta", "bergen"], 1)


def test_who_is_on_line_and_does_not_answer_is_told_from_who_is_not(kit: ServerKit) -> None:
    _identify()
    grid = Waiting(kit, "bergen")
    grid.hospitals = HOSPITALS
    grid._answers = {node: never for node in HOSPITALS}
    told = {"alta": {"scenario": "{}"}, "bergen": {"scenario": "{}"}}
    said = r"no answer in 1 s \(on line, still preparing: alta; off line: bergen\); the same command asks again"
    with pytest.raises(RunFailed, match=said):
        _ask(grid, {"alta": 7, "bergen": 8}, "query.survey", told, 1)


def test_who_is_revoked_is_not_waited_for(kit: ServerKit) -> None:
    """Not at the roll call, and not in a round that has begun, nor is one whose node is nobody's."""
    _identify()
    grid = Mailbox(kit, good)
    revoke(kit.root.parent, "bergen")
    with pytest.raises(RunFailed, match="bergen: no hospital of lab, or revoked; it has alta, cadiz, edinburgh"):
        grid.nodes_of(["alta", "bergen"], 60)
    grid.hospitals = {7: "alta", -1: "bergen"}
    replies = grid.send_and_receive([Message(RecordDict(), node, "query.survey") for node in (7, -1)], timeout=60)
    (error,) = (reply.error for reply in replies if reply.has_error())
    assert len(replies) == 2 and error.reason == "no hospital of lab, or revoked"


# ---- a run that goes on without


class Hospitals(Mailbox):
    """Some of the hospitals of a scenario, on line with images of their own."""

    def __init__(self, kit: ServerKit, scenario: Scenario, *here: str) -> None:
        super().__init__(kit, good)
        self._scenario, self.hospitals = scenario, dict(enumerate(here, start=7))
        self._answers = dict.fromkeys(self.hospitals, self._say)

    def _hospitals(self) -> dict[int, str]:
        return self.hospitals

    def _say(self, message: Message) -> Message:
        own = make_plan(self._scenario, only=self.hospitals[message.metadata.dst_node_id])
        facts = ConfigRecord({"json": json.dumps(facts_of(own, "0" * 16))})
        return Message(RecordDict({"hospital": facts}), reply_to=message)


@pytest.fixture
def quorum(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """Two of three hospitals that train are enough; the SuperLink has bergen on its list."""
    monkeypatch.setattr(lab.wire, "registered", lambda kit: {"bergen": 77})
    return load(tiny, ("federation.quorum=0.6",))


@pytest.mark.parametrize(("revoked", "node"), [(False, 77), (True, -1)])
def test_a_run_that_has_begun_goes_on_without_who_is_off_line_or_revoked(
    kit: ServerKit, quorum: Scenario, monkeypatch: pytest.MonkeyPatch, revoked: bool, node: int
) -> None:
    """The first is reached by its own node once it is back."""
    _identify()
    if revoked:
        revoke(kit.root.parent, "bergen")
        monkeypatch.setattr(lab.wire, "registered", lambda kit: {})
    begun, other = make_plan(quorum), make_plan(quorum)
    other = replace(other, pixels=other.pixels | {"alta": "0" * 64})
    grid = Hospitals(kit, quorum, "alta", "cadiz", "edinburgh")
    plan, nodes = enrol(grid, quorum, 1, (other, begun))
    assert plan is begun
    assert nodes == {"alta": 7, "cadiz": 8, "edinburgh": 9, "bergen": node} and grid.hospitals[node] == "bergen"
    assert grid.said == ["going on without bergen: off line, or revoked"]
    with pytest.raises(
        RunFailed, match="bergen: off line or revoked; no run can go on without, as the others hold other"
    ):
        enrol(Hospitals(kit, quorum, "alta", "cadiz", "edinburgh"), quorum, 1, (other,))


@pytest.mark.parametrize(
    ("here", "overrides", "begun", "said"),
    [
        (("alta", "cadiz", "edinburgh"), (), False, "off line for 1 s: bergen"),
        (("alta", "cadiz", "edinburgh"), ("federation.quorum=1.0",), True, "off line for 1 s: bergen"),
        (("alta", "edinburgh"), (), True, "off line for 1 s: bergen, cadiz"),
        (("alta", "bergen", "cadiz"), (), True, "off line for 1 s: edinburgh"),
    ],
    ids=["a run that has not begun", "the quorum is all", "below the quorum", "without the holdout"],
)
def test_no_run_goes_on(
    kit: ServerKit, quorum: Scenario, tiny: Path, here: tuple[str], overrides: tuple[str], begun: bool, said: str
) -> None:
    scenario = load(tiny, overrides) if overrides else quorum
    with pytest.raises(RunFailed, match=said):
        enrol(Hospitals(kit, scenario, *here), scenario, 1, (make_plan(scenario),) if begun else ())


def test_who_left_is_not_asked_to_compare_what_was_not_tested_there(kit: ServerKit) -> None:
    revoke(kit.root.parent, "bergen")
    before, after = (SimpleNamespace(places=places) for places in ({("bergen", "train")}, set()))
    compare(Mailbox(kit, good), cast(Any, [before, after]), 1)


# ---- comparisons


class Asked(Mailbox):
    """Hospitals that compare ``stored``, by method; ``spoil``: what one of them makes of its answer."""

    def __init__(self, stored: dict[str, pd.DataFrame], spoil: dict[str, Callable[[pd.DataFrame], bytes]]) -> None:
        self.hospitals, self._stored, self._spoil = dict(enumerate(CENTERS, 1)), stored, spoil

    def nodes_of(self, wanted: Sequence[str], deadline_s: float) -> dict[str, int]:
        return {name: node for node, name in self.hospitals.items()}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        _identify()
        replies = []
        for message in map(_address, messages):
            center = self.hospitals[message.metadata.dst_node_id]
            keys = [json.loads(str(message.content["config"][side]))["key"] for side in ("first", "second")]  # type: ignore[index]
            own = {key: [self._stored[key][self._stored[key]["center"] == center]] for key in keys}
            rows = compare_here(own, 0)
            parquet = self._spoil.get(center, pd.DataFrame.to_parquet)(rows)
            replies.append(Message(RecordDict({"paired": ConfigRecord({"parquet": parquet})}), reply_to=message))
        return replies


def test_what_is_no_comparison_is_said_with_the_name_of_its_hospital_and_not_kept(tmp_path: Path) -> None:
    keys = {"fedavg": "fedavg", "fedprox": {"name": "fedprox", "mu": 0.1}}
    runs = {
        name: make_run(
            tmp_path / name,
            craft_plan("segmentation", images={"train": 6, "val": 4, "test": 24}, keys={"algorithm": algorithm}),
            rounds=1,
            skill=0.8 if name == "fedavg" else 0.6,
        )
        for name, algorithm in keys.items()
    }
    methods = methods_of([str(run.folder) for run in runs.values()])
    stored = {method.key: method.samples[0].query("split == 'test'") for method in methods}
    liar = CENTERS[-1]
    spoils: tuple[Callable[[pd.DataFrame], bytes], ...] = (
        lambda rows: b"no table",
        lambda rows: rows.assign(difference=7.0).to_parquet(),
        lambda rows: rows.assign(groups=10**6, wins=10**6, ties=0, losses=0, tied=[[0, 10**6]]).to_parquet(),
        lambda rows: rows.iloc[:0].to_parquet(),
        lambda rows: rows.assign(center="nobody").to_parquet(),
    )
    for spoil in spoils:
        with pytest.raises(RunFailed, match=f"^{liar} sent a comparison of fedavg and fedprox that is none$"):
            compare(Asked(stored, {liar: spoil}), methods, 5)
    compare(Asked(stored, {}), methods, 5)
    kept = methods[0].runs[0].paired
    assert {*kept["center"]} == {*CENTERS} and kept["groups"].eq(12).all()


def test_fresh_holds_until_the_run_of_before_is_thrown_away_and_no_longer(
    kit: ServerKit, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SuperLink is away twice: while hospitals are asked what they hold, and in the first round."""
    scenario = load(tiny, ("federation.deadline_s=9",))
    plan, known, rounds = make_plan(scenario), list[Sequence[object]](), []
    run = Run(tmp_path / "out" / plan.name)
    run.start(plan, "sites", 3)
    run.commit(Checkpoint(1, {}, {}), pd.DataFrame(), pd.DataFrame())

    def away_at_first(grid: object, scenario: Scenario, deadline_s: float, begun: Sequence[object]) -> object:
        known.append(begun)
        if len(known) == 1:
            raise lab.Disconnected("away")
        return plan, {}

    def away_in_the_first_round(run: Run, *rest: object) -> None:
        rounds.append(run.latest())
        if len(rounds) == 1:
            raise lab.Disconnected("away")

    monkeypatch.setattr(deployment, "find_kit", lambda name: kit)
    monkeypatch.setattr(deployment, "AGAIN_S", 0.0)
    monkeypatch.setattr(lab, "connected", lambda kit: nullcontext(SimpleNamespace()))
    monkeypatch.setattr(lab, "enrol", away_at_first)
    monkeypatch.setattr(deployment, "see_through", away_in_the_first_round)
    assert deployment.run_on(scenario, "lab", tmp_path / "out", fresh=True).folder == run.folder
    assert list(map(len, known)) == [0, 0, 1] and rounds == [None, None]
