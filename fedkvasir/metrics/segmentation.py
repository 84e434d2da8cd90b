"""Per-image counts -> per-image overlap ratios."""

import numpy as np
import pandas as pd

METRICS = ("dice", "iou", "precision", "recall")
HEADLINE = "dice"


def count(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Pixels right and wrong. prediction, truth: (H, W) bool."""
    tp = int(np.count_nonzero(prediction & truth))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    return {"tp": tp, "fp": predicted - tp, "fn": true - tp, "tn": truth.size - predicted - true + tp}


def ratios(counts: pd.DataFrame) -> pd.DataFrame:
    """Dice, IoU, precision and recall of every image, index as given.

    counts: columns tp, fp, fn (pixels). Truth and prediction both empty: a true negative, NaN, outside every mean.
    One of them empty: 0 in all four, so that a missed polyp and a false alarm always lower a mean.
    """
    tp, fp, fn = (counts[name].to_numpy(dtype=np.float64) for name in ("tp", "fp", "fn"))
    negative = tp + fp + fn == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        table = {
            "dice": 2 * tp / (2 * tp + fp + fn),
            "iou": tp / (tp + fp + fn),
            "precision": np.where(tp == 0, 0.0, tp / (tp + fp)),
            "recall": np.where(tp == 0, 0.0, tp / (tp + fn)),
        }
    return pd.DataFrame({name: np.where(negative, np.nan, value) for name, value in table.items()}, index=counts.index)


def by_image(counts: pd.DataFrame) -> pd.DataFrame:
    """:func:`ratios`, one row an image in the order given: mean over the classes that it shows or is said to show.

    counts: one row an image and class, columns sample, group, tp, fp, fn. Columns of the result: METRICS and group.
    """
    scores = ratios(counts).assign(group=counts["group"]).groupby(counts["sample"], sort=False)
    return scores.agg({**dict.fromkeys(METRICS, "mean"), "group": "first"})
