"""What hospitals send is taken as it has to be, or not at all."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fedkvasir.algorithms.base import to_record
from fedkvasir.evaluation.protocol import task_of
from fedkvasir.evaluation.shared import MINIMUM, compare_here, share
from fedkvasir.scenario import Scenario, parse
from server.answers import complaint, is_paired, is_samples, is_share
from server.grid import LocalGrid
from tests.evaluation.records import LABELS, MASKS, TASKS, arrived, groups, segmentation, worse

W = {"w": np.zeros(2, np.float32)}
ALIKE = {"arrays": W, "buffers": {"n": np.array(0)}, "local": {}, "control": W}
"""What SCAFFOLD's hospitals are to send back, of a network of two numbers."""
TOLD: dict[str, Any] = {"loss": 0.5, "state": 1, "samples": 8, "steps": 2, "seconds": 0.1, "peak_mib": 90.0}
GOOD = {name: to_record(state) for name, state in ALIKE.items()} | {"metrics": MetricRecord(TOLD)}
OTHER_ARRAYS, OTHER_METRICS = "sent arrays of other names, shapes or types", "sent other metrics than it was asked for"
NO_NUMBERS = "sent values that are not numbers"
ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "a good one": ({}, ""),
    "a huge weight of its own": ({"metrics": MetricRecord(TOLD | {"weight": 1e12})}, OTHER_METRICS),
    "a negative weight": ({"metrics": MetricRecord(TOLD | {"weight": -200.0})}, OTHER_METRICS),
    "no metrics": ({"metrics": None}, OTHER_METRICS),
    "a metric too few": ({"metrics": MetricRecord({"loss": 0.5})}, OTHER_METRICS),
    "a metric that is a list": ({"metrics": MetricRecord(TOLD | {"loss": [0.5]})}, OTHER_METRICS),
    "metrics twice": ({"more": MetricRecord(TOLD)}, OTHER_METRICS),
    "a loss that is no number": ({"metrics": MetricRecord(TOLD | {"loss": float("nan")})}, NO_NUMBERS),
    "a number of images that is not the plan's": (
        {"metrics": MetricRecord(TOLD | {"samples": 10**9})},
        "trained with 1e+09 images, and said before the first round that it has 8",
    ),
    "a record of arrays too many": ({"more": to_record(W)}, OTHER_ARRAYS),
    "no weights": ({"arrays": None}, OTHER_ARRAYS),
    "no buffers": ({"buffers": None}, OTHER_ARRAYS),
    "no control": ({"control": None}, OTHER_ARRAYS),
    "a control of another shape": ({"control": to_record({"w": np.zeros(3, np.float32)})}, OTHER_ARRAYS),
    "a control of another type": ({"control": to_record({"w": np.zeros(2)})}, OTHER_ARRAYS),
    "a control of other names": ({"control": to_record({"v": W["w"]})}, OTHER_ARRAYS),
    "a control of no numbers": ({"control": to_record({"w": np.full(2, np.nan, np.float32)})}, NO_NUMBERS),
    "metrics for a control": ({"control": MetricRecord(TOLD)}, OTHER_ARRAYS),
    "bytes that are no array": (
        {"arrays": ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", b"none")})},
        "sent arrays that cannot be read",
    ),
}


@pytest.mark.parametrize(("changed", "said"), ANSWERS.values(), ids=ANSWERS)
def test_what_cannot_be_averaged_is_complained_of_in_a_sentence(changed: dict[str, Any], said: str) -> None:
    """changed: records of a good answer that are others; None: that are not there."""
    content = {name: record for name, record in (GOOD | changed).items() if record is not None}
    LocalGrid([], "clients.app:app", 1)  # for Flower's messages
    assert complaint(Message(RecordDict(content), reply_to=Message(RecordDict(), 7, "train")), ALIKE, 8) == said


