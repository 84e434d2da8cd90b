"""Batches of one center, out of its stores."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from fedkvasir.data.store import Store, store_at
from fedkvasir.randomness import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

    from fedkvasir.data.augment import Augment

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Samples:
    """Some samples of one center and their pixels.

    table: rows of the plan; ``store`` is a folder, ``row`` the place in it, ``target`` the class index
    (classification).
    """

    table: pd.DataFrame
    task: str
    classes: int = 1
    """Of the masks: values 1 to ``classes`` (segmentation)."""

    def __len__(self) -> int:
        return len(self.table)

    def images(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 RGB, a copy."""
        return self._read("images", positions)

    def masks(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """(B, S, S) uint8, 0 = background, a copy."""
        return self._read("masks", positions)

    def native_mask(self, position: int) -> np.ndarray:
        """As :meth:`Store.native_mask`."""
        return self._stores[self._folders[position]].native_mask(int(self._rows[position]))

    def _read(self, what: str, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        positions = np.asarray(positions)
        folders, rows = self._folders[positions], self._rows[positions]
        found: np.ndarray | None = None
        for folder, store in self._stores.items():
            own = folders == folder
            pixels = getattr(store, what)[rows[own]]
            if len(pixels) == len(rows):  # one dataset: the rule
                return pixels
            found = np.empty((len(rows), *pixels.shape[1:]), pixels.dtype) if found is None else found
            found[own] = pixels
        assert found is not None
        return found

    @cached_property
    def _stores(self) -> dict[str, Store]:
        return {folder: store_at(folder) for folder in self.table["store"].unique()}

    @cached_property
    def _folders(self) -> np.ndarray:
        return self.table["store"].to_numpy(dtype=object)

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.table["row"].to_numpy()


@dataclass(frozen=True)
class Batch:
    images: "Tensor"
    """(B, 3, S, S) float32 in 0..1, channels last in memory."""
    targets: "Tensor"
    """(B, K, S, S) float32, 0 or 1, one channel a class (segmentation); (B,) int64 (classification)."""


def train_batches(
    samples: Samples, batch_size: int, augment: "Augment", seed: int, pieces: int | None = None, threads: int = 0
) -> Iterator[Batch]:
    """One epoch, shuffled and augmented by ``seed``; a last batch of one joins the one before.

    Batch normalisation cannot train on a single image (DeepLabV3, DeepLabV3+ raise).
    pieces: cut the epoch into so many batches of equal size, but for one image, instead.
    threads: that make batches, the same ones, before they are asked for, while a GPU computes; 0: none.
    """
    order = np.random.default_rng(derive_seed(seed, "order")).permutation(len(samples))
    starts = list(range(0, len(order), batch_size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    parts = np.split(order, starts[1:]) if pieces is None else np.array_split(order, pieces)
    make = partial(_batch, samples, augment=augment, seed=seed)
    return ahead(lambda positions: _pinned(make(positions)), parts, threads) if threads else map(make, parts)


def ahead(work: Callable[[S], R], items: Iterable[S], threads: int) -> Iterator[R]:
    """What becomes of every item, in order, by threads that are up to one item more than there are of them ahead."""
    waiting = deque[Future[R]]()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _pinned(batch: Batch) -> Batch:
    """In memory that a GPU reads by itself, where there is one."""
    import torch

    gpu = torch.cuda.is_available()
    return Batch(batch.images.pin_memory(), batch.targets.pin_memory()) if gpu else batch


def batches_of(count: int, batch_size: int) -> int:
    """Batches of one epoch over ``count`` images, as :func:`train_batches` makes them."""
    full, rest = divmod(count, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


PADDED = 64
"""Up to so many images a center that has fewer is padded to the batch size."""


def eval_batches(samples: Samples, batch_size: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """All samples in order, as (positions, batch). The last batch is padded with its first image.

    One batch shape throughout keeps the arithmetic the same; only ``len(positions)`` outputs count. A batch size far
    above the number of images costs no more than they do.
    """
    batch_size = min(batch_size, max(len(samples), PADDED))
    for start in range(0, len(samples), batch_size):
        positions = np.arange(start, min(start + batch_size, len(samples)))
        padded = np.concatenate([positions, np.full(batch_size - len(positions), start)])
        yield positions, _batch(samples, padded)


def _batch(samples: Samples, positions: np.ndarray, augment: "Augment | None" = None, seed: int = 0) -> Batch:
    import torch

    images = samples.images(positions)
    masks = samples.masks(positions) if samples.task == "segmentation" else np.zeros(images.shape[:3], np.uint8)
    if augment:
        for index, position in enumerate(positions):
            own = derive_seed(seed, "augment", int(position))
            images[index], masks[index] = augment(images[index], masks[index], own)
    # (B, S, S, 3) in memory is exactly channels-last: a view, no copy.
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    if samples.task == "segmentation":
        numbers = torch.arange(1, samples.classes + 1, dtype=torch.uint8)[None, :, None, None]
        return Batch(pixels, (torch.from_numpy(masks).unsqueeze(1) == numbers).float())
    return Batch(pixels, torch.from_numpy(samples.table["target"].to_numpy(dtype=np.int64)[positions]))
