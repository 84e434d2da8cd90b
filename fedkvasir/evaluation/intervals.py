"""How sure a score is: the percentile bootstrap, over groups within centers, and over seeds where runs are pooled.

A draw is how often each group came up, so that all draws of a center are one matrix product with its groups' sums.
Intervals are conditional on these centers: they do not speak of a hospital that is not among them.
Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; whole groups: Field and Welsh, Journal of the
Royal Statistical Society B 69, 2007.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedkvasir.evaluation.groups import (
    ENOUGH_GROUPS,
    ROLES,
    Center,
    Runs,
    SharedCenter,
    centers_of,
    mean_of_scored,
    shared_centers_of,
    tested,
)
from fedkvasir.evaluation.protocol import is_shared
from fedkvasir.randomness import derive_seed

DRAWS = 2000
LEVEL = 0.95
NAMED = 12
"""Centers named in a warning, at most."""
BLOCK = 4_000_000
"""Draws times groups held at once: 32 MB."""


def intervals(runs: Runs, seed: int = 0) -> pd.DataFrame:
    """The headline metric with its 95 % interval: one row a center, training centers first, then seen, unseen, gap.

    Columns: scope (``center``, ``seen``, ``unseen``, ``gap``: seen minus unseen), center, score, low, high, groups
    (with a score), runs, warning. Of several runs the score is the mean; a draw is of groups within centers and of how
    much each run counts. Where no center has two groups, for the gap on either side, there is no interval. Of shared
    records the draws are those that the hospitals made; where one has too few groups to tell them, ``seen`` or
    ``unseen`` with it has no interval. Raises UserError as :func:`~fedkvasir.evaluation.groups.tested`.
    """
    tables = tested({"the run": runs})["the run"]
    weights, rows, scopes = draw_runs(len(tables), seed), [], {}
    for scope in ROLES:
        centers: Sequence[Center | SharedCenter]
        if is_shared(tables[0]):
            centers = shared_centers_of(tables, scope)
        else:
            centers = [center.only(np.isfinite(center.group_means)) for center in centers_of(tables, scope).values()]
        draws = [bootstrap(center, weights, seed) for center in centers]
        for center, own in zip(centers, draws, strict=True):
            rows.append({"scope": "center"} | _row(center.name, center.score, own, [center]))
        untold = any(np.isfinite(c.score) and not np.isfinite(own).any() for c, own in zip(centers, draws, strict=True))
        together = np.full(DRAWS, np.nan) if untold else uniform(draws)
        scopes[scope] = uniform([center.score for center in centers]), together, centers
    rows += [{"scope": scope} | _row("", *parts) for scope, parts in scopes.items()]
    seen, unseen = scopes.values()
    rows.append({"scope": "gap"} | _row("", seen[0] - unseen[0], seen[1] - unseen[1], seen[2], unseen[2]))
    return pd.DataFrame(rows).assign(runs=len(tables))


def bootstrap(center: Center | SharedCenter, weights: np.ndarray, seed: int) -> np.ndarray:
    """(DRAWS,) scores of a center with its groups resampled; NaN without groups. weights: of :func:`draw_runs`.

    Which groups come up depends on the seed, the center's name and its number of groups alone: methods on the same
    groups get the same draws, so that the difference of their draws is paired. Those of a shared center were made at
    the hospital.
    """
    if isinstance(center, SharedCenter):
        return mean_of_scored(center.draws, axis=0) + _over_runs(center.run_scores, weights)
    if not center.groups:
        return np.full(DRAWS, np.nan)
    rng = np.random.default_rng(derive_seed(seed, "bootstrap", "groups", center.name))
    at_once = max(1, BLOCK // center.groups)
    scores = [
        center.scores(_how_often(rng, min(at_once, DRAWS - start), center.groups) @ center.sums)
        for start in range(0, DRAWS, at_once)
    ]
    return mean_of_scored(np.concatenate(scores, axis=1), axis=0) + _over_runs(center.run_scores, weights)


def _over_runs(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(DRAWS,) what is added to the mean of the runs' scores, (runs,), where runs count otherwise; NaN counts nowhere.

    The scores are those on all groups: on those drawn, what groups make of a run would be in twice.
    """
    deviations = np.nan_to_num(scores - mean_of_scored(scores, axis=0))
    return (weights - 1) @ deviations / max(np.isfinite(scores).sum(), 1)


