"""Comparisons: the test against scipy and by enumeration, Holm by hand, false alarms under the null, words that fit."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedkvasir.errors import UserError
from fedkvasir.evaluation import groups as module
from fedkvasir.evaluation.comparison import (
    Comparison,
    compare,
    holm,
    sentence,
    signed_rank,
    signed_ranks,
    stratified,
)
from fedkvasir.evaluation.intervals import draw_runs
from fedkvasir.evaluation.pairing import paired, sides
from fedkvasir.evaluation.protocol import center_table, summarise
from tests.evaluation.records import alarm, classification, segmentation

RNG = np.random.default_rng(5)
BASE = {name: [RNG.beta(5, 3, RNG.integers(1, 4)) for _ in range(20)] for name in ("cadiz", "delft")}


def shifted(shift: float, noise: float = 0.03, seed: int = 0) -> pd.DataFrame:
    """What another method makes of the same images."""
    rng = np.random.default_rng(seed)
    return segmentation(
        {
            name: [np.clip(group + shift + rng.normal(0, noise, len(group)), 0, 1) for group in groups]
            for name, groups in BASE.items()
        }
    )


# ---- the parts


def by_enumeration(differences: list[float]) -> float:
    """Every choice of signs for the ranks, equally likely; twice the smaller tail."""
    ranks = stats.rankdata(np.abs(differences))[np.array(differences) != 0]
    observed = stats.rankdata(np.abs(differences))[np.array(differences) > 0].sum()
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product([0, 1], repeat=len(ranks))
    ]
    return min(1.0, 2 * min(np.mean(np.array(sums) <= observed + 1e-9), np.mean(np.array(sums) >= observed - 1e-9)))


@settings(max_examples=40)
@given(st.lists(st.integers(-4, 4), min_size=6, max_size=11))
def test_the_test_is_the_enumeration_of_all_signs_with_ties_and_zeros(differences: list[int]) -> None:
    p, _ = signed_rank(np.array(differences, dtype=float))
    if np.count_nonzero(differences) < 6:
        assert np.isnan(p)
    else:
        assert p == pytest.approx(by_enumeration(differences), abs=1e-12)


@pytest.mark.parametrize("groups", [6, 20, 50, 120, 500])
def test_the_test_is_scipys(groups: int) -> None:
    differences = np.random.default_rng(groups).normal(0.2, 1, groups)
    theirs = stats.wilcoxon(differences, zero_method="pratt")
    assert signed_rank(differences)[0] == pytest.approx(theirs.pvalue, abs=1e-12)


def test_counted_and_normal_agree_where_one_takes_over() -> None:
    differences = np.random.default_rng(0).normal(0.2, 1, 100).round(1)
    assert signed_rank(differences)[0] == pytest.approx(
        stats.wilcoxon(differences, zero_method="pratt").pvalue, abs=2e-3
    )


def test_groups_without_a_difference_do_not_make_the_others_more_certain() -> None:
    """Six that differ, all one way, are 2 / 2^6 however many are equal."""
    for equal in (0, 94, 95, 1005):
        assert signed_rank(np.array([1.0, 2, 3, 4, 5, 6] + [0.0] * equal))[0] == pytest.approx(2 / 2**6)
    for many in ((29, 35, 39), (399, 305, 551)):
        strata = [np.array([0.0] * equal + [1.0, 2.0]) for equal in many]
        assert stratified([signed_ranks(stratum) for stratum in strata])[0] == pytest.approx(2 / 2**6)


def test_doing_worse_everywhere_never_helps() -> None:
    """Pratt 1959: without their zero these differences count for less than all of them made smaller by a half."""
    differences = np.array([0, 2, 3, 4, 6, 7, 8, 9, 11, 14, 15, 17, -18], dtype=float)
    assert signed_rank(differences)[0] < signed_rank(differences - 0.5)[0]
    assert signed_rank(differences[1:])[0] > signed_rank(differences - 0.5)[0]


def test_with_five_that_differ_nothing_could_be_shown() -> None:
    p, rank_biserial = signed_rank(np.array([1.0, 2, 3, 4, 5] + [0.0] * 50))
    assert np.isnan(p) and rank_biserial == 1
    assert signed_rank(np.array([1.0, 2, 3, 4, 5, 6]))[0] == pytest.approx(2 / 2**6)


def test_rank_biserial_is_the_share_of_ranks_for_less_against() -> None:
    assert signed_rank(np.array([5.0, 4, 3, -2, -1, 6]))[1] == pytest.approx((18 - 3) / 21)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_by_its_definition(p: list[float]) -> None:
    """Smallest first, times the number of those not yet done, never below one before."""
    expected, so_far = dict[int, float](), 0.0
    for done, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        so_far = max(so_far, min(1.0, (len(p) - done) * p[index]))
        expected[index] = so_far
    assert holm(p) == pytest.approx([expected[index] for index in range(len(p))])


def test_what_was_not_tested_counts_in_the_family() -> None:
    assert holm([0.01, np.nan, 0.04]) == pytest.approx([0.03, np.nan, 0.08], nan_ok=True)


# ---- two methods


def lucky(often: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """A training that misses one polyp of five, others in every training."""
    missed = rng.random(len(often)) < 0.2
    dice = np.where(missed, rng.uniform(0, 0.2, len(often)), often + rng.normal(0, 0.02, len(often)))
    return segmentation({"cadiz": [[value] for value in dice]})


@pytest.mark.parametrize(
    "case", ["one seed and five", pytest.param("two seeds and five", marks=pytest.mark.slow), "one network and three"]
)
def test_two_equal_methods_of_which_one_was_trained_more_often_are_not_told_apart(case: str) -> None:
    """A single training is ahead of a mean of several in most groups: misses are few and large."""
    rejected = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        often = rng.uniform(0.7, 0.95, 200)
        runs = [lucky(often, rng) for _ in range(7)]
        methods = {
            "one seed and five": {"A": runs[:1], "B": runs[1:6]},
            "two seeds and five": {"A": runs[:2], "B": runs[2:]},
            "one network and three": {
                "A": runs[:1],
                "B": [pd.concat([run.assign(run=str(number)) for number, run in enumerate(runs[1:4])])],
            },
        }
        _, means, notes = paired(sides(module.tested(methods[case]), "unseen"))
        rejected += signed_rank(means[0] - means[1])[0] < 0.05
    assert rejected <= 6  # of 40 at 0.05: more once in 70 times
    fewest = {"one seed and five": 1, "two seeds and five": 2}
    said = f"as one has, {fewest[case]}" if case in fewest else "of several networks"
    assert any(said in note for note in notes)


def test_every_network_is_tested_in_as_many_groups() -> None:
    """Of training alone at three hospitals, against one network."""
    dice = {"0": 0.4, "1": 0.6, "2": 0.8}
    alone = [segmentation({"cadiz": [[value]] * 30}).assign(run=run) for run, value in dice.items()]
    (found,) = compare({"A": [segmentation({"cadiz": [[0.6]] * 30})], "B": [pd.concat(alone)]})
    assert (found.wins, found.ties, found.losses) == (10, 10, 10) and found.difference == pytest.approx(0)


def test_the_difference_is_that_of_the_tables() -> None:
    first, second = shifted(0.02), shifted(0.0, seed=1)
    (found,) = compare({"FedBN": [first], "FedAvg": [second]})
    unseen = [summarise(center_table(table), "segmentation").unseen for table in (first, second)]
    assert found.difference == pytest.approx(unseen[0] - unseen[1], abs=1e-12)
    assert found.low < found.difference < found.high
    assert (found.first, found.second, found.scope, found.metric, found.groups) == (
        "FedBN",
        "FedAvg",
        "unseen",
        "Dice",
        40,
    )


def test_medians_wins_and_p_are_of_the_groups_means() -> None:
    first, second = shifted(0.02), shifted(0.0, seed=1)
    means = [table.groupby("group")["tp"].mean() / 10_000 for table in (first, second)]
    differences = means[0] - means[1]
    (found,) = compare({"A": [first], "B": [second]})
    assert found.median == pytest.approx(differences.median(), abs=1e-9)
    assert (found.wins, found.ties, found.losses) == ((differences > 0).sum(), 0, (differences < 0).sum())
    assert found.p == found.p_holm == pytest.approx(stats.wilcoxon(differences).pvalue, abs=1e-9)


def test_the_interval_is_paired() -> None:
    """Of one center it is scipy's bootstrap of the groups' differences: narrow, though both scores vary widely."""
    first, second = (table[table["center"] == "cadiz"] for table in (shifted(0.02), shifted(0.0, seed=1)))
    differences = (first.groupby("group")["tp"].mean() - second.groupby("group")["tp"].mean()).to_numpy() / 10_000
    theirs = stats.bootstrap(
        (differences,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    )
    (found,) = compare({"A": [first], "B": [second]})
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.06 * width)


def test_the_other_way_round_everything_turns() -> None:
    methods = {"A": [shifted(0.02), shifted(0.03, seed=2)], "B": [shifted(0.0, seed=1)]}
    (found,) = compare(methods)
    (turned,) = compare(dict(reversed(methods.items())))
    assert (turned.first, turned.second) == ("B", "A")
    assert (turned.wins, turned.losses, turned.p) == (found.losses, found.wins, found.p)
    opposite = [-turned.difference, -turned.high, -turned.low, -turned.median, -turned.rank_biserial]
    assert opposite == pytest.approx([found.difference, found.low, found.high, found.median, found.rank_biserial])
    assert sentence(turned) == sentence(found)


@settings(max_examples=5)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(random) -> None:
    first, second = shifted(0.02), shifted(0.0, seed=1)
    order = list(range(len(first)))
    random.shuffle(order)
    (found,), (shuffled,) = compare({"A": [first], "B": [second]}), compare({"A": [first.iloc[order]], "B": [second]})
    for name in ("difference", "low", "high", "median", "p"):
        assert getattr(shuffled, name) == pytest.approx(getattr(found, name), abs=1e-12)


def test_seeds_are_averaged_within_groups_and_never_the_units() -> None:
    """Twenty runs that say the same are worth one."""
    first, second = shifted(0.005), shifted(0.0, seed=1)
    (once,), (often,) = compare({"A": [first], "B": [second]}), compare({"A": [first] * 20, "B": [second] * 20})
    assert (often.p, often.groups, often.wins) == (once.p, 40, once.wins)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-12)


def test_seeds_that_disagree_widen_the_interval() -> None:
    second = [shifted(0.0, seed=1)]
    (calm,) = compare({"A": [shifted(0.02)] * 3, "B": second})
    (wild,) = compare({"A": [shifted(0.02 + shift) for shift in (-0.1, 0.0, 0.1)], "B": second})
    assert wild.high - wild.low > 3 * (calm.high - calm.low)


def test_what_a_seed_does_to_both_methods_cancels() -> None:
    """Its start, its order of images: where it moves both alike nothing of it is in their difference."""
    runs = {
        name: [shifted(shift + ahead, noise=0) for shift in (-0.05, 0.0, 0.05)]
        for name, ahead in {"A": 0.02, "B": 0.0}.items()
    }
    (found,) = compare(runs)
    assert found.difference == pytest.approx(0.02, abs=1e-3) and found.high - found.low < 0.005
    (other,) = compare({"A": runs["A"], "B": runs["B"][::-1]})
    assert other.difference == found.difference and other.high - other.low > 0.2


@pytest.mark.parametrize("runs", [2, 3, 5])
@pytest.mark.parametrize("together", [0.0, 0.9])
def test_of_equal_methods_one_interval_of_twenty_is_off_zero_however_few_seeds(runs: int, together: float) -> None:
    """Differences of means of runs that vary normally, with and without what a seed does to both."""
    rng = np.random.default_rng(runs)
    both, own = rng.normal(size=(2000, runs)), rng.normal(size=(2, 2000, runs))
    first, second = np.sqrt(together) * both + np.sqrt(1 - together) * own
    weights = draw_runs(runs, seed=0)
    low, high = np.quantile(weights @ first.T / runs - weights @ second.T / runs, [0.025, 0.975], axis=0)
    assert np.mean((low > 0) | (high < 0)) == pytest.approx(0.05, abs=0.02)


def test_an_interval_of_two_seeds_ends_where_no_difference_lies() -> None:
    runs = {"A": [shifted(-0.3), shifted(0.3)], "B": [shifted(0.3, seed=1), shifted(-0.3, seed=1)]}
    (found,) = compare(runs)
    assert (found.low, found.high) == (-1, 1)


def test_other_numbers_of_seeds_are_drawn_apart() -> None:
    (found,) = compare({"A": [shifted(-0.1), shifted(0.1), shifted(0.0)], "B": [shifted(-0.1), shifted(0.1)]})
    assert found.low == -1 and found.high == 1 and found.runs == 2


def test_macro_f1_is_compared_whole_and_accuracy_group_by_group() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 4, 200), np.arange(200) // 4
    good, bad = (np.where(rng.random(200) < right, labels, 3 - labels) for right in (0.9, 0.6))
    methods = {name: [classification("oslo", groups, labels, said)] for name, said in (("A", good), ("B", bad))}
    (found,) = compare(methods)
    tables = [summarise(center_table(runs[0]), "classification").unseen for runs in methods.values()]
    assert found.metric == "macro F1" and found.difference == pytest.approx(tables[0] - tables[1], abs=1e-12)
    right = pd.DataFrame({"good": good == labels, "bad": bad == labels}).groupby(groups).mean()
    assert found.wins == (right["good"] > right["bad"]).sum() and found.ties == (right["good"] == right["bad"]).sum()
    assert " groups by accuracy" in sentence(found)


# ---- a family


def test_every_pair_or_every_method_against_one() -> None:
    methods = {name: [shifted(0.0, seed=number)] for number, name in enumerate("ABC")}
    pairs = [(found.first, found.second) for found in compare(methods)]
    assert pairs == [("A", "B"), ("A", "C"), ("B", "C")]
    family = compare(methods, reference="B")
    assert [(found.first, found.second) for found in family] == [("A", "B"), ("C", "B")]
    assert [found.p_holm for found in family] == pytest.approx(list(holm([found.p for found in family])))
    with pytest.raises(UserError, match=r"^D is not among the methods: A, B, C$"):
        compare(methods, reference="D")


def test_families_with_a_false_positive_are_as_rare_as_promised() -> None:
    """Five methods that differ by chance alone, thirty groups with ties: one wrong claim of ten is enough."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        scores = (rng.beta(5, 2, 30) + rng.gamma(1, 0.05, (5, 30))).round(2)
        wrong += holm([signed_rank(np.round(a - b, 12))[0] for a, b in combinations(scores, 2)]).min() < 0.05
    assert 0.01 <= wrong / 1000 <= 0.07


