"""From records to groups, the units of every interval and every test.

A center's score is a function of sums over its groups: for Dice the sum of the groups' means and their number, for
macro F1 the counts of the confusion matrix. Where per-image records stayed at the hospitals a center is what it sent:
its score and its draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fedkvasir.errors import UserError
from fedkvasir.evaluation.protocol import is_shared, networks, task_of
from fedkvasir.metrics.classification import PREFIX, classes_of, predicted
from fedkvasir.metrics.segmentation import by_image, scored, shows_any

ROLES = {"seen": "train", "unseen": "holdout"}
IMAGE = ["role", "center", "group", "sample"]
STAYED = "per-image records stayed at the hospitals (evaluation.share: per-center)"
"""Why something cannot be computed."""
NEEDED = [*IMAGE, "class", "run", "checkpoint", "split", "label", "tp", "fp", "fn"]
"""Columns that scores are made of, beside the probabilities."""
ABSENT = "do not occur there, the score is over the others"
RARE = 5
"""A class in fewer groups of a center is missing from many draws, and macro F1 is over the classes that occur. Where
fewer groups hold a failure, a draw knows little of how often there is one."""
ENOUGH_GROUPS = 15
"""A center with fewer is named beside the interval."""

Runs = Sequence[pd.DataFrame]
"""One method's sample records (docs/records.md), a table a seed, all tested on the same images. Of a study several
networks may be tested on an image with one seed, told apart by a column ``run``; their scores are averaged."""


@dataclass(frozen=True)
class Statistic:
    """How a center's headline metric follows from sums over its groups."""

    title: str
    group_title: str
    """What a single group is judged by: macro F1 means little on the two images of a patient."""
    sums: Callable[[pd.DataFrame], pd.DataFrame]
    """A center's records -> (groups, K), groups in sorted order."""
    score: Callable[[np.ndarray], np.ndarray]
    """Sums (..., K) -> scores (...), NaN where nothing counts."""
    group_score: Callable[[np.ndarray], np.ndarray]
    """A group's own sums (..., K) -> its mean (...), NaN where nothing counts."""
    remarks: Callable[[pd.DataFrame], list[str]]
    """A center's records -> what makes its score odd; nothing where all is well."""


def _dice_sums(own: pd.DataFrame) -> pd.DataFrame:
    means = by_image(own).groupby("group")["dice"].mean()
    return pd.DataFrame({"dice": means.fillna(0.0), "scored": means.notna()})


def _confusion_sums(own: pd.DataFrame) -> pd.DataFrame:
    names = np.array(sorted({*classes_of(own), *own["label"]}), dtype=object)
    true, claimed = (values[:, None] == names for values in (own["label"].to_numpy(dtype=object), predicted(own)))
    counts = np.hstack([true & claimed, claimed, true]).astype(np.int64)
    return pd.DataFrame(counts, index=own["group"].to_numpy()).groupby(level=0).sum()


def _mean(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 0], sums[..., 1])


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    tp, claimed, true = np.split(sums, 3, axis=-1)
    f1 = 2 * tp / np.maximum(claimed + true, 1)
    return ratio(f1.sum(axis=-1), (true > 0).sum(axis=-1))


def _accuracy(sums: np.ndarray) -> np.ndarray:
    tp, _, true = np.split(sums, 3, axis=-1)
    return ratio(tp.sum(axis=-1), true.sum(axis=-1))


def shown(own: pd.DataFrame) -> frozenset[str]:
    """The classes that a center's images show: its score is over them."""
    if "tp" not in own:
        return frozenset(own["label"])
    there = own[own["tp"] + own["fn"] > 0]
    return frozenset(there["class"] if "class" in own else [""] * len(there))


def _empty_masks(own: pd.DataFrame) -> list[str]:
    if not shows_any(own):
        return ["only empty masks, there is no Dice; see false alarms"]
    classes = {*own["class"]} if "class" in own else set[str]()
    there = own[own["tp"] + own["fn"] > 0]
    rare = _rarely(there["group"], there["tp"] == 0, "missed")
    return [*filter(None, [_absent(len(classes - shown(own)), len(classes)), rare])]


def _rare_classes(own: pd.DataFrame) -> list[str]:
    groups = own.groupby("label")["group"].nunique()
    rare, classes = int((groups < RARE).sum()), {*classes_of(own)}
    # Simulated, of 95 %: 76 % with one class of four in about two groups, 92 % with about five.
    text = f"{rare} of {len(groups)} classes in fewer than {RARE} groups, the interval of macro F1 is too short"
    wrong = _rarely(own["group"], own["label"] != predicted(own), "taken for another class")
    return [*filter(None, [_absent(len(classes - shown(own)), len(classes)), text if rare else "", wrong])]


