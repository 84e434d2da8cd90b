"""Dealing groups: every sample once, groups whole, shares kept, the same everywhere."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.data.partition import deal
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


def samples(count: int, official: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample": [f"s{index}" for index in range(count)],
            "group": [f"g{index // 2}" for index in range(count)],
            "label": [None] * count,
            "official_split": official or [None] * count,
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
    table = split_center("oslo", center, samples(60, ["train"] * 40 + ["val"] * 20), 0)
    test = table[table["split"] == "test"]
    assert set(test["center"]) == {"oslo"} and list(test["official_split"].unique()) == ["val"]
    assert sorted(set(table["center"])) == ["oslo", "oslo-1", "oslo-2"]
    assert {"train", "val"} == set(table[table["center"] == "oslo-2"]["split"])


def test_more_parts_than_groups_is_one_sentence() -> None:
    center = Center.model_validate({"dataset": "x", "partition": {"kind": "iid", "parts": 9}})
    with pytest.raises(UserError, match=r"data.centers.oslo: 9 parts cannot be cut from 4 group\(s\)"):
        split_center("oslo", center, samples(10), 0)


def test_official_split_where_there_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="has no official split"):
        split_center("oslo", Center(dataset="x", split="official"), samples(10), 0)
