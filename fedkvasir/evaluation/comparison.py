"""Is one method better than another: the same images, group by group, and a sentence that says no more than was shown.

Groups are the units of every test, never seeds alone: a group's value is its mean over a method's runs, as many
of each.
Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, Journal of Machine Learning Research 7,
2006.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from fedkvasir.errors import UserError
from fedkvasir.evaluation.groups import Runs, tested
from fedkvasir.evaluation.intervals import bootstrap, draw_runs, interval, uniform
from fedkvasir.evaluation.pairing import Side, paired, sides

ALPHA = 0.05
FEWEST_GROUPS = 6
"""With five that differ no outcome reaches p < 0.05: 2 / 2^5 = 0.0625."""
COUNTED_GROUPS = 100
"""Up to so many that differ the distribution of the signed ranks is counted out, beyond it is as good as normal."""
COUNTED_SUMS = 1_000_000
"""Sums of ranks weighted by stratum that are told apart in counting out, at most: below a second."""


@dataclass(frozen=True)
class Comparison:
    """``first`` against ``second`` on the test images that both have; differences are first minus second."""

    first: str
    second: str
    scope: str
    """``seen`` or ``unseen`` centers."""
    runs: int
    """A seed each, of the method with fewer: what seeds vary is in ``low`` and ``high`` where both have several."""
    metric: str
    difference: float
    """Of the scores that the tables show, uniform over centers."""
    low: float
    high: float
    """95 % interval of ``difference``: runs drawn, then groups within centers, the same for both."""
    group_metric: str
    """What the rest is about: a group's mean over images and ``runs``. Accuracy where the metric is macro F1."""
    median: float
    """Of the groups' differences."""
    wins: int
    ties: int
    losses: int
    rank_biserial: float
    """Share of the ranks that speak for ``first`` less the share for ``second``, -1..1: the direction of the test."""
    p: float
    """Wilcoxon's signed-rank test over the groups of all centers together; NaN where there are too few."""
    p_holm: float
    """After Holm, over all comparisons of one call."""
    notes: tuple[str, ...]
    """What has to be printed beside it: too few groups, images and groups that are left out."""

    @property
    def groups(self) -> int:
        return self.wins + self.ties + self.losses


