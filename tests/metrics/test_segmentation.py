"""Counts and ratios against scikit-learn, and the rule for empty masks."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from fedkvasir.metrics.segmentation import METRICS, by_image, count, ratios

masks = arrays(bool, (5, 6))


@given(masks, masks)
def test_counts_and_ratios_are_scikit_learns(prediction: np.ndarray, truth: np.ndarray) -> None:
    counts = count(prediction, truth)
    guess, true = prediction.ravel(), truth.ravel()
    tn, fp, fn, tp = confusion_matrix(true, guess, labels=[False, True]).ravel()
    assert counts == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    found = ratios(pd.DataFrame([counts])).iloc[0]
    if not guess.any() and not true.any():
        assert found.isna().all()
        return
    for name, reference in zip(METRICS, (f1_score, jaccard_score, precision_score, recall_score), strict=True):
        assert found[name] == pytest.approx(reference(true, guess, zero_division=0), abs=1e-12)


def test_without_centers_and_classes_images_are_of_one_of_each() -> None:
    table = pd.DataFrame([{"sample": n, "group": "g", "tp": tp, "fp": 1, "fn": 0} for n, tp in enumerate((9, 0))])
    assert by_image(table)["dice"].tolist() == pytest.approx([18 / 19, 0])
    assert by_image(table[1:])["dice"].isna().all()  # nothing is to be found
    assert by_image(table[1:], alarms=True)["dice"].tolist() == [0]


def test_a_missed_polyp_and_a_false_alarm_are_zero_in_everything() -> None:
    table = ratios(pd.DataFrame([{"tp": 0, "fp": 0, "fn": 7}, {"tp": 0, "fp": 7, "fn": 0}]))
    assert (table == 0).all().all()
