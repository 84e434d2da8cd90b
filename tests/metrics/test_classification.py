"""Ratios against scikit-learn, also where classes are missing and scores are equal; calibration by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from fedkvasir.metrics.classification import (
    BY_CLASS,
    auroc,
    average_precision,
    by_class,
    calibrated_error,
    calibration,
    class_counts,
    classes_of,
    confusion,
    expected_calibration_error,
    macro,
    micro,
    overall,
    predicted,
    ratios,
)

NAMES = ["a", "b", "c", "d"]


def table_of(probabilities: np.ndarray, labels: list[str]) -> pd.DataFrame:
    """One row an image; as many classes as there are columns."""
    return pd.DataFrame(probabilities, columns=[f"p_{name}" for name in NAMES[: probabilities.shape[1]]]).assign(
        label=labels
    )


def tables(count: int = 60) -> list[pd.DataFrame]:
    """Random and degenerate: 1 to 40 images, 2 to 4 classes, some that never occur, many equal probabilities."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        classes, images = int(rng.integers(2, 5)), int(rng.integers(1, 41))
        probabilities = rng.dirichlet(np.ones(classes), images)
        if number % 3 == 0:  # ties: quarters, and rows that say the same of every class
            probabilities = rng.multinomial(4, np.full(classes, 1 / classes), images) / 4
        occur = int(rng.integers(1, classes + 1))
        found.append(table_of(probabilities, [NAMES[n] for n in rng.integers(0, occur, images)]))
    return found


TABLES = tables()


def sides(samples: pd.DataFrame) -> tuple[list[str], list[str], np.ndarray, list[str]]:
    """Labels, predictions, probabilities and classes, as scikit-learn wants them."""
    names = classes_of(samples)
    probabilities = samples[[f"p_{name}" for name in names]].to_numpy()
    return list(samples["label"]), list(predicted(samples)), probabilities, names


