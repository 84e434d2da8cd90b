"""Distances between the outlines of two masks, in pixels of the native image.

The boundary of a mask is its pixels with a 4-neighbour outside it (or outside the image). Distances are Euclidean, from
every boundary pixel of one mask to the nearest boundary pixel of the other, both ways. Maier-Hein et al., Metrics
Reloaded, Nature Methods 2024; NSD: Nikolov et al., arXiv 1809.04430.
"""

import math

import cv2
import numpy as np

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def distances(prediction: np.ndarray, truth: np.ndarray, tolerance_px: float) -> dict[str, float]:
    """hd (maximum), hd95 (larger of the two 95th percentiles), assd (mean over both boundaries), nsd (share within
    ``tolerance_px``).

    prediction, truth: (H, W) bool. Both empty: NaN. One empty: the image diagonal, and NSD 0, so that a missed polyp
    never improves a mean.
    """
    if not prediction.any() and not truth.any():
        return dict.fromkeys(("hd", "hd95", "assd", "nsd"), math.nan)
    if not prediction.any() or not truth.any():
        diagonal = math.hypot(*truth.shape)
        return {"hd": diagonal, "hd95": diagonal, "assd": diagonal, "nsd": 0.0}
    rows, columns = (np.flatnonzero((prediction | truth).any(axis=axis)) for axis in (1, 0))
    inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    first, second = _boundary(prediction[inside]), _boundary(truth[inside])
    there, back = _distance(first, second), _distance(second, first)
    both = np.concatenate([there, back])
    return {
        "hd": float(both.max()),
        "hd95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "assd": float(both.mean()),
        "nsd": float((both <= tolerance_px).mean()),
    }


def _boundary(mask: np.ndarray) -> np.ndarray:
    solid = mask.astype(np.uint8)
    # Outside the crop there is no mask, so the crop's edge is a boundary just as the image's is.
    return mask & ~cv2.erode(solid, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)


def _distance(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """From every pixel of ``start`` to the nearest of ``end``, float64."""
    rough = cv2.distanceTransform((~end).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[start]
    # Squares of pixel distances are whole numbers: OpenCV's last bits, which differ from process to process, go away.
    return np.sqrt(np.rint(rough.astype(np.float64) ** 2))
