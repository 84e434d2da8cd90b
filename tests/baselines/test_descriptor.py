"""The descriptor: colours and edges of pictures whose histograms can be told without it."""

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.baselines.descriptor import LENGTH, describe

COLOURS, CELLS, ORIENTATIONS = 128, 16, 9


def parts(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours (8, 4, 4), and orientations (16, 9) at the two scales."""
    found = describe(pixels)
    assert found.shape == (LENGTH,) == (COLOURS + 2 * CELLS * ORIENTATIONS,) and found.dtype == np.float32
    colours, large, small = np.split(found, [COLOURS, COLOURS + CELLS * ORIENTATIONS])
    return colours.reshape(8, 4, 4), large.reshape(CELLS, ORIENTATIONS), small.reshape(CELLS, ORIENTATIONS)


def stripes(angle_degrees: float, side: int = 256) -> np.ndarray:
    """Waves whose brightness changes along a direction, measured from the x axis towards the y axis."""
    y, x = np.mgrid[:side, :side]
    turn = np.radians(angle_degrees)
    wave = 127.5 + 100 * np.sin((x * np.cos(turn) + y * np.sin(turn)) * 2 * np.pi / 48)
    return np.repeat(wave.astype(np.uint8)[..., None], 3, axis=2)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_one_colour_is_one_bin_and_no_edge(colour: tuple[int, int, int]) -> None:
    colours, large, small = parts(np.full((40, 60, 3), colour, np.uint8))
    assert colours.max() == 1 and colours.sum() == 1 and not large.any() and not small.any()
    hue, saturation, value = colorsys.rgb_to_hsv(*(band / 255 for band in colour))
    found = np.unravel_index(colours.argmax(), colours.shape)
    # OpenCV rounds hue to two degrees and saturation to 1/255: a bin's edge may fall to either side.
    assert found[2] == min(int(value * 255) // 64, 3)
    assert abs(saturation * 4 - found[1] - 0.5) <= 0.5 + 4 / 255
    assert abs((hue * 8 - found[0] - 0.5 + 4) % 8 - 4) <= 0.5 + 8 * 1.5 / 180


def test_two_halves_are_two_halves() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (255, 0, 0), (0, 0, 255)
    colours, _, _ = parts(pixels)
    assert sorted(colours[colours > 0]) == [0.5, 0.5]


@pytest.mark.parametrize("bin", range(ORIENTATIONS))
def test_edges_are_counted_by_their_direction(bin: int) -> None:
    _, large, small = parts(stripes(20 * bin + 10))
    for scale in (large, small):
        assert scale.sum(axis=0).argmax() == bin and scale.sum(axis=0)[bin] > 0.8
        np.testing.assert_allclose(scale.sum(axis=1), 1 / CELLS, atol=0.02)  # stripes are everywhere


def test_edges_are_counted_where_they_are() -> None:
    pixels = np.full((256, 256, 3), 120, np.uint8)
    pixels[70:120, 140:180] = 200  # inside the cell of row 1, column 2
    _, large, _ = parts(pixels)
    assert set(np.flatnonzero(large.sum(axis=1))) == {1 * 4 + 2}


def test_contrast_and_half_a_turn_leave_directions_as_they_are() -> None:
    pixels = stripes(30)
    flat = (pixels // 2 + 60).astype(np.uint8)
    for scale in (1, 2):
        whole, faint, turned = (
            parts(np.ascontiguousarray(p))[scale].sum(axis=0) for p in (pixels, flat, pixels[::-1, ::-1])
        )
        np.testing.assert_allclose(faint, whole, atol=0.02)
        np.testing.assert_allclose(turned, whole, atol=0.02)


def test_size_of_the_picture_hardly_matters() -> None:
    rng = np.random.default_rng(0)
    large = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (480, 480), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(large, (160, 160), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(describe(small), describe(large), atol=0.02)
