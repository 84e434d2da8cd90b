"""Every ratio against scikit-learn and smp.metrics on 1,000 pairs of masks, and the rule for empty masks by hand."""

import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from sklearn import metrics

from fedkvasir.metrics.counts import COUNTS, RATIOS, ratios
from fedkvasir.metrics.segmentation import count
from tests.metrics.cases import pairs

PAIRS = pairs()
PREDICTION, TRUTH = (np.stack([pair[side].ravel() for pair in PAIRS], axis=1) for side in (0, 1))
"""(pixels, 1000) bool: to scikit-learn every mask is one label of many."""
TABLE = pd.DataFrame([count(*pair) for pair in PAIRS])
NOTHING = ~(PREDICTION | TRUTH).any(axis=0)
"""Both masks empty."""


def test_the_cases_hold_what_they_promise() -> None:
    empty = [~masks.any(axis=0) for masks in (PREDICTION, TRUTH)]
    assert len(PAIRS) == 1000 and NOTHING.any()
    assert (empty[0] & ~empty[1]).any() and (empty[1] & ~empty[0]).any()
    assert (PREDICTION & TRUTH).all(axis=0).any() and (TRUTH.sum(axis=0) == 1).any()


def test_counts_are_scikit_learns() -> None:
    tn, fp, fn, tp = metrics.multilabel_confusion_matrix(TRUTH, PREDICTION).reshape(-1, 4).T
    np.testing.assert_array_equal(TABLE[list(COUNTS)], np.stack([tp, fp, fn, tn], axis=1))


@pytest.mark.filterwarnings("ignore:A single label was found")
def test_ratios_are_scikit_learns_where_something_is_shown_or_said() -> None:
    own = {"average": None, "zero_division": 0}
    expected = {
        "dice": metrics.f1_score(TRUTH, PREDICTION, **own),
        "iou": metrics.jaccard_score(TRUTH, PREDICTION, **own),
        "f2": metrics.fbeta_score(TRUTH, PREDICTION, beta=2, **own),
        "precision": metrics.precision_score(TRUTH, PREDICTION, **own),
        "recall": metrics.recall_score(TRUTH, PREDICTION, **own),
        "specificity": metrics.recall_score(~TRUTH, ~PREDICTION, average=None, zero_division=np.nan),
        "accuracy": (TRUTH == PREDICTION).mean(axis=0),
        "mcc": [metrics.matthews_corrcoef(*masks) for masks in zip(TRUTH.T, PREDICTION.T, strict=True)],
    }
    found = ratios(TABLE)
    assert tuple(found.columns) == RATIOS == tuple(expected)
    for name, values in expected.items():
        reference = np.array(values, dtype=np.float64)
        if name not in ("specificity", "accuracy"):
            reference[NOTHING] = np.nan
        np.testing.assert_allclose(found[name], reference, atol=1e-9, rtol=0, err_msg=name)


def test_ratios_are_those_of_smp_metrics() -> None:
    shape = (len(PAIRS), 1, -1)
    prediction, truth = (torch.from_numpy(masks.T.reshape(*shape)).long() for masks in (PREDICTION, TRUTH))
    counts = [part.double() for part in smp.metrics.get_stats(prediction, truth, mode="binary")]
    functions = {
        "dice": smp.metrics.f1_score,
        "iou": smp.metrics.iou_score,
        "precision": smp.metrics.precision,
        "recall": smp.metrics.recall,
        "specificity": smp.metrics.specificity,
        "accuracy": smp.metrics.accuracy,
    }
    found = ratios(TABLE)
    for name, function in functions.items():
        reference = function(*counts, reduction="none", zero_division=0).numpy().ravel()
        there = found[name].notna().to_numpy()
        np.testing.assert_allclose(found[name][there], reference[there], atol=1e-9, rtol=0, err_msg=name)


def test_the_rule_for_empty_masks() -> None:
    nothing, missed, alarm, full = (
        {"tp": 0, "fp": 0, "fn": 0, "tn": 9},
        {"tp": 0, "fp": 0, "fn": 4, "tn": 5},
        {"tp": 0, "fp": 4, "fn": 0, "tn": 5},
        {"tp": 9, "fp": 0, "fn": 0, "tn": 0},
    )
    table = ratios(pd.DataFrame([nothing, missed, alarm, full], index=["nothing", "missed", "alarm", "full"]))
    overlap = ["dice", "iou", "f2", "precision", "recall", "mcc"]
    assert table.loc["nothing", overlap].isna().all()
    assert (table.loc[["missed", "alarm"], overlap] == 0).all().all()
    assert list(table["accuracy"]) == pytest.approx([1, 5 / 9, 5 / 9, 1])
    assert list(table["specificity"])[:3] == pytest.approx([1, 1, 5 / 9]) and np.isnan(table.loc["full", "specificity"])


def test_the_correlation_holds_for_the_pixels_of_a_hospital() -> None:
    """A thousand full-size frames together: products of four counts near 1e36."""
    tp, fp, fn, tn = 250_000_000, 31_000_000, 17_000_000, 1_700_000_000
    exact = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    (found,) = ratios(pd.DataFrame([{"tp": tp, "fp": fp, "fn": fn, "tn": tn}]))["mcc"]
    assert found == pytest.approx(exact, abs=1e-12)
