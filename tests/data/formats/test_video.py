"""Videos: frames by number, decoded forwards and once."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fedkvasir.data import formats
from fedkvasir.data.formats import video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """30 frames of 32 x 24; frame n is (5 n, 0, 200) in RGB."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (32, 24))
    for number in range(30):
        writer.write(np.full((24, 32, 3), (200, 0, 5 * number), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("items", [["0"], ["29"], ["3", "4", "20"], ["7", "7"], []])
def test_frames_come_in_order_as_rgb(clip: Path, items: list[str | None]) -> None:
    pictures = list(formats.pictures(clip, items))
    assert all(picture.shape == (24, 32, 3) and picture.dtype == np.uint8 for picture in pictures)
    means = [picture.mean(axis=(0, 1)) for picture in pictures]
    np.testing.assert_allclose(means, [[5 * int(str(item)), 0, 200] for item in items] or means, atol=6)


def test_a_suffix_may_be_upper_case(clip: Path) -> None:
    assert len(list(formats.pictures(clip.rename(clip.with_suffix(".AVI")), ["1", "2"]))) == 2


def test_skipped_frames_are_not_converted_and_nothing_behind_the_last_is_decoded(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Counting:
        def __init__(self, path: str) -> None:
            self.video = real(path)

        def __getattr__(self, name: str) -> object:
            calls.append(name)
            return getattr(self.video, name)

    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Counting)
    list(video.pictures(clip, ["2", "9"]))
    assert (calls.count("grab"), calls.count("retrieve"), calls.count("release")) == (10, 2, 1)


def test_a_video_that_ends_early_names_frame_and_count(clip: Path) -> None:
    frames = video.pictures(clip, ["29", "30"])
    next(frames)
    with pytest.raises(ValueError, match="ends after 30 frames, frame 30 is wanted"):
        next(frames)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"ends after \d+ frames, frame 29 is wanted"):
        list(video.pictures(clip, ["29"]))


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([None], "None is not a frame number"),
        (["-1"], "'-1' is not a frame number"),
        (["first"], "'first' is not a frame number"),
        (["10", "9"], "do not ascend"),
    ],
)
def test_items_are_ascending_frame_numbers(clip: Path, items: list[str | None], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        list(video.pictures(clip, items))


def test_what_is_no_video_or_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(video.pictures(tmp_path / "none.avi", ["0"]))
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(ValueError, match="not a video that OpenCV can read"):
        list(video.pictures(tmp_path / "text.avi", ["0"]))


def test_a_video_holds_no_masks(clip: Path) -> None:
    with pytest.raises(ValueError, match="a video holds no masks"):
        formats.masks(clip, ["0"])
