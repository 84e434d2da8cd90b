"""The round loop as real sites have it, where one message validates a round and trains the next, and as a simulation
has it; the hospitals are in this process, and what they answer can be spoilt on its way."""

from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord, Error, Message
from flwr.common.constant import ErrorCode

from fedkvasir import exchange
from fedkvasir.algorithms.base import arrays_of, from_record
from fedkvasir.errors import RunFailed
from fedkvasir.evaluation.shared import share
from fedkvasir.plan import make_plan
from fedkvasir.report import build_report
from fedkvasir.runs import Event, Run, Watch, failure_text
from fedkvasir.scenario import load
from fedkvasir.study import validation_score
from fedkvasir.trackers import round_values
from server.grid import LocalGrid, Node
from server.rounds import federate, roll_call

SCORE = "selection_score"
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


def to(center: str, message: Message) -> bool:
    return message.metadata.dst_node_id == Node(center, "", 1, 1).id


def trains(message: Message, number: int) -> bool:
    return message.metadata.message_type == "train" and message.content["config"]["server-round"] == number


def failing(center: str, number: int, attempts: int) -> Spoil:
    """A hospital's GPU is full in its training of a round, so many times."""

    def spoil(message: Message, reply: Message) -> Message:
        if not to(center, message) or not trains(message, number) or message.content["config"]["attempt"] > attempts:
            return reply
        reason = "OutOfMemoryError: CUDA out of memory"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    return spoil


def left(center: str, number: int) -> Spoil:
    """A hospital that is not heard of any more from the training of a round on."""
    away = False

    def spoil(message: Message, reply: Message) -> Message:
        nonlocal away
        away = away or trains(message, number)
        gone = Error(ErrorCode.NODE_UNAVAILABLE, "no hospital of lab, or revoked")
        return Message(gone, reply_to=message) if away and to(center, message) else reply

    return spoil


def run_of(
    scenario: Path,
    out: Path,
    *overrides: str,
    spoil: Spoil = untouched,
    remote: bool = True,
    watch: Watch = lambda event: None,
    grid: type[SpoiltGrid] = SpoiltGrid,
) -> Run:
    """A run to its end, or on from where it stopped; remote: over real sites."""
    plan = make_plan(load(scenario, overrides))
    run = Run(out / plan.name)
    there = grid([Node(str(center), str(run.folder), 1, 1) for center in plan.centers.index], "clients.app:app", 1)
    there.spoil = spoil
    with run.writing():
        run.start(plan, "sites", 1)
        federate(there, roll_call(there, plan), plan, run, watch, remote=remote)
    return run


class Cut(Exception):
    pass


