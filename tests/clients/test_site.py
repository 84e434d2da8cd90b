"""The door of a real hospital: a coordinator's messages are answered as in a simulation, a stranger's are refused, and
what goes out holds no picture and no name."""

import json
import logging
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from PIL import Image

from clients import site
from clients.app import app, forget
from fedkvasir.algorithms.base import to_record
from fedkvasir.evaluation.shared import anonymise, compare_here, share
from fedkvasir.exchange import State
from fedkvasir.metrics.classification import PREFIX
from fedkvasir.names import spelled_out
from fedkvasir.packing import LAYOUT, PACKED, pack
from fedkvasir.scenario import load, parse, variant
from server.grid import _address, _identify
from tests.clients.door import (
    APP,
    NODE,
    Door,
    answered,
    arrays,
    leaked,
    listing,
    refusal,
    said,
    table,
)
from tests.conftest import REPOSITORY, TINY, Miniatures

Settle = Callable[..., Door]


@pytest.fixture
def settle(tmp_path: Path, tiny: Path) -> Settle:
    """``settle("algorithm=fedbn", share="per-image")`` is alta's door, with overrides of the tiny scenario and keys of
    its site.yaml."""

    def door(*overrides: str, **kit: Any) -> Door:
        return Door(tmp_path / str(kit.get("hospital", "alta")), load(tiny, overrides), kit)

    return door


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    """Alta, which takes part in a run; what is refused changes nothing of it."""
    folder = tmp_path_factory.mktemp("door")
    (folder / "tiny.yaml").write_text(TINY)
    door = Door(folder / "alta", load(folder / "tiny.yaml")).enrolled()
    answered(door.ask("evaluate", split="test", checkpoint="best"))
    return door


def simulated(door: Door, kind: str, folder: Path, states: dict[str, State] | None = None, **keys: Any) -> Message:
    """The same message to the same app, where nobody stands at the door."""
    _identify()
    message = _address(Message(door.content(kind, states, packed=False, **keys), NODE, kind))
    node = {"center": door.hospital, "folder": str(folder)}
    return app(message, Context(1, NODE, node, RecordDict(), {}))


# ---- good messages


def test_the_messages_are_those_of_the_docs() -> None:
    rows = [line.split(" | ") for line in (REPOSITORY / "docs" / "code.md").read_text().splitlines()]
    told = {row[0].strip("| `"): row[2].split(", ") for row in rows if len(row) == 4}
    assert {kind: [*keys] for kind, keys in site.KEYS.items()} == {kind: told[kind] for kind in site.KEYS}


@pytest.mark.parametrize("algorithm", ["fedavg", pytest.param("fedbn", marks=pytest.mark.slow), "scaffold"])
def test_a_run_at_the_door_is_that_of_the_simulation_to_the_last_bit(
    settle: Settle, tmp_path: Path, algorithm: str
) -> None:
    door = settle(f"algorithm={algorithm}", f"name={algorithm}").enrolled()
    folder = tmp_path / "simulated"
    door.plan.save(folder)
    states = door.states
    for number in (1, 2):
        kept = number - 1 if algorithm != "fedavg" else 0
        keys = {"server-round": number, "start-from": kept, "keep": 0, "validate": "val"}
        real, mock = door.ask("train", states, **keys), simulated(door, "train", folder, states, **keys)
        assert said(real) == {name: facts for name, facts in said(mock).items() if name != "samples"}
        assert "metrics" in said(real) and "scores" in said(real)
        states = {name: arrays(real)[name] for name in ("arrays", "buffers", "local")} | {"frozen": {}}
    keys = {"split": "test", "checkpoint": "best", "start-from": 2 if algorithm != "fedavg" else 0}
    real, mock = door.ask("evaluate", states, **keys), simulated(door, "evaluate", folder, states, **keys)
    assert said(real)["scores"] == said(mock)["scores"]
    kept_rows = pd.read_parquet(door.run / "records" / "best.parquet")
    assert set(kept_rows.pop("checkpoint")) == {"best"}
    pd.testing.assert_frame_equal(kept_rows, table(mock, "samples"))


def test_what_the_coordinator_makes_of_the_answers_is_the_plan_that_its_hospitals_make(settle: Settle) -> None:
    doors = [settle(hospital=name) for name in ("alta", "bergen", "cadiz", "edinburgh")]
    plan = doors[0].plan_of_all(*doors[1:])
    assert (plan.name, plan.data_sha256) == (doors[0].plan.name, doors[0].plan.data_sha256)


