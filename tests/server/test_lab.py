"""At the coordinator: an answer is that of the hospital that was asked, whatever it says of itself; and who is waited
for."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedkvasir.errors import RunFailed
from fedkvasir.packing import pack
from fedkvasir.sites.federation import Federation, ServerKit
from fedkvasir.sites.kit import write_kits
from server import lab
from server.grid import _address, _identify
from server.lab import LabGrid, _ask

HOSPITALS = {7: "alta", 8: "bergen"}


class Mailbox(LabGrid):
    """A SuperLink that has every answer at once; ``answer`` makes alta's."""

    def __init__(self, answer: Callable[[Message], Message]) -> None:
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
    answer: Callable[[Message], Message],
) -> None:
    _identify()
    asked = [Message(RecordDict(), node, "query.survey") for node in HOSPITALS]
    replies = {reply.metadata.src_node_id: reply for reply in Mailbox(answer).send_and_receive(asked, timeout=20)}
    assert replies.keys() == HOSPITALS.keys()
    assert replies[7].error.reason.startswith("sent what cannot be read: ")
    np.testing.assert_array_equal(replies[8].content.array_records["arrays"]["a"].numpy(), np.ones(3))


# ---- who is waited for


@pytest.fixture
def kit(tmp_path: Path) -> ServerKit:
    path = tmp_path / "federation.yaml"
    path.write_text("{name: lab, address: 'localhost:8000', hospitals: [alta, bergen]}")
    write_kits(Federation.load(path), tmp_path / "kits")
    return ServerKit.load(tmp_path / "kits" / "server")


class Waiting(Mailbox):
    """Alta is on line from the beginning, others from when the coordinator asks who is for the third time."""

    def __init__(self, kit: ServerKit, *others: str) -> None:
        super().__init__(good)
        self._kit, self.hospitals = kit, {7: "alta"}
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