def compare(
    methods: Mapping[str, Runs],
    scope: str = "unseen",
    reference: str | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """Every method against ``reference``, or every pair in the order given; p after Holm over all of them.

    Groups that one of the two does not score (see :func:`~fedkvasir.evaluation.pairing.paired`) are part of
    ``difference``, as of every table, and not of the test. Raises UserError as
    :func:`~fedkvasir.evaluation.groups.tested`, and where two methods have no image in common.
    """
    pairs = pairs_of([*methods], reference)
    held = sides(tested(methods), scope)
    family = [_compare({name: held[name] for name in pair}, scope, seed) for pair in pairs]
    adjusted = holm([comparison.p for comparison in family])
    return [replace(comparison, p_holm=float(p)) for comparison, p in zip(family, adjusted, strict=True)]


def pairs_of(methods: Sequence[str], reference: str | None = None) -> list[tuple[str, str]]:
    """Every method against ``reference``, or every pair in the order given. Raises UserError where it is none."""
    if reference is None:
        return [*combinations(methods, 2)]
    if reference not in methods:
        raise UserError(f"{reference} is not among the methods: {', '.join(methods)}")
    return [(name, reference) for name in methods if name != reference]


def _compare(pair: Mapping[str, Side], scope: str, seed: int) -> Comparison:
    centers, means, notes = paired(pair)
    first, second = pair
    scores = [uniform([center.score for center in own]) for own in centers.values()]
    draws = []
    for name, own in centers.items():
        weights = draw_runs(len(pair[name].tables), seed)
        draws.append(uniform([bootstrap(center, weights, seed) for center in own]))
    low, high = interval(draws[0] - draws[1], *centers.values())
    statistic, differences = centers[first][0].statistic, np.round(means[0] - means[1], 12)
    p, rank_biserial = signed_rank(differences)
    return Comparison(
        first=first,
        second=second,
        scope=scope,
        runs=min(len(own.tables) for own in pair.values()),
        metric=statistic.title,
        difference=float(scores[0] - scores[1]),
        low=low,
        high=high,
        group_metric=statistic.group_title,
        median=float(np.median(differences)) if differences.size else np.nan,
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        rank_biserial=rank_biserial,
        p=p,
        p_holm=np.nan,
        notes=notes,
    )


def sentence(comparison: Comparison) -> str:
    """The comparison in plain words; "better" only where the test after Holm and the interval of the mean agree.

    Of two methods that are equal but for their seeds one is, with one seed each, as good as always ahead on enough
    groups: that it "is better" takes several seeds of both, else it "did better".
    """
    c = comparison if np.isnan(comparison.p) or _leader(comparison) >= 0 else turned(comparison)
    ends = "no interval" if np.isnan(c.low) else f"{c.low:z.3f}, {c.high:z.3f}"
    size, where = f"{c.difference:z.3f} {c.metric} [{ends}]", f"on {c.scope} centers"
    p = "p < 0.001" if c.p_holm < 0.001 else f"p = {c.p_holm:.{2 if c.p_holm >= 0.1 else 3}f}"
    told = f"{p} after Holm, {c.wins} of {c.groups} groups"
    told += f" by {c.group_metric}" if c.group_metric != c.metric else ""
    if np.isnan(c.p):
        few = f"{c.groups} groups" if c.groups < FEWEST_GROUPS else f"{c.wins + c.losses} of {c.groups} groups differ"
        said = f"not tested: {few}, six are needed; {c.first} minus {c.second} {where}: {size}"
    elif c.p_holm >= ALPHA and (c.low > 0 or c.high < 0):
        mean = f"the mean of {c.first if c.difference > 0 else c.second} is higher {where}: {size} for {c.first}"
        said = f"unclear: {mean}, but group by group it is not shown: {told}"
    elif c.p_holm >= ALPHA:
        said = f"no difference shown between {c.first} and {c.second} {where}: {size} for {c.first}, {told}"
    elif c.low > 0:
        better = f"{c.first} is better than" if c.runs > 1 else f"with one seed {c.first} did better than"
        said = f"{better} {c.second} {where} by {size}, {told}"
    else:
        ahead = f"group by group {c.first} is ahead of {c.second} {where}, {told}"
        said = f"unclear: {ahead}, but the mean {'says the opposite' if c.high < 0 else 'does not show it'}: {size}"
    return "; ".join([said, *c.notes])


def _leader(c: Comparison) -> float:
    """0 or more where the sentence begins with ``first``: by the test where it shows something, else by the mean."""
    return c.rank_biserial if c.p_holm < ALPHA else c.difference


def turned(c: Comparison) -> Comparison:
    """The same, ``second`` against ``first``."""
    return replace(
        c, first=c.second, second=c.first, difference=-c.difference, low=-c.high, high=-c.low, median=-c.median,
        wins=c.losses, losses=c.wins, rank_biserial=-c.rank_biserial,
    )  # fmt: skip


@dataclass(frozen=True)
class SignedRanks:
    """What Wilcoxon's signed-rank test has to know of the differences of one stratum."""

    won: float
    """Sum of the ranks of the differences above zero; equals share the mean of their ranks."""
    tied: tuple[int, ...]
    """How many differences are of one size, smallest first; the first are those of zero, of which there may be none."""

    @property
    def groups(self) -> int:
        return sum(self.tied)

    @property
    def ranks(self) -> np.ndarray:
        """Of the differences that are not zero, ascending."""
        tied = np.array(self.tied)
        return np.repeat(np.cumsum(tied) - (tied - 1) / 2, tied)[self.tied[0] :]


def signed_ranks(differences: np.ndarray) -> SignedRanks:
    """Ties rank below every difference and then drop out (Pratt, Journal of the American Statistical Association 54,
    1959): dropped before ranking, they would let a method that does worse in every group come out further ahead."""
    from scipy.stats import rankdata

    sizes = np.abs(differences)
    _, tied = np.unique(sizes[sizes > 0], return_counts=True)
    return SignedRanks(float(rankdata(sizes)[differences > 0].sum()), (int((sizes == 0).sum()), *map(int, tied)))


def signed_rank(differences: np.ndarray) -> tuple[float, float]:
    """(p, rank-biserial correlation) of Wilcoxon's signed-rank test, two-sided; p is NaN below six groups."""
    return stratified([signed_ranks(differences)])


def stratified(strata: Sequence[SignedRanks]) -> tuple[float, float]:
    """:func:`signed_rank` with ranks within strata: their sums are added, each over its number of groups plus one.

    So weighted a group counts about the same whatever its stratum's size (van Elteren, Bulletin of the International
    Statistical Institute 37, 1960, for two samples; Lehmann, Nonparametrics, 1975, section 3.3). Of one stratum it is
    the test of Wilcoxon.
    """
    from scipy.stats import norm

    strata = [stratum for stratum in strata if len(stratum.ranks)]
    if not strata:
        return np.nan, 0.0
    sizes = [stratum.groups + 1 for stratum in strata]
    # With whole weights the sums of ranks are whole, twice, and can be counted out; where they are too many, to the
    # nearest whole ones.
    total = sum(2 * stratum.ranks.sum() / size for size, stratum in zip(sizes, strata, strict=True))
    weights = [min(math.lcm(*sizes), COUNTED_SUMS / total) / size for size in sizes]
    ranks = np.concatenate([weight * stratum.ranks for weight, stratum in zip(weights, strata, strict=True)])
    won = sum(weight * stratum.won for weight, stratum in zip(weights, strata, strict=True))
    lost = ranks.sum() - won
    rank_biserial = float((won - lost) / (won + lost))
    if len(ranks) < FEWEST_GROUPS:
        return np.nan, rank_biserial
    if len(ranks) > COUNTED_GROUPS:
        return float(2 * norm.sf(abs(won - lost) / np.sqrt((ranks**2).sum()))), rank_biserial
    # Ranks of equals are halves: twice a rank is whole. scipy counts out neither ties nor zeros in reasonable time.
    doubled = np.rint(2 * ranks).astype(int)
    rounded = np.abs(2 * ranks - doubled).sum()
    chances = np.zeros(doubled.sum() + 1)
    chances[0] = 1.0
    for rank in doubled:
        chances[rank:] += chances[:-rank].copy()
        chances /= 2
    smaller = round(2 * min(won, lost) + rounded)
    return min(1.0, 2 * float(chances[: smaller + 1].sum())), rank_biserial


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values adjusted for the size of their family (Holm, Scand. J. Stat. 6, 1979).

    A comparison that was not tested (NaN) stays so, and counts as one of the family.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)  # NaN last
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.minimum(factors * values[order], 1.0))
    return adjusted
