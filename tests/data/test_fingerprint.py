"""A fingerprint says what a picture shows, not how it was saved or what is printed beside it."""

import cv2
import numpy as np
import pytest

from fedkvasir.data.fingerprint import content_box, fingerprint, perceptual_hash


def scene(number: int, height: int = 240, width: int = 300) -> np.ndarray:
    """A smooth random (height, width, 3) picture without a border."""
    coarse = np.random.default_rng(number).integers(60, 240, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def bordered(picture: np.ndarray, top: int, bottom: int, left: int, right: int, level: int = 12) -> np.ndarray:
    return cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(level, level, level))


def recompressed(picture: np.ndarray, quality: int = 75) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def box(picture: np.ndarray) -> tuple[int, int, int, int]:
    return content_box(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))


def test_the_content_of_a_bordered_picture_is_the_picture() -> None:
    framed = bordered(scene(1), 10, 20, 90, 30)
    assert box(framed) == pytest.approx((10, 250, 90, 390), abs=2)
    for copy in (recompressed(framed), recompressed(cv2.resize(framed, (840, 540)))):
        scale = copy.shape[0] / framed.shape[0]
        assert box(copy) == pytest.approx([edge * scale for edge in (10, 250, 90, 390)], abs=2 * scale)


def test_lines_of_text_in_the_border_are_border() -> None:
    framed = bordered(scene(2, 480, 600), 0, 0, 250, 40)
    for line in range(12):
        cv2.putText(framed, "20/03/2014 10:45", (5, 40 + 36 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (230, 230, 230), 1)
    assert box(framed) == pytest.approx((0, 480, 250, 850), abs=4)


def test_without_a_border_or_with_next_to_nothing_inside_the_content_is_the_whole() -> None:
    assert box(scene(3)) == (0, 240, 0, 300)
    assert box(np.zeros((50, 70, 3), np.uint8)) == (0, 50, 0, 70)
    assert box(bordered(scene(4, 40, 40), 80, 80, 80, 80)) == (0, 200, 0, 200)


def test_a_fingerprint_is_the_whole_and_the_content() -> None:
    picture = scene(5)
    alone, framed = fingerprint(picture), fingerprint(bordered(picture, 20, 10, 100, 40))
    assert alone.shape == (2, 32, 32) and alone.dtype == np.uint8
    assert (alone[0] == alone[1]).all()
    assert np.abs(framed[1].astype(int) - alone[0]).mean() < 3 < np.abs(framed[0].astype(int) - alone[0]).mean()


def test_a_perceptual_hash_is_64_bits_that_survive_recompression() -> None:
    pictures = [scene(number) for number in range(6)]
    hashes = [perceptual_hash(fingerprint(picture)[0]) for picture in pictures]
    copies = [perceptual_hash(fingerprint(recompressed(picture, 40))[0]) for picture in pictures]
    assert all(len(value) == 16 for value in hashes)
    bits = np.array([[(int(a, 16) ^ int(b, 16)).bit_count() for b in copies] for a in hashes])
    assert bits.diagonal().max() <= 4 and bits[~np.eye(6, dtype=bool)].min() > 16