def test_classes_that_a_hospital_does_not_have_are_told_when_it_is_enrolled(tmp_path: Path) -> None:
    """Its network has an output for them, its records a probability; a class of its own that is not among them is not
    taken for another one."""
    synthetic = {"task": "classification", "patients_per_center": 12, "image_scale": 0.2}
    raw = {
        "name": "classes",
        "task": "classification",
        "model": {"name": "lcnet_050"},
        "training": {"loss": "cross-entropy", "batch_size": 4},
        "data": {
            "image_size": 32,
            "centers": {"alta": {"dataset": "synthetic", "center": "alta"}},
            "options": {"synthetic": synthetic},
        },
    }
    door = Door(tmp_path / "alta", parse(raw, "test"))
    own = door.plan.class_counts
    counted = {"aaa-of-another": 7} | {name: count + 5 for name, count in own.items()}
    door.__dict__["plan"] = replace(door.plan, classes=tuple(counted), counted=counted)
    door.enrolled()
    reply = door.ask("evaluate", split="test", checkpoint="best")
    rows = pd.read_parquet(door.run / "records" / "best.parquet")
    assert {PREFIX + name for name in counted} <= {*rows.columns} and {*rows["label"]} <= {*own}
    assert not leaked(reply, door.secrets)
    answered(door.ask("train"))
    assert json.loads((door.run / "plan.json").read_text())["counted"] == counted
    lacking_one = [name for name in counted if name != min(own)]
    reason = refusal(door.ask("query.enrol", classes=lacking_one, counts=[99] * len(lacking_one)))
    assert reason == "refused: classes and their counts are not those of all hospitals, this one among them"


def test_a_message_that_comes_again_after_a_kill_is_answered_the_same(settle: Settle) -> None:
    """Trained and kept, but the answer was lost: the round is trained again from the state that the message names."""
    door = settle("algorithm=scaffold").enrolled()
    answered(door.ask("train"))
    keys = {"server-round": 2, "start-from": 1, "keep": 1, "validate": "val"}
    first = door.ask("train", **keys)
    forget()  # as a new process begins
    again = door.ask("train", **keys)
    assert said(first) == said(again)
    assert {path.name for path in (door.run / "centers" / "alta").iterdir()} == {
        "0001.safetensors",
        "0002.safetensors",
    }


def test_enrolling_again_for_a_run_that_goes_on_changes_nothing(settle: Settle) -> None:
    door = settle("algorithm=fedbn").enrolled()
    states = {**door.states, **arrays(door.ask("train"))}
    before = said(door.ask("evaluate", states, **{"start-from": 1}))
    door.enrolled()
    assert said(door.ask("evaluate", states, **{"start-from": 1})) == before


# ---- what goes out


def test_means_leave_and_rows_stay(settle: Settle) -> None:
    """The default: a table of the hospital's means in place of one row an image."""
    door = settle().enrolled()
    reply = door.ask("evaluate", split="test", checkpoint="best")
    assert {*reply.content} == {"scores", "cost", "shared"}
    rows = pd.read_parquet(door.run / "records" / "best.parquet")
    assert {*rows["sample"]} == {*door.plan.samples.query("center == 'alta' and split == 'test'")["sample"]}
    told = table(reply, "shared")
    assert "sample" not in told and "group" not in told
    # The draws are made with a seed of the hospital's own.
    guessed = share(rows, 0).drop(columns="checkpoint")
    words = ["kind", "class", "metric", "reduction", "size", "note"]
    pd.testing.assert_frame_equal(told[words].astype(object), guessed[words].astype(object))


def drawn(reply: Message) -> np.ndarray:
    rows = table(reply, "shared")
    return rows[rows["kind"] == "draws"]["draws"].iloc[0]


def test_draws_follow_from_the_records_and_the_hospitals_own_key(settle: Settle) -> None:
    draws = []
    for hospital in ("alta", "alta", "other/alta"):
        place = settle("data.centers.alta.test=0.5")
        other = Door(place.folder.parent / hospital, place.scenario).enrolled()
        draws.append(drawn(other.ask("evaluate", split="test", checkpoint="best")))
    assert np.isfinite(draws[0]).all() and np.ptp(draws[0]) > 0
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any(), "whose key is another"


def test_as_many_tables_as_there_are_groups_do_not_tell_how_groups_were_drawn(
    settle: Settle, caplog: pytest.LogCaptureFixture
) -> None:
    """Were all of them drawn alike, no more than as many would be different from each other, up to rounding."""
    door = settle("data.centers.alta.test=0.5").enrolled()
    groups = door.own.query("split == 'test'")["group"].nunique()
    found = []
    for number in range(groups + 3):
        noise = np.random.default_rng(number)
        states = {
            record: {name: array + noise.normal(0, 0.2, array.shape).astype(array.dtype) for name, array in own.items()}
            for record, own in door.states.items()
            if record == "arrays"
        }
        found.append(drawn(door.ask("evaluate", door.states | states, split="test", checkpoint="best")))
    spread = np.linalg.svd(np.stack(found) - np.mean(found, axis=1, keepdims=True), compute_uv=False)
    assert spread[-1] > 0.05 * spread[0]
    assert "tested again, under other weights" in caplog.text


def test_a_run_is_asked_for_no_more_rounds_than_it_has(settle: Settle) -> None:
    door = settle("federation.rounds=3").enrolled()
    for kind, keys in (("train", {"server-round": 4}), ("train", {"keep": 4}), ("evaluate", {"start-from": 4})):
        assert refusal(door.ask(kind, **keys)) == "refused: the run has 3 rounds"


@pytest.mark.parametrize(("kit", "scenario"), [("per-center", "per-image"), ("per-image", "per-center")])
def test_rows_stay_unless_hospital_and_scenario_both_say_otherwise(settle: Settle, kit: str, scenario: str) -> None:
    door = settle(f"evaluation.share={scenario}", share=kit).enrolled()
    assert {*door.ask("evaluate", split="test", checkpoint="best").content} == {"scores", "cost", "shared"}


