"""NIfTI: a CT scan and its map of labels, cut into 2-D slices.

An item is ``<plane>:<number>``, for masks also ``<plane>:<number>:labels``: a mask is 0 or 1 without that and holds the
labels with it. However the voxels are stored, the header turns them so that a slice looks as radiologists view it, and
``number`` counts voxels along the patient:

- ``sagittal:N``: head up, front of the body on the left; counted from the patient's left to the right
- ``coronal:N``: head up, patient's right on the left; counted from back to front
- ``axial:N``: front of the body up, patient's right on the left; counted from feet to head

Pixels are made square at the finer of the slice's two spacings: linear for a scan, nearest neighbour for labels.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SUFFIXES = (".nii", ".nii.gz")
PLANES = ("sagittal", "coronal", "axial")
"""Each plane by the axis that it cuts across: right, anterior, superior."""
LEVEL_HU, WIDTH_HU = 400, 1800
"""Bone window in Hounsfield units: black at -500 and below, white at 1300 and above."""


def pictures(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """Grey in three equal channels, through the bone window. The scan is read once for all items."""
    for pixels, _ in _slices(path, items, _grey, cv2.INTER_LINEAR):
        yield np.repeat(pixels[..., None], 3, axis=2)


def masks(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """0 or 1; with ``:labels`` the labels. The map is read once for all items."""
    for labels, whole in _slices(path, items, _labels, cv2.INTER_NEAREST_EXACT):
        yield labels if whole else (labels > 0).astype(np.uint8)


def extent(path: Path) -> tuple[int, int, int]:
    """Voxels along the patient's right, anterior and superior axes, out of the header alone."""
    with _readable():
        scan, turn = _open(path)
    sizes = dict(zip(turn[:, 0].astype(int).tolist(), scan.shape, strict=True))
    return sizes[0], sizes[1], sizes[2]


def _slices(
    path: Path, items: Sequence[str | None], convert: Callable[[np.ndarray], np.ndarray], interpolation: int
) -> Iterator[tuple[np.ndarray, bool]]:
    """Each item's slice, and whether the item asks for labels."""
    import nibabel

    with _readable():
        scan, turn = _open(path)
        # A slab at a time: what stays in memory is one byte a voxel, though masks may be stored in eight.
        stored = np.empty(scan.shape, np.uint8, order="F")
        for slab in range(scan.shape[2]):
            stored[..., slab] = convert(np.asarray(scan.dataobj[..., slab]))
    volume = nibabel.apply_orientation(stored, turn)
    order = np.argsort(turn[:, 0])
    spacing = [float(scan.header.get_zooms()[axis]) for axis in order]
    for item in items:
        plane, _, rest = (item or "").partition(":")
        number, _, what = rest.partition(":")
        if plane not in PLANES or not number.isdecimal() or what not in ("", "labels"):
            raise ValueError(f"no slice {item}: an item is sagittal, coronal or axial, a colon and a number")
        axis = PLANES.index(plane)
        if int(number) >= volume.shape[axis]:
            raise ValueError(f"no slice {item}: there are {volume.shape[axis]}")
        # Both axes that are left run towards right, front or head: turned around, head and front come first.
        pixels = np.ascontiguousarray(np.moveaxis(volume, axis, 0)[int(number)].T[::-1, ::-1])
        across, up = (spacing[other] for other in range(3) if other != axis)
        finer = min(across, up)
        size = round(pixels.shape[1] * across / finer), round(pixels.shape[0] * up / finer)
        if size != pixels.shape[::-1]:
            pixels = cv2.resize(pixels, size, interpolation=interpolation)
        yield pixels, what == "labels"


def _open(path: Path) -> tuple[Any, np.ndarray]:
    """The file with only its header read, and how its axes turn into right, anterior, superior."""
    import nibabel

    scan: Any = nibabel.load(path, keep_file_open=True)
    turn = nibabel.io_orientation(scan.affine)
    if len(scan.shape) != 3 or not all(scan.shape):
        raise ValueError(f"its shape is {scan.shape}, not that of a volume")
    if np.isnan(turn).any() or min(scan.header.get_zooms()) <= 0:
        raise ValueError("its header does not say how the voxels lie")
    return scan, turn


@contextmanager
def _readable() -> Iterator[None]:
    """What nibabel and zlib raise on a broken file, as ValueError."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        yield
    except (EOFError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise ValueError(f"not a whole NIfTI file: {error}") from error


def _grey(hounsfield: np.ndarray) -> np.ndarray:
    share = (hounsfield.astype(np.float32) - (LEVEL_HU - WIDTH_HU / 2)) / WIDTH_HU
    return np.rint(share.clip(0, 1) * 255).astype(np.uint8)


def _labels(stored: np.ndarray) -> np.ndarray:
    whole = np.rint(stored)
    if whole.min() < 0 or whole.max() > 255:
        raise ValueError(f"labels from {whole.min():g} to {whole.max():g}, not within 0 and 255")
    return whole.astype(np.uint8)
