"""Boundary distances against scipy's exact transform and a case worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, distance_transform_edt

from fedkvasir.metrics.boundary import distances
from tests.metrics.cases import SHAPE, pairs

masks = st.tuples(st.integers(3, 24), st.integers(3, 24)).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


def reference(prediction: np.ndarray, truth: np.ndarray, tolerance: float) -> dict[str, float]:
    edges = [mask & ~binary_erosion(mask, border_value=0) for mask in (prediction, truth)]
    there = distance_transform_edt(~edges[1])[edges[0]]
    back = distance_transform_edt(~edges[0])[edges[1]]
    both = np.concatenate([there, back])
    return {
        "hd": both.max(),
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd": both.mean(),
        "nsd": (both <= tolerance).mean(),
    }


@given(masks)
def test_distances_are_those_of_scipys_exact_transform(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = pair
    if prediction.any() and truth.any():
        # 1.7 lies between the distances that pixels can have, so rounding cannot decide.
        assert distances(prediction, truth, 1.7) == pytest.approx(reference(prediction, truth, 1.7), abs=1e-9)


def test_two_single_pixels_by_hand() -> None:
    first, second = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    first[1, 1] = second[4, 5] = True
    assert distances(first, second, 4.9) == {"hd": 5.0, "hd95": 5.0, "assd": 5.0, "nsd": 0.0}
    assert distances(first, second, 5.0)["nsd"] == 1.0


def test_a_mask_against_itself_is_perfect_also_where_it_fills_the_image() -> None:
    for mask in (np.ones((5, 7), bool), np.eye(6, dtype=bool)):
        assert distances(mask, mask, 0.5) == {"hd": 0.0, "hd95": 0.0, "assd": 0.0, "nsd": 1.0}


def test_empty_masks_follow_the_rule() -> None:
    empty, polyp = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert all(math.isnan(value) for value in distances(empty, empty, 1).values())
    for pair in ((empty, polyp), (polyp, empty)):
        assert distances(*pair, 1) == {"hd": 5.0, "hd95": 5.0, "assd": 5.0, "nsd": 0.0}


def test_distances_on_1000_random_and_degenerate_pairs() -> None:
    """Scipy's exact transform; one empty: the diagonal; both: NaN."""
    diagonal = math.hypot(*SHAPE)
    for prediction, truth in pairs():
        found = distances(prediction, truth, 1.7)
        if prediction.any() and truth.any():
            assert found == pytest.approx(reference(prediction, truth, 1.7), abs=1e-6)
        elif prediction.any() or truth.any():
            assert found == {"hd": diagonal, "hd95": diagonal, "assd": diagonal, "nsd": 0.0}
        else:
            assert np.isnan(list(found.values())).all()
