"""Dealing groups: every sample once, groups whole, shares kept, the same everywhere."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.data.partition import SIZES, deal, dirichlet, shards, size_bins
from fedkvasir.data.split import split_center
from fedkvasir.errors import UserError
from fedkvasir.scenario import Center


@given(
    st.lists(st.integers(0, 30), min_size=8, max_size=120),
    st.lists(st.integers(1, 9), min_size=2, max_size=5),
    st.integers(0, 5),
)
def test_every_group_stays_whole_and_every_part_gets_something(groups: list[int], shares: list[int], seed: int) -> None:
    names = pd.Series([f"g{group:02d}" for group in groups])
    if names.nunique() < len(shares):
        with pytest.raises(ValueError, match="cannot be cut"):
            deal(names, shares, seed)
        return
    part = deal(names, shares, seed)
    assert set(part) == set(range(len(shares)))
    assert pd.Series(part).groupby(names).nunique().eq(1).all()
    np.testing.assert_array_equal(part, deal(names, shares, seed))


def test_shares_are_kept_over_all_and_within_strata() -> None:
    groups = pd.Series([f"g{index:04d}" for index in range(1000)])
    strata = pd.Series(["a"] * 900 + ["b"] * 100)
    part = deal(groups, [50, 30, 20], 0, strata=strata)
    assert np.abs(np.bincount(part) - [500, 300, 200]).max() <= 2
    assert np.abs(np.bincount(part[900:]) - [50, 30, 20]).max() <= 2


def test_another_seed_or_purpose_deals_another_hand() -> None:
    groups = pd.Series([f"g{index:03d}" for index in range(100)])
    hands = [deal(groups, [1, 1], seed, purpose) for seed in (0, 1) for purpose in ("val", "test")]
    assert len({hand.tobytes() for hand in hands}) == 4


def test_golden_hand() -> None:
    """The same result on every machine: these numbers never change."""
    part = deal(pd.Series(list("abcdefghij")), [50, 30, 20], 0, "golden")
    assert part.tolist() == [1, 1, 2, 0, 0, 0, 0, 1, 2, 0]


tables = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), min_size=30, max_size=150).map(
    lambda rows: pd.DataFrame({"group": [f"g{g:02d}" for g, _ in rows], "stratum": [f"s{s}" for _, s in rows]})
)


def check_parts(table: pd.DataFrame, part: np.ndarray, parts: int) -> None:
    assert part.dtype == np.int64 and part.shape == (len(table),)
    assert set(part) == set(range(parts))
    assert pd.Series(part).groupby(table["group"]).nunique().eq(1).all()


@given(tables, st.integers(2, 4), st.sampled_from([0.1, 1.0, 100.0]), st.integers(1, 4), st.integers(0, 3))
def test_dirichlet_keeps_groups_whole_and_every_part_above_its_minimum(
    table: pd.DataFrame, parts: int, alpha: float, minimum: int, seed: int
) -> None:
    try:
        part = dirichlet(table["group"], table["stratum"], parts, alpha, minimum, seed, "oslo")
    except ValueError as error:
        assert "raise alpha or lower minimum" in str(error) or "cannot be cut" in str(error)
        return
    check_parts(table, part, parts)
    assert np.bincount(part).min() >= minimum
    mixed = table.sample(frac=1, random_state=seed)
    again = dirichlet(mixed["group"], mixed["stratum"], parts, alpha, minimum, seed, "oslo")
    np.testing.assert_array_equal(again, part[mixed.index])


@given(tables, st.integers(2, 4), st.integers(1, 3), st.integers(0, 3))
def test_shards_keep_groups_whole_and_do_not_look_at_the_order_of_rows(
    table: pd.DataFrame, parts: int, each: int, seed: int
) -> None:
    if table["group"].nunique() < parts * each:
        with pytest.raises(ValueError, match="cannot be cut from"):
            shards(table["group"], table["stratum"], parts, each, seed)
        return
    part = shards(table["group"], table["stratum"], parts, each, seed, "oslo")
    check_parts(table, part, parts)
    mixed = table.sample(frac=1, random_state=seed)
    np.testing.assert_array_equal(
        shards(mixed["group"], mixed["stratum"], parts, each, seed, "oslo"), part[mixed.index]
    )


EIGHT = pd.DataFrame({"group": [f"g{i:04d}" for i in range(4000)], "stratum": [f"c{i % 8}" for i in range(4000)]})
"""4,000 groups of one sample in eight classes of 500."""


def class_shares(part: np.ndarray) -> pd.DataFrame:
    """Share of each part (columns) in each class (rows)."""
    return pd.crosstab(EIGHT["stratum"], part, normalize="index")


def test_a_large_alpha_is_nearly_iid_and_a_small_one_skewed() -> None:
    even = dirichlet(EIGHT["group"], EIGHT["stratum"], 5, 10_000, 1, 0)
    skewed = dirichlet(EIGHT["group"], EIGHT["stratum"], 5, 0.1, 1, 0)
    assert (class_shares(even) - 0.2).abs().to_numpy().max() < 0.01
    assert class_shares(skewed).max(axis=1).median() > 0.6


def test_the_shares_of_a_class_follow_the_dirichlet_distribution() -> None:
    """At alpha 1 and five parts: mean 1/5 and variance (1/5)(4/5)/6, over many seeds."""
    shares = [class_shares(dirichlet(EIGHT["group"], EIGHT["stratum"], 5, 1, 1, seed)).to_numpy() for seed in range(40)]
    assert np.mean(shares) == pytest.approx(0.2)
    assert np.var(shares) == pytest.approx(0.16 / 6, rel=0.1)


def test_shards_give_a_hospital_few_classes_and_equal_counts() -> None:
    part = shards(EIGHT["group"], EIGHT["stratum"], 4, 2, 0)
    assert np.bincount(part).tolist() == [1000] * 4
    assert (class_shares(part) > 0).sum(axis=0).max() <= 2


def test_a_large_group_does_not_leave_a_shard_empty() -> None:
    groups = pd.Series(["big"] * 90 + list("abcde"))
    part = shards(groups, pd.Series(["x"] * 95), 3, 2, 0)
    assert set(part) == {0, 1, 2}


def test_a_group_counts_by_its_most_frequent_label() -> None:
    """Three patients, all mostly polyps: one stratum, so two shards of it are cut, not one of each label."""
    groups = pd.Series(["p1"] * 3 + ["p2"] * 3 + ["p3"] * 2)
    labels = pd.Series(["polyps", "cecum", "polyps", "polyps", "polyps", "cecum", "cecum", "polyps"])
    same = pd.Series(["polyps"] * 6 + ["cecum"] * 2)  # p3 is a tie: the first by name
    for seed in range(5):
        given = dirichlet(groups, labels, 2, 1, 1, seed)
        np.testing.assert_array_equal(given, dirichlet(groups, same, 2, 1, 1, seed))


def test_what_cannot_be_had_says_what_to_change() -> None:
    groups, strata = pd.Series([f"g{i}" for i in range(20)]), pd.Series(["a"] * 20)
    with pytest.raises(
        ValueError,
        match=r"5 parts of at least 9 samples cannot be cut from 20 samples in 20 group\(s\): .* lower minimum",
    ):
        dirichlet(groups, strata, 5, 1, 9, 0)
    with pytest.raises(ValueError, match=r"in 100 draws with alpha 0.001 .* raise alpha or lower minimum"):
        dirichlet(groups, strata, 5, 0.001, 4, 0)
    with pytest.raises(ValueError, match=r"22 shards \(11 parts of 2\) cannot be cut from 20 group\(s\)"):
        shards(groups, strata, 11, 2, 0)


def test_golden_skew() -> None:
    """The same result on every machine: these numbers never change."""
    groups = pd.Series([f"g{index // 2:02d}" for index in range(24)])
    strata = pd.Series(["polyps", "cecum", "z-line"] * 8)
    assert "".join(map(str, dirichlet(groups, strata, 3, 0.5, 4, 0, "golden"))) == "001122001122220022220022"
    assert "".join(map(str, shards(groups, strata, 3, 2, 0, "golden"))) == "112200110022110011222200"


def test_polyp_sizes_are_told_by_native_area() -> None:
    areas = pd.Series([0, np.nan, 1, 9_999, 10_000, 40_000, 40_001], index=list("abcdefg"))
    none, small, medium, large = SIZES
    assert size_bins(areas).to_dict() == {
        "a": none, "b": none, "c": small, "d": small, "e": medium, "f": medium, "g": large,
    }  # fmt: skip


def samples(count: int, official: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample": [f"s{index}" for index in range(count)],
            "group": [f"g{index // 2}" for index in range(count)],
            "label": [None] * count,
            "official_split": official or [None] * count,
            "balance": ["polyp"] * count,
            "stratum": ["polyp"] * count,
        }
    )


def test_a_holdout_is_all_test() -> None:
    table = split_center("there", Center(dataset="x", role="holdout"), samples(10), 0)
    assert set(table["split"]) == {"test"} and set(table["center"]) == {"there"}


def test_a_group_never_lies_in_two_splits() -> None:
    table = split_center("here", Center(dataset="x", val=0.25, test=0.25), samples(40), 0)
    assert table.groupby("group")["split"].nunique().eq(1).all()
    assert dict(table["split"].value_counts()) == {"train": 22, "test": 10, "val": 8}


def test_the_official_test_list_stays_with_the_parent_of_a_cut_center() -> None:
    center = Center.model_validate(
        {"dataset": "x", "split": "official", "val": 0.2, "partition": {"kind": "quantity", "shares": [3, 1]}}
    )
    table = split_center("oslo", center, samples(60, ["train"] * 40 + ["test"] * 20), 0)
    test = table[table["split"] == "test"]
    assert set(test["center"]) == {"oslo"} and list(test["official_split"].unique()) == ["test"]
    assert sorted(set(table["center"])) == ["oslo", "oslo-1", "oslo-2"]
    assert {"train", "val"} == set(table[table["center"] == "oslo-2"]["split"])


def test_more_parts_than_groups_is_one_sentence() -> None:
    center = Center.model_validate({"dataset": "x", "partition": {"kind": "iid", "parts": 9}})
    with pytest.raises(UserError, match=r"data.centers.oslo: 9 parts cannot be cut from 4 group\(s\): give it more"):
        split_center("oslo", center, samples(10), 0)


@pytest.mark.parametrize(
    ("keys", "groups", "sentence"),
    [
        ({}, 1, "training and test images of oslo cannot be cut from 1 group(s): set test: 0, or role: holdout"),
        (
            {},
            2,
            "and validation images of oslo cannot be cut from 1 group(s): set val: 0 or test: 0, or role: holdout",
        ),
        ({"test": 0}, 1, "of oslo cannot be cut from 1 group(s): set val: 0, or role: holdout"),
        (
            {"partition": {"kind": "iid", "parts": 2}, "test": 0},
            2,
            "validation images of oslo-1 cannot be cut from 1 group(s): set val: 0, or ask for fewer parts",
        ),
    ],
)
def test_too_few_groups_for_a_split_is_one_sentence_that_says_what_to_set(
    keys: dict, groups: int, sentence: str
) -> None:
    center, table = Center.model_validate({"dataset": "x", **keys}), samples(12)
    table = table.assign(group=[f"g{number % groups}" for number in range(len(table))])
    with pytest.raises(UserError, match=re.escape(sentence)):
        split_center("oslo", center, table, 0)


def test_skewed_hospitals_keep_to_their_minimum() -> None:
    table = samples(120).assign(stratum=["a", "a", "b", "b", "c", "c"] * 20)
    for partition in (
        {"kind": "dirichlet", "parts": 3, "alpha": 0.3, "minimum": 10},
        {"kind": "shards", "parts": 3, "shards": 2, "minimum": 10},
    ):
        center = Center.model_validate({"dataset": "x", "test": 0, "partition": partition})
        cut = split_center("oslo", center, table, 0)
        assert cut["center"].value_counts().min() >= 10
        assert cut.groupby("group")["center"].nunique().eq(1).all()
        assert pd.crosstab(cut["center"], cut["stratum"], normalize="index").to_numpy().max() >= 0.5


def test_a_hospital_below_its_minimum_is_refused() -> None:
    center = Center.model_validate({"dataset": "x", "partition": {"kind": "iid", "parts": 4, "minimum": 5}})
    with pytest.raises(UserError, match=r"oslo: a hospital would be left with \d images.*partition.minimum = 5: give"):
        split_center("oslo", center, samples(20), 0)
