"""Reduction by hand: image, group, center; seen, unseen, gap, worst; selection that cannot peek."""

import numpy as np
import pandas as pd
import pytest

from fedkvasir.evaluation.protocol import center_scores, center_table, scores_by_center, summarise
from fedkvasir.evaluation.selection import best_round, selection_score


def record(center: str, group: str, tp: int, fp: int, fn: int, role: str = "train", split: str = "test") -> dict:
    return {
        "checkpoint": "best", "center": center, "role": role, "split": split, "sample": f"{center}{group}{tp}{fp}{fn}",
        "group": group, "tp": tp, "fp": fp, "fn": fn, "tn": 100,
    }  # fmt: skip


RECORDS = pd.DataFrame(
    [
        record("oslo", "a", 10, 0, 0),  # Dice 1
        record("oslo", "a", 0, 0, 10),  # 0, missed
        record("oslo", "b", 5, 5, 5),  # 0.5
        record("oslo", "c", 0, 0, 0),  # true negative, in no mean
        record("rome", "d", 10, 10, 0, "holdout"),  # 2/3
    ]
)


def test_a_center_is_the_mean_over_groups_of_the_mean_over_images() -> None:
    scores = center_scores(RECORDS[RECORDS["center"] == "oslo"])
    assert scores["dice"] == pytest.approx((0.5 + 0.5) / 2)
    assert scores["dice_images"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert (scores["missed"], scores["negatives"]) == (1, 1)


def test_scores_of_all_centers_at_once_are_those_of_each_alone() -> None:
    # As in a study: oslo's images again where oslo is held out, found worse.
    out = RECORDS[RECORDS["center"] == "oslo"].assign(center="oslo out", role="holdout", fp=20)
    records = pd.concat([RECORDS, out], ignore_index=True)
    together, table = scores_by_center(records), center_table(records).set_index("center")
    assert list(together) == ["oslo", "oslo out", "rome"]
    for center, scores in together.items():
        assert scores == center_scores(records[records["center"] == center])
        assert table.loc[center, "dice"] == scores["dice"] and table.loc[center, "missed"] == scores["missed"]


def test_seen_unseen_gap_and_worst() -> None:
    table = center_table(RECORDS)
    assert list(table["center"]) == ["oslo", "rome"] and list(table["images"]) == [4, 1]
    summary = summarise(table, "segmentation")
    assert (summary.seen, summary.unseen) == pytest.approx((0.5, 2 / 3))
    assert summary.gap == pytest.approx(0.5 - 2 / 3)
    assert (summary.worst, summary.worst_center) == (pytest.approx(0.5), "oslo")


def test_without_a_holdout_unseen_and_gap_are_not_numbers() -> None:
    summary = summarise(center_table(RECORDS[RECORDS["role"] == "train"]), "segmentation")
    assert summary.seen == pytest.approx(0.5) and np.isnan([summary.unseen, summary.gap]).all()


@pytest.mark.parametrize("rule", ["train-val", "last"])
def test_selection_raises_when_handed_a_holdout_or_a_test_record(rule: str) -> None:
    val = RECORDS[RECORDS["role"] == "train"].assign(split="val")
    assert selection_score(val, rule) == pytest.approx(0.5)
    for peek in (RECORDS[RECORDS["role"] == "train"], RECORDS.assign(split="val")):
        with pytest.raises(ValueError, match="holdout or of a test set"):
            selection_score(peek, rule)


def test_selection_is_uniform_over_centers_not_images() -> None:
    val = pd.DataFrame([record("a", f"g{i}", 10, 0, 0) for i in range(9)] + [record("b", "x", 0, 1, 1)])
    assert selection_score(val.assign(split="val"), "train-val") == pytest.approx(0.5)


def test_the_oracle_looks_at_the_holdout_only() -> None:
    assert selection_score(RECORDS, "oracle") == pytest.approx(2 / 3)


def test_best_round_is_the_earliest_of_the_highest() -> None:
    scores = {1: 0.2, 2: 0.7, 3: 0.7, 4: float("nan")}
    assert best_round(scores, "train-val", 4) == 2
    assert best_round(scores, "last", 4) == 4
    assert best_round({}, "train-val", 4) == 4
