"""Records by hand: a table of samples out of the scores or the answers that it is to hold."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

Groups = Sequence[Sequence[float]]
"""A center's groups, each the Dice of its images; NaN: nothing to find and no alarm."""


def segmentation(centers: dict[str, Groups], role: str = "holdout") -> pd.DataFrame:
    """Masks of 10,000 pixels, so that a Dice of four digits is met."""
    rows = [
        (center, f"{center}/g{number:03}", f"{center}/g{number:03}/{image}", dice)
        for center, groups in centers.items()
        for number, group in enumerate(groups)
        for image, dice in enumerate(group)
    ]
    table = pd.DataFrame(rows, columns=["center", "group", "sample", "dice"])
    tp = (table["dice"].fillna(0) * 10_000).round().astype(int)
    fn = (10_000 - tp).where(table["dice"].notna(), 0)
    table = table.drop(columns="dice").assign(tp=tp, fp=fn, fn=fn, tn=0)
    return table.assign(checkpoint="best", role=role, split="test")


def alarm(table: pd.DataFrame, *samples: str) -> pd.DataFrame:
    """The same, with a false alarm on images that show nothing."""
    return table.assign(fp=table["fp"].where(~table["sample"].isin(samples), 50))


def classification(
    center: str, groups: Sequence[int], labels: Sequence[int], guesses: Sequence[int], role: str = "holdout"
) -> pd.DataFrame:
    """One row an image: its group, its class and what was said, classes as numbers below 4."""
    names = [f"class-{number}" for number in range(4)]
    table = pd.DataFrame(np.eye(4)[np.asarray(guesses, dtype=int)], columns=[f"p_{name}" for name in names])
    return table.assign(
        center=center,
        group=[f"{center}/g{number:03}" for number in groups],
        sample=[f"{center}/{number}" for number in range(len(labels))],
        label=[names[number] for number in labels],
        checkpoint="best",
        role=role,
        split="test",
    )
