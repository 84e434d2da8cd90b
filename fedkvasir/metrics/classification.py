"""Per-image probabilities -> ratios of a set of images."""

import numpy as np
import pandas as pd

from fedkvasir.metrics.counts import COUNTS
from fedkvasir.metrics.counts import ratios as count_ratios

METRICS = ("macro_f1", "accuracy", "precision", "recall")
HEADLINE = "macro_f1"
PREFIX = "p_"
"""Probability columns are ``p_<class>``, in the scenario's class order."""
BY_CLASS = ("recall", "precision", "specificity", "accuracy", "mcc", "f1", "auroc", "average_precision")
"""Of one class against the rest, and averaged over classes."""
BINS = 15
"""Of the expected calibration error, equally wide."""


def classes_of(samples: pd.DataFrame) -> list[str]:
    """Class names in the order of the probability columns."""
    return [column.removeprefix(PREFIX) for column in samples.columns if column.startswith(PREFIX)]


def predicted(samples: pd.DataFrame) -> np.ndarray:
    """The most probable class of every image, as an array of names."""
    classes = classes_of(samples)
    probabilities = samples[[PREFIX + name for name in classes]].to_numpy(dtype=np.float64)
    return np.array(classes, dtype=object)[probabilities.argmax(axis=1)]


def ratios(samples: pd.DataFrame) -> dict[str, float]:
    """Accuracy, and macro F1, precision and recall over the classes that occur in ``label``.

    A class never predicted has precision and F1 0.
    """
    label, guess = samples["label"].to_numpy(dtype=object), predicted(samples)
    occur = count_ratios(class_counts(samples).loc[sorted(set(label))])
    return {
        "macro_f1": float(np.mean(occur["dice"])),
        "accuracy": float((label == guess).mean()),
        "precision": float(np.mean(occur["precision"])),
        "recall": float(np.mean(occur["recall"])),
    }


def confusion(samples: pd.DataFrame) -> pd.DataFrame:
    """How many images of each class (rows, by ``label``) were taken for each class (columns), in class order.

    A label that the network does not know comes last; nothing is taken for it.
    """
    names = _names(samples)
    return pd.crosstab(samples["label"].to_numpy(dtype=object), predicted(samples)).reindex(
        index=names, columns=names, fill_value=0
    )


def class_counts(samples: pd.DataFrame) -> pd.DataFrame:
    """tp, fp, fn, tn of every class against the rest, in images; index: the classes of :func:`confusion`."""
    matrix = confusion(samples).to_numpy()
    tp = np.diag(matrix)
    fp, fn = matrix.sum(axis=0) - tp, matrix.sum(axis=1) - tp
    counts = np.stack([tp, fp, fn, matrix.sum() - tp - fp - fn], axis=1)
    return pd.DataFrame(counts, index=_names(samples), columns=list(COUNTS))


def by_class(samples: pd.DataFrame) -> pd.DataFrame:
    """tp, fp, fn, tn and :data:`BY_CLASS` of every class against the rest; index: the classes of :func:`confusion`.

    A class that does not occur in ``label`` has no recall, AUROC or average precision (NaN); one that is not predicted
    either has no precision, F1 and MCC. One that occurs and is never predicted has precision, F1 and MCC 0. Where no
    other class occurs there is no AUROC.
    """
    counts = class_counts(samples)
    true, probabilities = _one_vs_rest(samples)
    table = counts.join(count_ratios(counts).rename(columns={"dice": "f1"}))
    table.loc[counts["tp"] + counts["fn"] == 0, "recall"] = np.nan
    table["auroc"] = [auroc(*columns) for columns in zip(true.T, probabilities.T, strict=True)]
    table["average_precision"] = [average_precision(*columns) for columns in zip(true.T, probabilities.T, strict=True)]
    return table[[*COUNTS, *BY_CLASS]]


def macro(samples: pd.DataFrame) -> dict[str, float]:
    """Means of :func:`by_class` over the classes that occur in ``label``; ``balanced_accuracy`` is the mean recall."""
    table = by_class(samples)
    means = table.loc[table["tp"] + table["fn"] > 0, list(BY_CLASS)].mean()
    return {**means.to_dict(), "balanced_accuracy": float(means["recall"])}


def micro(samples: pd.DataFrame) -> dict[str, float]:
    """:data:`BY_CLASS` of every image and class pooled: one decision each, yes or no.

    Recall, precision and F1 are then all the share of images that are right.
    """
    pooled = class_counts(samples).sum().to_frame().T
    table = count_ratios(pooled).rename(columns={"dice": "f1"}).iloc[0].to_dict()
    true, probabilities = (values.ravel() for values in _one_vs_rest(samples))
    table |= {"auroc": auroc(true, probabilities), "average_precision": average_precision(true, probabilities)}
    return {name: float(table[name]) for name in BY_CLASS}


