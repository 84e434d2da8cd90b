"""Duplicates and leakage: a picture, or a group, must not lie on both sides of train and test."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from fedkvasir.data.alignment import aligned_correlation
from fedkvasir.data.fingerprint import hash_bits, low_frequencies

KINDS = ("exact", "near", "crop", "mirror")
"""The same pixels; the same picture re-encoded or resized; the same content under another border or with an edge cut
off; that content mirrored left to right or upside down."""
PROPOSE_BITS = 16
"""Perceptual hashes at most this far apart propose a pair. Of 14 pictures that Kvasir-SEG holds once with and once
without their border the farthest is at 16, of pictures cut by 3 % on every side 99.7 % are within."""
PROPOSE_CORRELATION = 0.9
"""So much must the 63 lowest frequencies of a proposed pair correlate; of those 14 the lowest is at 0.91."""
ALIGN_FROM = 0.9
"""Laid over each other the wrong way round, pairs of one picture still correlate so much."""
SAME_CORRELATION = 0.99
"""Two 32 x 32 grey thumbnails that correlate at least this much are the same picture."""

TILE = (64, 2048)
"""Hashes compared at once, rows and columns: what a processor's cache holds."""
STRIP = 1024
"""Rows whose proposals are gathered before their thumbnails are looked at; bounds the memory."""
PICTURES = 128
"""Pairs of thumbnails correlated at once."""


class _Version:
    """N thumbnails, as they are or mirrored, and their lowest frequencies, (N, 8, 8)."""

    def __init__(self, thumbs: np.ndarray, low: np.ndarray) -> None:
        self.thumbs, self.bits = thumbs, hash_bits(low)
        flat = low.reshape(-1, 64)[:, 1:]
        self.unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def near_duplicates(thumbs: np.ndarray, pixels_sha256: Sequence[str]) -> pd.DataFrame:
    """All pairs of the same picture: positions ``i`` < ``j``, ``kind`` (the first of :data:`KINDS`), ``correlation``.

    thumbs: (N, 2, 32, 32) uint8, see :func:`fedkvasir.data.fingerprint.fingerprint`. A hash proposes, the correlation
    of the thumbnails decides; unmirrored contents that do not match may be moved and stretched by a few per cent.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = [thumbs[start : start + PICTURES] for start in range(0, max(len(thumbs), 1), PICTURES)]
        low = np.concatenate(list(pool.map(low_frequencies, chunks)))
    whole, content = (_Version(thumbs[:, view], low[:, view]) for view in (0, 1))
    odd = (-1.0) ** np.arange(8, dtype=np.float32)  # a mirror turns the sign of every odd frequency
    found = [
        _exact(pixels_sha256),
        _compare("near", whole, whole, _correlation),
        _compare("crop", content, content, _best_correlation),
        _compare("mirror", content, _Version(content.thumbs[:, :, ::-1], low[:, 1] * odd), _correlation),
        _compare("mirror", content, _Version(content.thumbs[:, ::-1], low[:, 1] * odd[:, None]), _correlation),
    ]
    pairs = pd.concat(found, ignore_index=True).drop_duplicates(["i", "j"])
    return pairs.sort_values(["i", "j"], ignore_index=True)


def _exact(pixels_sha256: Sequence[str]) -> pd.DataFrame:
    hashes = pd.Series(list(pixels_sha256), dtype=object)
    found = []
    for places in hashes[hashes.duplicated(keep=False)].groupby(hashes).groups.values():
        i, j = np.triu_indices(len(places), 1)
        found.append((places.to_numpy()[i], places.to_numpy()[j], np.ones(len(i))))
    return _table("exact", found)


def _compare(
    kind: str, first: _Version, second: _Version, correlate: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> pd.DataFrame:
    """Pairs of one kind; strips of rows in as many threads as there are processors."""

    def strip(start: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        i, j = _propose(first, second, start, min(start + STRIP, len(first.bits)))
        found = []
        for begin in range(0, len(i), PICTURES):
            own = slice(begin, begin + PICTURES)
            correlation = correlate(first.thumbs[i[own]], second.thumbs[j[own]])
            same = correlation >= SAME_CORRELATION
            found.append((i[own][same], j[own][same], correlation[same]))
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return _table(kind, [part for parts in pool.map(strip, range(0, len(first.bits), STRIP)) for part in parts])


def _propose(first: _Version, second: _Version, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Places i < j, i from ``start`` to ``stop``, that hash and lowest frequencies hold for the same picture."""
    proposed = []
    for row in range(start, stop, TILE[0]):
        rows = first.bits[row : min(row + TILE[0], stop), None]
        for column in range(row, len(second.bits), TILE[1]):
            columns = second.bits[column : column + TILE[1]]
            i, j = np.divmod(np.flatnonzero(np.bitwise_count(rows ^ columns) <= PROPOSE_BITS), len(columns))
            i, j = i + row, j + column
            likely = i < j
            likely[likely] = np.einsum("nf,nf->n", first.unit[i[likely]], second.unit[j[likely]]) >= PROPOSE_CORRELATION
            proposed.append((i[likely], j[likely]))
    i, j = (np.concatenate(side) for side in zip(*proposed, strict=True))
    return i, j


