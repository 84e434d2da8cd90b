"""Groups dealt to parts: the one arithmetic behind hospitals cut from a source and train/val/test.

Pure functions of (table, seed): every sample once, groups whole, the same result on every machine. :func:`deal` keeps
to given shares (`iid`, `quantity`); :func:`dirichlet` and :func:`shards` make hospitals differ in what they hold, and
do not look at the order of rows.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedkvasir.randomness import derive_seed

DRAWS = 100
"""How often :func:`dirichlet` draws before it gives up on the minimum."""
SIZES = ("no polyp", "under 100x100 px", "100x100 to 200x200 px", "over 200x200 px")
"""Polyp sizes at native resolution, by area: the strata of the evaluation too."""


def deal(
    groups: pd.Series, shares: Sequence[float], seed: int, *purpose: str, strata: pd.Series | None = None
) -> np.ndarray:
    """The part (0 .. len(shares) - 1) of every sample, (N,) int64.

    Groups come stratum by stratum, shuffled inside; each goes to the part that lags furthest behind its share, so
    that shares hold within strata as well as over all. Every part with a share gets a group if there are enough.

    groups: group name of each sample; strata: label of each sample (a group counts by its first sample).
    Raises ValueError if there are fewer groups than parts with a share.
    """
    goal = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    names, first, place, counts = np.unique(
        groups.to_numpy(dtype=object), return_index=True, return_inverse=True, return_counts=True
    )
    wanted = np.flatnonzero(goal > 0)
    if len(names) < len(wanted):
        raise ValueError(
            f"{len(wanted)} parts cannot be cut from {len(names)} group(s): give it more images or ask for fewer parts"
        )
    order = np.random.default_rng(derive_seed(seed, "deal", *purpose)).permutation(len(names))
    if strata is not None:
        order = order[np.argsort(strata.to_numpy(dtype=object)[first[order]], kind="stable")]
    given, part_of = np.zeros(len(goal)), np.zeros(len(names), dtype=np.int64)
    for left, group in zip(range(len(names), 0, -1), order, strict=True):
        empty = wanted[given[wanted] == 0]
        choose_from = empty if len(empty) >= left else wanted
        lag = goal * (given.sum() + counts[group]) - given
        part = choose_from[np.argmax(lag[choose_from])]  # the first of equals
        given[part] += counts[group]
        part_of[group] = part
    return part_of[place]


def dirichlet(
    groups: pd.Series, strata: pd.Series, parts: int, alpha: float, minimum: int, seed: int, *purpose: str
) -> np.ndarray:
    """The part (0 .. parts - 1) of every sample, (N,) int64, where every stratum has shares of its own.

    The shares of a stratum are drawn from Dirichlet(alpha, ..., alpha) over the parts: alpha 100 is nearly iid, at 0.1
    a stratum lies almost whole in one part. Groups, shuffled, go to the part that lags furthest behind its share of
    the stratum. Where a part gets fewer than ``minimum`` samples, all is drawn again, up to :data:`DRAWS` times.
    Source: Yurochkin et al. 2019 (arXiv 1905.12022), shares by class; Hsu et al. 2019 (arXiv 1909.06335) draw the class
    mix of each part instead, which does not use every sample once.

    groups: group name of each sample; strata: label or :func:`size_bins` of each sample (a group counts by its most
    frequent, the first by name of equals). Raises ValueError where no draw leaves ``minimum`` samples to every part.
    """
    sizes = _sizes(groups, strata)
    total = int(sizes["count"].sum())
    held = f"{total} samples in {len(sizes)} group(s)"
    if len(sizes) < parts or total < parts * minimum:
        raise ValueError(
            f"{parts} parts of at least {minimum} samples cannot be cut from {held}: give it more images, ask for "
            "fewer parts or lower minimum"
        )
    for draw in range(DRAWS):
        rng = np.random.default_rng(derive_seed(seed, "dirichlet", *purpose, draw))
        part_of: dict[str, int] = {}
        given = np.zeros(parts, dtype=np.int64)
        for _, own in sizes.groupby("stratum", sort=True):
            goal = rng.dirichlet(np.full(parts, alpha))
            here = np.zeros(parts)
            for group, count in own["count"].iloc[rng.permutation(len(own))].items():
                part = int(np.argmax(goal * (here.sum() + count) - here))
                here[part] += count
                given[part] += count
                part_of[str(group)] = part
        if given.min() >= max(minimum, 1):
            return groups.map(part_of).to_numpy(dtype=np.int64)
    raise ValueError(
        f"in {DRAWS} draws with alpha {alpha:g} some of the {parts} parts got fewer than {minimum} of {held}: "
        "raise alpha or lower minimum"
    )


def shards(
    groups: pd.Series, strata: pd.Series, parts: int, shards_per_center: int, seed: int, *purpose: str
) -> np.ndarray:
    """The part (0 .. parts - 1) of every sample, (N,) int64, where every part holds few strata.

    Groups are sorted by stratum, shuffled inside, cut into ``parts * shards_per_center`` shards as equal as whole
    groups allow, and every part is dealt ``shards_per_center`` of them. Source: McMahan et al. 2017 (arXiv 1602.05629,
    section 3).

    groups, strata: as in :func:`dirichlet`. Raises ValueError where there are fewer groups than shards.
    """
    sizes = _sizes(groups, strata)
    shards_wanted = parts * shards_per_center
    if len(sizes) < shards_wanted:
        raise ValueError(
            f"{shards_wanted} shards ({parts} parts of {shards_per_center}) cannot be cut from {len(sizes)} group(s): "
            "give it more images or ask for fewer"
        )
    rng = np.random.default_rng(derive_seed(seed, "shards", *purpose))
    sizes = sizes.iloc[rng.permutation(len(sizes))].sort_values("stratum", kind="stable")
    end = sizes["count"].sum() / shards_wanted * np.arange(1, shards_wanted + 1)
    shard_of: dict[str, int] = {}
    shard, before = 0, 0
    for left, (group, count) in zip(range(len(sizes), 0, -1), sizes["count"].items(), strict=True):
        # The next shard begins where more than half of the group lies behind this one's end, or where the groups left
        # are needed to give each of the shards left one.
        shards_left = shards_wanted - 1 - shard
        if shard_of and shards_left and (before + count / 2 > end[shard] or left <= shards_left):
            shard += 1
        shard_of[str(group)] = shard
        before += count
    part_of_shard = rng.permutation(np.repeat(np.arange(parts), shards_per_center))
    return part_of_shard[groups.map(shard_of).to_numpy(dtype=np.int64)].astype(np.int64)


def size_bins(areas: pd.Series) -> pd.Series:
    """One of :data:`SIZES` for each polyp area in native pixels; an area of 0 or null is no polyp."""
    bins = np.select([~(areas > 0), areas < 100**2, areas <= 200**2], SIZES[:3], SIZES[3])
    return pd.Series(bins, index=areas.index, dtype=object)


def _sizes(groups: pd.Series, strata: pd.Series) -> pd.DataFrame:
    """One row a group, by name: ``count`` samples, and their most frequent ``stratum``."""
    table = pd.DataFrame(
        {"group": groups.to_numpy(), "stratum": strata.astype(object).fillna("").astype(str).to_numpy()}
    )
    counts = table.groupby(["group", "stratum"], sort=True).size().rename("count").reset_index()
    most = counts.sort_values(["count", "stratum"], ascending=[False, True], kind="stable").groupby("group").first()
    return pd.DataFrame({"count": counts.groupby("group")["count"].sum(), "stratum": most["stratum"]})
