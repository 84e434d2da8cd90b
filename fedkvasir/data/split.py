"""Train, validation and test of one scenario center; its hospitals, if it is cut into several; splits frozen to CSV."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fedkvasir.data.audit import join_groups
from fedkvasir.data.partition import deal, dirichlet, shards
from fedkvasir.errors import UserError
from fedkvasir.files import read_csv, write_atomic
from fedkvasir.scenario import Center, Partition

FROZEN = ("sample", "source", "center", "split", "group", "pixels_sha256")
"""Columns of a frozen split: ``source`` is the scenario's center, ``center`` the hospital cut out of it."""


def split_center(name: str, center: Center, samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``samples`` with the columns ``center`` (hospital name) and ``split`` (train, val, test) set.

    A holdout is all test. Otherwise the test part is taken first (the published list, or whole groups), then what is
    left is cut into hospitals, then each hospital gives whole groups to validation, unless the published split names
    validation beside test. The test part of a center that is cut stays with the center's own name: it is the common
    test set of its hospitals.

    samples: columns ``group``, ``official_split`` (train, val, test), ``balance`` (label, or whether there is a polyp:
    what every part gets its share of), ``stratum`` (label, or polyp size: what skewed partitions skew). Raises
    UserError where a part would be empty.
    """
    samples = samples.assign(center=name, split="test")
    if center.role == "holdout":
        return samples
    test = published_val = pd.Series(False, index=samples.index)
    dealt = center.split == "group" and center.test > 0
    try:
        if center.split != "group":
            test, published_val = (samples["official_split"] == part for part in ("test", "val"))
        elif dealt:
            test = _part(samples, center.test, seed, name, "test", "set test: 0, or role: holdout")
        rest = samples.index[~test]
        if center.partition:
            part = _cut(center.partition, samples.loc[rest], published_val[rest], seed, name)
            samples.loc[rest, "center"] = [f"{name}-{index + 1}" for index in part]
        for hospital, own in samples.loc[rest].groupby("center", sort=True):
            if published_val.any():
                val = published_val[own.index]
            else:
                fewer = " or test: 0" if dealt else ""
                other = "ask for fewer parts" if center.partition else "role: holdout"
                val = _part(own, center.val, seed, str(hospital), "val", f"set val: 0{fewer}, or {other}")
            samples.loc[own.index, "split"] = np.where(val, "val", "train")
    except ValueError as error:
        raise UserError(f"data.centers.{name}: {error}") from error
    return samples


def _part(samples: pd.DataFrame, share: float, seed: int, hospital: str, split: str, mend: str) -> pd.Series:
    """Whether a sample is in a split of such a share. Raises ValueError that says what mends too few groups."""
    try:
        part = deal(samples["group"], (1 - share, share), seed, hospital, split, strata=samples["balance"])
    except ValueError as error:
        both = f"training and {'validation' if split == 'val' else split} images of {hospital}"
        raise ValueError(f"{both} cannot be cut from {samples['group'].nunique()} group(s): {mend}") from error
    return pd.Series(part == 1, index=samples.index)


def _cut(partition: Partition, samples: pd.DataFrame, published_val: pd.Series, seed: int, name: str) -> np.ndarray:
    """The hospital (0, 1, ...) of every sample. Raises ValueError where one would be smaller than ``minimum``.

    Where validation is published, relative sizes are those of the training images, and of the validation images alike.
    """
    groups, strata, parts = samples["group"], samples["stratum"], len(partition.weights)
    if partition.kind == "dirichlet":
        assert partition.alpha is not None
        return dirichlet(groups, strata, parts, partition.alpha, partition.minimum, seed, name, "partition")
    if partition.kind == "shards":
        assert partition.shards is not None
        part = shards(groups, strata, parts, partition.shards, seed, name, "partition")
    else:
        train, strata = ~published_val.to_numpy(), samples["balance"]
        part = np.zeros(len(samples), np.int64)
        part[train] = deal(groups[train], partition.weights, seed, name, "partition", strata=strata[train])
        if not train.all():
            part[~train] = deal(groups[~train], partition.weights, seed, name, "partition-val", strata=strata[~train])
            at = dict(zip(groups[train], part[train], strict=True))  # who is trained on is not torn apart
            part = np.array([at.get(group, own) for group, own in zip(groups, part, strict=True)])
    smallest = int(np.bincount(part[~published_val.to_numpy()], minlength=parts).min())
    if smallest < partition.minimum:
        raise ValueError(
            f"a hospital would be left with {smallest} images, fewer than partition.minimum = {partition.minimum}: "
            "give it more images, ask for fewer parts or lower minimum"
        )
    return part


def freeze(samples: pd.DataFrame, path: Path) -> None:
    """Write who holds what to a CSV with :data:`FROZEN`, whole or not at all. Raises UserError where another file is
    there: a split that results were made with does not come back."""
    content = samples[list(FROZEN)].to_csv(index=False, lineterminator="\n").encode()
    if path.exists() and path.read_bytes() != content:
        raise UserError(f"{path} is there and holds something else; name another file, or remove it")
    write_atomic(path, content)


def thaw(path: Path, samples: pd.DataFrame, centers: Mapping[str, Center], warnings: list[str]) -> pd.DataFrame:
    """``samples`` with ``center`` and ``split`` as frozen; what the file does not list is left out, counted. Groups of
    the file that are one by now are joined.

    Raises UserError where a frozen sample is missing, belongs to another center, is at a hospital that the scenario
    does not have, or is another picture now.
    """
    here = f"data.split_file {path}"
    try:
        frozen = read_csv(path, dtype=str, keep_default_na=False, na_values=[""])  # a hospital may be called null
    except FileNotFoundError as error:
        raise UserError(f"{here} does not exist; `fedkvasir data split SCENARIO --freeze FILE` writes one") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{here} cannot be read as CSV: {error}") from error
    lacking = [column for column in FROZEN if column not in frozen]
    if lacking:
        raise UserError(f"{here} lacks the column {lacking[0]}; it needs, comma separated: {', '.join(FROZEN)}")
    if frozen["sample"].duplicated().any():
        raise UserError(f"{here} lists {frozen['sample'][frozen['sample'].duplicated()].iloc[0]} twice")
    gone = sorted(set(frozen["sample"]) - set(samples["sample"]))
    if gone:
        raise UserError(f"{here}: {len(gone)} of its samples are not here, e.g. {gone[0]}")
    both = samples.drop(columns="center").merge(frozen, on="sample", suffixes=("", "_frozen"))
    both.index = samples.index[samples["sample"].isin(frozen["sample"])]
    # Who belongs together by the file, or by what is known now.
    first = both.assign(place=range(len(both))).groupby("group")["place"].transform("first")
    pairs = pd.DataFrame({"i": first.to_numpy(), "j": range(len(both))})
    both["group"] = join_groups(list(both["group_frozen"]), list(both["sample"]), pairs)
    holdout = both["source"].map(lambda name: centers[name].role == "holdout")
    for wrong, why in (
        (both["source"] != both["source_frozen"], "belongs to another center there"),
        (both["pixels_sha256"] != both["pixels_sha256_frozen"], "is another picture now"),
        (~both["split"].isin(["train", "val", "test"]), "has a split other than train, val and test"),
        (holdout & (both["split"] != "test"), "belongs to a holdout, which is all test"),
    ):
        if wrong.any():
            raise UserError(f"{here}: {both['sample'][wrong].iloc[0]} {why} ({wrong.sum()} like it)")
    for (source, split), own in both.groupby(["source", "split"]):
        # Of a center that is cut the common test set stays with its own name.
        known = dict.fromkeys(centers[source].hospitals(source) + [source] * (split == "test"))
        for sample, center in own.loc[~own["center"].isin(known), ["sample", "center"]].itertuples(index=False):
            at = "no hospital" if pd.isna(center) else center
            raise UserError(f"{here}: {sample} ({split}) is at {at}; the column center must say {' or '.join(known)}")
    if len(both) < len(samples):
        warnings.append(f"{len(samples) - len(both)} images are not in {path} and left out")
    return both.drop(columns=["source_frozen", "pixels_sha256_frozen", "group_frozen"])
