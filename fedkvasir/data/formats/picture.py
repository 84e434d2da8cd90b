"""Pictures: JPEG, PNG, TIFF, BMP. A file is one sample; items are null.

A picture comes as an annotator saw it: turned as its EXIF tag says, and so is a mask by its own. Grey becomes three
equal channels, palettes and CMYK become RGB, alpha is dropped (what lies under it is kept), and of 16 bits the high
eight count. What has no known range is refused: 32-bit integers, floats, and 16 bits of which 14 or fewer are used.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
LOSSY = (".jpg", ".jpeg")
FOREGROUND = 127
"""Masks are binarised at > 127: JPEG ringing reaches far above 0."""
RINGING = 32
"""No value of an empty mask that was saved as JPEG is above it."""


def pictures(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    for _ in items:
        with _open(path) as picture:
            if picture.mode in ("I", "F"):
                raise ValueError("32-bit pixels, whose range is not known; save it with 8 or 16 bits")
            if picture.mode.startswith("I;16"):  # PIL clips these at 255; of 16-bit colour it keeps the high byte
                grey = (np.asarray(picture) >> 8).astype(np.uint8)
                pixels = np.repeat(grey[..., None], 3, axis=2)
            else:
                picture.info.pop("transparency", None)  # of a palette: PIL warns that it is dropped
                pixels = np.asarray(picture.convert("RGB"))
        if pixels.max() < 64 and _is_deep(path) and np.any(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)):
            raise ValueError(
                "16-bit pixels of which none uses the upper two bits, so that their range is not known and they would "
                "be nearly black: save it with 8 bits"
            )
        yield pixels


def masks(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """1 where any channel is above 127: grey masks, and masks that paint their classes red and green.

    Raises ValueError for what would pass for "no polyp" or lose a class: a mask saved without loss of which more pixels
    have one value that is not above 127 than are above, a JPEG that is neither black nor has one above, a partly
    transparent one.
    """
    for _ in items:
        with _open(path) as picture:
            if "A" in picture.getbands() and np.ptp(np.asarray(picture.getchannel("A"))):
                raise ValueError("the mask is partly transparent, which may be what it shows: save it with 0 and 255")
            deep = picture.mode.startswith("I;16")
            channels = np.asarray(picture if deep or picture.mode == "L" else picture.convert("RGB"))
        brightest = np.atleast_3d(channels).max(axis=2)
        highest = int(brightest.max())
        limit = FOREGROUND << 8 | 255 if deep and highest > 255 else FOREGROUND
        foreground = brightest > limit
        lossy = path.name.lower().endswith(LOSSY)
        if (RINGING if lossy else 0) < highest <= limit:
            raise ValueError(
                f"the mask's highest value is {highest}, and foreground is above {limit}: save it with 0 and 255"
            )
        # Soft edges have many dark values, a class that is painted dark has one.
        dark = np.bincount(brightest[~foreground])[1:]
        if not lossy and dark.max(initial=0) > max(np.count_nonzero(foreground), brightest.size // 1000):
            raise ValueError(
                f"{dark.max()} of the mask's pixels are {dark.argmax() + 1}, more than lie above {limit}, which alone "
                "are foreground: save it with 0 and 255"
            )
        yield foreground.astype(np.uint8)


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    # PIL, not OpenCV: OpenCV returns a half-grey picture for a truncated JPEG and says nothing.
    try:
        with Image.open(path) as picture:
            picture.load()
            with suppress(SyntaxError, struct.error):  # a broken tag turns nothing
                ImageOps.exif_transpose(picture, in_place=True)
            yield picture
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def _is_deep(path: Path) -> bool:
    """Has the file 16 bits a channel? PIL says so before it decodes, and makes eight of them in colour."""
    with Image.open(path) as picture:
        return any(";16" in str(tile[3]) for tile in picture.tile)
