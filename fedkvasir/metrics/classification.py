"""Per-image probabilities -> ratios of a set of images."""

import numpy as np
import pandas as pd

METRICS = ("macro_f1", "accuracy", "precision", "recall")
HEADLINE = "macro_f1"
PREFIX = "p_"
"""Probability columns are ``p_<class>``, in the scenario's class order."""


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
    precision, recall, f1 = [], [], []
    for name in sorted(set(label)):
        tp = int(((label == name) & (guess == name)).sum())
        claimed, true = int((guess == name).sum()), int((label == name).sum())
        precision.append(tp / claimed if claimed else 0.0)
        recall.append(tp / true)
        f1.append(2 * tp / (claimed + true))
    return {
        "macro_f1": float(np.mean(f1)),
        "accuracy": float((label == guess).mean()),
        "precision": float(np.mean(precision)),
        "recall": float(np.mean(recall)),
    }
