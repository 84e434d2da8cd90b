"""Four counts -> every ratio of the standard suite, for masks and for classes alike."""

import numpy as np
import pandas as pd

COUNTS = ("tp", "fp", "fn", "tn")
RATIOS = ("dice", "iou", "f2", "precision", "recall", "specificity", "accuracy", "mcc")
"""Dice is F1, IoU the Jaccard index, precision PPV, recall sensitivity; F2 counts recall twice; MCC is Matthews'
correlation coefficient."""


def ratios(counts: pd.DataFrame) -> pd.DataFrame:
    """All :data:`RATIOS` of every row, index as given.

    counts: columns tp, fp, fn and tn; without tn what needs it is NaN. Neither truth nor prediction (tp = fp = fn = 0):
    NaN. Only one of them: 0, so that a miss and a false alarm always lower a mean. Specificity and accuracy speak of
    what is not there as well and follow the counts in both cases; specificity is NaN where everything is truth. MCC is
    0 where its denominator is, as in scikit-learn.
    """
    tp, fp, fn, tn = counts.reindex(columns=list(COUNTS)).to_numpy(dtype=np.float64).T
    claimed, true, rejected, absent = tp + fp, tp + fn, tn + fn, tn + fp
    margins = claimed * true * rejected * absent
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = {
            "dice": 2 * tp / (claimed + true),
            "iou": tp / (claimed + fn),
            "f2": 5 * tp / (claimed + 4 * true),
            "precision": np.where(tp == 0, 0.0, tp / claimed),
            "recall": np.where(tp == 0, 0.0, tp / true),
            "mcc": np.where(margins == 0, 0.0, (tp * tn - fp * fn) / np.sqrt(margins)),
        }
        nothing = claimed + true == 0
        table = {name: np.where(nothing, np.nan, value) for name, value in overlap.items()}
        table |= {"specificity": tn / absent, "accuracy": (tp + tn) / (claimed + rejected)}
    return pd.DataFrame(table, index=counts.index)[list(RATIOS)]
