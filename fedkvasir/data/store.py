"""The store: every image decoded and resized once, memory-mapped, shared by every process of the machine.

A store belongs to one dataset root and one image size. Its folder is named by content (listing, file sizes and times),
so a changed file means another store; the one before stays, as others may be reading it. It is built under a temporary
name and renamed: it is whole or it is not there.
"""

import errno
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from fedkvasir.data import formats
from fedkvasir.data.catalog import Catalog
from fedkvasir.data.fingerprint import fingerprint, perceptual_hash
from fedkvasir.errors import UserError
from fedkvasir.files import atomic_folder, lock

VERSION = "6"
BATCH = 256
"""Samples decoded from one file at a time: bounds the memory that a video or a file of patches takes."""
FACTS = ("width", "height", "area_px", "labels", "pixels_sha256", "mask_sha256", "phash")


def cache_folder() -> Path:
    """``$FEDKVASIR_CACHE``, else ``~/.cache/fedkvasir``."""
    return Path(os.environ.get("FEDKVASIR_CACHE") or Path.home() / ".cache" / "fedkvasir").resolve()


@dataclass(frozen=True)
class Store:
    """Pixels of one dataset at one size.

    ``table``: one row a sample of the catalog, in its order: ``sample``, ``width``, ``height`` (native, px),
    ``area_px`` (foreground of the native mask; null without one), ``labels`` (the highest value in the mask),
    ``pixels_sha256`` (of the native RGB pixels), ``mask_sha256`` (of the native mask; empty without one), ``phash`` (64
    bits), ``error`` (why it could not be read, or null).
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
        """(N, S, S) uint8, 0 = background."""
        return np.load(self.folder / "masks.npy", mmap_mode="r")

    @cached_property
    def thumbs(self) -> np.ndarray:
        """(N, 2, 32, 32) uint8 grey: the whole picture, and without its black border."""
        return np.load(self.folder / "thumbs.npy")

    @cached_property
    def _native(self) -> np.ndarray:
        return np.load(self.folder / "native.npy", mmap_mode="r")

    @cached_property
    def _places(self) -> np.ndarray:
        """(N, 5): start and end in ``native.npy``, height, width, labels."""
        columns = ["start", "end", "height", "width", "labels"]
        return pd.read_parquet(self.folder / "table.parquet", columns=columns).to_numpy(dtype=np.int64)

    def native_mask(self, row: int) -> np.ndarray:
        """The mask of one sample at its native size: (H, W) bool, or uint8 where it holds labels above 1."""
        start, end, height, width, labels = (int(value) for value in self._places[row])
        values = np.frombuffer(zlib.decompress(self._native[start:end].tobytes()), np.uint8)
        if labels > 1:
            return values.reshape(height, width)
        return np.unpackbits(values, count=height * width).reshape(height, width).astype(bool)


@cache
def store_at(folder: str) -> Store:
    """The store in a folder, opened once a process, however many hospitals read it."""
    return Store(Path(folder))


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
            # Archives and copies bring the time of modification along, and a mask without compression keeps its size
            # when it is corrected. The time of change nobody sets: at worst, after other rights, names or links (some
            # backups), a store is built again. It is the file server's, the same for every user and machine.
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
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
        thumbs = np.zeros((count, 2, 32, 32), np.uint8)
        natives: list[bytes] = [b""] * count
        facts: list[dict[str, Any]] = [{}] * count
        done = 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = _jobs(catalog)
            for job, decoded in zip(jobs, pool.map(lambda job: _decode(job, size), jobs), strict=True):
                for index, sample in zip(job.rows, decoded, strict=True):
                    if isinstance(sample, str):
                        facts[index] = {"error": sample}
                    else:
                        images[index], masks[index], thumbs[index] = sample.image, sample.mask, sample.thumbs
                        facts[index], natives[index] = sample.facts, sample.native
                    done += 1
                    if progress:
                        progress(done, count)
        table = pd.DataFrame(facts).reindex(columns=[*FACTS, "error"])
        table.insert(0, "sample", catalog.table["sample"])
        ends = np.cumsum([len(native) for native in natives])
        table["end"], table["start"] = ends, np.concatenate([[0], ends[:-1]])
        table[["width", "height", "labels"]] = table[["width", "height", "labels"]].fillna(0).astype(np.int64)
        table["area_px"] = table["area_px"].astype(np.float64)
        table["mask_sha256"] = table["mask_sha256"].fillna("")
        if not skip_unreadable:
            _refuse(catalog, table)
        images.flush()
        masks.flush()
        np.save(out / "thumbs.npy", thumbs)
        np.save(out / "native.npy", np.frombuffer(b"".join(natives), np.uint8))
        table.to_parquet(out / "table.parquet")


@dataclass(frozen=True)
class _Job:
    """Samples of one image file (and one mask file), at most ``BATCH``: a scan or a video is opened once."""

    image: Path
    mask: Path | None
    rows: list[int]
    items: list[str | None]
    mask_items: list[str | None]
    empty: list[bool]


def _jobs(catalog: Catalog) -> list[_Job]:
    together: dict[tuple[str, str | None], list[int]] = {}
    columns = [catalog.table[name].to_list() for name in ("image", "mask", "item", "mask_item", "empty")]
    images, masks, items, mask_items, empty = columns
    for row, files in enumerate(zip(images, masks, strict=True)):
        together.setdefault(files, []).append(row)
    return [
        _Job(
            catalog.root / image,
            catalog.root / mask if mask else None,
            rows[start : start + BATCH],
            *([column[row] for row in rows[start : start + BATCH]] for column in (items, mask_items, empty)),
        )
        for (image, mask), rows in together.items()
        for start in range(0, len(rows), BATCH)
    ]


def _refuse(catalog: Catalog, table: pd.DataFrame) -> None:
    bad = table[table["error"].notna()]
    if len(bad):
        named = "; ".join(bad["error"].head(3)) + ("; ..." if len(bad) > 3 else "")
        raise UserError(
            f"{catalog.dataset}: {len(bad)} of {len(table)} samples cannot be used: {named} "
            "(data.skip_unreadable=true leaves them out)"
        )


@dataclass(frozen=True)
class _Sample:
    facts: dict[str, Any]
    """:data:`FACTS`."""
    image: np.ndarray
    mask: np.ndarray
    thumbs: np.ndarray
    native: bytes


def _decode(job: _Job, size: int) -> list[_Sample | str]:
    """The job's samples in order, or why they cannot be used; what follows the first thing broken is broken too.

    Raises OSError where it is the system that could not read (a network drive, rights): that may pass, and the store
    would remember it.
    """
    where, samples = job.image, list[_Sample | str]()
    try:
        pictures = formats.pictures(job.image, job.items)
        masks = formats.masks(job.mask, job.mask_items) if job.mask else iter(())
        for empty in job.empty:
            where = job.image
            picture = next(pictures)
            where = job.mask or job.image
            native = next(masks) if job.mask else np.zeros(picture.shape[:2], np.uint8)
            if native.shape != picture.shape[:2]:
                sizes = f"{native.shape[1]}x{native.shape[0]}, the image {picture.shape[1]}x{picture.shape[0]}"
                raise ValueError(f"the mask is {sizes}")
            samples.append(_shrink(picture, native, size, bool(job.mask) or empty))
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # decoders raise it without a number
            raise
        samples += [f"{where} ({error})"] * (len(job.rows) - len(samples))
    return samples


def square(picture: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3): a picture as networks see it, in training and ever after."""
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def _shrink(picture: np.ndarray, native: np.ndarray, size: int, known: bool) -> _Sample:
    """Resized image and mask, packed native mask, thumbnails and facts; ``known``: the mask says something."""
    labels = int(native.max())
    if labels > 1:  # a map of labels: neither averaged nor packed into bits
        mask, raw = cv2.resize(native, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), native
    else:
        small = cv2.resize(native.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        mask, raw = (small > 0.5).astype(np.uint8), np.packbits(native)
    thumbs = fingerprint(picture)
    facts = {
        "width": picture.shape[1],
        "height": picture.shape[0],
        "area_px": int(np.count_nonzero(native)) if known else None,
        "labels": labels,
        "pixels_sha256": hashlib.sha256(picture.tobytes()).hexdigest(),
        "mask_sha256": hashlib.sha256(raw.tobytes()).hexdigest() if known else "",
        "phash": perceptual_hash(thumbs[0]),
    }
    return _Sample(facts, square(picture, size), mask, thumbs, zlib.compress(raw.tobytes(), 6))