@pytest.mark.parametrize("algorithm", ["scaffold", pytest.param("fedbn", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("quorum", [0.6, pytest.param(1.0, marks=pytest.mark.slow)])
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


def test_who_has_no_time_to_validate_and_train_by_one_deadline_is_asked_to_validate_alone(
    tiny: Path, tmp_path: Path
) -> None:
    """Every round can be chosen, and a hospital's training counts from its second attempt."""

    class Slow(SpoiltGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            asked = [m for m in messages if not (to("bergen", m) and m.content.get("config", {}).get("validate"))]
            return super().send_and_receive(asked, timeout=timeout)

    overrides = ("federation.rounds=3", "federation.deadline_s=600")
    slow, whole = (run_of(tiny, tmp_path / grid.__name__, *overrides, grid=grid) for grid in (Slow, SpoiltGrid))
    assert [(f["round"], f["attempt"], f["mended"]) for f in slow.result["failures"]] == [(2, 1, True), (3, 1, True)]
    assert slow.checkpoint().scores == whole.checkpoint().scores and set(slow.checkpoint().scores) == {1, 2, 3}
    assert slow.result["weights_sha256"] == whole.result["weights_sha256"]


def test_a_round_is_kept_when_the_next_one_finds_no_quorum(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"round 2: 2 of 3 .*bergen: Out.* asked 3 times; round 1 is kept.* a GPU is full: a smaller"
    ):
        run_of(tiny, tmp_path, "federation.rounds=2", spoil=failing("bergen", 2, attempts=3))
    latest = Run(next(tmp_path.glob("tiny-*"))).latest()
    assert latest is not None and latest.round == 1 and set(latest.scores) == {1}


@pytest.mark.parametrize(
    ("heard", "says"),
    [
        ((1, 2, 3), ""),
        ((1,), "1 of 3 rounds could be chosen: in the others the validation of a hospital was not heard of in time"),
        ((), "no round could be chosen, it is the last: in all the validation of a hospital was not heard of in time"),
    ],
)
def test_what_a_round_was_chosen_among_is_said(tiny: Path, tmp_path: Path, heard: tuple[int, ...], says: str) -> None:
    def late(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "query" or not to("bergen", message):
            return reply
        config = message.content["config"]
        validated = config["server-round"] - 1 if config.get("validate") else 3 if config.get("split") == "val" else 0
        if not validated or validated in heard:
            return reply
        return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)

    run = run_of(tiny, tmp_path, "federation.deadline_s=600", "federation.quorum=0.6", spoil=late)
    assert run.unscored == says and run.result["best_round"] == {(1,): 1, (): 3}.get(heard, run.result["best_round"])
    assert np.isnan(validation_score(run)) == (not heard)
    tracked = {number for number, rows in run.rounds.groupby("round") if SCORE in round_values(rows, run.plan)}
    assert tracked == {*run.checkpoint().scores} == {*heard}
    assert (says in build_report(run).read_text()) and (
        "Selection:" in (run.folder / "report.html").read_text()
    ) == bool(says)


@pytest.mark.parametrize("select", ["last", "train-val"])
def test_a_run_is_finished_without_who_left_and_says_so(tiny: Path, tmp_path: Path, select: str) -> None:
    """Bergen, after round 1: every failure is told as it happens and kept, the closing test among them."""
    told: list[Event] = []
    overrides = ("federation.rounds=3", "federation.quorum=0.6", "federation.deadline_s=600")
    overrides += (f"evaluation.select={select}",)
    run = run_of(tiny, tmp_path, *overrides, spoil=left("bergen", 2), watch=told.append)
    failures = [event.facts for event in told if event.kind == "failure"]
    texts = [failure_text({key: own for key, own in failure.items() if key != "mended"}) for failure in failures]
    gone = "bergen: no hospital of lab, or revoked"
    missed = [f"round {number}, {gone}; not validated" for number in (1, 2, 3)]
    tested = f"round 3, {gone}; not tested"
    assert sorted(texts) == sorted([*missed, f"round 2, {gone}", f"round 3, {gone}", tested])
    kept = [failure_text(failure) for failure in run.result["failures"]]
    assert sorted(kept) == sorted(texts) and kept[-1] == tested
    assert set(run.samples["checkpoint"]) == {"best", "last", "1", "2", "3"}
    ends = run.samples.query("split == 'test'")
    assert [*ends.groupby("checkpoint")["center"].unique().map(sorted)] == [["alta", "cadiz", "edinburgh"]] * 2
    build_report(run)
    assert tested.removeprefix("r") in (run.folder / "report.html").read_text()  # as a sentence, Round


@pytest.mark.parametrize(("center", "quorum"), [("bergen", 1.0), ("edinburgh", 0.5)])
def test_a_run_is_not_finished_without_a_holdout_or_below_the_quorum(
    tiny: Path, tmp_path: Path, center: str, quorum: float
) -> None:
    def spoil(message: Message, reply: Message) -> Message:
        if to(center, message) and message.content.get("config", {}).get("split") == "test":
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "away"), reply_to=message)
        return reply

    overrides = ("federation.rounds=1", f"federation.quorum={quorum}", "federation.deadline_s=600")
    with pytest.raises(RunFailed, match=rf"round 1: {center} could not be evaluated on test \(away\)"):
        run_of(tiny, tmp_path, *overrides, spoil=spoil)


def test_without_validation_images_the_last_round_is_taken_and_it_is_said_why(tiny: Path, tmp_path: Path) -> None:
    overrides = ("federation.train=alta", "data.centers.alta.val=0", "federation.rounds=2")
    run = run_of(tiny, tmp_path, *overrides, remote=False)
    assert run.unscored == "no round could be chosen, it is the last: there is no validation image"


@pytest.mark.slow
def test_a_member_that_was_not_heard_of_weighs_as_much_as_the_others(tiny: Path, tmp_path: Path) -> None:
    members = "[{name: unet, decoder_channels: [16, 8, 8, 4, 4]}, {name: unet, decoder_channels: [8, 8, 8, 4, 4]}]"
    model = f"model={{name: ensemble, encoder: tu-lcnet_050, members: {members}, fusion: weighted}}"

    def spoil(message: Message, reply: Message) -> Message:
        own = message.content.get("config", {})
        if to("bergen", message) and own.get("member") == "unet" and own.get("split") == "val":
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)
        return reply

    overrides = ("federation.rounds=1", "federation.deadline_s=60", "federation.quorum=0.6", model)
    run = run_of(tiny, tmp_path, *overrides, spoil=spoil)
    assert [bool(member.checkpoint("best").scores) for member in run.members.values()] == [False, True]
    assert run.model().fusion.weights.tolist() == [0.5, 0.5]
    assert "all weigh the same" in (run.folder / "environment.json").read_text()


def test_what_lacks_a_record_is_left_out_and_the_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    """Bergen's answer to round 2 cannot be averaged; cadiz' can, and its validation is asked for again."""

    def spoil(message: Message, reply: Message) -> Message:
        for center, record in (("bergen", "control"), ("cadiz", "scores")):
            if to(center, message) and trains(message, 2):
                del reply.content[record]
        return reply

    overrides = ("algorithm=scaffold", "federation.rounds=2", "federation.quorum=0.6")
    run = run_of(tiny, tmp_path, *overrides, spoil=spoil)
    assert [(f["round"], f["center"], f["reason"]) for f in run.result["failures"]] == [
        (2, "bergen", "sent arrays of other names, shapes or types")
    ]
    assert set(run.checkpoint().scores) == {1, 2}
    trained = run.rounds.query("phase == 'train' and round == 2")
    assert set(trained["center"]) == {"alta", "cadiz"}


@pytest.mark.parametrize(
    "table",
    [
        b"no table",
        pd.DataFrame({"sample": ["a"]}).to_parquet(),
        pd.DataFrame({"sample": ["a"], "group": ["a"], "checkpoint": ["best"]}).to_parquet(),
    ],
)
def test_records_that_are_none_end_the_run_in_a_sentence(tiny: Path, tmp_path: Path, table: bytes) -> None:
    def spoil(message: Message, reply: Message) -> Message:
        if to("bergen", message) and "samples" in reply.content:
            reply.content["samples"] = ConfigRecord({"parquet": table})
        return reply

    with pytest.raises(RunFailed, match="round 1: bergen sent records of val that are none"):
        run_of(tiny, tmp_path, "federation.rounds=1", spoil=spoil)


@pytest.mark.parametrize("left", [(), ("samples", "shared")])
def test_a_test_answer_has_one_table_and_not_two_or_none(tiny: Path, tmp_path: Path, left: tuple[str, ...]) -> None:
    def spoil(message: Message, reply: Message) -> Message:
        if to("edinburgh", message) and "samples" in reply.content:
            table = reply.content.pop("samples")
            for name in left:
                reply.content[name] = table
        return reply

    with pytest.raises(RunFailed, match=f"round 1: edinburgh sent {len(left)} tables of test, not one"):
        run_of(tiny, tmp_path, "federation.rounds=1", spoil=spoil)


@pytest.mark.parametrize("dice", [7.0, float("inf"), -1.0])
def test_a_score_that_cannot_be_is_none(tiny: Path, tmp_path: Path, dice: float) -> None:
    """It would choose the best round."""

    def spoil(message: Message, reply: Message) -> Message:
        if to("bergen", message) and "scores" in reply.content:
            reply.content["scores"]["dice"] = dice  # type: ignore[index]
        return reply

    with pytest.raises(RunFailed, match=r"round 1: bergen could not be evaluated on val \(sent no scores\)"):
        run_of(tiny, tmp_path, "federation.rounds=1", spoil=spoil)


def test_what_a_report_cannot_be_made_of_ends_the_run_with_the_name_of_its_hospital(tiny: Path, tmp_path: Path) -> None:
    def spoil(message: Message, reply: Message) -> Message:
        if "samples" in reply.content and message.content["config"].get("split") == "test":  # type: ignore[union-attr]
            rows = pd.read_parquet(BytesIO(reply.content.pop("samples")["parquet"]))  # type: ignore[index,arg-type]
            told = share(rows, 0)
            if to("edinburgh", message):
                told["draws"] = [own[:3] if isinstance(own, np.ndarray) else None for own in told["draws"]]
            reply.content["shared"] = ConfigRecord({"parquet": told.to_parquet()})
        return reply

    with pytest.raises(RunFailed, match="round 1: edinburgh sent records of test that are none"):
        run_of(tiny, tmp_path, "federation.rounds=1", spoil=spoil)


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_a_hospital_weighs_what_the_plan_says(tiny: Path, tmp_path: Path, weighting: str) -> None:
    """Not what it says itself: McMahan's n_k are the training images that the plan counts."""
    answered: dict[int, exchange.State] = {}

    def spoil(message: Message, reply: Message) -> Message:
        if trains(message, 1):
            answered[message.metadata.dst_node_id] = from_record(arrays_of(reply.content)["arrays"])
        return reply

    overrides = ("federation.rounds=1", f"federation.weighting={weighting}", "data.centers.alta.val=0.5")
    run = run_of(tiny, tmp_path, *overrides, spoil=spoil)
    counts = run.plan.centers.loc[run.plan.training_centers, "train"]
    assert counts.nunique() > 1
    states = [answered[Node(center, "", 1, 1).id] for center in counts.index]
    mean = exchange.average(states, list(counts) if weighting == "samples" else [1] * len(counts))
    for name, array in run.checkpoint().shared.items():
        np.testing.assert_allclose(array, mean[name], rtol=1e-5, atol=1e-7)
