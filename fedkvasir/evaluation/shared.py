"""What a hospital tells of its test images where their records stay with it (``evaluation.share: per-center``).

Shared records are one table with rows of several kinds (docs/records.md): the center's scores, the standard suite,
the same by size, misses and false alarms, and the draws of its bootstrap. The tables of the protocol, of intervals,
fairness and the suite take them in place of per-image records. Methods are compared at every hospital
(:func:`compare_here`), and the parts are put together without an image (:func:`combine`).

No row holds the name of an image or a group. Withheld (NaN) is a number, be it a count or a mean, of fewer than
:data:`MINIMUM` images or groups, unless it is of the whole center; a number that gives such a one away as what is left
of that of all; and of a center with fewer groups the draws and every comparison, out of which the groups' own means
follow. What is not withheld still says something: two wrong of forty images are an accuracy of 0.95, and the draws of
a handful of groups take few values, those of the groups' means among them.
"""

import hashlib
import hmac
from collections.abc import Mapping

import numpy as np
import pandas as pd

from fedkvasir.data.partition import SIZES, size_bins
from fedkvasir.errors import UserError
from fedkvasir.evaluation.comparison import Comparison, SignedRanks, signed_ranks, stratified
from fedkvasir.evaluation.groups import ROLES, STATISTICS, Runs, SharedCenter, centers_of, tested
from fedkvasir.evaluation.intervals import DRAWS, bootstrap, caution, draw_runs, interval, uniform
from fedkvasir.evaluation.pairing import alike, paired, sides
from fedkvasir.evaluation.protocol import center_scores, headline, task_of
from fedkvasir.evaluation.suite import ALL, BACKGROUND, by_size, suite
from fedkvasir.metrics.classification import predicted
from fedkvasir.metrics.segmentation import scored

MINIMUM = 5
"""Images, and groups, that a number is of at least; a count of 0 is told: it is of nobody."""
DIGITS = 4
"""Of the draws that leave: with all of a float's, even a single table of few groups could be solved for their means."""
PLACE = ("checkpoint", "center", "role", "split")
WORDS = ("center", "role", "split", "kind", "class", "metric", "reduction", "size", "note")
COLUMNS = (*WORDS[:-1], "value", "images", "groups", "draws", "stable", "note")
"""Of shared records; ``checkpoint`` comes first where the records have it."""
PAIRED = (
    "center", "role", "metric", "difference", "draws", "groups", "wins", "ties", "losses", "won", "tied", "median",
    "note",
)  # fmt: skip
"""Of :func:`compare_here`."""
FEW = f"fewer than {MINIMUM} groups, the hospital tells the score alone"
WITHIN = "ranks are within centers, as the groups' means stayed there, and their sums are put together (van Elteren)"


# ---- at the hospital


