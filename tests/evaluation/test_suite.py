"""The whole suite from a few records: every reduction, stratum, miss and alarm worked by hand."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fedkvasir.evaluation.fairness import fairness
from fedkvasir.evaluation.intervals import intervals
from fedkvasir.evaluation.protocol import center_scores, center_table
from fedkvasir.evaluation.suite import alarms, by_size, challenge, confusion, over_centers, speed, suite
from fedkvasir.metrics.classification import macro, ratios
from tests.evaluation import records

DISTANCES = {"hd": 8.0, "hd95": 4.0, "assd": 2.0, "nsd": 0.5}


def image(
    center: str, group: str, counts: tuple[int, int, int], size: int = 100, role: str = "train", **more: object
) -> dict:
    """One image of ``size`` pixels; counts: tp, fp, fn."""
    tp, fp, fn = counts
    nothing = dict.fromkeys(DISTANCES, math.nan) if sum(counts) == 0 else {}
    return {
        "checkpoint": "best", "center": center, "role": role, "split": "test", "sample": f"{center}{group}{counts}",
        "group": group, "class": "polyp", "scoring": "default", "height": 30, "width": 40,
        "tp": tp, "fp": fp, "fn": fn, "tn": size - sum(counts), **DISTANCES, **nothing, **more,
    }  # fmt: skip


RECORDS = pd.DataFrame(
    [
        image("oslo", "a", (10, 0, 0)),  # Dice 1
        image("oslo", "a", (0, 0, 10)),  # 0, missed
        image("oslo", "b", (5, 5, 5), hd95=1.0),  # 1/2
        image("oslo", "c", (0, 0, 0)),  # true negative
        image("rome", "d", (10, 10, 0), role="holdout"),  # 2/3
        image("rome", "e", (0, 4, 0), role="holdout"),  # false alarm
        image("bonn", "f", (30, 0, 10)),  # 6/7
    ]
)
TABLE = suite(RECORDS)


def value(metric: str, reduction: str, name: str = "polyp", center: str = "oslo", column: str = "value") -> float:
    keys = {"center": center, "class": name, "metric": metric, "reduction": reduction}
    (found,) = TABLE.loc[(TABLE[list(keys)] == pd.Series(keys)).all(axis=1), column]
    return found


def test_reductions_by_hand() -> None:
    assert value("dice", "image") == pytest.approx((1 + 0 + 0.5) / 3)
    assert value("dice", "group") == pytest.approx(((1 + 0) / 2 + 0.5) / 2)
    assert value("dice", "micro") == pytest.approx(2 * 15 / (2 * 15 + 5 + 15))
    assert value("iou", "image") == pytest.approx((1 + 0 + 5 / 15) / 3)
    assert value("f2", "micro") == pytest.approx(5 * 15 / (5 * 15 + 4 * 15 + 5))
    assert value("hd95", "image") == pytest.approx((4 + 4 + 1) / 3)
    assert value("hd95", "group") == pytest.approx((4 + 1) / 2)
    assert value("tp", "sum") == 15 and value("tn", "sum") == 400 - 15 - 5 - 15


def test_what_is_in_no_mean_is_counted_beside_it() -> None:
    assert (value("dice", "image", column="images"), value("dice", "image", column="excluded")) == (4, 1)
    assert value("hd95", "group", column="excluded") == 1
    assert value("specificity", "image", column="excluded") == 0  # a true negative has one
    assert value("specificity", "image") == pytest.approx((1 + 1 + 85 / 90 + 1) / 4)


def test_the_headline_is_that_of_the_table_of_centers() -> None:
    for center in ("oslo", "rome", "bonn"):
        scores = center_scores(RECORDS[RECORDS["center"] == center])
        for metric in ("dice", "iou", "precision", "recall"):
            assert value(metric, "group", center=center) == pytest.approx(scores[metric])
        assert value("dice", "image", center=center) == pytest.approx(scores["dice_images"])


def test_background_and_all_classes_as_in_divergentnets_tables() -> None:
    """Background of oslo: Dice 180/180, 180/190, 170/180 and 200/200."""
    background = [1, 180 / 190, 170 / 180, 1]
    assert value("dice", "image", "background") == pytest.approx(np.mean(background))
    assert value("recall", "micro", "background") == pytest.approx(365 / 370)
    own = [(1 + 1) / 2, (0 + 180 / 190) / 2, (0.5 + 170 / 180) / 2, 1]  # of the last only the background has a score
    assert value("dice", "image", "all") == pytest.approx(np.mean(own))
    micro = [value("iou", "micro", name) for name in ("polyp", "background")]
    assert value("iou", "micro", "all") == pytest.approx(np.mean(micro))


def test_of_several_classes_all_is_the_mean_over_those_that_an_image_shows() -> None:
    own = [
        image("oslo", "a", (10, 0, 0), sample="1"), image("oslo", "a", (5, 5, 5), sample="1") | {"class": "tool"},
        image("oslo", "b", (0, 0, 0), sample="2"), image("oslo", "b", (0, 1, 0), sample="2") | {"class": "tool"},
    ]  # fmt: skip
    table = suite(pd.DataFrame(own)).set_index(["class", "metric", "reduction"])["value"]
    assert list(table.index.unique("class")) == ["polyp", "tool", "all"]
    assert table["all", "dice", "image"] == pytest.approx(((1 + 0.5) / 2 + 0) / 2)
    assert table["all", "dice", "group"] == pytest.approx(center_scores(pd.DataFrame(own))["dice"])
    assert table["all", "dice", "micro"] == pytest.approx((1 + 2 * 5 / (2 * 5 + 6 + 5)) / 2)


def test_means_over_centers_each_the_same_and_by_their_images() -> None:
    means = over_centers(TABLE).set_index(["role", "class", "metric", "reduction", "mean"])
    uniform, weighted = (means.loc[("train", "polyp", "dice", "group", name)] for name in ("uniform", "weighted"))
    assert uniform["value"] == pytest.approx((0.5 + 6 / 7) / 2)
    assert weighted["value"] == pytest.approx((4 * 0.5 + 1 * 6 / 7) / 5)
    assert (uniform["centers"], uniform["images"], uniform["excluded"]) == (2, 5, 1)
    assert "sum" not in means.index.unique("reduction")


def test_a_center_without_a_score_is_in_no_mean_and_its_images_are_counted() -> None:
    silent = pd.concat([RECORDS, pd.DataFrame([image("york", "z", (0, 0, 0))])])
    means = over_centers(suite(silent)).set_index(["role", "class", "metric", "reduction", "mean"])
    row = means.loc[("train", "polyp", "dice", "group", "uniform")]
    assert row["value"] == pytest.approx((0.5 + 6 / 7) / 2)
    assert (row["centers"], row["images"], row["excluded"]) == (2, 6, 2)


def test_polyps_by_size() -> None:
    """Sides of 100 and 200 px belong to the middle; without a polyp an image is in no stratum."""
    sizes = {"small": 99 * 101, "least": 100 * 100, "most": 200 * 200, "large": 200 * 200 + 1}
    own = [image("oslo", name, (area, 0, 0), 100_000) for name, area in sizes.items()]
    own += [image("oslo", "missed", (0, 0, 50), 100_000), image("oslo", "alarm", (0, 9, 0), 100_000)]
    table = by_size(pd.DataFrame(own)).query("metric == 'dice' and reduction == 'image'")
    assert list(table["size"]) == ["under 100x100 px", "100x100 to 200x200 px", "over 200x200 px"]
    assert list(table["images"]) == [2, 2, 1] and list(table["value"]) == pytest.approx([0.5, 1, 1])
    means = over_centers(by_size(pd.DataFrame(own)))
    assert set(means["size"]) == set(table["size"])


def test_one_alarm_where_nothing_is_to_be_found_decides_on_no_mean() -> None:
    empty = [image("void", f"g{n}", (0, 0, 0)) for n in range(5)]
    alarm = [image("void", "g0", (0, 1, 0), hd95=50.0, nsd=0.0), *empty[1:]]
    for own in (empty, alarm):
        found = suite(pd.DataFrame(own)).query("`class` == 'polyp' and reduction != 'sum'").set_index("metric")["value"]
        assert found.drop(["specificity", "accuracy"]).isna().all() and found[["specificity", "accuracy"]].min() > 0.99


def test_of_several_classes_one_that_a_center_never_shows_is_scored_nowhere() -> None:
    shown = [image("oslo", f"g{n}", (10, 0, 0), **{"class": "a", "sample": str(n)}) for n in range(10)]
    alarms = [image("oslo", f"g{n}", (0, int(n < 3), 0), **{"class": "b", "sample": str(n)}) for n in range(10)]
    records = pd.DataFrame(shown + alarms)
    found = suite(records).query("`class` == 'all'").set_index(["metric", "reduction"])["value"]
    assert center_scores(records)["dice"] == found["dice", "image"] == found["dice", "micro"] == 1
    assert found["hd95", "image"] == DISTANCES["hd95"] and center_scores(records)["negatives"] == 0


def test_misses_and_false_alarms() -> None:
    table = alarms(RECORDS).set_index("center")
    assert list(table.index) == ["bonn", "oslo", "rome"]
    oslo, rome, bonn = (table.loc[center] for center in ("oslo", "rome", "bonn"))
    assert (oslo["polyps"], oslo["missed"], oslo["missed_rate"]) == (3, 1, pytest.approx(1 / 3))
    assert (oslo["negatives"], oslo["false_alarms"], oslo["false_alarm_rate"], oslo["true_negatives"]) == (1, 0, 0, 1)
    assert (rome["false_alarms"], rome["false_alarm_rate"], rome["missed_rate"]) == (1, 1, 0)
    assert math.isnan(bonn["false_alarm_rate"])


def of_one_run(function: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    return lambda table: function([table])


@pytest.mark.parametrize(
    "function", [suite, by_size, alarms, center_table, of_one_run(intervals), of_one_run(fairness)]
)
def test_other_scorings_checkpoints_and_splits_are_left_alone(function: Callable[..., pd.DataFrame]) -> None:
    others = [{"scoring": "endocv2021-official"}, {"checkpoint": "last"}, {"split": "val"}]
    more = pd.concat([RECORDS, *(RECORDS.assign(**other, tp=77) for other in others)], ignore_index=True)
    pd.testing.assert_frame_equal(function(more), function(RECORDS))


def test_the_challenge_in_both_modes() -> None:
    official = RECORDS.assign(scoring="endocv2021-official", hd=[2.0, 4.0, 0.0, 0.0, 3.0, 3.0, 2.0])
    table = challenge(pd.concat([RECORDS, official])).set_index(["scoring", "set"])
    assert list(table["images"]) == [5, 2, 5, 2]
    seen, unseen = (table.loc[("default", name)] for name in ("seen", "unseen"))
    assert seen["dice"] == pytest.approx((1 + 0 + 0.5 + 1 + 6 / 7) / 5)  # the true negative is 1
    assert seen["hausdorff"] == pytest.approx((8 + 8 + 8 + 0 + 8) / 50 / 5)
    assert unseen["recall"] == pytest.approx((1 + 0) / 2)
    assert unseen["generalisation"] == pytest.approx((1 / 3 + 0.5 + 0.25 + (1 - 8 / 50)) / 4)
    seen, unseen = (table.loc[("endocv2021-official", name)] for name in ("seen", "unseen"))
    assert seen["hausdorff"] == pytest.approx((2 + 4 + 0 + 0 + 2) / 4 / 5) and unseen["hausdorff"] == 1
    assert unseen["recall"] == pytest.approx(1)  # a false alarm finds everything there is
    assert math.isnan(seen["generalisation"])
    assert list(challenge(RECORDS)["scoring"].unique()) == ["default"]


ANSWERS = pd.concat(
    [
        records.classification("oslo", [0, 0, 1, 1], [0, 0, 1, 2], [0, 1, 1, 2], "train"),
        records.classification("rome", [0, 1], [0, 1], [0, 0]),
    ],
    ignore_index=True,
)


def test_classifiers_by_class_and_averaged() -> None:
    table = suite(ANSWERS).set_index(["center", "class", "metric", "reduction"])["value"]
    oslo = ANSWERS[ANSWERS["center"] == "oslo"]
    assert table["oslo", "class-0", "recall", "image"] == 0.5
    assert table["oslo", "class-1", "precision", "image"] == 0.5
    assert [table["oslo", "class-1", count, "sum"] for count in ("tp", "fp", "fn", "tn")] == [1, 1, 0, 2]
    assert math.isnan(table["oslo", "class-3", "recall", "image"])
    assert table["oslo", "all", "f1", "macro"] == pytest.approx(ratios(oslo)["macro_f1"])
    assert table["oslo", "all", "balanced_accuracy", "macro"] == pytest.approx(macro(oslo)["recall"])
    assert table["oslo", "all", "recall", "micro"] == 0.75 == table["oslo", "all", "accuracy", "image"]
    assert table["rome", "all", "accuracy", "group"] == 0.5
    # Every answer is certain: a wrong one costs 36 nats, and its whole confidence in calibration.
    assert table["oslo", "all", "nll", "image"] == pytest.approx(-math.log(np.finfo(float).eps) / 4)
    assert table["oslo", "all", "ece", "image"] == pytest.approx(0.25)


def test_a_classifiers_groups_count_the_same() -> None:
    uneven = records.classification("oslo", [0, 0, 0, 1], [0, 1, 2, 3], [0, 1, 0, 0], "train")
    table = suite(uneven).set_index(["class", "metric", "reduction"])["value"]
    assert table["all", "accuracy", "group"] == pytest.approx((2 / 3 + 0) / 2)
    assert table["all", "accuracy", "image"] == 0.5


def test_confusion_by_center() -> None:
    table = confusion(ANSWERS).set_index(["center", "label", "predicted"])["images"]
    assert len(table) == 2 * 4 * 4 and table["oslo"].sum() == 4 and table["rome"].sum() == 2
    assert table["oslo", "class-0", "class-1"] == 1 and table["rome", "class-1", "class-0"] == 1


def test_frames_per_second_of_every_center_with_the_machine() -> None:
    row = {"phase": "test", "steps": math.nan}
    rounds = pd.DataFrame(
        [
            {**row, "round": number, "center": center, "role": role, "metric": metric, "samples": 20.0,
             "seconds": seconds, "network_s": seconds / 4, "peak_mib": peak}
            for number, center, role, seconds, peak in [
                (2, "oslo", "train", 4.0, 900.0), (3, "oslo", "train", 6.0, 950.0), (2, "rome", "holdout", 1.0, 910.0),
            ]
            for metric in ("dice", "iou")
        ]
    )  # fmt: skip
    validation = rounds.assign(phase="val", seconds=1e-3)
    machine = {"processor": "Z80", "cores": 1, "gpus": ["Voodoo"], "memory_gib": 0.1}
    table = speed(pd.concat([rounds, validation]), {"engine": "ray", "workers": 2, "machine": machine})
    assert list(table["center"]) == ["oslo", "rome"] and list(table["images"]) == [40, 20]
    assert list(table["frames_per_second"]) == [4.0, 20.0] and list(table["peak_mib"]) == [950.0, 910.0]
    assert list(table["network_frames_per_second"]) == [16.0, 80.0] and list(table["network_s"]) == [2.5, 0.25]
    sites = speed(rounds, {"engine": "sites", "workers": 2, "machine": machine})
    assert set(sites["processor"]) == {""} and sites["cores"].isna().all()  # hospitals have their own
    assert set(table["processor"]) == {"Z80"} and set(table["gpus"]) == {"Voodoo"} and set(table["workers"]) == {2}