def _rarely(groups: pd.Series, failed: pd.Series, how: str) -> str:
    """Said where failures are rare, unless there are so few groups that they could not be anything else."""
    # Simulated, of 95 %: with 3 % missed 57 % with 25 groups, 85 % with 60; with 2 % missed 89 % with 120; of 13 groups
    # with 5 % of their images taken for another class 72 %, and a quarter of the intervals have no width.
    rare = groups.nunique() >= RARE and groups[failed].nunique() < RARE
    return f"in fewer than {RARE} groups something is {how}, the interval reaches down too little" if rare else ""


def _absent(absent: int, classes: int) -> str:
    return f"{absent} of {classes} classes {ABSENT}" if absent else ""


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Element by element, NaN where ``below`` is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


STATISTICS = {
    "segmentation": Statistic("Dice", "Dice", _dice_sums, _mean, _mean, _empty_masks),
    "classification": Statistic("macro F1", "accuracy", _confusion_sums, _macro_f1, _accuracy, _rare_classes),
}


@dataclass(frozen=True)
class Center:
    """One method at one center, all its runs."""

    name: str
    statistic: Statistic
    sums: np.ndarray
    """(runs, networks, groups, K) float64, groups in sorted order."""
    remark: str
    """What makes the score odd; nothing where all is well."""

    @property
    def groups(self) -> int:
        return self.sums.shape[2]

    @property
    def networks(self) -> int:
        """With one seed."""
        return self.sums.shape[1]

    @property
    def group_means(self) -> np.ndarray:
        """(groups,) mean over the runs, NaN where no run has a score."""
        return self.means_of(len(self.sums), self.networks)

    def means_of(self, runs: int, networks: int) -> np.ndarray:
        """:attr:`group_means` of the first runs and of so many networks, of which every group has others in turn."""
        groups = np.arange(self.groups)
        turns = (groups + np.arange(networks)[:, None]) % self.networks
        scores = self.statistic.group_score(self.sums[:runs, turns, groups])
        return mean_of_scored(mean_of_scored(scores, axis=1), axis=0)

    @property
    def score(self) -> float:
        """Mean over the runs of the center's score, NaN without groups."""
        return float(mean_of_scored(self.run_scores, axis=0))

    @property
    def run_scores(self) -> np.ndarray:
        """(runs,) the center's score, NaN without groups."""
        return self.scores(self.sums.sum(axis=2, keepdims=True))[:, 0]

    def scores(self, sums: np.ndarray) -> np.ndarray:
        """Of sums (runs, networks, n, K) over groups the center's scores (runs, n), means over the networks."""
        return mean_of_scored(self.statistic.score(sums), axis=1)

    def only(self, kept: np.ndarray) -> "Center":
        """With the groups of a mask, (groups,) bool."""
        return replace(self, sums=self.sums[:, :, kept])


@dataclass(frozen=True)
class SharedCenter:
    """One method at one center that kept its per-image records, all its runs."""

    name: str
    run_scores: np.ndarray
    """(runs,) NaN without groups."""
    groups: int
    """With a score; 0 where the hospital does not say, as they are fewer than five."""
    draws: np.ndarray
    """(runs, draws) scores with groups resampled; NaN where groups are too few, or not the same in all runs."""
    remark: str

    @property
    def score(self) -> float:
        """Mean over the runs."""
        return float(mean_of_scored(self.run_scores, axis=0))


def mean_of_scored(scores: np.ndarray, axis: int) -> np.ndarray:
    """Mean over the runs or the networks; one without a score (NaN) is in no mean, and of none it is NaN."""
    if scores.shape[axis] == 1:
        return scores.squeeze(axis)
    scored = np.isfinite(scores)
    return ratio(np.where(scored, scores, 0.0).sum(axis=axis), scored.sum(axis=axis))


def centers_of(tables: Runs, scope: str) -> dict[str, Center]:
    """The ``seen`` or ``unseen`` centers, sorted by name, of one method's records from :func:`tested`."""
    statistic = STATISTICS[task_of(tables[0])]
    parts = [dict(iter(table[table["role"] == ROLES[scope]].groupby("center"))) for table in tables]
    centers = {}
    for name in sorted(parts[0]):
        sums = np.stack([[statistic.sums(own) for own in networks(part[name])] for part in parts]).astype(np.float64)
        remarks = dict.fromkeys(text for part in parts for text in statistic.remarks(part[name]))
        centers[str(name)] = Center(str(name), statistic, sums, "; ".join(remarks))
    return centers


