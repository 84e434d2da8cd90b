"""Per-image counts -> per-image overlap ratios."""

import numpy as np
import pandas as pd

from fedkvasir.metrics import counts as every

METRICS = ("dice", "iou", "precision", "recall")
HEADLINE = "dice"
DISTANCES = ("hd", "hd95", "assd", "nsd")
"""What :mod:`fedkvasir.metrics.boundary` measures, recorded beside the counts."""
DEFAULT = "default"
"""The ``scoring`` that every table, selection and test speaks of."""


def count(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Pixels right and wrong. prediction, truth: (H, W) bool."""
    tp = int(np.count_nonzero(prediction & truth))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    return {"tp": tp, "fp": predicted - tp, "fn": true - tp, "tn": truth.size - predicted - true + tp}


def scored(samples: pd.DataFrame, scoring: str = DEFAULT) -> pd.DataFrame:
    """The records of one way of scoring; where there is no column ``scoring`` all are :data:`DEFAULT`."""
    own = samples["scoring"] == scoring if "scoring" in samples.columns else scoring == DEFAULT
    return samples[np.broadcast_to(own, len(samples))]


def ratios(counts: pd.DataFrame) -> pd.DataFrame:
    """Dice, IoU, precision and recall of every image, index as given.

    counts: columns tp, fp, fn (pixels). Truth and prediction both empty: a true negative, NaN, outside every mean.
    One of them empty: 0 in all four, so that a missed polyp and a false alarm always lower a mean.
    """
    return every.ratios(counts)[list(METRICS)]


def shows_any(samples: pd.DataFrame) -> bool:
    """Is there anything to be found in any of the images? Where not, a false alarm is all that could be scored, and
    whether there is a score at all would depend on the method: there is none."""
    return bool((samples["tp"] + samples["fn"] > 0).any())


def by_image(samples: pd.DataFrame, alarms: bool = False) -> pd.DataFrame:
    """:func:`ratios`, one row an image in the order given: mean over the classes that it shows or is said to show.

    samples: one row an image and class, columns sample, group, tp, fp, fn, and center and class where there are
    several; only scoring :data:`DEFAULT` counts. alarms: score false alarms of a class that its center never shows as
    well; by :func:`shows_any` it has no score there. Columns of the result: METRICS and group.
    """
    counts = scored(samples)
    each, place = ratios(counts), [counts[name] for name in ("center", "class") if name in counts.columns]
    shown = counts["tp"] + counts["fn"] > 0
    if not (alarms or shown.all()):
        each = each.where(shown.groupby(place or [0] * len(shown)).transform("any"))
    scores = each.assign(group=counts["group"]).set_axis(pd.Index(counts["sample"]))
    if scores.index.is_unique:  # one class: nothing to average, and most tables are made of it
        return scores
    return scores.groupby(level="sample", sort=False).agg({**dict.fromkeys(METRICS, "mean"), "group": "first"})
