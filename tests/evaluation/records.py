"""Records by hand: a table of samples out of the scores or the answers that it is to hold."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

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


def worse(records: pd.DataFrame, by: float, noise: float = 0.05, seed: int = 1) -> pd.DataFrame:
    """What another method makes of the same images."""
    kept = np.clip(1 - by + np.random.default_rng(seed).normal(0, noise, len(records)), 0, 1.2)
    tp = np.minimum((records["tp"] * kept).astype(int), records["tp"] + records["fn"])
    return records.assign(tp=tp, fn=records["tp"] + records["fn"] - tp)


def arrived(table: pd.DataFrame) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(table.to_parquet()))


RNG = np.random.default_rng(7)


def groups(count: int, skill: float = 6) -> list[np.ndarray]:
    return [RNG.beta(skill, 2, RNG.integers(1, 5)) for _ in range(count)]


MASKS = pd.concat(
    [
        segmentation({name: groups(20) for name in ("bergen", "alta")}, "train"),
        segmentation({"cadiz": [*groups(15, 4), [np.nan] * 5, *([np.nan] for _ in range(6))], "dijon": groups(12)}),
    ],
    ignore_index=True,
).assign(tolerance_px=5.0, **{"class": "polyp"})
MASKS["tn"] = 50_000 - MASKS["tp"] - MASKS["fp"] - MASKS["fn"]
LABELS = pd.concat(
    [
        classification("oslo", RNG.integers(0, 30, 160), *RNG.integers(0, 4, (2, 160))),
        classification("rome", RNG.integers(0, 30, 160), *RNG.integers(0, 4, (2, 160)), role="train"),
    ],
    ignore_index=True,
)
TASKS = pytest.mark.parametrize("records", [MASKS, LABELS], ids=["segmentation", "classification"])