def test_rows_that_may_leave_have_numbers_for_names_the_same_in_every_evaluation(settle: Settle) -> None:
    door = settle("evaluation.share=per-image", share="per-image").enrolled()
    rows, again = (table(door.ask("evaluate", split="test", checkpoint=name), "samples") for name in ("best", "last"))
    pd.testing.assert_frame_equal(rows, again)
    kept = pd.read_parquet(door.run / "records" / "best.parquet").drop(columns="checkpoint")
    for name in ("sample", "group"):
        assert rows[name].str.fullmatch("[0-9a-f]{32}").all()
        assert rows[name].nunique() == kept[name].nunique()
    pd.testing.assert_frame_equal(rows.drop(columns=["sample", "group"]), kept.drop(columns=["sample", "group"]))
    key = (door.folder / "state" / "hmac.key").read_bytes()
    pd.testing.assert_frame_equal(rows, anonymise(kept, key))
    assert len(key) == 32 and len({*key}) > 8


def test_validation_tells_scores_only_even_where_rows_may_leave(settle: Settle) -> None:
    door = settle("evaluation.share=per-image", share="per-image").enrolled()
    assert {*door.ask("evaluate", split="val").content} == {"scores", "cost"}
    assert not {*answered(door.ask("train", validate="test"))} & {"samples", "shared"}


def test_the_hospitals_key_is_for_its_owners_eyes(settle: Settle) -> None:
    door = settle().enrolled()
    assert not (door.folder / "state" / "hmac.key").exists()
    door.ask("evaluate", split="test", checkpoint="best")
    assert (door.folder / "state" / "hmac.key").stat().st_mode & 0o777 == 0o600


def test_no_answer_holds_a_name_or_a_row_of_pixels(settle: Settle) -> None:
    """Nor does any of a run's messages, whatever may leave."""
    for kit in ("per-center", "per-image"):
        door = settle("algorithm=scaffold", "evaluation.share=per-image", share=kit)
        replies = [door.ask("query.survey"), door.ask("query.enrol"), door.ask("train", validate="val")]
        replies += [door.ask("evaluate"), door.ask("evaluate", split="test", checkpoint="best")]
        replies += [door.ask("evaluate", **{"start-from": 7}), door.ask("evaluate", member="nobody")]
        assert [reply.has_error() for reply in replies] == [False] * 5 + [True] * 2
        assert [leaked(reply, door.secrets) for reply in replies] == [[]] * 7
    # The search itself finds what is there.
    folder = door.folder.parent / "simulated"
    door.plan.save(folder)
    assert leaked(simulated(door, "evaluate", folder), door.secrets)
    row = next(secret for secret in door.secrets if len(secret) == 32 * 3)
    named = Message(RecordDict({"arrays": to_record({"x": np.frombuffer(row, np.uint8)})}), reply_to=replies[0])
    assert leaked(named, door.secrets) == [row]


# ---- who may ask for what


@pytest.mark.parametrize("listed", ["nothing", "the scenario alone", "the app alone"])
def test_what_is_not_on_a_hospitals_list_is_refused_with_its_hash(settle: Settle, listed: str) -> None:
    told = spelled_out(settle().scenario).sha256
    approve = {"nothing": [], "the scenario alone": [told], "the app alone": [APP]}[listed]
    door = settle(approve=approve)
    before = listing(door.folder)
    missing = told if listed == "the app alone" else APP
    for kind in ("query.survey", "query.enrol"):
        reason = refusal(door.ask(kind))
        assert reason.startswith("refused: the ") and f"sha256 {missing} is not on this hospital's list" in reason
    assert listing(door.folder) == before


def test_what_is_on_a_hospitals_list_is_answered_until_it_is_taken_off(settle: Settle) -> None:
    """By the same process: site.yaml is what it says when a message comes."""
    told = spelled_out(settle().scenario).sha256
    door = settle(approve=[told, APP])
    door.surveyed()
    door.enrolled()
    answered(door.ask("evaluate", split="test", checkpoint="best"))
    for kind in ("train", "evaluate", "query.compare"):
        answered(door.ask(kind))
    door = settle(approve=["f" * 64, APP])
    for kind in ("train", "evaluate", "query.compare"):
        assert told in refusal(door.ask(kind))
    (door.folder / "site.yaml").write_text("approve: [")
    assert refusal(door.ask("evaluate")) == "UserError; the hospital's own log says more"


def test_rows_stay_from_the_moment_that_the_hospital_says_so(settle: Settle) -> None:
    door = settle("evaluation.share=per-image", share="per-image").enrolled()
    assert "samples" in door.ask("evaluate", split="test", checkpoint="best").content
    again = settle("evaluation.share=per-image", share="per-center").ask("evaluate", split="test", checkpoint="best")
    assert {*again.content} == {"scores", "cost", "shared"}


def test_a_holdout_is_tested_and_never_trained(settle: Settle) -> None:
    door = settle(hospital="edinburgh").enrolled()
    assert refusal(door.ask("train")) == "refused: this hospital is held out: it is only tested"
    assert "shared" in answered(door.ask("evaluate", split="test", checkpoint="best"))