def _table(kind: str, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    i, j, correlation = (np.concatenate(side) for side in zip(*parts, strict=True)) if parts else ([], [], [])
    columns = {"i": np.asarray(i, np.int64), "j": np.asarray(j, np.int64), "kind": kind}
    return pd.DataFrame(columns | {"correlation": np.minimum(np.asarray(correlation, np.float64), 1)})


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) of (n, 32, 32) pairs; 0 where one has a single grey."""
    a, b = (thumbs.reshape(len(thumbs), -1).astype(np.float32) for thumbs in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide(np.einsum("np,np->n", a, b), norm, out=np.zeros(len(a), np.float32), where=norm > 0)


def _best_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) as they are, else the first laid over the second, else the second laid over the first."""
    best = _correlation(first, second)
    below = np.flatnonzero(best < SAME_CORRELATION)
    best[below] = np.maximum(best[below], aligned_correlation(first[below], second[below]))
    below = below[(best[below] < SAME_CORRELATION) & (best[below] >= ALIGN_FROM)]
    best[below] = np.maximum(best[below], aligned_correlation(second[below], first[below]))
    return best


def join_groups(groups: Sequence[str | None], samples: Sequence[str], pairs: pd.DataFrame) -> list[str]:
    """Groups after joining near-duplicates: the smallest name of each connected set; a lone sample is its own group.

    pairs: see :func:`near_duplicates`; ``i`` and ``j`` are positions in ``groups`` and ``samples``.
    """
    names = [str(sample if pd.isna(group) else group) for group, sample in zip(groups, samples, strict=True)]
    parent = {name: name for name in names}

    def top(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for i, j in zip(pairs["i"], pairs["j"], strict=True):
        first, second = sorted((top(names[i]), top(names[j])))
        parent[second] = first
    return [top(name) for name in names]


def leaks(samples: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """What lies on both sides of train and test; validation counts as training.

    samples: columns ``sample``, ``center``, ``group``, ``split``; pairs: see :func:`near_duplicates`, positions in
    ``samples``. Columns: ``kind`` (picture, group), ``train`` and ``test`` (sample ids, or the group twice),
    ``train_center`` and ``test_center`` (of a group: one of several), and of a picture ``match`` (one of
    :data:`KINDS`) and ``correlation``. A group is named where no picture explains it.
    """
    test = (samples["split"] == "test").to_numpy()
    i, j = pairs["i"].to_numpy(np.int64), pairs["j"].to_numpy(np.int64)
    across = test[i] != test[j]
    i, j = i[across], j[across]
    train_side, test_side = samples.iloc[np.where(test[i], j, i)], samples.iloc[np.where(test[i], i, j)]
    pictures = pd.DataFrame(
        {
            "kind": "picture",
            "train": train_side["sample"].to_numpy(),
            "test": test_side["sample"].to_numpy(),
            "train_center": train_side["center"].to_numpy(),
            "test_center": test_side["center"].to_numpy(),
            "match": pairs["kind"].to_numpy()[across],
            "correlation": pairs["correlation"].to_numpy()[across],
        }
    )
    by_side = [samples[side].groupby("group")["center"].first() for side in (~test, test)]
    both = by_side[0].index.intersection(by_side[1].index).difference(test_side["group"])
    groups = pd.DataFrame({"kind": "group", "train": both, "test": both, "match": None, "correlation": np.nan})
    groups["train_center"], groups["test_center"] = (side[both].to_numpy() for side in by_side)
    return pd.concat([pictures, groups[pictures.columns]], ignore_index=True) if len(groups) else pictures
