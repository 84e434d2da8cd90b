"""What leaves a hospital that keeps its per-image records: the same numbers, and nothing of fewer than five."""

import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedkvasir.errors import UserError
from fedkvasir.evaluation.comparison import (
    Comparison,
    SignedRanks,
    compare,
    sentence,
    signed_rank,
    signed_ranks,
    stratified,
)
from fedkvasir.evaluation.fairness import fairness
from fedkvasir.evaluation.intervals import intervals
from fedkvasir.evaluation.protocol import center_table, task_of
from fedkvasir.evaluation.selection import selection_score
from fedkvasir.evaluation.shared import (
    MINIMUM,
    anonymise,
    combine,
    compare_here,
    share,
)
from fedkvasir.evaluation.suite import alarms, by_size, over_centers, suite
from server.answers import is_paired
from tests.evaluation.records import LABELS, MASKS, TASKS, alarm, arrived, classification, groups, segmentation, worse

RNG = np.random.default_rng(8)
EXACT = {"rtol": 0, "atol": 0}


def at_hospitals(records: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Every hospital tells of its own records; what arrives went through a file."""
    files = [share(own.drop(columns="checkpoint"), seed).to_parquet() for _, own in records.groupby("center")]
    parts = [pd.read_parquet(io.BytesIO(file)) for file in files]
    return pd.concat([part.assign(checkpoint="best") for part in parts], ignore_index=True)


# ---- the same numbers


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_of_several_networks_at_a_center_too(task: str) -> None:
    """In a study: what every network's hospital tells, averaged, against the images of all of them."""
    each = [
        segmentation({"cadiz": groups(20, skill)}).assign(**{"class": "polyp"})
        if task == "segmentation"
        else classification("oslo", np.arange(160) // 6, *np.random.default_rng(0).integers(0, 4, (1, 160)), guess)
        for skill, guess in ((4, RNG.integers(0, 4, 160)), (9, RNG.integers(0, 2, 160)))
    ]
    shared = pd.concat([at_hospitals(own).assign(run=str(run)) for run, own in enumerate(each)])
    images = pd.concat([own.assign(run=str(run)) for run, own in enumerate(each)])
    found, whole = intervals([shared]), intervals([images])
    pd.testing.assert_frame_equal(found[["score", "groups"]], whole[["score", "groups"]], atol=1e-12)
    on_the_safe_side(found, whole, at_most=1.8)


@TASKS
def test_intervals_are_those_of_the_per_image_records(records: pd.DataFrame) -> None:
    shared = at_hospitals(records)
    assert task_of(shared) == task_of(records)
    same_but_for_rounding(intervals([shared]), intervals([records]))


def same_but_for_rounding(found: pd.DataFrame, whole: pd.DataFrame, off: float = 1e-4) -> None:
    """Ends of intervals are quantiles of draws of four decimals, or of differences of such; all else is exact."""
    ends = ["low", "high"]
    pd.testing.assert_frame_equal(found.drop(columns=ends), whole.drop(columns=ends), rtol=0, atol=1e-12)
    pd.testing.assert_frame_equal(found[ends], whole[ends], rtol=0, atol=off)


@TASKS
def test_the_table_of_centers_is_the_same(records: pd.DataFrame) -> None:
    found, whole = center_table(at_hospitals(records)), center_table(records)
    pd.testing.assert_frame_equal(found, whole[found.columns], **EXACT)
    assert {*whole.columns} - {*found.columns} <= {"missed", "negatives"}


@TASKS
def test_fairness_is_the_same_but_for_what_is_over_images(records: pd.DataFrame) -> None:
    shared = at_hospitals(records)
    found, whole = (fairness([table]).drop(columns="percentile_10", errors="ignore") for table in (shared, records))
    pd.testing.assert_frame_equal(found, whole, **EXACT)


@TASKS
def test_the_suite_is_the_same(records: pd.DataFrame) -> None:
    columns = ["center", "role", "class", "metric", "reduction", "value", "images"]
    whole = suite(records)[columns]
    if task_of(records) == "classification":
        whole = whole[whole["reduction"] != "sum"]
    found = suite(at_hospitals(records))[columns]
    pd.testing.assert_frame_equal(found, whole.reset_index(drop=True), check_dtype=False, **EXACT)
    assert len(over_centers(found.assign(excluded=np.nan)))


def test_misses_and_sizes_are_the_same_where_they_are_many() -> None:
    records = MASKS.copy()
    small = records.index[records["center"] == "alta"][::2]
    records.loc[small, ["tp", "fp", "fn"]] //= 3
    shared = at_hospitals(records)
    found, whole = (
        by_size(table).dropna(subset="value").set_index([*by_size(table).columns[:5], "size"])
        for table in (shared, records)
    )
    assert {"under 100x100 px", "100x100 to 200x200 px"} == {*found.index.get_level_values("size")}
    pd.testing.assert_series_equal(found["value"], whole["value"].reindex(found.index), check_index_type=False, **EXACT)
    pd.testing.assert_frame_equal(alarms(shared), alarms(records), check_dtype=False, **EXACT)


@pytest.mark.parametrize("secrets", [(0, 0), (3, 4)])
def test_runs_are_pooled_as_their_per_image_records_would_be_or_on_the_safe_side(secrets: tuple[int, int]) -> None:
    """A hospital draws groups anew for every run: what of two runs is of the same rank counts as drawn together."""
    again = worse(MASKS, 0.05, seed=5)
    found = intervals([at_hospitals(run, secret) for run, secret in zip((MASKS, again), secrets, strict=True)])
    on_the_safe_side(found, intervals([MASKS, again]), at_most=1.25)
    alike = MASKS.assign(tp=(MASKS["tp"] * 0.9).astype(int))
    same_but_for_rounding(intervals([at_hospitals(MASKS), at_hospitals(alike)]), intervals([MASKS, alike]), off=5e-4)


def on_the_safe_side(found: pd.DataFrame, whole: pd.DataFrame, at_most: float) -> None:
    """The intervals are as wide as those of the per-image records, or so much wider."""
    width, known = ((table["high"] - table["low"]).to_numpy() for table in (found, whole))
    assert (np.isfinite(width) == np.isfinite(known)).all()
    ratio = width[np.isfinite(known)] / known[np.isfinite(known)]
    assert (ratio > 0.9).all() and (ratio < at_most).all(), ratio


def test_runs_in_which_other_groups_have_a_score_have_no_interval_together() -> None:
    empty = MASKS.loc[(MASKS["center"] == "cadiz") & (MASKS["tp"] + MASKS["fn"] == 0), "sample"]
    first, second = alarm(MASKS, empty.iloc[-1]), alarm(MASKS, empty.iloc[-2])
    same_but_for_rounding(intervals([at_hospitals(first)]), intervals([first]))
    for runs in ([MASKS, first], [first, second]):  # as many groups, but others
        found = intervals([at_hospitals(run) for run in runs]).set_index(["scope", "center"])
        whole = intervals(runs).set_index(["scope", "center"])
        assert found.loc[("unseen", ""), "score"] == pytest.approx(whole.loc[("unseen", ""), "score"], abs=0.01)
        assert np.isnan(found.loc[[("center", "cadiz"), ("unseen", ""), ("gap", "")], "low"]).all()
        assert found.loc[("seen", ""), "low"] == pytest.approx(whole.loc[("seen", ""), "low"], abs=1e-4)
        assert "other groups have a score in other runs" in found.loc[("center", "cadiz"), "warning"]


def test_validation_tells_scores_alone_and_selects() -> None:
    records = MASKS[MASKS["role"] == "train"].assign(split="val")
    shared = at_hospitals(records)
    assert {*shared["kind"]} == {"score"}
    assert selection_score(shared, "train-val") == selection_score(records, "train-val")


def test_runs_with_other_images_are_not_pooled() -> None:
    fewer = at_hospitals(MASKS[MASKS["sample"] != "alta/g003/0"])
    with pytest.raises(UserError, match="run 1 and run 2 were tested on other images of alta"):
        intervals([at_hospitals(MASKS), fewer])
    with pytest.raises(UserError, match="of others not; compare runs that were evaluated alike"):
        intervals([at_hospitals(MASKS), MASKS])


# ---- what leaves


@settings(max_examples=25)
@given(st.lists(st.text(min_size=6, max_size=12), min_size=12, max_size=30, unique=True), st.sampled_from([1, 2, 3]))
def test_no_name_of_an_image_or_a_group_is_in_the_bytes(names: list[str], apart: int) -> None:
    count, seed = len(names) // 2, len(names)
    samples = [f"{name}.png" for name in names[:count]]
    patients = [f"patient {names[count + index // apart]}" for index in range(count)]
    labels = np.random.default_rng(seed).integers(0, 4, (2, count))
    tables = [
        segmentation({"oslo": [[0.5]] * count}).assign(**{"class": "polyp"}, tn=0),
        classification("oslo", range(count), *labels),
    ]
    for records in (table.assign(sample=samples, group=patients) for table in tables):
        told = share(records, 0).to_parquet(index=False, compression=None)
        paired = compare_here({"A": [records], "B": [records]}, 0).to_parquet(index=False, compression=None)
        for name in (*samples, *patients):
            assert name.encode() not in told and name.encode() not in paired


@pytest.mark.slow
@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(1, 4))
def test_no_count_of_few_leaves_nor_can_be_taken_from_a_sum(random, patients: int, most: int) -> None:
    """Whatever a hospital's images show: parts of a known whole are told, or two of them, five together, are not."""
    rows = []
    for patient in range(patients):
        truths = random.sample([0, 0, 400, 20_000, 90_000], 2)
        for image in range(random.randint(1, most)):
            truth = random.choice(truths)
            tp = random.choice([0, truth // 2, truth])
            fp = random.choice([0, 100])
            name = f"p{patient}/{image}"
            rows.append({"group": f"p{patient}", "sample": name, "tp": tp, "fp": fp, "fn": truth - tp, "tn": 10**6})
    records = pd.DataFrame(rows).assign(center="oslo", role="holdout", split="test", **{"class": "polyp"})
    told = share(records, 0).assign(checkpoint="best")
    whole = records.assign(checkpoint="best")
    if patients < MINIMUM:
        assert {*told["kind"]} == {"score", "draws"}
        assert np.isnan(np.stack(told.loc[told["kind"] == "draws", "draws"].to_list())).all()
        return
    seen, true = alarms(told).iloc[0], alarms(whole).iloc[0]
    sizes = by_size(told).drop_duplicates("size").set_index("size")["images"]
    own = by_size(whole).drop_duplicates("size").set_index("size")["images"].reindex(sizes.index, fill_value=0)
    counts = seen[["polyps", "negatives", "missed", "false_alarms", "true_negatives"]].astype(float)
    assert (counts.isna() | (counts == true[counts.index])).all() and (sizes.isna() | (sizes == own)).all()
    for told_counts in (counts, sizes):
        assert not told_counts.between(1, MINIMUM - 1).any()
    assert by_size(told).loc[by_size(told)["images"].isna(), "value"].isna().all()
    parts = [[("negatives", true["negatives"]), *own.items()]]
    if np.isfinite(seen["polyps"]):
        parts.append([*own.items()])
    known = {**counts, **sizes}
    for part in parts:
        hidden = [count for name, count in part if np.isnan(known[name])]
        others = [count for name, count in part if not np.isnan(known[name]) and count]
        assert not hidden or not others or (len(hidden) > 1 and sum(hidden) >= MINIMUM)


def test_means_of_few_are_withheld() -> None:
    """Four large polyps, and a class that three patients have."""
    records = MASKS[MASKS["center"] == "bergen"].copy()
    records.loc[records.index[:4], ["tp", "fn"]] = 30_000
    large = by_size(at_hospitals(records)).query("size == 'over 200x200 px'")
    assert len(large) and large["value"].isna().all()
    answers = LABELS[LABELS["center"] == "oslo"].copy()
    answers.loc[answers["group"] > "oslo/g002", "label"] = answers["label"].replace("class-1", "class-0")
    told = suite(at_hospitals(answers)).set_index(["class", "metric", "reduction"])["value"]
    assert told["class-1"].isna().all() and told["class-0"].notna().all() and told["all"].notna().all()


def polyps_px(table: pd.DataFrame) -> float:
    """Pixels of polyps in all rows that tell them."""
    own = table[(table["reduction"] == "sum") & (table["class"] == "polyp")]
    return float(own.loc[own["metric"].isin(["tp", "fn"]), "value"].sum())


@pytest.mark.parametrize("empty", [0, 9])
def test_the_only_large_polyp_is_not_what_the_pixels_of_the_others_leave_of_all(empty: int) -> None:
    """Whether or not there are empty images, none of whose pixels is found or missed."""
    records = segmentation({"oslo": [[0.5]] * 20 + [[np.nan]] * empty}).assign(**{"class": "polyp"}, tn=10**6)
    records.loc[:11, ["tp", "fn"]] //= 9
    records.loc[12, ["tp", "fn"]] *= 9
    shared = at_hospitals(records)
    left = polyps_px(suite(shared)) - polyps_px(by_size(shared))
    assert left == records.loc[12:19, ["tp", "fn"]].to_numpy().sum(), "of the large one and the seven of middle size"


def test_three_polyps_among_many_images_are_not_told_of_as_background() -> None:
    records = segmentation({"oslo": [[0.5]] * 3 + [[np.nan]] * 30}).assign(**{"class": "polyp"}, tn=10**6)
    for seen in (records, records.assign(fp=10)):
        told = suite(at_hospitals(seen))
        assert {*told["class"]} == {"polyp", "background", "all"} and told["value"].isna().all()


def test_a_class_of_three_is_not_what_other_classes_leave_of_the_mean_over_all() -> None:
    """Two of them, or none, are withheld."""
    answers = LABELS[LABELS["center"] == "oslo"].copy()
    few = answers["label"].eq("class-1") & answers["label"].eq("class-1").cumsum().gt(3)
    answers.loc[few, "label"] = "class-0"
    told = suite(at_hospitals(answers)).query("metric == 'recall' and reduction == 'image'").set_index("class")["value"]
    assert told.drop("all", errors="ignore").isna().sum() == 2


def test_many_images_of_two_patients_are_few() -> None:
    """Their number, six, is not what is left of the number of all polyps either."""
    records = segmentation({"oslo": [[0.5] * 3] * 2 + [[0.5] * 2] * 16}).assign(**{"class": "polyp"}, tn=10**6)
    records.loc[:5, ["tp", "fn"]] *= 9
    records.loc[records.index[-16:], ["tp", "fn"]] //= 9
    told = by_size(at_hospitals(records)).query("metric == 'dice' and reduction == 'group'").set_index("size")
    assert told["images"].isna().sum() == 2 and np.isnan(told.loc["over 200x200 px", "images"])
    assert np.isnan(told.loc["over 200x200 px", "value"]) and told["value"].notna().sum() == 1


def test_a_hospital_with_four_groups_has_a_score_and_no_interval() -> None:
    records = pd.concat([MASKS, segmentation({"evora": groups(4)}).assign(**{"class": "polyp"})], ignore_index=True)
    found = intervals([at_hospitals(records)]).set_index(["scope", "center"])
    whole = intervals([records]).set_index(["scope", "center"])
    assert found["score"].to_numpy() == pytest.approx(whole["score"].to_numpy(), abs=1e-12)
    lacking = [("center", "evora"), ("unseen", ""), ("gap", "")]
    assert np.isnan(found.loc[lacking, "low"]).all() and np.isfinite(found["low"].drop(lacking)).all()
    assert "evora: fewer than 5 groups, the hospital tells the score alone" in found.loc[("gap", ""), "warning"]


def test_draws_of_a_known_seed_give_the_groups_away_and_those_of_a_secret_one_do_not() -> None:
    """Why the seed has to be the hospital's own: else how often a group came up is known, and 20 equations do."""
    records = MASKS[MASKS["center"] == "alta"]
    means = records.assign(dice=records["tp"] / 10_000).groupby("group")["dice"].mean().to_numpy()
    one_hot = [
        segmentation({"alta": np.eye(20)[:, [group]]}, "train").assign(**{"class": "polyp"}) for group in range(20)
    ]

    def draws(table: pd.DataFrame, seed: int) -> np.ndarray:
        told = share(table, seed)
        return told.loc[told["kind"] == "draws", "draws"].iloc[0]

    public = np.stack([draws(table, 0) for table in one_hot], axis=1)
    found, secret = (np.linalg.lstsq(public, draws(records, seed), rcond=None)[0] for seed in (0, 2**61 + 7))
    assert found == pytest.approx(means, abs=1e-4)
    assert abs(np.corrcoef(secret, means)[0, 1]) < 0.6 and np.abs(secret - means).max() > 0.1


def test_names_are_hashed_under_the_hospitals_own_key() -> None:
    first, again, other = (anonymise(MASKS, key) for key in (b"oslo's", b"oslo's", b"bergen's"))
    pd.testing.assert_frame_equal(first, again)
    unchanged = [column for column in MASKS if column not in ("sample", "group")]
    pd.testing.assert_frame_equal(first[unchanged], MASKS[unchanged])
    for column in ("sample", "group"):
        assert first[column].str.fullmatch("[0-9a-f]{32}").all()
        assert (first[column].groupby(MASKS[column]).nunique() == 1).all()
        assert first[column].nunique() == MASKS[column].nunique()
        assert not {*first[column]} & {*other[column]}
    alone = anonymise(MASKS.assign(group=MASKS["sample"]), b"oslo's")
    assert not {*alone["sample"]} & {*alone["group"]}  # a group of one image is not told by its name
    pd.testing.assert_frame_equal(center_table(first), center_table(MASKS), rtol=0, atol=1e-12)


# ---- comparisons


def off_site(methods: dict[str, list[pd.DataFrame]], scope: str, secrets: Sequence[int] | None = None) -> Comparison:
    """Every hospital compares its own records, the coordinator puts the parts together.

    secrets: one a hospital; by default the one seed with which their draws are those of all records together."""
    centers = sorted({*methods["A"][0]["center"]})
    parts = [
        compare_here({name: [t[t["center"] == center] for t in tables] for name, tables in methods.items()}, seed)
        for center, seed in zip(centers, secrets or [0] * len(centers), strict=True)
    ]
    first = methods["A"][0]
    for center, part in zip(centers, map(arrived, parts), strict=True):
        own = first[first["center"] == center]
        assert is_paired(part, center, own["role"].iloc[0], task_of(first), own["sample"].nunique())
    return combine(pd.concat(parts, ignore_index=True), "A", "B", scope, min(map(len, methods.values())))


@pytest.mark.parametrize("scope", ["seen", "unseen"])
@pytest.mark.parametrize("runs", [1, 2])
def test_the_difference_and_its_interval_are_those_of_all_records_together(scope: str, runs: int) -> None:
    methods = {
        "A": [MASKS, worse(MASKS, 0.02, seed=2)][:runs],
        "B": [worse(MASKS, 0.05), worse(MASKS, 0.06, seed=3)][:runs],
    }
    found, (whole,) = off_site(methods, scope), compare(methods, scope)
    for name, off in (("difference", 1e-12), ("low", 1e-4), ("high", 1e-4)):
        assert getattr(found, name) == pytest.approx(getattr(whole, name), abs=off)
    assert (found.wins, found.ties, found.losses) == (whole.wins, whole.ties, whole.losses)
    assert (found.metric, found.group_metric, found.scope) == (whole.metric, whole.group_metric, whole.scope)
    assert "ranks are within centers" in found.notes[0] and np.isnan(found.median)
    assert set(whole.notes) <= set(found.notes)


def test_what_a_seed_does_it_does_at_every_hospital_whatever_their_secrets() -> None:
    """Drawn by every hospital's own secret it would average out over the hospitals, and the interval be too short."""
    luck = [0.0, 0.1, 0.2]
    methods = {name: [worse(MASKS, by, seed=9) for by in luck[::turn]] for name, turn in (("A", 1), ("B", -1))}
    secrets = [number * 7 + 1 for number in range(MASKS["center"].nunique())]
    found, (whole,) = off_site(methods, "seen", secrets), compare(methods, "seen")
    assert found.high - found.low == pytest.approx(whole.high - whole.low, rel=0.1)


@pytest.mark.parametrize("records", [MASKS[MASKS["center"] != "dijon"], LABELS], ids=["segmentation", "classification"])
def test_of_one_center_the_comparison_is_that_of_its_records(records: pd.DataFrame) -> None:
    other = worse(records, 0.04) if "tp" in records else records.assign(label=np.roll(records["label"], 3))
    methods = {"A": [records], "B": [other]}
    found, (whole,) = off_site(methods, "unseen"), compare(methods)
    assert (found.low, found.high) == pytest.approx((whole.low, whole.high), abs=1e-4)
    assert replace(found, p_holm=found.p, low=whole.low, high=whole.high) == whole


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_stratified_test_is_the_enumeration_of_all_signs(strata: list[list[int]]) -> None:
    """Every choice of signs, equally likely; ranks within strata over the number of groups plus one."""
    ranks = [stats.rankdata(np.abs(own)) / (len(own) + 1) for own in strata]
    weighted = np.concatenate([own[np.array(d) != 0] for own, d in zip(ranks, strata, strict=True)])
    won = sum(own[np.array(d) > 0].sum() for own, d in zip(ranks, strata, strict=True))
    p, rank_biserial = stratified([signed_ranks(np.array(own, dtype=float)) for own in strata])
    if len(weighted) < 6:
        assert np.isnan(p)
        return
    sums = np.array([*product([0, 1], repeat=len(weighted))]) @ weighted
    tail = min(np.mean(sums <= won + 1e-9), np.mean(sums >= won - 1e-9))
    assert p == pytest.approx(min(1.0, 2 * tail), abs=1e-12)
    assert rank_biserial == pytest.approx((2 * won - weighted.sum()) / weighted.sum(), abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.integers(-4, 4), min_size=6, max_size=40))
def test_what_a_hospital_tells_of_ranks_is_all_of_the_test(differences: list[int]) -> None:
    own = np.array(differences, dtype=float)
    told = signed_ranks(own)
    assert told.ranks == pytest.approx(np.sort(stats.rankdata(np.abs(own))[own != 0]))
    assert stratified([SignedRanks(told.won, told.tied)]) == pytest.approx(signed_rank(own), nan_ok=True)


@pytest.mark.parametrize("sizes", [(7, 9, 12), (6, 30), (40, 45, 50)])
def test_where_methods_are_equal_p_is_uniform(sizes: tuple[int, ...]) -> None:
    """Counted out and, with more than 100 groups, normal."""
    rng = np.random.default_rng(3)
    p = [stratified([signed_ranks(rng.normal(0, size, size)) for size in sizes])[0] for _ in range(400)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p) <= level) == pytest.approx(
            level, abs=2.5 * np.sqrt(level * (1 - level) / 400) + 0.01
        )


def test_centers_whose_scores_lie_apart_are_told_from_noise_within_them() -> None:
    """Half of the groups' differences are larger by far at one center: ranks within centers do not mind."""
    rng = np.random.default_rng(0)
    strata = [rng.normal(0.5, 1, 20) * scale for scale in (1, 100)]
    assert stratified([signed_ranks(own) for own in strata])[0] < 0.05


def test_a_center_of_few_groups_is_left_out_and_named() -> None:
    few = segmentation({"evora": groups(4)}).assign(**{"class": "polyp"}, tn=0)
    records = pd.concat([MASKS, few], ignore_index=True)
    methods = {"A": [records], "B": [worse(records, 0.05)]}
    found, (whole,) = (
        off_site(methods, "unseen"),
        compare({name: [t.iloc[: len(MASKS)] for t in own] for name, own in methods.items()}),
    )
    assert found.difference == pytest.approx(whole.difference, abs=1e-12) and found.groups == whole.groups
    assert "evora: fewer than 5 groups, the hospital tells the score alone, not in the comparison" in found.notes
    assert "evora" in sentence(found)
    with pytest.raises(UserError, match="A and B cannot be compared on unseen centers: evora"):
        off_site({name: [t.iloc[len(MASKS) :] for t in own] for name, own in methods.items()}, "unseen")


def test_what_only_one_run_has_is_said_without_a_number() -> None:
    fewer = MASKS[~MASKS["sample"].isin(["cadiz/g003/0", "dijon/g002/0"])]
    methods = {"A": [MASKS], "B": [worse(fewer, 0.05)]}
    found, (whole,) = off_site(methods, "unseen"), compare(methods)
    assert found.difference == pytest.approx(whole.difference, abs=1e-12)
    assert found.low == pytest.approx(whole.low, abs=1e-4)
    assert any("images that only one of them has are left out" in note for note in found.notes)
    assert not any(digit in note for note in found.notes for digit in "12" if "left out" in note)
