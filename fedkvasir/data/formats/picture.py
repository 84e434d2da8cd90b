"""Pictures: JPEG, PNG, TIFF, BMP. A file is one sample; items are null."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
FOREGROUND = 127
"""Masks are binarised at > 127: JPEG ringing reaches far above 0."""


def pictures(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    # PIL, not OpenCV: OpenCV returns a half-grey picture for a truncated JPEG and says nothing.
    for _ in items:
        with Image.open(path) as picture:
            yield np.asarray(picture.convert("RGB"))


def masks(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """1 where any channel is above 127: grey masks, and masks that paint their classes red and green."""
    for _ in items:
        with Image.open(path) as picture:
            channels = np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))
        foreground = np.atleast_3d(channels) > FOREGROUND
        yield np.asarray(foreground.any(axis=2), np.uint8)
