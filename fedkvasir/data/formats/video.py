"""Videos: an item is a frame number, counted from 0. A file is decoded once, up to the last frame wanted."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

SUFFIXES = (".avi", ".mp4", ".mpg", ".mpeg", ".mkv", ".mov")


def pictures(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """Frames in the order of ``items``, which must ascend: a compressed video is only read forwards."""
    import cv2

    wanted = [_frame(item) for item in items]
    if wanted != sorted(wanted):
        raise ValueError("the frames wanted do not ascend")
    path.open("rb").close()  # says why, where OpenCV only says no
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise ValueError("not a video that OpenCV can read")
        count = 0
        for frame in wanted:
            while count <= frame:
                if not video.grab():
                    raise ValueError(f"ends after {count} frames, frame {frame} is wanted")
                count += 1
            whole, pixels = video.retrieve()
            if not whole:
                raise ValueError(f"frame {frame} cannot be decoded")
            yield cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    finally:
        video.release()


def masks(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """No dataset keeps its masks in a video."""
    raise ValueError("a video holds no masks")


def _frame(item: str | None) -> int:
    if item is None or not item.isdigit():
        raise ValueError(f"{item!r} is not a frame number")
    return int(item)