@TASKS
def test_the_coordinator_takes_what_hospitals_tell_and_nothing_else(records: pd.DataFrame) -> None:
    """What would end the making of a report, or stand in it as a number that cannot be."""
    task, own = task_of(records), records[records["center"] == records["center"].iloc[0]]
    told, images = share(own, 0).drop(columns="checkpoint"), own["sample"].nunique()
    told = arrived(told)
    scores, draws = told["kind"] == "score", told["kind"] == "draws"
    assert is_share(told, task, images) and is_share(told[~draws], task, images)
    assert not is_share(told, task, images + 1) and not is_share(told, task, images - 1)
    spoilt = [
        told.drop(columns="note"),
        told.iloc[:0],
        told[~scores],
        pd.concat([told, told]),
        told.assign(value=told["value"].astype(str)),
        told.assign(value=told["value"].mask(scores, 7.0)),
        told.assign(value=told["value"].mask(scores, np.inf)),
        told.assign(value=told["value"].mask(draws, 7.0)),
        told.assign(images=np.nan),
        told.assign(groups=told["groups"].mask(draws, images + 1)),
        told.assign(metric=None),
    ]
    spoilt += [told.assign(draws=[value] * len(told)) for value in (None, np.zeros(3), np.array(["a"] * 2000))]
    spoilt += [told.assign(draws=[np.full(2000, value)] * len(told)) for value in (7.0, -np.inf)]
    assert [is_share(table, task, images) for table in spoilt] == [False] * len(spoilt)


def image_rows(task: str) -> tuple[pd.DataFrame, Scenario, list[str]]:
    """Six images of three patients as a hospital that lets such rows go tells of them, scored both ways."""
    images = pd.DataFrame({"sample": [f"s{n}" for n in range(6)], "group": [f"g{n // 2}" for n in range(6)]})
    images = images.assign(center="oslo", role="holdout", split="test")
    classes = ["polyp", "ulcer"]
    raw: dict[str, Any] = {"name": "rows", "task": task, "model": {"name": "unet"}}
    raw["data"] = {"centers": {"bergen": {"dataset": "synthetic"}, "oslo": {"dataset": "synthetic", "role": "holdout"}}}
    if task == "classification":
        scenario = parse(raw | {"model": {"name": "lcnet_050"}}, "test")
        return images.assign(label="ulcer", p_polyp=0.25, p_ulcer=0.75), scenario, classes
    scenario = parse(raw | {"evaluation": {"scoring": ["default", "endocv2021-official"]}}, "test")
    parts = [
        images.assign(**{"class": name}, scoring=scoring, hd95=np.nan, assd=np.nan, nsd=np.nan)
        for name in classes
        for scoring in scenario.evaluation.scoring
    ]
    counts = {"height": 30, "width": 40, "tp": 100, "fp": 50, "fn": 50, "tn": 1000, "hd": 50.0}
    counts |= {"threshold": scenario.evaluation.threshold, "tolerance_px": scenario.evaluation.tolerance_px}
    return pd.concat(parts, ignore_index=True).assign(**counts), scenario, classes


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_the_coordinator_takes_rows_of_the_plans_images_and_nothing_else(task: str) -> None:
    rows, scenario, classes = image_rows(task)
    place = {"center": "oslo", "role": "holdout", "split": "test"}
    assert is_samples(arrived(rows), scenario, classes, place, 6)
    assert not is_samples(rows, scenario, classes, place, 5) and not is_samples(rows, scenario, classes, place, 7)
    changed: list[dict[str, Any]] = [
        {"center": "bergen"}, {"role": "train"}, {"split": "val"}, {"sample": "s0"}, {"sample": 0}, {"group": None},
        {"group": [f"g{n}" for n in range(len(rows))]} if task == "segmentation" else {"group": 1.0},
        {"kind": "score"}, {"checkpoint": "best"}, {"run": "another"},
    ]  # fmt: skip
    if task == "segmentation":
        changed += [
            {"class": "cancer"}, {"class": "polyp"}, {"scoring": "default"}, {"threshold": 0.9}, {"tolerance_px": 9.0},
            {"tp": 101}, {"tp": -1, "tn": 1101}, {"fp": 50.0}, {"tn": 10**9}, {"width": np.nan}, {"height": 10**6},
            {"hd": 51.0}, {"hd95": np.inf}, {"assd": -1.0}, {"nsd": 1.5}, {"nsd": "0.5"},
        ]  # fmt: skip
    else:
        changed += [
            {"label": "cancer"}, {"p_polyp": 0.5}, {"p_polyp": np.nan}, {"p_polyp": -0.5, "p_ulcer": 1.5},
            {"p_polyp": np.inf}, {"p_cancer": 0.0}, {"p_polyp": "0.25"},
        ]  # fmt: skip
    spoilt = [
        rows.iloc[:-1],
        pd.concat([rows, rows]),
        rows.drop(columns="group"),
        *(rows.assign(**own) for own in changed),
    ]
    assert [is_samples(table, scenario, classes, place, 6) for table in spoilt] == [False] * len(spoilt)


