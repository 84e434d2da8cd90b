"""How much of what was found depends on each thing that was varied."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

PARTS = 3
"""Numbers that were drawn are cut into so many parts of equal count."""


def importance(runs: pd.DataFrame, axes: Sequence[str], score: str, drawn: Collection[str] = ()) -> pd.DataFrame:
    """One row an axis, the strongest first: axis, levels, runs, share of the score's variance that it explains alone.

    runs: one row a run; rows without the score, or without a value of an axis, do not count for it. drawn: axes whose
    values are drawn from a range, hardly two of them equal; they are compared in :data:`PARTS`.
    share: epsilon squared (Kelley 1935), 1 - (1 - eta^2) (n - 1) / (n - k) for n runs at k levels: eta^2, what lies
    between the levels' means, less what would lie there by chance. 0 where it is less than that; NaN where there are
    not two levels, as many runs as levels, or nothing varies.
    """
    rows = []
    for axis in axes:
        own = runs[[axis, score]].dropna()
        levels = own[axis].astype(str)
        if axis in drawn and own[axis].nunique() > PARTS:
            levels = pd.qcut(own[axis], PARTS, labels=False, duplicates="drop")
        count, spread = levels.nunique(), ((own[score] - own[score].mean()) ** 2).sum()
        share = np.nan
        if 2 <= count < len(own) and spread > 0:
            within = ((own[score] - own.groupby(levels)[score].transform("mean")) ** 2).sum()
            share = max(0.0, 1 - within / spread * (len(own) - 1) / (len(own) - count))
        rows.append({"axis": axis, "levels": count, "runs": len(own), "share": share})
    table = pd.DataFrame(rows, columns=["axis", "levels", "runs", "share"])
    return table.sort_values("share", ascending=False, kind="stable", ignore_index=True)
