"""The challenge's scores: what its formulas give on masks, its defects, and what is corrected, by hand."""

import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import directed_hausdorff

from fedkvasir.metrics.boundary import distances
from fedkvasir.metrics.endocv2021 import (
    RATIOS,
    by_image,
    generalisation,
    read_mask,
    record,
    row_hausdorff,
    summarise,
)
from fedkvasir.metrics.segmentation import count
from tests.metrics.cases import SHAPE, pairs


def challenge_formulas(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """On the masks themselves, each smoothed with 1e-15."""
    y, x, tiny = truth.astype(float), prediction.astype(float), 1e-15
    both = (y * x).sum()
    precision, recall = (both + tiny) / (x.sum() + tiny), (both + tiny) / (y.sum() + tiny)
    return {
        "jaccard": (both + tiny) / (y.sum() + x.sum() - both + tiny),
        "dice": (2 * both + tiny) / (y.sum() + x.sum() + tiny),
        "f2": 5 * precision * recall / (4 * precision + recall + tiny),
        "ppv": precision,
        "recall": recall,
        "accuracy": float((y == x).mean()),
    }


def records(cases: list[tuple[np.ndarray, np.ndarray]], official: bool = False) -> pd.DataFrame:
    rows = []
    for prediction, truth in cases:
        own = record(prediction, truth) if official else count(prediction, truth) | distances(prediction, truth, 5)
        rows.append(own | {"height": truth.shape[0], "width": truth.shape[1]})
    return pd.DataFrame(rows)


def test_official_ratios_are_the_challenges_on_1000_pairs_of_masks() -> None:
    cases = pairs()
    found = by_image(records(cases, official=True), official=True)
    expected = pd.DataFrame([challenge_formulas(*case) for case in cases])
    np.testing.assert_allclose(found[list(RATIOS)], expected[list(RATIOS)], atol=1e-9, rtol=0)


def test_corrected_ratios_differ_only_where_nothing_is_met() -> None:
    cases = pairs()
    table = records(cases)
    found, official = by_image(table), by_image(table, official=True)
    missed = (table["tp"] == 0) & (table["fp"] + table["fn"] > 0)
    pd.testing.assert_frame_equal(found.loc[~missed, list(RATIOS)], official.loc[~missed, list(RATIOS)])
    assert (found.loc[missed, ["jaccard", "dice", "f2", "ppv", "recall"]] == 0).all().all() and missed.any()
    assert np.isfinite(found).all().all()


def test_a_missed_polyp_has_full_precision_in_the_official_mode_alone() -> None:
    """(0 + 1e-15) / (0 + 1e-15)."""
    missed, alarm = {"fp": 0, "fn": 4}, {"fp": 4, "fn": 0}
    table = pd.DataFrame([missed, alarm]).assign(tp=0, tn=8, height=3, width=4, hd=5.0)
    official, corrected = by_image(table, official=True), by_image(table)
    assert list(official["ppv"]) == pytest.approx([1, 0]) and list(official["recall"]) == pytest.approx([0, 1])
    assert (corrected[["ppv", "recall", "dice"]] == 0).all().all()
    assert list(official["dice"]) == pytest.approx([0, 0]) and list(official["f2"]) == pytest.approx([0, 0])


def test_an_image_without_polyp_and_alarm_is_perfect_in_both() -> None:
    empty = np.zeros(SHAPE, bool)
    for official in (False, True):
        row = by_image(records([(empty, empty)], official), official).iloc[0]
        assert list(row[list(RATIOS)]) == pytest.approx([1] * 6) and row["hausdorff"] == 0


def test_the_official_distance_takes_every_row_for_a_point() -> None:
    for prediction, truth in pairs()[::5]:
        rows, others = (mask.astype(np.float64) for mask in (prediction, truth))
        reference = max(directed_hausdorff(rows, others)[0], directed_hausdorff(others, rows)[0])
        assert row_hausdorff(prediction, truth) == pytest.approx(reference, abs=1e-6)


def test_a_polyp_moved_up_is_met_exactly_in_the_official_distance() -> None:
    truth = np.zeros((20, 20), bool)
    truth[2:5, 4:9] = True
    moved = np.roll(truth, 12, axis=0)
    assert row_hausdorff(moved, truth) == 0 and distances(moved, truth, 5)["hd"] == 12


def test_the_official_distance_is_a_share_of_the_methods_own_largest() -> None:
    """One bad image more halves what the others count, so that methods cannot be compared by it."""
    table = pd.DataFrame({"tp": 1, "fp": 0, "fn": 0, "tn": 1, "hd": [3.0, 3.0], "height": 6, "width": 8})
    worse = pd.concat([table, table.head(1).assign(hd=6.0)])
    alone, beside = (summarise(by_image(own, True), True)["hausdorff"] for own in (table, worse))
    assert (alone, beside) == pytest.approx((1, (0.5 + 0.5 + 1) / 3))
    corrected = summarise(by_image(worse))["hausdorff"]
    assert corrected == pytest.approx((0.3 + 0.3 + 0.6) / 3)  # of a diagonal of 10


def test_score_and_its_deviation_by_hand() -> None:
    images = pd.DataFrame(
        {
            "jaccard": [0.2, 0.6], "dice": [0.4, 0.8], "f2": [0.5, 0.7], "ppv": [0.1, 0.9], "recall": [0.3, 0.5],
            "accuracy": [0.9, 1.0], "hausdorff": [0.4, 0.2],
        }
    )  # fmt: skip
    found, official = summarise(images), summarise(images, official=True)
    assert found["score"] == official["score"] == pytest.approx((0.6 + 0.6 + 0.5 + 0.4) / 4)
    assert found["score_sd"] == pytest.approx((0.2 + 0.1 + 0.4 + 0.1) / 4)
    # What lies at the places that are read: the mean of Hausdorff, and the deviations of Jaccard, F2 and PPV.
    assert official["score_sd"] == pytest.approx(((1 + 0.5) / 2 + 0.2 + 0.1 + 0.4) / 4)


@pytest.mark.parametrize(
    ("unseen", "corrected", "official"),
    [
        (0.80, 0.0, 0.0),  # as on seen images
        (0.73, 0.0, 0.0),  # a loss of less than 10 %
        (0.60, 0.72 - 0.60, 0.72 - 0.60),
        (0.87, 0.0, 0.0),
        (0.90, 0.0, 0.90 - 0.72),  # better than on seen images: punished, and from 0.72 on
    ],
)
def test_a_gain_on_unseen_images_is_punished_by_the_official_code_alone(
    unseen: float, corrected: float, official: float
) -> None:
    p = {"dice": 0.8, "recall": 0.8, "ppv": 0.8, "hausdorff": 0.2}
    g = {"dice": unseen, "recall": unseen, "ppv": unseen, "hausdorff": 1 - unseen}
    assert generalisation(p, g) == pytest.approx((unseen, corrected))
    assert generalisation(p, g, official=True) == pytest.approx((unseen, official))


def test_a_jpeg_mask_is_read_with_its_ringing(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:43, 13:40] = 255
    cv2.imwrite(str(tmp_path / "mask.jpg"), mask, [cv2.IMWRITE_JPEG_QUALITY, 60])
    read = read_mask(tmp_path / "mask.jpg")
    assert read.shape == (64, 64) and read[mask > 0].all() and read.sum() > (mask > 0).sum()
    with pytest.raises(OSError, match=r"gone\.jpg cannot be read"):
        read_mask(tmp_path / "gone.jpg")


def test_a_prediction_is_resized_by_area_after_the_threshold() -> None:
    """Two by two blocks of a mask of 4 x 4 on a native 2 x 2: 1/4 of a block is lost, 3/4 is kept."""
    small = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
    found = record(small, np.ones((2, 2), bool))
    assert (found["tp"], found["fn"], found["fp"], found["tn"]) == (2, 2, 0, 0)
    assert all(math.isnan(found[name]) for name in ("hd95", "assd", "nsd"))
    # Of blocks of 3 x 3 the one with a hole in its middle is kept, the one of its middle alone is lost.
    hole, middle = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    hole[1, 1], middle[1, 1] = False, True
    found = record(np.hstack([hole, middle]), np.array([[True, False]]))
    assert (found["tp"], found["fn"], found["fp"], found["tn"]) == (1, 0, 0, 1)
