"""The store: every image decoded and resized once, memory-mapped, shared by every process of the machine.

A store belongs to one dataset root and one image size. Its folder is named by content (listing, file sizes and times),
so a changed file means another store. It is built under a temporary name and renamed: it is whole or it is not there.
"""

import errno
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from fedkvasir.data.catalog import Catalog
from fedkvasir.errors import UserError
from fedkvasir.files import atomic_folder, lock

VERSION = "1"
THUMB = 32
"""Side of the grey thumbnail that decides whether two pictures are the same."""
FOREGROUND = 127
"""Masks are binarised at > 127: JPEG ringing reaches far above 0."""


def cache_folder() -> Path:
    """``$FEDKVASIR_CACHE``, else ``~/.cache/fedkvasir``."""
    return Path(os.environ.get("FEDKVASIR_CACHE") or Path.home() / ".cache" / "fedkvasir").resolve()


@dataclass(frozen=True)
class Store:
    """Pixels of one dataset at one size.

    ``table``: one row a sample of the catalog, in its order: ``sample``, ``width``, ``height`` (native, px),
    ``pixels_sha256`` (of the native RGB pixels), ``phash`` (64 bits), ``error`` (why it could not be read, or null).
    """

    folder: Path

    @cached_property
    def table(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "table.parquet")

    @cached_property
    def images(self) -> np.ndarray:
        """(N, S, S, 3) uint8 RGB."""
        return np.load(self.folder / "images.npy", mmap_mode="r")

    @cached_property
    def masks(self) -> np.ndarray:
        """(N, S, S) uint8, 0 or 1."""
        return np.load(self.folder / "masks.npy", mmap_mode="r")

    @cached_property
    def thumbs(self) -> np.ndarray:
        """(N, 32, 32) uint8 grey."""
        return np.load(self.folder / "thumbs.npy")

    @cached_property
    def _native(self) -> np.ndarray:
        return np.load(self.folder / "native.npy", mmap_mode="r")

    @cached_property
    def _places(self) -> np.ndarray:
        """(N, 4): start and end in ``native.npy``, height, width."""
        return self.table[["start", "end", "height", "width"]].to_numpy(dtype=np.int64)

    def native_mask(self, row: int) -> np.ndarray:
        """The mask of one sample at its native size, (H, W) bool."""
        start, end, height, width = (int(value) for value in self._places[row])
        bits = np.frombuffer(zlib.decompress(self._native[start:end].tobytes()), np.uint8)
        return np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)


