"""Several methods at once: average ranks over groups, and how far apart they have to be.

Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, Journal of Machine Learning Research 7, 2006,
section 3.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedkvasir.errors import UserError
from fedkvasir.evaluation.comparison import ALPHA, FEWEST_GROUPS
from fedkvasir.evaluation.groups import Runs, tested
from fedkvasir.evaluation.pairing import paired, sides


@dataclass(frozen=True)
class Ranking:
    """Several methods at once: the numbers of a critical-difference plot."""

    metric: str
    """What a group is judged by: accuracy where the headline is macro F1."""
    ranks: dict[str, float]
    """Average rank over groups, 1 is best; the best method first."""
    groups: int
    friedman_p: float
    """That all methods are equal. NaN, like the rest, where there are too few groups."""
    critical_difference: float
    """Nemenyi: average ranks that far apart differ at 0.05. To be read where ``friedman_p`` is below 0.05."""
    cliques: tuple[tuple[str, ...], ...]
    """Methods not shown to differ from each other, best first: the bars of the plot."""
    notes: tuple[str, ...]


def rank(methods: Mapping[str, Runs], scope: str = "unseen") -> Ranking:
    """Rank three methods or more in every group that all of them score, on the images that all have.

    A group's value is its mean over a method's runs; equals share their ranks. Raises UserError for fewer methods and
    as :func:`~fedkvasir.evaluation.comparison.compare`.
    """
    from scipy.stats import friedmanchisquare, rankdata

    if len(methods) < 3:
        raise UserError(f"ranks are for three methods or more, not for {' and '.join(methods)}: compare these two")
    centers, means, notes = paired(sides(tested(methods), scope))
    places = rankdata(-means, axis=0)
    groups, metric = places.shape[1], next(iter(centers.values()))[0].statistic.group_title
    average = {name: float(own.mean()) if groups else np.nan for name, own in zip(methods, places, strict=True)}
    ranks = dict(sorted(average.items(), key=lambda item: item[1]))
    if groups < FEWEST_GROUPS:
        few = f"not tested: {groups} groups, six are needed"
        return Ranking(metric, ranks, groups, np.nan, np.nan, (), (few, *notes))
    # Where every group is a tie the statistic is 0 / 0.
    friedman_p = float(friedmanchisquare(*places).pvalue) if places.std() else 1.0
    width = critical_difference(len(methods), groups)
    return Ranking(metric, ranks, groups, friedman_p, width, cliques(ranks, width), notes)


def cliques(ranks: Mapping[str, float], width: float) -> tuple[tuple[str, ...], ...]:
    """Every longest run of methods, two or more, whose average ranks (best first) lie less than ``width`` apart."""
    names, found = list(ranks), list[tuple[str, ...]]()
    for start, name in enumerate(names):
        near = tuple(other for other in names[start:] if ranks[other] - ranks[name] < width)
        if len(near) > 1 and not (found and near[-1] == found[-1][-1]):
            found.append(near)
    return tuple(found)


def critical_difference(methods: int, groups: int) -> float:
    """Of average ranks, at 0.05 (Nemenyi; Demsar 2006, section 3.2.2)."""
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - ALPHA, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * groups)))
