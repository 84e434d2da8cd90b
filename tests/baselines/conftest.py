"""Plans without pictures: baselines see samples, labels and features, and those are a few lines of numbers here."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fedkvasir.baselines.features import Published
from fedkvasir.plan import COLUMNS, Plan
from fedkvasir.scenario import parse

CLASSES = ("normal", "polyp", "ulcer")
HOLDOUT = "dijon"
Counts = dict[str, dict[str, tuple[int, ...]]]
"""center -> split -> images of each class"""

COUNTS: Counts = {
    "aalborg": {"train": (12, 6, 2), "test": (6, 3, 1)},
    "bergen": {"train": (4, 10, 6), "test": (4, 4, 4)},
    HOLDOUT: {"test": (5, 9, 6)},
}


def make_plan(counts: Counts = COUNTS, seed: int = 0) -> Plan:
    """A plan as ``make_plan`` leaves it, with nothing in its stores."""
    centers = {name: {"dataset": "synthetic", "role": "holdout" if name == HOLDOUT else "train"} for name in counts}
    raw = {"name": "crafted", "task": "classification", "seed": seed, "data": {"centers": centers}}
    rows = [
        {
            "sample": f"synthetic/{center}/{split}-{target}-{index}",
            "dataset": "synthetic",
            "center": center,
            "role": centers[center]["role"],
            "split": split,
            "group": f"synthetic/{center}/{split}-{target}-{index // 2}",
            "label": CLASSES[target],
            "target": target,
            "row": 0,
            "store": "/nowhere",
            "width": 64,
            "height": 48,
        }
        for center, splits in counts.items()
        for split, shares in splits.items()
        for target, count in enumerate(shares)
        for index in range(count)
    ]
    samples = pd.DataFrame(rows)[list(COLUMNS)].sort_values(["center", "split", "sample"], ignore_index=True)
    scenario = parse(raw | {"model": {"name": "lcnet_050"}}, "crafted")
    return Plan(scenario, samples, CLASSES, {}, "d" * 64, "cpu", "float32", (), True)


def at(records: pd.DataFrame, center: str) -> pd.DataFrame:
    """One center's records."""
    return records[records["center"] == center]


@pytest.fixture
def plan() -> Plan:
    return make_plan()


@pytest.fixture
def published() -> Callable[[Plan], Published]:
    """Six features that tell the classes apart, but not quite, on scales that differ a thousandfold."""

    def draw(plan: Plan) -> Published:
        rng = np.random.default_rng(7)
        means = rng.normal(size=(len(CLASSES), 6))[plan.samples["target"]]
        values = (means + rng.normal(scale=0.7, size=means.shape)) * 10.0 ** np.arange(-3, 3)
        return Published(pd.DataFrame(values.astype(np.float32), pd.Index(plan.samples["sample"])))

    return draw