def test_of_several_networks_every_group_is_compared_with_one_in_turn(settle: Settle) -> None:
    """As where the records are all there: their mean is ahead of a single one in most groups, whatever they are."""
    door = settle(hospital="edinburgh").enrolled()
    answered(door.ask("evaluate", split="test", checkpoint="best"))
    rng, tables, names = np.random.default_rng(0), [], [door.run.name, *(f"tiny-0000000{n}" for n in range(3))]
    for name in names:
        if name != door.run.name:
            shutil.copytree(door.run, door.run.with_name(name))
        path = door.run.with_name(name) / "records" / "best.parquet"
        records = pd.read_parquet(path)
        pixels = records["tp"] + records["fn"]
        records["tp"] = (pixels * rng.random(len(records))).astype(int)
        records["fn"] = pixels - records["tp"]
        records.to_parquet(path, index=False)
        tables.append(records.assign(run=name))
    one, three = (json.dumps({"key": key, "runs": [own]}) for key, own in (("aa", names[:1]), ("bb", names[1:])))
    (found,) = table(door.ask("query.compare", first=one, second=three), "paired").to_dict("records")
    (known,) = compare_here({"aa": tables[:1], "bb": [pd.concat(tables[1:])]}, seed=0).to_dict("records")
    for key in ("difference", "groups", "wins", "ties", "losses", "won", "median"):
        assert found[key] == pytest.approx(known[key], abs=1e-12)
    assert "every group is tested with one, in turn" in found["note"]


def test_where_another_hospital_trains_alone_it_is_tested_as_a_holdout(settle: Settle) -> None:
    door = settle("federation.train=bergen").enrolled()
    assert refusal(door.ask("train")) == "refused: this hospital is held out: it is only tested"
    assert "shared" in answered(door.ask("evaluate", split="test", checkpoint="best"))
    answered(settle("federation.train=alta").enrolled().ask("train"))


def test_a_hospital_that_is_not_in_the_scenario_is_no_part_of_it(settle: Settle) -> None:
    door = settle(hospital="oslo")
    assert refusal(door.ask("query.survey")) == "UserError at oslo; its own log says more"


