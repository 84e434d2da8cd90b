"""Global features of a picture, computed from its pixels: which colours, and which way the edges run where.

For datasets that publish no features. Histograms of colour (Swain and Ballard, Color Indexing, IJCV 1991) and of
oriented gradients in a spatial grid (Bosch et al., PHOG, CIVR 2007), in few numbers.
"""

import cv2
import numpy as np

HSV_BINS = (8, 4, 4)
SIDES = (128, 32)
"""The two scales: sides that the picture is shrunk to, in pixels."""
GRID, ORIENTATIONS = 4, 9
LENGTH = int(np.prod(HSV_BINS)) + len(SIDES) * GRID * GRID * ORIENTATIONS


def describe(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (416,) float32: 128 shares of colours, then 4 x 4 cells x 9 orientations at two scales.

    Each of the three histograms sums to 1 (to 0 where a picture has no edge).
    """
    hue, saturation, value = (band.astype(np.intp) for band in cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)))
    hues, saturations, values = HSV_BINS
    colour = (hue * hues // 180 * saturations + saturation * saturations // 256) * values + value * values // 256
    parts = [np.bincount(colour.ravel(), minlength=hues * saturations * values)]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    parts += [_orientations(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)) for side in SIDES]
    return np.concatenate([part / max(part.sum(), 1e-12) for part in parts]).astype(np.float32)


def _orientations(grey: np.ndarray) -> np.ndarray:
    """(S, S) uint8 -> (144,): gradients by cell and direction, opposite ones the same, weighted by their length."""
    dx, dy = (cv2.Sobel(grey, cv2.CV_64F, *order) for order in ((1, 0), (0, 1)))
    turn = np.arctan2(dy, dx) / np.pi % 1
    direction = np.minimum((turn * ORIENTATIONS).astype(np.intp), ORIENTATIONS - 1)
    cell = np.arange(len(grey)) * GRID // len(grey)
    place = (cell[:, None] * GRID + cell) * ORIENTATIONS + direction
    return np.bincount(place.ravel(), np.hypot(dx, dy).ravel(), GRID * GRID * ORIENTATIONS)
