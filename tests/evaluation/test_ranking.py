"""Ranks: the numbers printed in Demsar's paper, Friedman's test, and the bars of a critical-difference plot."""

import numpy as np
import pytest
from scipy import stats

from fedkvasir.errors import UserError
from fedkvasir.evaluation.ranking import cliques, critical_difference, rank
from tests.evaluation.records import segmentation

# Demsar 2006, table 6: AUC of four classifiers on 14 data sets. "voting" has .975 twice and the ranks 2
# and 3: a digit that is not printed is made up here.
TABLE_6 = """
.763 .768 .771 .798
.599 .591 .590 .569
.954 .971 .968 .967
.628 .661 .654 .657
.882 .888 .886 .898
.936 .931 .916 .931
.661 .668 .609 .685
.583 .583 .563 .625
.775 .838 .866 .875
1.00 1.00 1.00 1.00
.940 .962 .965 .962
.619 .666 .614 .669
.972 .981 .9752 .9748
.957 .978 .946 .970
"""
NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
SCORES = np.array([[float(value) for value in line.split()] for line in TABLE_6.split("\n") if line])
METHODS = {name: [segmentation({"rome": column[:, None]})] for name, column in zip(NAMES, SCORES.T, strict=True)}


def test_average_ranks_are_those_of_demsars_table() -> None:
    found = rank(METHODS)
    assert list(found.ranks) == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"] and found.groups == 14
    assert found.ranks == pytest.approx({"C4.5": 3.143, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}, abs=5e-4)


def test_the_critical_difference_is_the_papers() -> None:
    assert critical_difference(4, 14) == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert rank(METHODS).critical_difference == pytest.approx(1.25, abs=5e-3)


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (10, 3.164)])
def test_q_is_that_of_demsars_table_5(methods: int, q: float) -> None:
    assert critical_difference(methods, 6 * 100) * np.sqrt(3600 / (methods * (methods + 1))) == pytest.approx(
        q, abs=1.5e-3
    )


def test_friedmans_statistic_is_near_the_papers() -> None:
    """9.28 without a correction for ties; scipy corrects."""
    uncorrected = 12 * 14 / 20 * (sum(r**2 for r in rank(METHODS).ranks.values()) - 4 * 25 / 4)
    assert uncorrected == pytest.approx(9.28, abs=0.01)
    assert rank(METHODS).friedman_p == pytest.approx(stats.friedmanchisquare(*SCORES.T).pvalue, abs=1e-12)
    assert rank(METHODS).friedman_p < stats.chi2.sf(9.28, 3)


def test_no_two_of_the_four_are_shown_to_differ() -> None:
    assert rank(METHODS).cliques == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)


def test_bars_join_what_lies_less_than_the_difference_apart() -> None:
    ranks = {"a": 1.0, "b": 1.8, "c": 2.5, "d": 4.0, "e": 4.9}
    assert cliques(ranks, 1.0) == (("a", "b"), ("b", "c"), ("d", "e"))
    assert cliques(ranks, 1.6) == (("a", "b", "c"), ("c", "d"), ("d", "e"))
    assert cliques(ranks, 0.1) == ()


def test_methods_that_are_all_the_same_are_not_shown_to_differ() -> None:
    same = [segmentation({"rome": [[0.5], [0.7]] * 10})]
    found = rank({"A": same, "B": same, "C": same})
    assert found.friedman_p == 1 and set(found.ranks.values()) == {2.0} and found.cliques == (("A", "B", "C"),)


def test_fewer_than_six_groups_are_ranked_but_not_tested() -> None:
    few = {name: [segmentation({"rome": column[:5, None]})] for name, column in zip(NAMES, SCORES.T, strict=True)}
    found = rank(few)
    assert found.notes[0] == "not tested: 5 groups, six are needed" and found.cliques == ()
    assert np.isnan([found.friedman_p, found.critical_difference]).all() and min(found.ranks.values()) >= 1


def test_two_methods_are_compared_and_not_ranked() -> None:
    with pytest.raises(UserError, match=r"three methods or more, not for C4\.5 and C4\.5\+m: compare these two$"):
        rank({name: METHODS[name] for name in NAMES[:2]})
