"""One file a file format: pixels and masks out of whatever a dataset keeps them in.

A format module has ``SUFFIXES``, ``pictures(path, items)`` and ``masks(path, items)``: generators that yield, for each
item in the order given, (H, W, 3) uint8 RGB, and (H, W) uint8 with 0 for background. An item says which part of the
file is meant (a frame, a row, a slice); null is the whole file. A broken file raises OSError or ValueError.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import numpy as np

FORMATS: tuple[ModuleType, ...] = tuple(import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))


def _format(path: Path) -> ModuleType:
    name = path.name.lower()
    for module in FORMATS:
        if name.endswith(module.SUFFIXES):
            return module
    raise ValueError(f"unknown kind of file; known: {', '.join(s for module in FORMATS for s in module.SUFFIXES)}")


def pictures(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """For each item (H, W, 3) uint8 RGB. Raises OSError or ValueError where the file is broken or lacks an item."""
    return _format(path).pictures(path, items)


def masks(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """For each item (H, W) uint8, 0 = background. Raises OSError or ValueError like :func:`pictures`."""
    return _format(path).masks(path, items)
