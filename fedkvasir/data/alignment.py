"""Two thumbnails of one scene laid over each other: borders cut a little differently, a corner blacked out."""

import numpy as np

from fedkvasir.data.fingerprint import DARK, THUMB

HOPELESS = (0.75, 0.88, 0.95, 0.97)
"""A pair that correlates less before a step of Gauss-Newton is given up. Of 14 pictures that Kvasir-SEG holds once with
and once without their border the hardest has 0.80, 0.90, 0.988 and 0.991; different pictures end below 0.94."""
LIMIT_PX = 2.5
"""How far an edge may move: 8 % of the side."""
COMMON = 0.25
"""Share of the thumbnail that must show tissue in both."""

_place = np.arange(THUMB, dtype=np.float32)
_outward = (_place - _place.mean()) / _place.max() * 2
"""-1 at one edge, 1 at the other."""


def aligned_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) correlation of pairs of (n, 32, 32) thumbnails after ``first`` was moved and stretched along both axes.

    Only pixels count that show tissue in both, away from what is dark. 0 where too little is common.
    """
    a, b = (thumbs.astype(np.float32) / 128 for thumbs in (first, second))
    lit, seen = _inside(first), _inside(second)
    moved, common = a, lit * seen
    best = _correlation(a, b, common)
    move, active = np.zeros((len(first), 4), np.float32), np.arange(len(first))
    for hopeless in HOPELESS:
        hopeful = best[active] >= hopeless
        active, moved, common = active[hopeful], moved[hopeful], common[hopeful]
        if not len(active):
            break
        step = _step(moved, b[active], common)
        move[active] = np.clip(move[active] + step, -LIMIT_PX, LIMIT_PX)
        down, right = _positions(move[active, :2]), _positions(move[active, 2:])
        moved = _cubic(down) @ a[active] @ _cubic(right).transpose(0, 2, 1)
        common = (_linear(down) @ lit[active] @ _linear(right).transpose(0, 2, 1) > 0.99) * seen[active]
        best[active] = np.maximum(best[active], _correlation(moved, b[active], common))
    return best


def _inside(thumbs: np.ndarray) -> np.ndarray:
    """(n, 32, 32) float32: 1 where a pixel and its eight neighbours show tissue."""
    lit = np.pad(thumbs > DARK, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    rows = lit[:, :-2] & lit[:, 1:-1] & lit[:, 2:]
    return (rows[:, :, :-2] & rows[:, :, 1:-1] & rows[:, :, 2:]).astype(np.float32)


def _positions(move: np.ndarray) -> np.ndarray:
    """(n, 32): where on the axis each place of the moved axis lies; move is (n, 2): stretch and shift in pixels."""
    return _place + move[:, :1] * _outward + move[:, 1:]


def _linear(position: np.ndarray) -> np.ndarray:
    """(n, 32, 32) weights of linear interpolation; nothing where the position lies outside."""
    return np.maximum(1 - np.abs(position[:, :, None] - _place), 0)


def _cubic(position: np.ndarray) -> np.ndarray:
    """(n, 32, 32) weights of Keys' cubic convolution (IEEE TASSP 29, 1981), a = -1/2, of the nearest place inside."""
    x = np.minimum(np.abs(np.clip(position, 0, THUMB - 1)[:, :, None] - _place), 2)
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2)
    return weights / weights.sum(-1, keepdims=True)


def _correlation(moved: np.ndarray, fixed: np.ndarray, common: np.ndarray) -> np.ndarray:
    """(n,) over the pixels that are common, 0 where they are too few or of a single grey."""
    weight = common.reshape(len(common), THUMB * THUMB)
    count = weight.sum(1, keepdims=True)
    both = []
    for grey in (moved, fixed):
        flat = grey.reshape(weight.shape) * weight
        both.append(flat - weight * (flat.sum(1, keepdims=True) / np.maximum(count, 1)))
    norm = np.linalg.norm(both[0], axis=1) * np.linalg.norm(both[1], axis=1)
    enough = (count[:, 0] >= COMMON * THUMB * THUMB) & (norm > 1e-3)
    return np.divide(np.einsum("np,np->n", *both), norm, out=np.zeros(len(norm), np.float32), where=enough)


def _step(moved: np.ndarray, fixed: np.ndarray, common: np.ndarray) -> np.ndarray:
    """(n, 4) further stretch and shift down, stretch and shift right that bring ``moved`` nearest to ``fixed``.

    One step of Gauss-Newton; a gain and an offset of grey are solved for along with it.
    """
    down, right = np.gradient(moved, axis=(1, 2))
    terms = (down * _outward[:, None], down, right * _outward, right, moved, np.ones_like(moved))
    design = np.stack([term * common for term in terms], axis=1).reshape(len(moved), 6, -1)
    normal = design @ design.transpose(0, 2, 1) + 1e-3 * np.eye(6, dtype=np.float32)
    target = design @ fixed.reshape(len(moved), -1, 1)
    answer = np.linalg.solve(normal, target)[:, :, 0]
    return np.clip(answer[:, :4] / np.maximum(answer[:, 4:5], 0.3), -1, 1)
