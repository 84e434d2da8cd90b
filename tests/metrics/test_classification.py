"""Ratios against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from fedkvasir.metrics.classification import classes_of, predicted, ratios


def test_ratios_are_scikit_learns_over_the_classes_that_occur() -> None:
    rng = np.random.default_rng(0)
    names = ["a", "b", "c", "d"]
    probabilities = rng.dirichlet(np.ones(4), 60)
    labels = np.array(names[:3])[rng.integers(0, 3, 60)]
    samples = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in names]).assign(label=labels)
    guess = predicted(samples)
    assert classes_of(samples) == names
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, guess.astype(str), labels=names[:3], average="macro", zero_division=0
    )
    accuracy = accuracy_score(labels, guess.astype(str))
    expected = {"macro_f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy}
    assert ratios(samples) == pytest.approx(expected, abs=1e-12)