def open_store(
    catalog: Catalog,
    image_size: int,
    skip_unreadable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """The catalog's store, built first if it is not there yet; other processes wait for the one that builds.

    Raises UserError that names unreadable files and masks of another size, unless ``skip_unreadable``: then their
    rows carry an ``error`` and are for the plan to leave out.
    """
    folder = cache_folder() / "stores" / f"{catalog.dataset}-{image_size}-{_content_key(catalog, image_size)[:16]}"
    if not (folder / "table.parquet").is_file():
        with lock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _build(catalog, image_size, folder, skip_unreadable, progress)
    store = Store(folder)
    if not skip_unreadable:
        _refuse(catalog, store.table)
    return store


def _content_key(catalog: Catalog, image_size: int) -> str:
    digest = hashlib.sha256(f"{VERSION} {image_size} {catalog.hash} {catalog.root.resolve()}".encode())
    for column in ("image", "mask"):
        for path in catalog.table[column].dropna().unique():
            try:
                status = (catalog.root / path).stat()
            except FileNotFoundError as error:
                raise UserError(f"{catalog.dataset}: {catalog.root / path} is gone") from error
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _build(
    catalog: Catalog,
    size: int,
    folder: Path,
    skip_unreadable: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    count = len(catalog.table)
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed_bytes = count * (size * size * 4 + 4096)
    if shutil.disk_usage(folder.parent).free < needed_bytes:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: the store of {catalog.dataset} needs {needed_bytes >> 20} MiB",
            str(folder),
        )
    with atomic_folder(folder) as out:
        images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint8, (count, size, size, 3))
        masks = np.lib.format.open_memmap(out / "masks.npy", "w+", np.uint8, (count, size, size))
        thumbs = np.zeros((count, THUMB, THUMB), np.uint8)
        natives, facts, position = [], [], 0
        rows = catalog.table.to_dict("records")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda row: _decode(catalog.root, row, size), rows)
            for index, (row, sample) in enumerate(zip(rows, decoded, strict=True)):
                fact = {
                    "sample": row["sample"],
                    "error": sample.get("error"),
                    "start": position,
                    "end": position,
                }
                if "error" not in sample:
                    images[index], masks[index], thumbs[index] = (
                        sample["image"],
                        sample["mask"],
                        sample["thumb"],
                    )
                    natives.append(np.frombuffer(sample["native"], np.uint8))
                    position += len(sample["native"])
                    fact |= sample["facts"] | {"end": position}
                facts.append(fact)
                if progress:
                    progress(index + 1, count)
        columns = ["sample", "width", "height", "pixels_sha256", "phash", "error", "start", "end"]
        table = pd.DataFrame(facts).reindex(columns=columns)
        table[["width", "height"]] = table[["width", "height"]].fillna(0).astype(np.int64)
        if not skip_unreadable:
            _refuse(catalog, table)
        images.flush()
        masks.flush()
        np.save(out / "thumbs.npy", thumbs)
        np.save(out / "native.npy", np.concatenate(natives) if natives else np.zeros(0, np.uint8))
        table.to_parquet(out / "table.parquet")


def _refuse(catalog: Catalog, table: pd.DataFrame) -> None:
    bad = table[table["error"].notna()]
    if len(bad):
        named = "; ".join(bad["error"].head(3)) + ("; ..." if len(bad) > 3 else "")
        raise UserError(
            f"{catalog.dataset}: {len(bad)} of {len(table)} samples cannot be used: {named} "
            "(data.skip_unreadable=true leaves them out)"
        )


def read_image(path: Path) -> np.ndarray:
    """Decode a picture to (H, W, 3) uint8 RGB. Raises OSError where it is cut short or no picture."""
    # PIL, not OpenCV: OpenCV returns a half-grey picture for a truncated JPEG and says nothing.
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _decode(root: Path, row: dict[str, Any], size: int) -> dict[str, Any]:
    """One sample: resized image and mask, packed native mask, thumbnail, facts; or ``{"error": why}``."""
    try:
        pixels = read_image(root / row["image"])
    except (OSError, SyntaxError, ValueError) as error:
        return {"error": f"{root / row['image']} ({error})"}
    height, width = pixels.shape[:2]
    if row["mask"] is None:
        native = np.zeros((height, width), np.uint8)
    else:
        try:
            with Image.open(root / row["mask"]) as picture:
                native = (np.asarray(picture.convert("L")) > FOREGROUND).astype(np.uint8)
        except (OSError, SyntaxError, ValueError) as error:
            return {"error": f"{root / row['mask']} ({error})"}
    if native.shape != (height, width):
        sizes = f"the mask is {native.shape[1]}x{native.shape[0]}, the image {width}x{height}"
        return {"error": f"{root / row['mask']} ({sizes})"}
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(native.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return {
        "image": cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA),
        "mask": (small > 0.5).astype(np.uint8),
        "thumb": cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA),
        "native": zlib.compress(np.packbits(native).tobytes(), 6),
        "facts": {
            "width": width,
            "height": height,
            "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "phash": perceptual_hash(grey),
        },
    }


def perceptual_hash(grey: np.ndarray) -> str:
    """64 bits as 16 hex digits: signs of the low 8 x 8 frequencies of a 32 x 32 picture against their median."""
    small = cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    return np.packbits(low > np.median(low[1:])).tobytes().hex()