def shared_centers_of(tables: Runs, scope: str) -> list[SharedCenter]:
    """The ``seen`` or ``unseen`` centers with a score, sorted by name, of one method's shared records."""
    rows = pd.concat([table[table["kind"] == "draws"].assign(run=run) for run, table in enumerate(tables)])
    centers = []
    for name, own in rows[rows["role"] == ROLES[scope]].groupby("center"):
        alike = own.assign(draws=[*_alike(np.stack([*own["draws"]]))])
        runs = [part for _, part in alike.groupby("run")]
        scores = np.array([part["value"].mean() for part in runs])
        remark, draws = str(own["note"].iloc[0]), np.stack([np.mean([*part["draws"]], axis=0) for part in runs])
        # Means over runs that score other groups are of no common groups.
        if len(own) > 1 and not (own["stable"].all() and own["groups"].nunique(dropna=False) == 1):
            remark = "; ".join(
                [*filter(None, [remark]), "other groups have a score in other runs, there is no interval"]
            )
            draws = np.full_like(draws, np.nan)
        if np.isfinite(scores).any():
            centers.append(SharedCenter(str(name), scores, int(own["groups"].fillna(0).max()), draws, remark))
    return centers


def _alike(draws: np.ndarray) -> np.ndarray:
    """(tables, draws), of which a hospital resampled its groups for every table anew, as if it had done so alike: what
    has the same rank in each counts as one draw. That is on the safe side: no common draws could go together more.
    """
    return np.sort(draws, axis=1)[:, draws[0].argsort(kind="stable").argsort(kind="stable")]


def tested(methods: Mapping[str, Runs]) -> dict[str, list[pd.DataFrame]]:
    """The test records of checkpoint ``best``, of every run of every method; the columns that scores are made of.

    Raises UserError where a run has none, where a prediction is NaN, where tasks or classes differ, and where the runs
    of one method were not tested on the same images.
    """
    kinds = [(name, _kind(table)) for name, runs in methods.items() for table in runs]
    for name, kind in kinds:
        if kind != kinds[0][1]:
            raise UserError(f"{kinds[0][0]} is {kinds[0][1]} and {name} is {kind}: compare runs of one task")
    chosen = {name: [_records(table, name) for table in runs] for name, runs in methods.items()}
    for name, (first, *others) in chosen.items():
        if any(map(is_shared, (first, *others))):
            _refuse_other_counts(name, (first, *others))
            continue
        here = images(first)
        for number, there in enumerate(map(images, others), 2):
            common = len(here.intersection(there))
            if not common == len(here) == len(there):
                raise UserError(
                    f"{name}: run 1 was tested on {len(here)} images, run {number} on {len(there)}, {common} of them "
                    "the same; pool runs with the same test images"
                )
    return chosen


def images(records: pd.DataFrame) -> pd.MultiIndex:
    """Every image once."""
    return pd.MultiIndex.from_frame(records[IMAGE].drop_duplicates())


def _refuse_other_counts(name: str, tables: Runs) -> None:
    """Names of images stayed at the hospitals; their numbers did not."""
    if not all(map(is_shared, tables)):
        raise UserError(f"{name}: of some runs {STAYED}, of others not; compare runs that were evaluated alike")
    counts = [counts_of(table) for table in tables]
    for number, own in enumerate(counts[1:], 2):
        if other := ", ".join(sorted({place[1] for place, _ in counts[0].items() ^ own.items()})):
            raise UserError(
                f"{name}: run 1 and run {number} were tested on other images of {other}; pool runs with the same"
            )


def counts_of(shared: pd.DataFrame) -> dict[tuple[str, str], tuple[int, int]]:
    """(role, center) -> its test images and groups, of shared records."""
    counts = shared[shared["kind"] == "score"].groupby(["role", "center"])[["images", "groups"]].first().astype(int)
    return {place: (own.images, own.groups) for place, own in zip(counts.index, counts.itertuples(), strict=True)}


def _kind(samples: pd.DataFrame) -> str:
    task, classes = task_of(samples), classes_of(samples)
    if is_shared(samples) and task == "classification":
        classes = [*set(samples["class"].dropna()) - {"", "all"}]
    return f"{task} of {', '.join(sorted(classes))}" if classes else task


def _records(samples: pd.DataFrame, name: str) -> pd.DataFrame:
    if not is_shared(samples):
        needed = samples.columns.isin([*NEEDED, "scoring"]) | samples.columns.str.startswith(PREFIX)
        samples = scored(samples.loc[:, needed])
    of_split = samples[samples["split"] == "test"]
    chosen = of_split[of_split["checkpoint"] == "best"]
    if of_split.empty:
        raise UserError(f"{name}: no records of split test, only of {', '.join(sorted(set(samples['split'])))}")
    if chosen.empty:
        held = ", ".join(of_split["checkpoint"].unique())
        raise UserError(f"{name}: no test records of checkpoint best, only of {held}")
    values = [column for column in chosen.columns if column in ("tp", "fp", "fn") or column.startswith(PREFIX)]
    broken = chosen[chosen[values].isna().any(axis=1)]
    if len(broken):
        raise UserError(
            f"{name}: {broken['sample'].nunique()} images of {', '.join(sorted(set(broken['center'])))} have NaN as "
            "prediction: the training diverged, lower training.lr and run again"
        )
    return chosen