def test_equal_methods_whose_seeds_differ_are_not_called_better_for_one_seed() -> None:
    """Seeds vary a score by 0.03, more than forty groups' noise: in most pairs of single runs one is far ahead."""
    rng, said = np.random.default_rng(0), []
    for seed in range(0, 40, 2):
        runs = {name: [shifted(rng.normal(0, 0.03), seed=seed + other)] for other, name in enumerate("AB")}
        said += map(sentence, compare(runs))
    assert sum("with one seed" in text for text in said) >= 10
    assert not any("is better" in text for text in said)


# ---- what is left out is said, what cannot be is refused


def test_images_that_only_one_has_are_left_out_and_counted() -> None:
    whole = shifted(0.02)
    part = shifted(0.0, seed=1)[lambda table: table["group"] != "cadiz/g003"]
    (found,) = compare({"A": [whole], "B": [part]})
    missing = (whole["group"] == "cadiz/g003").sum()
    assert found.groups == 39 and found.notes[0] == f"images that only A has, left out: {missing}"


def test_nothing_in_common_is_refused_with_the_counts() -> None:
    first, second = segmentation({"rome": [[0.5]] * 7}), segmentation({"oslo": [[0.5]] * 9})
    message = r"^no test image of unseen centers in common \(A 7, B 9\): compare runs with the same test images$"
    with pytest.raises(UserError, match=message):
        compare({"A": [first], "B": [second]})
    with pytest.raises(UserError, match=r"of seen centers in common \(A 0, B 0\)"):
        compare({"A": [first], "B": [first]}, scope="seen")


