"""Videos: an item is a frame number, counted from 0. A file is decoded once, up to the last frame wanted."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

SUFFIXES = (".avi", ".mp4", ".mpg", ".mpeg", ".mkv", ".mov")
ESTIMATED = (".mpg", ".mpeg")
"""Streams without a header that counts their frames: OpenCV's number is a guess, out by a few."""


def pictures(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """Frames in the order of ``items``, which must ascend: a compressed video is only read forwards."""
    wanted = [_frame(item) for item in items]
    if wanted != sorted(wanted):
        raise ValueError("the frames wanted do not ascend")
    with _open(path) as video:
        count = 0
        for frame in wanted:
            while count <= frame:
                if not video.grab():
                    raise ValueError(f"ends after {count} frames, frame {frame} is wanted")
                count += 1
            yield _pixels(video, frame)


def masks(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """No dataset keeps its masks in a video."""
    raise ValueError("a video holds no masks")


def frames(path: Path, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """Number and (H, W, 3) uint8 RGB pixels of every ``every``-th frame, to the end.

    Raises ValueError where the file is no video and, after its last frame, where the file promises more.
    """
    with _open(path) as video:
        count = 0
        while video.grab():
            if count % every == 0:
                yield count, _pixels(video, count)
            count += 1
        promised = _promised(video)
        if count < promised and not path.name.lower().endswith(ESTIMATED):
            raise ValueError(f"ends after {count} of {promised} frames")


def length(path: Path) -> int:
    """How many frames the file promises, without decoding any; 0 where it does not say."""
    with _open(path) as video:
        return _promised(video)


@contextmanager
def _open(path: Path) -> Iterator[cv2.VideoCapture]:
    # Damage is told in one sentence, by whoever reads; FFmpeg would print pages of its own.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    path.open("rb").close()  # says why, where OpenCV only says no
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise ValueError("not a video that OpenCV can read")
        yield video
    finally:
        video.release()


def _pixels(video: cv2.VideoCapture, frame: int) -> np.ndarray:
    whole, pixels = video.retrieve()
    if not whole:
        raise ValueError(f"frame {frame} cannot be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _promised(video: cv2.VideoCapture) -> int:
    return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))


def _frame(item: str | None) -> int:
    if item is None or not item.isdigit():
        raise ValueError(f"{item!r} is not a frame number")
    return int(item)
