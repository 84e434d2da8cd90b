"""The EndoCV2021 challenge's scores, corrected and as its official code computes them.

Both smooth every ratio with 1e-15, so that an image without polyp and without alarm counts as 1. ``official``
reproduces what the code at github.com/sharib-vision/EndoCV2021-polyp_det_seg_gen does; else:

=============================================  ==========================================================
official                                       corrected
=============================================  ==========================================================
a missed polyp has precision 1, a false        both 0, as in Dice
alarm recall 1 (what smoothing makes of 0 / 0)
Hausdorff distance of the masks' rows, each    of the outlines, in pixels
row taken as one point of W dimensions
divided by the largest of the method's images  divided by the diagonal of each image
deviations read at fixed places, which hold    the standard deviations of Dice, F2, precision and recall
the Hausdorff mean and the standard deviations
of Jaccard, F2 and precision
a gain of more than 10 % on unseen images is   only a loss of more than 10 % is
punished
masks (JPEG) are read at > 0                   at > 127, see :mod:`fedkvasir.data.formats.picture`
predictions are resized to native size after   before
the threshold, by area
=============================================  ==========================================================

That the official code finds the ground truth by the file name before the first underscore is not reproduced: records
belong to a sample. Predictions are scored as they are, where the challenge read them from JPEG files at > 0.
"""

import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from fedkvasir.metrics.segmentation import DISTANCES, count

OFFICIAL = "endocv2021-official"
RATIOS = ("jaccard", "dice", "f2", "ppv", "recall", "accuracy")
SCORED = ("dice", "f2", "ppv", "recall")
"""Their mean is the score of a test set."""
SMOOTHING = 1e-15
TOLERANCE = 0.1
"""What may be lost on unseen images, as a share of the score on seen ones."""


def record(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What the official mode needs from pixels: counts, and as ``hd`` its distance; hd95, assd and nsd are NaN.

    prediction: (S, S) bool at the network's size; truth: (H, W) bool, see :func:`read_mask`.
    """
    height, width = truth.shape
    native = cv2.resize(prediction.astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA).astype(bool)
    return count(native, truth) | dict.fromkeys(DISTANCES, np.nan) | {"hd": row_hausdorff(native, truth)}


def read_mask(path: Path) -> np.ndarray:
    """(H, W) bool: a mask file read at > 0, so that the ringing of JPEG is polyp too. Raises OSError."""
    pixels = cv2.imread(str(path))
    if pixels is None:
        raise OSError(f"{path} cannot be read")
    return np.asarray(pixels.any(axis=2))


def row_hausdorff(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Hausdorff distance of two masks (H, W) bool taken as H points of W coordinates each, 0 or 1.

    That is what becomes of masks where a set of points is expected: a polyp moved up or down is at distance 0.
    """
    used = (prediction | truth).any(axis=0)  # other columns differ nowhere
    rows, others = (mask[:, used].astype(np.float32) for mask in (prediction, truth))
    differing = rows.sum(axis=1)[:, None] + others.sum(axis=1) - 2 * rows @ others.T
    return math.sqrt(max(differing.min(axis=0).max(), differing.min(axis=1).max()))


def by_image(records: pd.DataFrame, official: bool = False) -> pd.DataFrame:
    """:data:`RATIOS` and ``hausdorff`` of every record, index as given.

    records: tp, fp, fn, tn, hd, height, width. hausdorff: as a share of the image's diagonal, 0 where both masks are
    empty; official: in the units of :func:`row_hausdorff`.
    """
    tp, fp, fn, tn = (records[name].to_numpy(dtype=np.float64) for name in ("tp", "fp", "fn", "tn"))
    ppv, recall = ((tp + SMOOTHING) / (tp + wrong + SMOOTHING) for wrong in (fp, fn))
    table = pd.DataFrame(
        {
            "jaccard": (tp + SMOOTHING) / (tp + fp + fn + SMOOTHING),
            "dice": (2 * tp + SMOOTHING) / (2 * tp + fp + fn + SMOOTHING),
            "f2": 5 * ppv * recall / (4 * ppv + recall + SMOOTHING),
            "ppv": ppv,
            "recall": recall,
        },
        index=records.index,
    )
    hausdorff = records["hd"]
    if not official:
        table[(tp == 0) & (fp + fn > 0)] = 0.0
        hausdorff = (hausdorff / np.hypot(records["height"], records["width"])).fillna(0.0)
    return table.assign(accuracy=(tp + tn) / (tp + fp + fn + tn), hausdorff=hausdorff)


def summarise(images: pd.DataFrame, official: bool = False) -> dict[str, float]:
    """A test set's means of :func:`by_image` over its images, its score and ``score_sd``.

    official: ``hausdorff`` is a share of the largest; NaN where every image is met exactly, as there.
    """
    values = images
    if official:
        values = images.assign(hausdorff=images["hausdorff"] / images["hausdorff"].max())
    means, deviations = values.mean(), values.std(ddof=0)
    spread = deviations[list(SCORED)].mean()
    if official:
        spread = (means["hausdorff"] + deviations["jaccard"] + deviations["f2"] + deviations["ppv"]) / 4
    return {**means.to_dict(), "score": float(means[list(SCORED)].mean()), "score_sd": float(spread)}


def generalisation(seen: dict[str, float], unseen: dict[str, float], official: bool = False) -> tuple[float, float]:
    """(score, deviation) from two of :func:`summarise`: how well unseen images do, and how much worse than seen ones.

    Score: mean of Dice, recall, PPV and 1 - Hausdorff of the unseen set. Deviation: mean over the same four of what
    lies below 90 % of the seen set, lower is better; official: also what lies above 110 %, again from 90 % on.
    """
    (p, g) = (
        np.array([own["dice"], own["recall"], own["ppv"], 1 - own["hausdorff"]], dtype=np.float64)
        for own in (seen, unseen)
    )
    least, most = p - TOLERANCE * p, p + TOLERANCE * p if official else np.inf
    deviations = np.where((least <= g) & (g <= most), 0.0, np.abs(least - g))
    return float(g.mean()), float(deviations.mean())