def test_two_tasks_are_not_compared() -> None:
    answers = classification("oslo", range(8), [0] * 8, [0] * 8)
    with pytest.raises(
        UserError, match=r"^A is segmentation and B is classification of class-0, .*: compare runs of one"
    ):
        compare({"A": [shifted(0.0)], "B": [answers]})
    with pytest.raises(UserError, match=r"compare runs of one task$"):
        compare({"A": [answers], "B": [answers.rename(columns={"p_class-3": "p_other"})]})


def test_a_run_without_the_split_is_named() -> None:
    with pytest.raises(UserError, match=r"^B: no records of split test, only of val$"):
        compare({"A": [shifted(0.0)], "B": [shifted(0.0).assign(split="val")]})


def test_a_false_alarm_on_one_side_lowers_the_difference_and_is_counted() -> None:
    """Frames without polyp have a score under the method that raises an alarm there, and none under the other."""
    nothing = segmentation({"cadiz": [[0.5]] * 10 + [[float("nan")]] * 5})
    (found,) = compare({"A": [alarm(nothing, "cadiz/g012/0", "cadiz/g014/0")], "B": [nothing]})
    assert found.groups == 10 and found.difference == pytest.approx(0.5 * 10 / 12 - 0.5)
    assert "groups without anything to find where only some methods raise an alarm, not in the test: 2" in found.notes