def told_of_two(records: pd.DataFrame, center: str) -> pd.DataFrame:
    """A hospital's comparison as it arrives."""
    own = records[records["center"] == center]
    other = worse(own, 0.04) if "tp" in own else own.assign(label=np.roll(own["label"], 3))
    return arrived(compare_here({"A": [own], "B": [other]}, 0))


@pytest.mark.parametrize(("records", "center", "role"), [(MASKS, "dijon", "holdout"), (LABELS, "rome", "train")])
def test_the_coordinator_takes_what_compares_two_methods_and_nothing_else(
    records: pd.DataFrame, center: str, role: str
) -> None:
    """One hospital could decide a comparison with groups that it does not have, or by a difference beyond 1."""
    task, told = task_of(records), told_of_two(records, center)
    groups, wins, images = int(told["groups"].iloc[0]), int(told["wins"].iloc[0]), 200
    tied, draws = told["tied"].iloc[0], told["draws"].iloc[0]
    assert is_paired(told, center, role, task, images) and is_paired(told, center, role, task, groups)
    assert wins > 0 and not is_paired(told, center, role, task, groups - 1)
    assert not is_paired(told, "evora", role, task, images) and not is_paired(told, center, "both", task, images)
    changed: list[dict[str, Any]] = [
        {"difference": 7.0}, {"difference": np.nan}, {"difference": "0.1"}, {"median": -1.5}, {"metric": "IoU"},
        {"wins": wins + 1}, {"wins": 0, "losses": told["losses"] + wins}, {"wins": wins + 0.5, "ties": -0.5},
        {"groups": MINIMUM - 1}, {"groups": np.nan}, {"won": 1e9}, {"won": np.nan}, {"won": -1.0}, {"note": None},
        {"tied": [tied[1:]]}, {"tied": [tied.astype(float)]}, {"tied": [[]]}, {"tied": 3}, {"tied": [[*tied, 0]]},
        {"draws": [draws[:3]]}, {"draws": [np.append(draws[1:], np.inf)]}, {"draws": 0.0}, {"draws": None},
    ]  # fmt: skip
    spoilt = [
        told.drop(columns="won"),
        told.iloc[:0],
        pd.concat([told, told]),
        *(told.assign(**own) for own in changed),
    ]
    assert [is_paired(table, center, role, task, images) for table in spoilt] == [False] * len(spoilt)


def test_a_comparison_of_few_groups_is_taken_with_nothing_in_it() -> None:
    few = segmentation({"evora": groups(4)}).assign(**{"class": "polyp"}, tn=0)
    told = told_of_two(few, "evora")
    assert told["difference"].isna().all() and is_paired(told, "evora", "holdout", "segmentation", 20)
    assert not is_paired(told.assign(draws=[np.zeros(2000)]), "evora", "holdout", "segmentation", 20)
