"""HDF5 files of patches, as PCam keeps them: dataset ``x`` (N, H, W, 3) of pictures, ``mask`` (N, H, W, 1) of masks.

An item is the number of a row. Rows are read one at a time, so a file of gigabytes takes no memory.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

SUFFIXES = (".h5", ".hdf5")
CHUNK_CACHE_BYTES = 64 << 20
"""HDF5's own 1 MiB holds not one chunk of a thousand patches: every row would unpack the whole chunk again."""


def pictures(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    yield from _rows(path, items, "x", 3)


def masks(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    for row in _rows(path, items, "mask", 1):
        yield (row[..., 0] > 0).astype(np.uint8)


def _rows(path: Path, items: Sequence[str | None], key: str, channels: int) -> Iterator[np.ndarray]:
    import h5py  # slow to import, and only PCam needs it

    with h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES) as file:
        if key not in file:
            raise ValueError(f"no HDF5 dataset {key!r}, only {', '.join(file) or 'nothing'}")
        rows = file[key]
        if rows.ndim != 4 or rows.shape[3] != channels or rows.dtype not in (np.uint8, np.bool_):
            raise ValueError(f"{key!r} is {rows.dtype} {rows.shape}, not uint8 (N, height, width, {channels})")
        for item in items:
            if item is None or not item.isdecimal() or int(item) >= len(rows):
                raise ValueError(f"no row {item}: {key!r} has {len(rows)}")
            yield rows[int(item)]
