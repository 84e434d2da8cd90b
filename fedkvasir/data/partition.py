"""Groups dealt to parts by share: the one arithmetic behind hospitals cut from a source and train/val/test.

A pure function of (groups, shares, seed): every sample once, groups whole, the same result on every machine.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedkvasir.randomness import derive_seed


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
    table = pd.DataFrame({"group": groups.to_numpy(), "stratum": 0 if strata is None else strata.to_numpy()})
    sizes = table.groupby("group", sort=True).agg(count=("group", "size"), stratum=("stratum", "first"))
    wanted = np.flatnonzero(goal > 0)
    if len(sizes) < len(wanted):
        raise ValueError(f"{len(wanted)} parts cannot be cut from {len(sizes)} group(s)")
    rng = np.random.default_rng(derive_seed(seed, "deal", *purpose))
    sizes = sizes.iloc[rng.permutation(len(sizes))].sort_values("stratum", kind="stable")
    given = np.zeros(len(goal))
    part_of: dict[str, int] = {}
    for left, (group, count) in zip(range(len(sizes), 0, -1), sizes["count"].items(), strict=True):
        empty = [part for part in wanted if given[part] == 0]
        lag = goal * (given.sum() + count) - given
        choose_from = empty if len(empty) >= left else wanted
        part = max(choose_from, key=lambda candidate: (lag[candidate], -candidate))
        given[part] += count
        part_of[str(group)] = int(part)
    return table["group"].map(part_of).to_numpy(dtype=np.int64)
