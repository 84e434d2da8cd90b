"""Pairs of masks that the metrics are held against references on: 1,000 of them, the degenerate ones included."""

from itertools import product

import numpy as np

SHAPE = (12, 15)


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """(prediction, truth), both (12, 15) bool: blobs and noise of every density, empty, full, one pixel, half."""
    rng = np.random.default_rng(0)
    empty, full, half, pixel, corner = (np.zeros(SHAPE, bool) for _ in range(5))
    full[:], half[:6], pixel[4, 7], corner[0, 0] = True, True, True, True
    odd = (empty, full, half, ~half, pixel, ~pixel, corner)
    found = [*product(odd, odd)]
    found += [(mask, rng.random(SHAPE) < 0.3) for mask in odd] + [(rng.random(SHAPE) < 0.3, mask) for mask in odd]
    while len(found) < 1000:
        kind = len(found) % 3
        masks = [_blob(rng), _blob(rng)] if kind else [rng.random(SHAPE) < rng.random() ** 2 for _ in range(2)]
        if kind == 2:
            masks[1] = masks[0] ^ (rng.random(SHAPE) < 0.05)
        found.append((masks[0], masks[1]))
    return found


def _blob(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    middle, radius = rng.random(2) * SHAPE, rng.random(2) * 7
    return ((y - middle[0]) / (radius[0] + 0.1)) ** 2 + ((x - middle[1]) / (radius[1] + 0.1)) ** 2 < 1