def test_ratios_are_scikit_learns_over_the_classes_that_occur() -> None:
    rng = np.random.default_rng(0)
    labels = [NAMES[n] for n in rng.integers(0, 3, 60)]
    samples = table_of(rng.dirichlet(np.ones(4), 60), labels)
    guess = predicted(samples)
    assert classes_of(samples) == NAMES
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, guess.astype(str), labels=NAMES[:3], average="macro", zero_division=0
    )
    accuracy = accuracy_score(labels, guess.astype(str))
    expected = {"macro_f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy}
    assert ratios(samples) == pytest.approx(expected, abs=1e-12)


def test_confusion_and_counts_are_scikit_learns() -> None:
    for samples in TABLES:
        labels, guesses, _, names = sides(samples)
        np.testing.assert_array_equal(confusion(samples), metrics.confusion_matrix(labels, guesses, labels=names))
        tn, fp, fn, tp = metrics.multilabel_confusion_matrix(labels, guesses, labels=names).reshape(-1, 4).T
        np.testing.assert_array_equal(class_counts(samples), np.stack([tp, fp, fn, tn], axis=1))


@pytest.mark.filterwarnings("ignore:Only one class is present", "ignore:A single label was found")
@pytest.mark.filterwarnings("ignore:No positive class found")
def test_every_class_against_the_rest_is_scikit_learns() -> None:
    for samples in TABLES:
        labels, guesses, probabilities, names = sides(samples)
        found = by_class(samples)
        assert list(found.index) == names and set(BY_CLASS) <= set(found.columns)
        for number, name in enumerate(names):
            true, claimed = (np.array(values) == name for values in (labels, guesses))
            occurs, shown = true.any(), true.any() or claimed.any()
            nan = {"zero_division": np.nan}
            reference = {
                "recall": metrics.recall_score(true, claimed, **nan) if occurs else np.nan,
                "precision": metrics.precision_score(true, claimed, zero_division=0) if shown else np.nan,
                "specificity": metrics.recall_score(~true, ~claimed, **nan) if not true.all() else np.nan,
                "accuracy": metrics.accuracy_score(true, claimed),
                "mcc": metrics.matthews_corrcoef(true, claimed) if shown else np.nan,
                "f1": metrics.f1_score(true, claimed, zero_division=0) if shown else np.nan,
                "auroc": metrics.roc_auc_score(true, probabilities[:, number]) if 0 < true.mean() < 1 else np.nan,
                "average_precision": metrics.average_precision_score(true, probabilities[:, number])
                if occurs
                else np.nan,
            }
            assert found.loc[name, list(BY_CLASS)].to_dict() == pytest.approx(reference, abs=1e-9, nan_ok=True)


@pytest.mark.filterwarnings("ignore:A single label was found", "ignore:y_pred contains classes not in y_true")
def test_averages_are_scikit_learns() -> None:
    for samples in TABLES:
        labels, guesses, probabilities, names = sides(samples)
        occur = sorted(set(labels))
        own = {"labels": occur, "average": "macro", "zero_division": 0}
        means = macro(samples)
        assert means["recall"] == pytest.approx(metrics.recall_score(labels, guesses, **own), abs=1e-9)
        assert means["precision"] == pytest.approx(metrics.precision_score(labels, guesses, **own), abs=1e-9)
        assert means["f1"] == pytest.approx(metrics.f1_score(labels, guesses, **own), abs=1e-9)
        assert means["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, guesses), abs=1e-9)
        true = np.array(labels)[:, None] == np.array(names)
        pooled = micro(samples)
        right = metrics.accuracy_score(labels, guesses)
        assert [pooled[name] for name in ("recall", "precision", "f1")] == pytest.approx([right] * 3, abs=1e-9)
        assert pooled["auroc"] == pytest.approx(metrics.roc_auc_score(true, probabilities, average="micro"), abs=1e-9)
        ap = metrics.average_precision_score(true, probabilities, average="micro")
        assert pooled["average_precision"] == pytest.approx(ap, abs=1e-9)
        whole = overall(samples)
        assert whole["mcc"] == pytest.approx(metrics.matthews_corrcoef(labels, guesses), abs=1e-9)
        assert whole["nll"] == pytest.approx(metrics.log_loss(labels, probabilities, labels=names), abs=1e-9)


def test_pooled_specificity_accuracy_and_correlation_by_hand() -> None:
    """Three images of three classes, two right: tp 2, fp 1, fn 1, tn 5 of nine decisions."""
    eye = np.eye(3)
    pooled = micro(table_of(np.stack([eye[0], eye[1], eye[1]]), ["a", "b", "c"]))
    assert pooled["specificity"] == pytest.approx(5 / 6)
    assert pooled["accuracy"] == pytest.approx(7 / 9)
    assert pooled["mcc"] == pytest.approx((2 * 5 - 1 * 1) / math.sqrt(3 * 3 * 6 * 6))


def test_curves_are_scikit_learns_on_1000_random_cases() -> None:
    """Few images and scores out of few values: most thresholds take several images at once."""
    rng = np.random.default_rng(2)
    for _ in range(1000):
        images = int(rng.integers(2, 30))
        positive, score = rng.random(images) < 0.5, rng.integers(0, int(rng.integers(1, 12)) + 1, images) / 11
        positive[:2] = True, False
        assert auroc(positive, score) == pytest.approx(metrics.roc_auc_score(positive, score), abs=1e-9)
        reference = metrics.average_precision_score(positive, score)
        assert average_precision(positive, score) == pytest.approx(reference, abs=1e-9)


def test_curves_where_scores_are_equal_or_one_side_is_missing() -> None:
    positive = np.array([True, False, True, False])
    assert auroc(positive, np.full(4, 0.3)) == 0.5 and average_precision(positive, np.full(4, 0.3)) == 0.5
    assert auroc(positive, positive.astype(float)) == 1.0 == average_precision(positive, positive.astype(float))
    assert math.isnan(auroc(np.ones(3, bool), np.arange(3.0))) and math.isnan(auroc(np.zeros(3, bool), np.arange(3.0)))
    assert math.isnan(average_precision(np.zeros(3, bool), np.arange(3.0)))


def test_calibration_by_hand() -> None:
    """Bins of a fifteenth: 0.9 and 0.92 share the one that ends at 14/15, 0.95 is above it, 0.6 closes its own."""
    confidence = np.array([0.9, 0.92, 0.95, 0.6])
    samples = table_of(np.stack([confidence, 1 - confidence], axis=1), ["a", "b", "a", "b"])
    expected = (abs(1 - 0.9 + 0 - 0.92) + abs(1 - 0.95) + abs(0 - 0.6)) / 4
    assert expected_calibration_error(samples) == pytest.approx(expected, abs=1e-12)
    assert overall(samples)["ece"] == pytest.approx(expected, abs=1e-12)


def test_a_reliability_diagram_is_counted_image_by_image() -> None:
    for samples in TABLES:
        labels, guesses, probabilities, _ = sides(samples)
        table = calibration(samples, bins=10)
        assert list(table["low"]) == pytest.approx(np.arange(10) / 10) and table["images"].sum() == len(samples)
        for row in table.itertuples():
            own = [n for n, p in enumerate(probabilities.max(axis=1)) if row.low < p <= row.high]
            confidence = np.mean([probabilities[n].max() for n in own]) if own else np.nan
            accuracy = np.mean([labels[n] == guesses[n] for n in own]) if own else np.nan
            assert row.images == len(own)
            assert [row.confidence, row.accuracy] == pytest.approx([confidence, accuracy], nan_ok=True)


def test_a_bin_holds_its_upper_end() -> None:
    """Of two bins 0.5 belongs to the first, with 0.4: right and wrong cancel out there."""
    samples = table_of(np.array([[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]]), ["a", "b"])
    assert expected_calibration_error(samples, bins=2) == pytest.approx(abs(1 - 0.5 + 0 - 0.4) / 2)


def test_a_calibrated_network_has_an_error_that_is_smaller_with_more_images() -> None:
    """Of labels that are drawn by the network's own probabilities, both agree on average, and neither is 0."""
    rng, ratios = np.random.default_rng(0), []
    for images, least, most in ((30, 0.15, 0.25), (2000, 0.015, 0.035)):
        found = []
        for _ in range(40):
            probabilities = rng.dirichlet(np.ones(len(NAMES)), images)
            drawn = (probabilities.cumsum(axis=1) < rng.random((images, 1))).sum(axis=1)
            samples = table_of(probabilities, [NAMES[min(n, len(NAMES) - 1)] for n in drawn])
            found.append((expected_calibration_error(samples), calibrated_error(samples)))
        error, calibrated = np.mean(found, axis=0)
        assert least < calibrated < most
        ratios.append(error / calibrated)
    assert ratios == pytest.approx([1, 1], abs=0.1)


def test_calibration_is_that_of_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(4, 0.4), 500)
    targets = rng.integers(0, 4, 500)
    reference = functional.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(targets), num_classes=4, n_bins=15, norm="l1"
    )
    found = expected_calibration_error(table_of(probabilities, [NAMES[n] for n in targets]))
    assert found == pytest.approx(float(reference), abs=1e-6)


def test_a_label_that_the_network_does_not_know_is_always_wrong() -> None:
    samples = table_of(np.array([[0.8, 0.2], [0.6, 0.4]]), ["a", "unheard-of"])
    assert list(confusion(samples).columns) == ["a", "b", "unheard-of"]
    assert by_class(samples).loc["unheard-of", "recall"] == 0
    assert ratios(samples)["recall"] == pytest.approx(0.5) == macro(samples)["recall"]
    assert overall(samples)["nll"] == pytest.approx((-math.log(0.8) - math.log(np.finfo(float).eps)) / 2)
