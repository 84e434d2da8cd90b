"""Videos: frames by number, decoded forwards and once."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fedkvasir.data import formats
from fedkvasir.data.formats import video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """30 frames of 32 x 24; frame n is (5 n, 0, 200) in RGB."""
    return record(tmp_path / "clip.avi", "MJPG", [np.full((24, 32, 3), (200, 0, 5 * n), np.uint8) for n in range(30)])


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """30 frames of noise, of which the last half is missing from the file."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 24, 32, 3), np.uint8)
    path = record(tmp_path / "cut.avi", "MJPG", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def record(path: Path, codec: str, pictures: Iterable[np.ndarray]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25.0, (32, 24))
    for pixels in pictures:
        writer.write(pixels)
    writer.release()
    return path


@pytest.mark.parametrize("items", [["0"], ["29"], ["3", "4", "20"], ["7", "7"], []])
def test_frames_come_in_order_as_rgb(clip: Path, items: list[str | None]) -> None:
    pictures = list(formats.pictures(clip, items))
    assert len(pictures) == len(items)
    assert all(picture.shape == (24, 32, 3) and picture.dtype == np.uint8 for picture in pictures)
    means = np.reshape([picture.mean(axis=(0, 1)) for picture in pictures], (-1, 3))
    expected = np.reshape([[5 * int(str(item)), 0, 200] for item in items], (-1, 3))
    np.testing.assert_allclose(means, expected, atol=6)


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


def frames(path: Path, every: int = 1) -> tuple[list[int], str]:
    """Numbers of the frames that come, and what is said at the end."""
    numbers = []
    try:
        for number, pixels in video.frames(path, every):
            assert pixels.shape == (24, 32, 3)
            numbers.append(number)
    except ValueError as error:
        return numbers, str(error)
    return numbers, ""


@pytest.mark.parametrize(("every", "last"), [(1, 29), (7, 28), (30, 0), (100, 0)])
def test_all_frames_to_the_end_or_every_so_many(clip: Path, every: int, last: int) -> None:
    numbers, said = frames(clip, every)
    assert numbers == list(range(0, last + 1, every)) and not said
    assert video.length(clip) == 30


def test_frames_before_an_early_end_come_before_the_reason(cut: Path) -> None:
    numbers, said = frames(cut)
    assert numbers == list(range(len(numbers))) and 5 < len(numbers) < 25
    assert said == f"ends after {len(numbers)} of 30 frames"


def test_an_mp4_cut_short_does_not_open_and_ffmpeg_prints_nothing_of_its_own(tmp_path: Path) -> None:
    path = record(tmp_path / "cut.mp4", "mp4v", [np.zeros((24, 32, 3), np.uint8)] * 30)
    path.write_bytes(path.read_bytes()[:-200])  # its index stands at the end
    code = f"from fedkvasir.data.formats import video; list(video.frames(video.Path({str(path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.startswith("Traceback") and "ValueError: not a video that OpenCV can read" in done.stderr
    assert done.stdout == ""


def test_a_stream_that_counts_no_frames_promises_none(tmp_path: Path) -> None:
    path = record(tmp_path / "clip.mpg", "PIM1", [np.full((24, 32, 3), 6 * n, np.uint8) for n in range(40)])
    assert frames(path) == (list(range(40)), "")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    numbers, said = frames(path)
    assert 0 < len(numbers) < 40 and not said
