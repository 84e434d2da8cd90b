"""Fairness by hand: the worst centers, the spread, and who would have done better alone."""

import numpy as np
import pandas as pd
import pytest

from fedkvasir.evaluation.fairness import fairness
from tests.evaluation.records import classification, segmentation

NOTHING = float("nan")
SEEN = {"alta": [[0.9, 0.7], [0.6]], "bergen": [[0.5]], "cadiz": [[0.8, 0.8], [NOTHING]]}  # 0.7, 0.5, 0.8
UNSEEN = {"delft": [[0.4], [0.2]], "void": [[NOTHING]]}  # 0.3, no score
RECORDS = pd.concat([segmentation(SEEN, "train"), segmentation(UNSEEN)], ignore_index=True)


def test_worst_second_worst_means_and_spread() -> None:
    table = fairness([RECORDS]).set_index("scope")
    assert list(table.index) == ["seen", "unseen", "all"] and list(table["centers"]) == [3, 1, 4]
    seen, unseen, everywhere = (table.loc[scope] for scope in table.index)
    assert (seen["worst_center"], seen["second_worst_center"]) == ("bergen", "alta")
    assert [seen["worst"], seen["second_worst"]] == pytest.approx([0.5, 0.7])
    assert seen["mean"] == pytest.approx((0.7 + 0.5 + 0.8) / 3)
    assert seen["weighted"] == pytest.approx((3 * 0.7 + 1 * 0.5 + 3 * 0.8) / 7)
    assert [seen["sd"], seen["range"]] == pytest.approx([np.std([0.7, 0.5, 0.8]), 0.3])
    assert seen["percentile_10"] == pytest.approx(np.quantile([0.9, 0.7, 0.6, 0.5, 0.8, 0.8], 0.1))
    assert (unseen["worst_center"], everywhere["worst_center"]) == ("delft", "delft")
    assert pd.isna(unseen["second_worst_center"]) and np.isnan(unseen["second_worst"])
    assert everywhere["second_worst_center"] == "bergen" and everywhere["range"] == pytest.approx(0.5)


def test_of_several_runs_a_center_has_its_mean() -> None:
    better = pd.concat([segmentation({**SEEN, "bergen": [[0.9]]}, "train"), segmentation(UNSEEN)])
    seen = fairness([RECORDS, better]).set_index("scope").loc["seen"]
    assert [seen["worst"], seen["second_worst"]] == pytest.approx([0.7, 0.7])
    assert seen["percentile_10"] == pytest.approx(
        np.quantile([0.9, 0.7, 0.6, 0.5, 0.8, 0.8, 0.9, 0.7, 0.6, 0.9, 0.8, 0.8], 0.1)
    )


def test_classification_has_no_percentile_of_images() -> None:
    table = fairness([classification("oslo", range(6), [0, 1, 2] * 2, [0, 1, 1] * 2)]).set_index("scope")
    assert table.loc["unseen", "mean"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert table["percentile_10"].isna().all()


def test_one_center_has_no_spread_and_no_second_worst() -> None:
    table = fairness([segmentation({"oslo": [[0.5]] * 6})])
    assert table[["sd", "range", "second_worst_center", "second_worst"]].isna().all(axis=None)
