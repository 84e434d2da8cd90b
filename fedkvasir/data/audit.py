"""Duplicates and leakage: a picture, or a group, must not lie on both sides of train and test."""

import numpy as np
import pandas as pd

PROPOSE_BITS = 12
"""Perceptual hashes at most this far apart propose a pair; the thumbnails decide."""
SAME_CORRELATION = 0.99
"""Two 32 x 32 grey thumbnails that correlate at least this much are the same picture."""


def near_duplicates(phashes: list[str], thumbs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i < j) of the same picture, re-encoded or resized.

    phashes: N strings of 16 hex digits; thumbs: (N, 32, 32) uint8 grey.
    """
    bits = np.array([int(value, 16) for value in phashes], dtype=np.uint64)
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1)
    pairs = []
    for i in range(len(bits) - 1):
        near = i + 1 + np.flatnonzero(np.bitwise_count(bits[i + 1 :] ^ bits[i]) <= PROPOSE_BITS)
        if len(near):
            scale = norm[near] * norm[i]
            correlation = np.divide(flat[near] @ flat[i], scale, out=np.zeros(len(near)), where=scale > 0)
            pairs += [(i, int(j)) for j in near[correlation >= SAME_CORRELATION]]
    return pairs


def join_groups(groups: list[str | None], samples: list[str], pairs: list[tuple[int, int]]) -> list[str]:
    """Groups after joining near-duplicates: the smallest name of each connected set; a lone sample is its own group."""
    names = [group or sample for group, sample in zip(groups, samples, strict=True)]
    parent = {name: name for name in names}

    def top(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for i, j in pairs:
        first, second = sorted((top(names[i]), top(names[j])))
        parent[second] = first
    return [top(name) for name in names]


def leaks(samples: pd.DataFrame, pairs: list[tuple[int, int]]) -> pd.DataFrame:
    """What lies on both sides: columns ``kind`` (picture, group), ``train``, ``test`` (sample ids or the group).

    samples: columns ``sample``, ``group``, ``split``; train and val are one side, test is the other.
    pairs: positions in ``samples``.
    """
    names, test = samples["sample"].to_list(), (samples["split"] == "test").to_list()
    found = [
        {"kind": "picture", "train": names[j if test[i] else i], "test": names[i if test[i] else j]}
        for i, j in pairs
        if test[i] != test[j]
    ]
    explained = set(samples["group"][samples["sample"].isin([leak["test"] for leak in found])])
    sides = samples.assign(test=test).groupby("group")["test"].nunique()
    found += [
        {"kind": "group", "train": group, "test": group} for group in sides.index[sides > 1] if group not in explained
    ]
    return pd.DataFrame(found, columns=["kind", "train", "test"])