def share(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Per-image records, of one center or of several, as shared records: :data:`COLUMNS`.

    samples: columns as in samples.parquet; without ``checkpoint`` the rows have none either. Of a split other than
    ``test`` the scores alone are told.
    seed: of the draws, which are those that :func:`~fedkvasir.evaluation.intervals.intervals` makes with it. At a
    hospital it has to follow from a secret of its own and from the records: who knows how often every group came up in
    every draw has the groups' means by solving linear equations, and who has as many tables as there are groups, all
    drawn alike, finds out (by independent components, as the counts are whole numbers).
    """
    keys = [name for name in PLACE if name in samples.columns]
    columns = [*(name for name in keys if name not in COLUMNS), *COLUMNS]
    parts = [
        _told(own, seed).assign(**dict(zip(keys, place, strict=True)))
        for place, own in samples.groupby(keys, sort=True)
    ]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _told(own: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows of one center, split and checkpoint."""
    counts = {"images": own["sample"].nunique(), "groups": own["group"].nunique()}
    # Misses and empty images are rows of their own, where they are not too few.
    scores = {name: value for name, value in center_scores(own).items() if name not in ("missed", "negatives")}
    parts = [pd.DataFrame({"kind": "score", "metric": [*scores], "value": [*scores.values()], **counts})]
    if own["split"].iloc[0] == "test":
        records = scored(own).assign(checkpoint="best")
        if counts["groups"] >= MINIMUM:
            parts += _masks(records) if task_of(own) == "segmentation" else [_classes(records)]
        parts.append(_draws(records, seed))
    table = pd.concat([part.reindex(columns=list(COLUMNS)) for part in parts], ignore_index=True)
    numbers = table.astype(dict.fromkeys(("value", "images", "groups"), np.float64))
    return numbers.assign(**{name: table[name].astype(object).fillna("") for name in WORDS})


def _draws(records: pd.DataFrame, seed: int) -> pd.DataFrame:
    role = records["role"].iloc[0]
    ((center,),) = (centers_of([records], scope).values() for scope in ROLES if ROLES[scope] == role)
    counted = center.only(np.isfinite(center.group_means))
    told = counted.groups >= MINIMUM
    shows = records[records["tp"] + records["fn"] > 0] if "tp" in records else records
    row = {
        "kind": "draws",
        "metric": headline(task_of(records)),
        "value": counted.score,
        "groups": counted.groups if told else np.nan,
        "draws": np.round(bootstrap(counted, draw_runs(1, seed), seed), DIGITS) if told else np.full(DRAWS, np.nan),
        # Where nothing is to be found a group has a score only under weights that raise an alarm.
        "stable": counted.groups == shows["group"].nunique(),
        "note": "; ".join(filter(None, [center.remark, "" if told else FEW])),
    }
    return pd.DataFrame([row])


def _classes(records: pd.DataFrame) -> pd.DataFrame:
    """Classification: the suite without counts by class, of which those of errors are small."""
    table = suite(records)
    table = table[table["reduction"] != "sum"].assign(kind="suite")
    # Not one class alone, of which the mean over classes would tell.
    rare = table["class"].isin(_withheld(records, "label"))
    # Precision is of the images that were taken for the class.
    claimed = table["class"].isin(_withheld(records, predicted(records)))
    return table.assign(value=table["value"].mask(rare | (claimed & (table["metric"] == "precision"))))


def _masks(records: pd.DataFrame) -> list[pd.DataFrame]:
    """Segmentation: the suite, the same by size, misses and false alarms.

    A size that is not counted has no values either: less those of the other sizes, sums of all images are its own.
    That is so whatever the empty images, in which there is nothing to be found.
    """
    sizes, alarms, rare = [], [], set[str]()
    every = by_size(records)
    for name, own in records.groupby("class", sort=False):
        bins, hit, alarm = size_bins(own["tp"] + own["fn"]), own["tp"] > 0, own["fp"] > 0
        empty = bins == SIZES[0]
        if _is_few(own[~empty]) or _is_few(own[~empty | alarm]):
            rare |= {str(name), ALL, BACKGROUND}
        sized = [own[bins == size] for size in SIZES[1:]]
        (negatives, polyps), shown = _counts(own[empty], own[~empty]), _counts(*sized)
        told = {"negatives": negatives, "polyps": polyps}
        if np.isfinite(negatives):
            told["missed"], _ = _counts(own[~empty & ~hit], own[~empty & hit])
            told["false_alarms"], _ = _counts(own[empty & alarm], own[empty & ~alarm])
        else:  # they are what is left of all images
            shown = [*np.where(np.isnan(_counts(*sized, own[empty])[:-1]), np.nan, shown)]
        alarms.append(pd.DataFrame({"kind": "alarms", "class": name, "metric": [*told], "value": [*told.values()]}))
        for size, images in zip(SIZES[1:], shown, strict=True):
            table = every[(every["class"] == name) & (every["size"] == size)]
            if np.isnan(images):
                table = table.assign(value=np.nan)
            sizes.append(table.assign(kind="size", images=images))
    table = suite(records)
    return [table.assign(kind="suite", value=table["value"].mask(table["class"].isin(rare))), *sizes, *alarms]


def _is_few(own: pd.DataFrame) -> bool:
    """Some images or groups, but fewer than may be told of."""
    return any(0 < own[name].nunique() < MINIMUM for name in ("sample", "group"))


def _counts(*parts: pd.DataFrame) -> list[float]:
    """Images of the parts of a whole whose number is known; NaN of few, and of others that would give them away."""
    images = np.array([own["sample"].nunique() for own in parts], dtype=np.float64)
    withheld = np.array([_is_few(own) for own in parts])
    while withheld.any() and (withheld.sum() < 2 or images[withheld].sum() < MINIMUM):
        others = np.flatnonzero(~withheld & (images > 0))
        if not others.size:
            break
        withheld[others[images[others].argmin()]] = True
    return [float(count) for count in np.where(withheld, np.nan, images)]


def _withheld(records: pd.DataFrame, by: str | np.ndarray) -> list[str]:
    """Which groups of the records :func:`_counts` does not tell."""
    parts = {str(name): own for name, own in records.groupby(by)}
    return [name for name, count in zip(parts, _counts(*parts.values()), strict=True) if np.isnan(count)]


def anonymise(samples: pd.DataFrame, key: bytes) -> pd.DataFrame:
    """Per-image records with keyed hashes for names: sample and group as 32 hexadecimal digits of HMAC-SHA256.

    The same name has the same hash in every run with this key, so that groups and runs can still be paired; under
    another key nothing tells that it is the same name. Counts of pixels and native sizes stay as they are.
    """

    def hashed(names: pd.Series) -> pd.Series:
        of = {
            name: hmac.new(key, f"{names.name}\0{name}".encode(), hashlib.sha256).digest()[:16].hex() for name in names
        }
        return names.map(of)

    return samples.assign(sample=hashed(samples["sample"]), group=hashed(samples["group"]))


def compare_here(methods: Mapping[str, Runs], seed: int) -> pd.DataFrame:
    """The first of two methods against the second at this hospital: :data:`PAIRED`, one row a center and role.

    methods: name -> per-image records, a table a seed, as :func:`~fedkvasir.evaluation.comparison.compare` takes them;
    ``seed`` decides on the draws of groups, as there, and has to be secret and the records' own, as in :func:`share`. A
    center that one of the two was not tested at is left out.

    difference: of the scores; draws: (2000,) of the difference, the same groups for both. Of the groups that both
    score: groups, wins, ties, losses, median of their differences, and for the signed-rank test won and tied
    (:class:`~fedkvasir.evaluation.comparison.SignedRanks`). With fewer than :data:`MINIMUM` nothing is told but that.
    Raises UserError as :func:`~fedkvasir.evaluation.comparison.compare`.
    """
    records, rows = tested(methods), []
    for scope, role in ROLES.items():
        held = [{str(name) for name in table.loc[table["role"] == role, "center"]} for (table, *_) in records.values()]
        for center in sorted(set.intersection(*held)):
            own = {name: [table[table["center"] == center] for table in tables] for name, tables in records.items()}
            rows.append({"center": center, "role": role, **_paired_here(own, scope, seed)})
    return pd.DataFrame(rows, columns=list(PAIRED))


def _paired_here(methods: Mapping[str, Runs], scope: str, seed: int) -> dict[str, object]:
    both = sides(methods, scope)
    centers, means, _ = paired(both)
    (first,), (second,) = centers.values()
    differences, statistic = np.round(means[0] - means[1], 12), first.statistic
    if min(first.groups, len(differences)) < MINIMUM:
        return {"metric": statistic.title, "draws": np.full(DRAWS, np.nan), "note": FEW}
    # What a seed does to a method it does at every hospital: how much a run counts in a draw is no secret of one.
    draws = [
        bootstrap(center, draw_runs(len(methods[name]), 0), seed)
        for name, center in zip(methods, (first, second), strict=True)
    ]
    ranks = signed_ranks(differences)
    images, others = (side.images for side in both.values())
    notes = ["images that only one of them has are left out"] if len(images.symmetric_difference(others)) else []
    notes += alike(both, centers)
    if len(differences) < first.groups:
        notes.append("groups without anything to find where only one method raises an alarm are not in the test")
    return {
        "metric": statistic.title,
        "difference": first.score - second.score,
        "draws": np.round(draws[0] - draws[1], DIGITS),
        "groups": len(differences),
        "wins": int((differences > 0).sum()),
        "ties": int((differences == 0).sum()),
        "losses": int((differences < 0).sum()),
        "won": ranks.won,
        "tied": list(ranks.tied),
        "median": float(np.median(differences)),
        "note": "; ".join([*filter(None, [first.remark]), *notes]),
    }


# ---- at the coordinator


def combine(parts: pd.DataFrame, first: str, second: str, scope: str, runs: int) -> Comparison:
    """``first`` against ``second`` at the ``seen`` or ``unseen`` centers, out of what their hospitals made of it.

    parts: rows of :func:`compare_here`. runs: of the method with fewer. difference and its interval are those of
    :func:`~fedkvasir.evaluation.comparison.compare` on the per-image records; ranks are within centers
    (:func:`~fedkvasir.evaluation.comparison.stratified`), and of several centers there is no median. Raises UserError
    where no center told of its groups.
    """
    own = parts[parts["role"] == ROLES[scope]].sort_values("center")
    told, few = own[own["groups"].notna()], list(own.loc[own["groups"].isna(), "center"])
    if told.empty:
        raise UserError(
            f"{first} and {second} cannot be compared on {scope} centers: {', '.join(few) or 'none'}: {FEW}"
        )
    centers = [
        SharedCenter(row.center, np.array([row.difference]), int(row.groups), row.draws[None], row.note)
        for row in told.itertuples()
    ]
    notes = [WITHIN] if len(centers) > 1 else []
    notes += [f"{', '.join(few)}: {FEW}, not in the comparison"] if few else []
    strata = [SignedRanks(row.won, tuple(map(int, row.tied))) for row in told.itertuples()]
    p, rank_biserial = stratified(strata)
    low, high = interval(uniform([center.draws[0] for center in centers]), centers, centers)
    (statistic,) = (own for own in STATISTICS.values() if own.title == told["metric"].iloc[0])
    return Comparison(
        first=first,
        second=second,
        scope=scope,
        runs=runs,
        metric=statistic.title,
        difference=float(uniform([center.score for center in centers])),
        low=low,
        high=high,
        group_metric=statistic.group_title,
        median=float(told["median"].iloc[0]) if len(centers) == 1 else np.nan,
        wins=int(told["wins"].sum()),
        ties=int(told["ties"].sum()),
        losses=int(told["losses"].sum()),
        rank_biserial=rank_biserial,
        p=p,
        p_holm=np.nan,
        notes=(*notes, *caution(centers)),
    )
