"""Train, validation and test of one scenario center; its hospitals, if it is cut into several."""

import pandas as pd

from fedkvasir.data.partition import deal
from fedkvasir.errors import UserError
from fedkvasir.scenario import Center


def split_center(name: str, center: Center, samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``samples`` with the columns ``center`` (hospital name) and ``split`` (train, val, test) set.

    A holdout is all test. Otherwise the test part is taken first (the official list, or whole groups), then what is
    left is cut into hospitals, then each hospital gives whole groups to validation. The test part of a center that is
    cut stays with the center's own name: it is the common test set of its hospitals.

    samples: columns ``group``, ``label``, ``official_split``. Raises UserError where a part would be empty.
    """
    samples = samples.assign(center=name, split="test")
    if center.role == "holdout":
        return samples
    here = f"data.centers.{name}"
    try:
        if center.split == "official":
            official = samples["official_split"]
            if official.isna().all():
                raise UserError(f"{here}: {center.dataset} has no official split here; use split: group")
            held_out = official == ("test" if (official == "test").any() else "val")
            samples = samples[official.notna()].copy()
            test = held_out[samples.index]
        elif center.test > 0:
            part = deal(samples["group"], (1 - center.test, center.test), seed, name, "test", strata=_strata(samples))
            test = pd.Series(part == 1, index=samples.index)
        else:
            test = pd.Series(False, index=samples.index)
        rest = samples.index[~test]
        if center.partition:
            weights = center.partition.weights
            part = deal(
                samples.loc[rest, "group"],
                weights,
                seed,
                name,
                "partition",
                strata=_strata(samples.loc[rest]),
            )
            samples.loc[rest, "center"] = [f"{name}-{index + 1}" for index in part]
        for hospital, own in samples.loc[rest].groupby("center", sort=True):
            part = deal(own["group"], (1 - center.val, center.val), seed, str(hospital), "val", strata=_strata(own))
            samples.loc[own.index, "split"] = ["val" if index == 1 else "train" for index in part]
    except ValueError as error:
        raise UserError(f"{here}: {error}; give it more images or ask for fewer parts") from error
    return samples


def _strata(samples: pd.DataFrame) -> pd.Series:
    return samples["label"].fillna("").astype(str)