@pytest.mark.parametrize("kind", ["query.survey", "query.enrol", "query.compare", "train"])
def test_no_message_is_worked_on_for_ever(settle: Settle, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A run's own deadline is for its rounds; this scenario has none."""
    door, ended = settle().enrolled(), threading.Event()
    monkeypatch.setattr(site, "LONGEST_S", 0.1)
    monkeypatch.setattr(site.os, "_exit", lambda code: ended.set())

    def work(message: Message, context: Context) -> Message:
        ended.wait(20)
        return Message(RecordDict(), reply_to=message)

    node = {site.NODE: str(door.folder), site.APP: APP}
    message = _address(Message(door.content(kind), NODE, kind))
    site.guard(message, Context(1, NODE, node, RecordDict(), {}), work)
    assert ended.is_set()


# ---- refusals: nothing is written, and the next message is answered

Change = Callable[[Door], RecordDict]
TRICKS = {
    "the folder above": "../tiny-01234567",
    "a folder within": "a/../../tiny-01234567",
    "an absolute path": "/etc/tiny-01234567",
    "another system's path": "..\\tiny-01234567",
    "NUL": "tiny-01234567\0",
    "a line's end": "tiny-01234567\n",
    "another alphabet's digits": "tiny-0123456７",
    "letters that look alike": "tіny-01234567",
    "capitals": "TINY-01234567",
    "nothing": "",
    "a dot": ".",
    "two dots": "..",
    "no number": "tiny",
    "too long": "a" * 300 + "-01234567",
    "half a character": "tiny-\ud8001234567",
}


def keys(kind: str, **changed: Any) -> Change:
    return lambda door: door.content(kind, **changed)


def lacking(kind: str, key: str) -> Change:
    def change(door: Door) -> RecordDict:
        config = door.config(kind)
        del config[key]
        return RecordDict({**door.content(kind), "config": ConfigRecord(config)})

    return change


def scenario(change: Callable[[dict[str, Any]], object], kind: str = "query.survey") -> Change:
    def changed(door: Door) -> RecordDict:
        raw = door.scenario.for_hospitals()
        change(raw)
        return door.content(kind, scenario=json.dumps(raw))

    return changed


def text(of: Callable[[str], str], kind: str = "query.survey") -> Change:
    return lambda door: door.content(kind, scenario=of(json.dumps(door.scenario.for_hospitals())))


def weights(change: Callable[[dict[str, State]], object], kind: str = "evaluate", packed: bool = True) -> Change:
    """``change`` is given the records, and may change them."""

    def changed(door: Door) -> RecordDict:
        states = {name: dict(state) for name, state in door.states.items()}
        change(states)
        return door.content(kind, states, packed)

    return changed


def first(of: Callable[[np.ndarray], np.ndarray], record: str = "arrays", kind: str = "evaluate") -> Change:
    """The first array of a record is another one."""

    def change(states: dict[str, State]) -> None:
        name = next(name for name, array in states[record].items() if array.dtype == np.float32)
        states[record][name] = of(states[record][name].copy())

    return weights(change, kind)


def holding(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def fill(array: np.ndarray) -> np.ndarray:
        array.flat[-1] = value
        return array

    return fill


def beside(**records: Any) -> Change:
    return lambda door: RecordDict({**door.content("evaluate"), **records})


def nested(depth: int) -> Callable[[str], str]:
    return lambda text: text.replace('"question": "Does it run?"', f'"question": {"[" * depth}{"]" * depth}')


RUNS = {
    f"a run's name with {what}: {kind}": (kind, keys(kind, run=name), "that is no name of a run|a value that cannot")
    for kind in ("query.enrol", "evaluate")
    for what, name in TRICKS.items()
}
KEYS: dict[str, tuple[str, Change, str]] = {
    f"{kind} without {key}": (kind, lacking(kind, key), "has other keys than those of its kind")
    for kind, own in site.KEYS.items()
    for key in own
}
KEYS |= {
    f"{kind} with another key": (kind, keys(kind, root="/etc"), "has other keys than those of its kind")
    for kind in site.KEYS
}
KEYS |= {
    f"{kind} with {key} of another type": (
        kind,
        keys(kind, **{key: 1.5 if own is not float else "1"}),
        f"{key} is of another type",
    )
    for kind, all_keys in site.KEYS.items()
    for key, own in all_keys.items()
}
VALUES: dict[str, tuple[str, Change, str]] = {
    "true in place of a number": ("train", keys("train", attempt=True), "attempt is of another type"),
    "a round that cannot be": ("train", keys("train", **{"server-round": 0}), "server-round has a value"),
    "a huge round": ("train", keys("train", **{"server-round": 2**70}), "server-round has a value"),
    "a state of before the beginning": ("train", keys("train", **{"start-from": -1}), "start-from has a value"),
    "a penalty that is no number": ("train", keys("train", **{"proximal-mu": float("nan")}), "proximal-mu has a value"),
    "training images as a split": ("evaluate", keys("evaluate", split="train"), "split has a value"),
    "pictures": ("evaluate", keys("evaluate", gallery=True), "gallery has a value that cannot be right"),
    "a checkpoint elsewhere": ("evaluate", keys("evaluate", checkpoint="../best"), "checkpoint has a value"),
    "a member elsewhere": ("evaluate", keys("evaluate", member="../.."), "member has a value that cannot be right"),
    "a run that is not known here": ("train", keys("train", run="tiny-01234567"), "has not been asked to take part"),
    "another scenario's name": ("query.enrol", keys("query.enrol", run="other-01234567"), "name is not its scenario's"),
    "a longer scenario's name": ("query.enrol", keys("query.enrol", run="tiny-a-01234567"), "is not its scenario's"),
    "a salt that is short": ("query.survey", keys("query.survey", salt="0"), "salt has a value"),
    "classes without counts": ("query.enrol", keys("query.enrol", counts=[]), "do not fit together"),
    "counts below zero": ("query.enrol", keys("query.enrol", counts=[-36]), "do not fit together"),
    "counts that are no whole numbers": ("query.enrol", keys("query.enrol", counts=[36.5]), "do not fit together"),
    "counts that are no numbers": ("query.enrol", keys("query.enrol", counts=[float("nan")]), "do not fit together"),
    "counts that are text": ("query.enrol", keys("query.enrol", counts=["36"]), "do not fit together"),
    "a class twice": (
        "query.enrol",
        keys("query.enrol", classes=["polyp", "polyp"], counts=[36, 36]),
        "do not fit together",
    ),
    "classes that are bytes": ("query.enrol", keys("query.enrol", classes=[b"polyp"]), "not those of all hospitals"),
    "classes of other images": ("query.enrol", keys("query.enrol", classes=["ulcer"]), "not those of all hospitals"),
    "counts of others alone": ("query.enrol", keys("query.enrol", counts=[3]), "not those of all hospitals"),
    **{
        f"no method: {told}": (
            "query.compare",
            keys("query.compare", second=told),
            "that is no method|no name of a run",
        )
        for told in (
            "",
            "[",
            "[1]",
            "{}",
            "[" * 90_000,
            '{"key": "a", "runs": 1}',
            '{"key": "a", "runs": [1]}',
            '{"key": "a", "runs": []}',
            '{"key": "../a", "runs": []}',
            '{"key": "a", "runs": [["../tiny-01234567"]]}',
        )
    },
    "a comparison of runs that are not known here": (
        "query.compare",
        keys("query.compare", second=json.dumps({"key": "bb", "runs": [["tiny-01234567"]]})),
        "has not been asked to take part",
    ),
    "a comparison with itself": (
        "query.compare",
        lambda door: door.content("query.compare", second=door.config("query.compare")["first"]),
        "cannot be compared with itself",
    ),
}
SCENARIOS: dict[str, tuple[str, Change, str]] = {
    "roots": ("query.survey", scenario(lambda s: s["data"].update(roots={"synthetic": "/etc"})), "files or folders"),
    "a center's root": (
        "query.survey",
        scenario(lambda s: s["data"]["centers"]["alta"].update(root="../elsewhere")),
        "files or folders",
    ),
    "another center's root": (
        "query.enrol",
        scenario(lambda s: s["data"]["centers"]["bergen"].update(root="."), "query.enrol"),
        "files or folders",
    ),
    "a split's file": (
        "query.survey",
        scenario(lambda s: s["data"].update(split_file="split.csv")),
        "files or folders",
    ),
    "a file of weights": (
        "query.survey",
        scenario(lambda s: s["model"].update(weights="/root/secret.pth")),
        "names a file of weights",
    ),
    "a member's file of weights": (
        "query.survey",
        scenario(
            lambda s: s.update(model={"name": "ensemble", "members": ["unet", {"name": "fpn", "weights": "run/x.pth"}]})
        ),
        "names a file of weights",
    ),
    **{
        f"a path among the options: {value}": (
            "query.survey",
            scenario(lambda s, v=value: s["data"]["options"].update(polypgen={"patient_splits": v})),  # type: ignore[misc]
            "files or folders",
        )
        for value in ("/etc", "../..", "..", "~", "a\\b", ["x", "/etc"], {"x": {"y": "/etc"}})
    },
    "a fault that ends the process": (
        "query.survey",
        scenario(lambda s: s.update(faults=[{"kind": "crash"}])),
        "for a hospital that has the scenario on its list",
    ),
    "models of others": (
        "query.survey",
        scenario(lambda s: s["federation"].update(train="pooled")),
        "images of real hospitals stay where they are",
    ),
    "a batch size to be tried": (
        "query.survey",
        scenario(lambda s: s["training"].update(batch_size="auto")),
        "give a number",
    ),
    "threads that end the process": (
        "query.survey",
        scenario(lambda s: s["resources"].update(threads_per_center=10**5)),
        "threads_per_center is above",
    ),
    "an unknown key": ("query.survey", scenario(lambda s: s.update(root="/etc")), "unknown key root"),
    "a key that forges a line of the log": (
        "query.survey",
        scenario(lambda s: s.update({"x\n2026-01-01 answered": 1})),
        r"unknown key x\\n2026",
    ),
    "no centers": ("query.survey", scenario(lambda s: s["data"].update(centers={})), "data.centers"),
    "a list": ("query.survey", text(lambda t: f"[{t}]"), "the scenario: key name is missing"),
    "nothing": ("query.survey", text(lambda t: ""), "not valid JSON"),
    "half of it": ("query.survey", text(lambda t: t[: len(t) // 2]), "not valid JSON"),
    "YAML": ("query.survey", text(lambda t: TINY), "not valid JSON"),
    "too long": ("query.survey", text(lambda t: t + " " * 100_000), "longer than 100000 characters"),
    "a number of too many digits": ("query.survey", text(lambda t: t[:-1] + ', "x": ' + "9" * 5000 + "}"), "JSON"),
    "brackets without end": ("query.survey", text(lambda t: "[" * 90_000), "not valid JSON"),
    "brackets in brackets": ("query.survey", text(nested(20_000)), "not valid JSON"),
    "brackets in brackets, fewer": ("query.survey", text(nested(500)), "question ="),
    "another scenario under the run's name": (
        "query.enrol",
        scenario(lambda s: s["training"].update(lr=1.0), "query.enrol"),
        "another scenario was begun here under the run's name",
    ),
}
ARRAYS: dict[str, tuple[str, Change, str]] = {
    **{
        f"no {record}": (kind, weights(lambda s, r=record: s.pop(r), kind), "the message lacks weights")  # type: ignore[misc]
        for record in ("arrays", "buffers", "local", "frozen")
        for kind in ("train", "evaluate")
    },
    "an array less": ("evaluate", weights(lambda s: s["arrays"].popitem()), "not those of the run's network"),
    "a buffer less": ("evaluate", weights(lambda s: s["buffers"].popitem()), "not those of the run's network"),
    "an array more": ("evaluate", weights(lambda s: s["arrays"].update(x=np.zeros(1))), "not those of the run's"),
    "an array elsewhere": (
        "evaluate",
        weights(lambda s: s["local"].update([s["arrays"].popitem()])),
        "not those of the run's network",
    ),
    "an array of a member": ("evaluate", weights(lambda s: s["frozen"].update(x=np.zeros(1))), "not those of the run"),
    "another shape": ("evaluate", first(lambda a: a[..., None]), "another name, shape or type"),
    "a shape as large": ("evaluate", first(lambda a: a.reshape(-1)), "another name, shape or type"),
    "an array that is too big": ("evaluate", first(lambda a: np.zeros((4, *a.shape), a.dtype)), "another name, shape"),
    "another dtype": ("evaluate", first(lambda a: a.astype(np.float64)), "another name, shape or type"),
    "another byte order": (
        "evaluate",
        weights(
            lambda s: s.update(arrays={n: a.astype(a.dtype.newbyteorder()) for n, a in s["arrays"].items()}),
            packed=False,
        ),
        "another name, shape or type",
    ),
    "integers": ("train", first(lambda a: a.view(np.int32), kind="train"), "another name, shape or type"),
    "NaN": ("train", first(holding(np.nan), kind="train"), "values that are not numbers"),
    "infinity": ("evaluate", first(holding(np.inf)), "values that are not numbers"),
    "a statistic that is no number": ("evaluate", first(holding(-np.inf), "buffers"), "values that are not numbers"),
    "an algorithm's array that is no number": (
        "train",
        weights(
            lambda s: s.update(control={next(iter(s["arrays"])): next(iter(s["arrays"].values())) * np.nan}), "train"
        ),
        "values that are not numbers",
    ),
    "an algorithm's array of another name": (
        "train",
        weights(lambda s: s.update(control={"../x": np.zeros(1)}), "train"),
        "another name, shape or type",
    ),
    "a hundred algorithms' arrays": (
        "train",
        weights(lambda s: s.update({f"control-{n}": {} for n in range(100)}), "train"),
        "more arrays than any algorithm sends",
    ),
    "metrics in a message": (
        "evaluate",
        beside(metrics=MetricRecord({"x": 1})),
        "a record in the message that does not",
    ),
    "another configuration": (
        "evaluate",
        beside(other=ConfigRecord({"x": 1})),
        "a record in the message that does not",
    ),
    "weights in a survey": (
        "query.survey",
        lambda door: RecordDict({**door.content("query.survey"), "arrays": to_record(door.states["arrays"])}),
        "a record in the message that does not",
    ),
    "no configuration": ("evaluate", lambda door: pack(RecordDict({"arrays": ArrayRecord()})), "has no configuration"),
    "nothing at all": ("train", lambda door: RecordDict(), "has no configuration"),
    "arrays for a configuration": (
        "query.survey",
        lambda door: RecordDict({"config": to_record(door.states["arrays"])}),
        "has no configuration",
    ),
    "a list without what it lists": (
        "evaluate",
        lambda door: RecordDict({n: r for n, r in door.content("evaluate").items() if n != PACKED}),
        "not packed as they should be",
    ),
    "half of what is listed": (
        "evaluate",
        beside(**{PACKED: to_record({PACKED: np.zeros(100, np.uint8)})}),
        "not packed as they should be",
    ),
    "something else packed": (
        "evaluate",
        beside(**{PACKED: ArrayRecord({PACKED: Array("uint8", (3,), "numpy.ndarray", b"abc")})}),
        "not packed as they should be",
    ),
    "a list that is deep": (
        "evaluate",
        beside(**{LAYOUT: ConfigRecord({"arrays": "[" * 100_000, "records": ["arrays"]})}),
        "not packed as they should be",
    ),
}
REFUSED = {**RUNS, **KEYS, **VALUES, **SCENARIOS, **ARRAYS}


@pytest.mark.parametrize(("kind", "change", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_a_message_is_said_and_nothing_is_written(
    door: Door, kind: str, change: Change, sentence: str
) -> None:
    content = change(door)
    before = listing(door.folder.parent)
    reply = door.send(kind, content)
    assert refusal(reply).startswith("refused: ") and re.search(sentence, refusal(reply)), refusal(reply)
    assert listing(door.folder.parent) == before
    assert not leaked(reply, door.secrets)


TYPES = ("query", "query.default", "train.default", "train.survey", "evaluate.enrol", "query.nobody", "system")


@pytest.mark.parametrize("sent", TYPES)
def test_other_types_of_messages_are_not_answered(door: Door, sent: str) -> None:
    before = listing(door.folder.parent)
    assert re.fullmatch(
        r"refused: .*|ValueError; the hospital's own log says more", refusal(door.send("query", RecordDict(), sent))
    )
    assert listing(door.folder.parent) == before


@pytest.mark.slow
def test_good_messages_are_answered_as_before_after_all_that_is_refused(door: Door) -> None:
    before = {kind: said(door.ask(kind)) for kind in site.KEYS}
    for kind, change, _ in ARRAYS.values():
        refusal(door.send(kind, change(door)))
    assert {kind: said(door.ask(kind)) for kind in site.KEYS} == before


# ---- what goes wrong inside


@pytest.fixture
def inside(miniatures: Miniatures, tmp_path: Path) -> Door:
    """Oslo with pictures of its own on its own disk."""
    shutil.copytree(miniatures("kvasir-seg"), tmp_path / "oslo" / "data" / "Kvasir-SEG")
    raw = {
        "name": "inside",
        "model": {"name": "unet", "encoder": "tu-lcnet_050", "decoder_channels": [16, 8, 8, 4, 4]},
        "data": {"image_size": 32, "centers": {"oslo": {"dataset": "kvasir-seg", "val": 0.4, "test": 0.25}}},
        "training": {"batch_size": 4, "augment": "none"},
    }
    return Door(tmp_path / "oslo", parse(raw, "test"), {"hospital": "oslo"})


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_so_small_that_its_scores_are_a_patients_is_refused_unless_the_hospital_allows_it(
    inside: Door, part: str
) -> None:
    """A scenario says how large it is: with one group in it the center's Dice, or loss, is that group's."""
    shares = {"val": 0.8, "test": 0.4} if part == "train" else {part: 0.01}
    asked = variant(inside.scenario, {f"data.centers.oslo.{name}": share for name, share in shares.items()})
    before = listing(inside.folder)
    for kind in ("query.survey", "query.enrol"):
        reason = refusal(Door(inside.folder, asked, {"hospital": "oslo"}).ask(kind))
        assert reason.startswith(
            f"refused: of its {part} images at oslo the scenario would have figures of fewer than 5"
        )
    assert listing(inside.folder).keys() == before.keys()
    enough = (
        inside.scenario
        if part == "train"
        else variant(asked, {f"data.centers.oslo.{part}": 0, "evaluation.select": "last"})
    )
    for scenario, allowed in (
        (asked, {"share": "per-image"}),
        (asked, {"approve": [spelled_out(asked).sha256, APP]}),
        (enough, {}),
    ):
        door = Door(inside.folder, asked, {"hospital": "oslo"} | allowed)
        answered(door.ask("query.survey", scenario=json.dumps(scenario.for_hospitals())))


def test_questions_do_not_fill_a_hospitals_disk(settle: Settle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each about another size of images has a store of its own made."""
    door = settle()
    monkeypatch.setattr(site, "ROOM_BYTES", 2**60)
    for kind in ("query.survey", "query.enrol"):
        assert re.search(r"refused: only [\d.]+ GiB are free at alta where prepared images", refusal(door.ask(kind)))


def pictures(door: Door) -> list[Path]:
    return sorted((door.folder / "data" / "Kvasir-SEG" / "images").glob("cju*.jpg"))


def test_a_hospitals_own_errors_stay_in_its_log(inside: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Their words hold names; outside, only their kind is told."""
    inside.enrolled()
    secrets, damaged = inside.secrets, pictures(inside)[0]
    damaged.write_bytes(b"no picture")
    caplog.clear()
    reply = inside.ask("query.survey")
    assert refusal(reply) == "UserError at oslo; its own log says more" and not leaked(reply, secrets)
    assert damaged.stem in caplog.text and str(inside.folder) in caplog.text
    damaged.unlink()
    for folder in (inside.folder / "data").iterdir():
        shutil.rmtree(folder)
    caplog.clear()
    reply = inside.ask("query.enrol")
    assert refusal(reply) == "UserError at oslo; its own log says more" and not leaked(reply, secrets)
    assert str(inside.folder) in caplog.text
    caplog.clear()
    reply = inside.ask("evaluate", **{"start-from": 3})
    assert refusal(reply) == "FileNotFoundError at oslo; its own log says more"
    assert str(inside.run) in caplog.text and "0003.safetensors" in caplog.text
    answered(inside.ask("evaluate"))


def test_a_run_whose_files_are_damaged_says_so_at_home(inside: Door, caplog: pytest.LogCaptureFixture) -> None:
    inside.enrolled()
    (inside.run / "plan.parquet").unlink()
    forget()
    reply = inside.ask("evaluate")
    assert refusal(reply) == "UserError at oslo; its own log says more"
    assert str(inside.run) in caplog.text and not leaked(reply, inside.secrets)
    shutil.rmtree(inside.run)
    inside.enrolled()
    answered(inside.ask("evaluate"))


def test_what_an_error_says_never_leaves(
    settle: Settle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever raises it, and however it is called."""
    door = settle().enrolled()
    sample = door.own["sample"].iloc[0]
    for error in (ValueError(sample), KeyError(sample), OSError(2, "gone", sample), MemoryError(sample)):

        def fail(*given: Any, error: Exception = error, **named: Any) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("clients.hospital.evaluate", fail)
            reply = door.ask("evaluate")
        assert refusal(reply) == f"{type(error).__name__} at alta; its own log says more"
        assert sample in caplog.text and not leaked(reply, door.secrets)
        caplog.clear()


def test_a_network_that_ran_away_is_not_told_in_words(settle: Settle) -> None:
    """Finite weights whose output is not: the words would name the center and count its images."""
    door = settle().enrolled()
    huge = {name: np.where(array > 0, 3e38, -3e38).astype(array.dtype) for name, array in door.states["arrays"].items()}
    assert refusal(door.ask("evaluate", door.states | {"arrays": huge})) == "ValueError at alta; its own log says more"


def test_images_that_have_changed_since_a_run_was_begun_are_refused(inside: Door) -> None:
    inside.enrolled()
    plan = (inside.run / "plan.json").read_bytes()
    with Image.open(pictures(inside)[0]) as opened:
        changed = np.array(opened)
    changed[: len(changed) // 2] //= 2
    Image.fromarray(changed).save(pictures(inside)[0])
    reason = refusal(inside.ask("query.enrol"))
    assert reason.startswith("refused: images or masks of oslo have changed since the run was begun")
    assert (inside.run / "plan.json").read_bytes() == plan
    shutil.rmtree(inside.run)
    inside.enrolled()


def test_what_was_refused_and_what_was_answered_stands_in_the_log(
    settle: Settle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fedkvasir.site"):
        door = settle().enrolled()
        door.ask("train", validate="val")
        door.ask("evaluate", gallery=True)
    lines = [record.getMessage() for record in caplog.records if record.name == "fedkvasir.site"]
    told = spelled_out(door.scenario).sha256
    assert f"asked about scenario tiny, sha256 {told}" in lines and f"takes part in {door.plan.name}" in lines
    assert any(line.startswith(f"answered train run={door.plan.name} server-round=1 validate=val in") for line in lines)
    assert lines[-1] == "refused evaluate: gallery has a value that cannot be right"
