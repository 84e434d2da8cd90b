"""Miniatures: a small, faithful copy of each dataset's tree, with rendered pictures. One file a dataset.

``render(out, per_center)`` writes the tree as it lies on disk after unzipping under ``out`` and returns the root: real
folder names and name patterns, listed quirks, boxes that fit the masks, sides a quarter of the real ones (patches keep
theirs). The same call writes the same files.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from fedkvasir.data.catalog import RENDERED
from fedkvasir.data.datasets import find_dataset
from fedkvasir.errors import UserError
from fedkvasir.files import atomic_folder, write_atomic

WITHOUT = ("folder", "synthetic")
"""Your own data, and what is rendered anyway."""


def miniature(name: str, out: Path, per_center: int = 12) -> Path:
    """Write the miniature of a dataset into a new folder under ``out`` and return the dataset's root in it.

    Raises UserError for an unknown dataset, one that has no miniature, and a folder that is there already.
    """
    find_dataset(name)
    if name in WITHOUT:
        raise UserError(f"{name} has no miniature; `fedkvasir data list` names the datasets")
    if per_center < 2:
        raise UserError(f"--per-center {per_center}: a miniature needs at least 2")
    place = out / name
    if place.exists():
        raise UserError(f"{place} exists already; choose another OUT or remove it")
    render: Callable[[Path, int], Path] = import_module(f"{__name__}.{name.replace('-', '_')}").render
    with atomic_folder(place) as folder:
        root = render(folder, per_center).relative_to(folder)
        write_atomic(folder / RENDERED, f"A miniature of {name}: real layout, pictures painted by fedkvasir.\n")
    return place / root
