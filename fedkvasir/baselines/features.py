"""Which features the classical methods see: those published with the datasets, else those computed from the pixels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from fedkvasir.baselines.base import Method
from fedkvasir.baselines.descriptor import LENGTH, describe
from fedkvasir.data.datasets import find_dataset, find_root
from fedkvasir.data.hospitals import Progress
from fedkvasir.data.store import Store
from fedkvasir.errors import UserError
from fedkvasir.plan import Plan

TABLE = "features"
"""What a dataset calls its table of global features."""


class Features(Protocol):
    """Global features of a plan's samples."""

    @property
    def kind(self) -> str:
        """As the run's record says it: published with a hash, pixels, or none."""

    @property
    def why(self) -> str:
        """Why what is published could not be used, or nothing."""

    def of(self, samples: pd.DataFrame) -> np.ndarray:
        """Rows of the plan -> (N, D) float64."""


@dataclass(frozen=True)
class Published:
    """Tables that come with the datasets."""

    table: pd.DataFrame
    """By sample id."""
    why: str = ""

    @cached_property
    def kind(self) -> str:
        names = [*self.table.columns, *self.table.index]
        digest = hashlib.sha256("\n".join(names).encode() + self.table.to_numpy(dtype=np.float32).tobytes())
        return f"published, sha256 {digest.hexdigest()[:16]}"

    def of(self, samples: pd.DataFrame) -> np.ndarray:
        return self.table.loc[samples["sample"]].to_numpy(dtype=np.float64)


@dataclass(frozen=True)
class Pixels:
    """:func:`describe` of the pictures in the store."""

    progress: Progress | None = None
    why: str = ""
    kind: str = "pixels"

    def of(self, samples: pd.DataFrame) -> np.ndarray:
        found = np.empty((len(samples), LENGTH))
        stores = {folder: Store(Path(folder)) for folder in samples["store"].unique()}
        for number, (folder, row) in enumerate(zip(samples["store"], samples["row"], strict=True)):
            found[number] = describe(np.asarray(stores[folder].images[row]))
            if self.progress:
                self.progress("describing pictures", number + 1, len(samples))
        return found


@dataclass(frozen=True)
class Nothing:
    """For methods that look at no picture."""

    why: str = ""
    kind: str = "none"

    def of(self, samples: pd.DataFrame) -> np.ndarray:
        return np.empty((len(samples), 0))


def combine(tables: Sequence[pd.DataFrame], samples: pd.Series) -> pd.DataFrame:
    """Published tables as one, with the columns of the first.

    Raises UserError where their columns differ or a sample is in none of them.
    """
    first = tables[0]
    for table in tables:
        if set(table.columns) != set(first.columns):
            one, other = (str(own.index[0]).split("/")[0] for own in (first, table))
            raise UserError(f"the features published with {one} and {other} are not the same")
    whole = pd.concat([table[first.columns] for table in tables])
    whole = whole[~whole.index.duplicated()]
    if lacking := samples[~samples.isin(whole.index)].tolist():
        raise UserError(f"no features are published of {len(lacking)} images, e.g. {lacking[0]}")
    return whole.loc[samples]


def choose_features(
    plan: Plan, method: Method, data_dir: Path | None = None, progress: Progress | None = None
) -> Features:
    """What is published, where every dataset of the plan has the same features of all its images; else the pixels."""
    if not method.looks:
        return Nothing()
    data = plan.scenario.data
    places = {(center.dataset, center.root or data.roots.get(center.dataset)) for center in data.centers.values()}
    datasets = {name: find_dataset(name) for name, _ in places}
    without = sorted(name for name, dataset in datasets.items() if TABLE not in dataset.tables)
    if len(without) == len(datasets):
        return Pixels(progress)
    try:
        if without:
            raise UserError(f"{without[0]} publishes none")
        tables = [
            datasets[name].tables[TABLE](find_root(datasets[name], data_dir, root))
            for name, root in sorted(places, key=str)
        ]
        return Published(combine(tables, plan.samples["sample"]))
    except UserError as error:
        return Pixels(progress, f"features are computed from the pixels, not those published: {error}")
