"""At the coordinator: an answer is that of the hospital that was asked, whatever it says of itself."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedkvasir.errors import RunFailed
from fedkvasir.evaluation.shared import compare_here
from fedkvasir.packing import pack
from fedkvasir.report.methods import methods_of
from server.grid import _address, _identify
from server.lab import LabGrid, compare
from tests.report.crafted import CENTERS, make_plan, make_run

HOSPITALS = {7: "alta", 8: "bergen"}


class Mailbox(LabGrid):
    """A SuperLink that has every answer at once; ``answer`` makes alta's."""

    def __init__(self, answer: Callable[[Message], Message]) -> None:
        self.lost, self.hospitals, self.on_reply = "", HOSPITALS, lambda center: None
        self._answers: dict[int, Callable[[Message], Message]] = {7: answer, 8: good}
        self._sent: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        (message,) = map(_address, messages)
        self._sent[message.metadata.message_id] = message
        return [message.metadata.message_id]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._answers[self._sent[number].metadata.dst_node_id](self._sent[number]) for number in message_ids]

    def close(self) -> None:
        pass


def good(message: Message) -> Message:
    return Message(pack(RecordDict({"arrays": ArrayRecord({"a": Array(np.ones(3))})})), reply_to=message)


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
            make_plan("segmentation", images={"train": 6, "val": 4, "test": 24}, keys={"algorithm": algorithm}),
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
