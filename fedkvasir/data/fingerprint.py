"""A picture in 2,048 bytes: two grey thumbnails, enough to tell it from every other and to know it again."""

import cv2
import numpy as np

THUMB = 32
"""Side of a thumbnail in pixels."""
DARK = 24
"""Grey level up to which a pixel shows no tissue. The borders of Kvasir-SEG and CVC-ClinicDB lie between 0 and 21."""
SCAN, TEXT = 256, 9
"""The border is looked for at SCAN x SCAN pixels, where a line of text is less than TEXT pixels high."""

_frequency, _pixel = np.mgrid[:8, :THUMB]
COSINES = np.cos(np.pi * _frequency * (2 * _pixel + 1) / (2 * THUMB)).astype(np.float32)
"""The eight lowest frequencies of a discrete cosine transform, not scaled."""


def fingerprint(pixels: np.ndarray) -> np.ndarray:
    """(2, 32, 32) uint8 grey of an (H, W, 3) RGB picture: the whole of it, and its content without the dark border."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    top, bottom, left, right = content_box(grey)
    views = grey, grey[top:bottom, left:right]
    return np.stack([cv2.resize(view, (THUMB, THUMB), interpolation=cv2.INTER_AREA) for view in views])


def content_box(grey: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of an (H, W) uint8 picture without its dark border; text in the border is border.

    The whole picture where there is no border, or where less than a quarter of a side would be left.
    """
    height, width = grey.shape
    lit = (cv2.resize(grey, (SCAN, SCAN), interpolation=cv2.INTER_AREA) > DARK).astype(np.uint8)
    solid = cv2.morphologyEx(lit, cv2.MORPH_OPEN, np.ones((TEXT, TEXT), np.uint8))
    left, top, across, down = cv2.boundingRect(solid)
    if min(across, down) < SCAN // 4:
        return 0, height, 0, width
    rows, columns = np.array([top, top + down]) * height / SCAN, np.array([left, left + across]) * width / SCAN
    return round(rows[0]), round(rows[1]), round(columns[0]), round(columns[1])


def low_frequencies(thumbs: np.ndarray) -> np.ndarray:
    """(..., 8, 8) float32 lowest cosine frequencies of (..., 32, 32) thumbnails.

    What is dark takes the mean of what is not: corners and insets that a recorder blacks out would look alike in all
    pictures of one make, and different in the same picture under another layout. A picture mostly dark stays as it is.
    """
    grey = thumbs.astype(np.float32)
    lit = grey > DARK
    share = lit.mean((-2, -1), keepdims=True)
    mean = (grey * lit).mean((-2, -1), keepdims=True) / np.maximum(share, 1e-9)
    return COSINES @ np.where(lit | (share < 0.25), grey, mean) @ COSINES.T


def hash_bits(low: np.ndarray) -> np.ndarray:
    """(...) uint64 out of (..., 8, 8) frequencies: which are above their median (the mean grey has no say)."""
    flat = low.reshape(*low.shape[:-2], 64)
    above = flat > np.median(flat[..., 1:], axis=-1, keepdims=True)
    return np.packbits(above, axis=-1).view(">u8")[..., 0].astype(np.uint64)


def perceptual_hash(thumb: np.ndarray) -> str:
    """:func:`hash_bits` of one 32 x 32 thumbnail as 16 hex digits."""
    return f"{int(hash_bits(low_frequencies(thumb))):016x}"