# ---- in plain words


SHOWN = Comparison(
    first="FedBN",
    second="FedAvg",
    scope="unseen",
    runs=3,
    metric="Dice",
    difference=0.021,
    low=0.008,
    high=0.034,
    group_metric="Dice",
    median=0.018,
    wins=58,
    ties=0,
    losses=38,
    rank_biserial=0.4,
    p=0.0005,
    p_holm=0.003,
    notes=(),
)
BEHIND = {"difference": -0.021, "low": -0.034, "high": -0.008, "wins": 38, "losses": 58, "rank_biserial": -0.4}
UNTESTED = {"p": np.nan, "p_holm": np.nan, "wins": 4, "losses": 0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "FedBN is better than FedAvg on unseen centers by 0.021 Dice [0.008, 0.034], p = 0.003 after Holm, "
            "58 of 96 groups",
        ),
        (
            {**BEHIND, "p_holm": 1e-9},
            "FedAvg is better than FedBN on unseen centers by 0.021 Dice [0.008, 0.034], p < 0.001 after Holm, "
            "58 of 96 groups",
        ),
        (
            {"runs": 1},
            "with one seed FedBN did better than FedAvg on unseen centers by 0.021 Dice [0.008, 0.034], p = 0.003 "
            "after Holm, 58 of 96 groups",
        ),
        (
            {"difference": 0.004, "low": -0.01, "high": 0.018, "p_holm": 0.42, "wins": 50, "losses": 46},
            "no difference shown between FedBN and FedAvg on unseen centers: 0.004 Dice [-0.010, 0.018] for FedBN, "
            "p = 0.42 after Holm, 50 of 96 groups",
        ),
        (
            {"p_holm": 0.36},
            "unclear: the mean of FedBN is higher on unseen centers: 0.021 Dice [0.008, 0.034] for FedBN, but group by "
            "group it is not shown: p = 0.36 after Holm, 58 of 96 groups",
        ),
        (
            {**BEHIND, "rank_biserial": 0.4, "wins": 58, "losses": 38},
            "unclear: group by group FedBN is ahead of FedAvg on unseen centers, p = 0.003 after Holm, "
            "58 of 96 groups, but the mean says the opposite: -0.021 Dice [-0.034, -0.008]",
        ),
        (
            {"difference": -0.004, "low": -0.018, "high": 0.01},
            "unclear: group by group FedBN is ahead of FedAvg on unseen centers, p = 0.003 after Holm, "
            "58 of 96 groups, but the mean does not show it: -0.004 Dice [-0.018, 0.010]",
        ),
        (
            {**UNTESTED, "notes": ("fewer than 15 groups (rome 4) ...",)},
            "not tested: 4 groups, six are needed; FedBN minus FedAvg on unseen centers: 0.021 Dice [0.008, 0.034]; "
            "fewer than 15 groups (rome 4) ...",
        ),
        (
            {**UNTESTED, "ties": 92, "difference": -1e-9, "low": np.nan, "high": np.nan},
            "not tested: 4 of 96 groups differ, six are needed; FedBN minus FedAvg on unseen centers: "
            "0.000 Dice [no interval]",
        ),
    ],
)
def test_a_sentence_says_what_was_shown_and_no_more(changes: dict, expected: str) -> None:
    assert sentence(replace(SHOWN, **changes)) == expected


def test_the_sentence_of_a_real_comparison() -> None:
    ahead, behind = (
        [shifted(shift, seed=seed) for seed in (first, first + 1)] for shift, first in ((0.05, 0), (0.0, 2))
    )
    (found,) = compare({"FedAvg": behind, "FedBN": ahead})
    assert sentence(found).startswith("FedBN is better than FedAvg on unseen centers by 0.0")
    (found,) = compare({"FedAvg": behind[:1], "FedBN": ahead})
    assert sentence(found).startswith("with one seed FedBN did better than FedAvg on unseen centers by 0.0")
    few = [table[table["group"].isin(["cadiz/g001", "delft/g002"])] for table in (shifted(0.0), shifted(0.05))]
    (found,) = compare({"A": few[:1], "B": few[1:]})
    assert np.isnan(found.p) and np.isnan(found.p_holm)
    assert sentence(found).startswith("not tested: 2 groups, six are needed; A minus B on unseen centers: -0.0")
    assert "fewer than 15 groups (cadiz 1, delft 1)" in sentence(found)