def draw_runs(runs: int, seed: int) -> np.ndarray:
    """(DRAWS, runs) how much each run counts, in the mean 1; one draw holds for all centers.

    Weights under which the mean of n runs is drawn from Student's t, with n - 1 degrees of freedom, about their mean:
    with the few runs there are, picks with replacement would vary far too little (Student, Biometrika 6, 1908).
    Methods of as many runs get the same draws: what a seed does to both of them cancels in their difference. The draws
    are spread evenly (Halton, Numerische Mathematik 2, 1960), since t has long tails: of independent ones the ends of
    an interval over two seeds would be off by 14 % of half its width, and of these by 4 %.
    """
    if runs == 1:
        return np.ones((DRAWS, 1))
    from scipy.linalg import helmert
    from scipy.stats import chi2, norm, qmc

    rng = np.random.default_rng(derive_seed(seed, "bootstrap", "runs", runs))
    points = qmc.Halton(runs, seed=rng).random(DRAWS)
    spread = np.sqrt(runs / chi2.ppf(points[:, 0], runs - 1))
    return 1 + norm.ppf(points[:, 1:]) @ helmert(runs) * spread[:, None]


def _how_often(rng: np.random.Generator, draws: int, size: int) -> np.ndarray:
    """(draws, size) float64: how often each of ``size`` came up in ``size`` picks with replacement."""
    picks = rng.integers(size, size=(draws, size)) + size * np.arange(draws)[:, None]
    return np.bincount(picks.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)


def uniform(values: Sequence[float] | Sequence[np.ndarray]) -> np.ndarray:
    """Mean over centers, of their scores or of their draws; a center without a score is in no mean."""
    scored = [np.asarray(value) for value in values if np.isfinite(value).any()]
    return np.mean(scored, axis=0) if scored else np.array(np.nan)


def interval(draws: np.ndarray, *sides: Sequence[Center | SharedCenter]) -> tuple[float, float]:
    """The ends of the 95 % interval; NaN without a finite draw, and where a side has no center with two groups.

    sides: the centers of a score, in 0..1, or those on either side of a difference, in -1..1. Runs that count less
    than nothing can lead out of that, where nothing lies.
    """
    finite = draws[np.isfinite(draws)]
    if not finite.size or any(max(center.groups for center in centers) < 2 for centers in sides):
        return np.nan, np.nan
    ends = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.clip(ends, 1 - len(sides), 1)
    return float(low), float(high)


def caution(centers: Sequence[Center | SharedCenter]) -> list[str]:
    """What has to be printed beside an interval; nothing where all is well."""
    few = [f"{center.name} {center.groups}" for center in centers if 0 < center.groups < ENOUGH_GROUPS]
    exact = "; a center of one group counts as if it were known exactly" if any(c.groups == 1 for c in centers) else ""
    alike: dict[str, list[str]] = {}
    for center in centers:
        alike.setdefault(center.remark, []).append(center.name)
    texts = [f"{_listed(names)}: {remark}" for remark, names in alike.items() if remark]
    if few:
        texts.append(
            f"fewer than {ENOUGH_GROUPS} groups ({_listed(few)}), the interval is too short: of 95 % it covers about "
            f"50 % with 2 groups, 83 % with 5, 91 % with 10{exact}"
        )
    return texts


def _listed(names: list[str]) -> str:
    return ", ".join(names if len(names) <= NAMED else [*names[:NAMED], f"{len(names) - NAMED} more"])


def _row(
    name: str, score: float | np.ndarray, draws: np.ndarray, *sides: Sequence[Center | SharedCenter]
) -> dict[str, object]:
    centers = [center for side in sides for center in side]
    low, high = interval(draws, *sides)
    row = {"center": name, "score": float(score), "low": low, "high": high}
    return row | {"groups": sum(center.groups for center in centers), "warning": "; ".join(caution(centers))}