def overall(samples: pd.DataFrame) -> dict[str, float]:
    """Over all images at once: accuracy, mcc (of all classes together), nll and ece."""
    loss = negative_log_likelihood(samples)
    right = samples["label"].to_numpy(dtype=object) == predicted(samples)
    ece = expected_calibration_error(samples)
    return {"accuracy": float(right.mean()), "mcc": multiclass_mcc(samples), "nll": float(loss.mean()), "ece": ece}


def negative_log_likelihood(samples: pd.DataFrame) -> np.ndarray:
    """(N,) minus the natural logarithm of the probability of each image's own class.

    A probability of 0 counts as 2.2e-16, the step of float64 at 1: 36 instead of infinity.
    """
    true, probabilities = _one_vs_rest(samples)
    return -np.log(np.clip((probabilities * true).sum(axis=1), np.finfo(np.float64).eps, 1.0))


def expected_calibration_error(samples: pd.DataFrame, bins: int = BINS) -> float:
    """How far confidence is from accuracy, 0..1: the mean over bins of :func:`calibration`, weighted by their images,
    of the difference (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3)."""
    table = calibration(samples, bins).query("images > 0")
    return float(np.average((table["accuracy"] - table["confidence"]).abs(), weights=table["images"]))


def calibrated_error(samples: pd.DataFrame, bins: int = BINS) -> float:
    """What :func:`expected_calibration_error` would be on average of a network with these confidences that is right
    exactly as often as it is sure: not 0, as few images in a bin are never right by just their share. 200 draws."""
    confidence = _confidence(samples)
    right = np.random.default_rng(0).random((200, len(confidence))) < confidence
    inside = _bin_of(confidence, bins)[:, None] == np.arange(bins)
    return float(np.abs((right - confidence) @ inside).sum(axis=1).mean() / len(confidence))


def calibration(samples: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """How often the network is right where it is how sure: one row a bin, the numbers of a reliability diagram.

    Columns: low, high, images, confidence and accuracy (means over the bin's images, NaN where there are none).
    Confidence is the highest probability; bins are (0, 1/bins], ..., (1 - 1/bins, 1].
    """
    confidence, edges = _confidence(samples), np.linspace(0, 1, bins + 1)
    right = samples["label"].to_numpy(dtype=object) == predicted(samples)
    bin_of = _bin_of(confidence, bins)
    images = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidences, accuracies = (np.bincount(bin_of, own, bins) / images for own in (confidence, right))
    columns = {"low": edges[:-1], "high": edges[1:], "images": images}
    return pd.DataFrame({**columns, "confidence": confidences, "accuracy": accuracies})


def _confidence(samples: pd.DataFrame) -> np.ndarray:
    return samples[[PREFIX + name for name in classes_of(samples)]].to_numpy(dtype=np.float64).max(axis=1)


def _bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")


def multiclass_mcc(samples: pd.DataFrame) -> float:
    """Matthews' correlation of labels and predictions, -1..1; 0 where either is one class alone.

    Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, Computational Biology and
    Chemistry 28, 2004, equation 8.
    """
    matrix = confusion(samples).to_numpy(dtype=np.float64)
    true, claimed, images = matrix.sum(axis=1), matrix.sum(axis=0), matrix.sum()
    spread = np.sqrt(images**2 - claimed @ claimed) * np.sqrt(images**2 - true @ true)
    return float((np.trace(matrix) * images - true @ claimed) / spread) if spread else 0.0


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve by the trapezoidal rule; NaN without positives or without negatives.

    positive: (N,) bool; score: (N,) higher speaks for positive; equal scores are one point of the curve.
    """
    tp, fp = _curve(positive, score)
    return float(np.trapezoid(tp, fp) / (tp[-1] * fp[-1])) if tp[-1] and fp[-1] else np.nan


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Precision at every threshold, weighted by the recall gained there, not interpolated; NaN without positives."""
    tp, fp = _curve(positive, score)
    return float(np.sum(np.diff(tp) * tp[1:] / (tp[1:] + fp[1:])) / tp[-1]) if tp[-1] else np.nan


def _curve(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T + 1,) float64 true and false positives at each different score as threshold, highest first, from (0, 0) on."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    tp = np.cumsum(positive[order], dtype=np.float64)[last]
    return np.append(0.0, tp), np.append(0.0, last + 1 - tp)


def _names(samples: pd.DataFrame) -> list[str]:
    classes = classes_of(samples)
    return classes + sorted(set(samples["label"]) - set(classes))


def _one_vs_rest(samples: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) bool truth and (N, K) float64 probabilities, 0 for a label that the network does not know."""
    names = _names(samples)
    true = samples["label"].to_numpy(dtype=object)[:, None] == np.array(names, dtype=object)
    columns = [PREFIX + name for name in names]
    return true, samples.reindex(columns=columns, fill_value=0.0).to_numpy(dtype=np.float64)
