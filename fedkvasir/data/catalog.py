"""The catalog: what a dataset holds, one row a sample, without pixels."""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fedkvasir.errors import UserError

COLUMNS = (
    "sample",  # unique id, "<dataset>/..."
    "dataset",
    "center",  # the dataset's own center
    "group",  # patient, sequence or video; null where the source names none
    "image",  # path under the root
    "item",  # row, slice or frame inside that file; null = the whole file
    "mask",  # path under the root; null = no mask
    "mask_item",
    "empty",  # true where the absence of a mask means "no polyp"
    "boxes",  # [[xmin, ymin, xmax, ymax], ...] in pixels, or null
    "label",  # class name, or null
    "official_split",  # train, val, test, or null
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
RENDERED = "RENDERED.txt"
"""This file beside a root says that its pictures are painted, not taken."""
JUNK = (".DS_Store", "Thumbs.db")


@dataclass(frozen=True)
class Card:
    """What a person needs to know before using a dataset."""

    title: str
    source: str
    citation: str
    license: str
    obtain: str
    """How to get it: the sentence shown when it is missing."""
    centers: str
    groups: str
    count: int | None = None
    """Number of samples in the complete dataset."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What else is published to be counted: by center, class or part."""
    quirks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """Samples of one dataset root; ``table`` has the columns of :data:`COLUMNS`, sorted by ``sample``."""

    dataset: str
    root: Path
    table: pd.DataFrame
    warnings: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ("polyp",)
    """What the values 1, 2, ... of a mask mean."""
    splits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Published splits by name: sample -> train, val or test. The column ``official_split`` holds the usual one."""

    @property
    def rendered(self) -> bool:
        """No picture of a patient: painted by fedkvasir, as ``synthetic`` is and miniatures are."""
        return any((folder / RENDERED).is_file() for folder in (self.root, *list(self.root.resolve().parents)[:3]))

    @cached_property
    def hash(self) -> str:
        """sha256 of the listing: the same names give the same hash on every machine."""
        text = self.table[list(COLUMNS)].to_csv(index=False, lineterminator="\n")
        if self.splits:
            text += json.dumps({name: dict(split) for name, split in self.splits.items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A published source: how to recognise its root and how to read it."""

    name: str
    card: Card
    tasks: tuple[str, ...]
    recognise: Callable[[Path], bool]
    """Does this folder look like the dataset's root? Cheap; looks at names only."""
    read: Callable[..., Catalog]
    """``read(root, **options)`` lists the dataset and decodes nothing; options are keyword-only."""
    prepare: Callable[..., Path] | None = None
    """For rendered datasets: ``prepare(progress, **options)`` makes the root and returns it."""
    tables: Mapping[str, Callable[[Path], pd.DataFrame]] = field(default_factory=dict)
    """What else is published with it, as tables: ``name -> function of the root``."""
    verify: Callable[[Path], list[str]] | None = None
    """Slow checks that only `fedkvasir data check` makes (checksums of big files); returns what is wrong."""


def make_catalog(
    dataset: str,
    root: Path,
    rows: Sequence[dict[str, Any]],
    warnings: Iterable[str] = (),
    classes: Iterable[str] = (),
    splits: Mapping[str, Mapping[str, str]] | None = None,
    mask_classes: Iterable[str] = ("polyp",),
) -> Catalog:
    """Check rows and fill absent columns. Raises UserError where no row is left or a sample id stands twice."""
    if not rows:
        raise UserError(f"{dataset}: no image found under {root}")
    table = pd.DataFrame(list(rows)).reindex(columns=list(COLUMNS)).astype(object)
    table = table.where(table.notna(), None)
    table["dataset"] = dataset
    table["empty"] = [bool(value) for value in table["empty"]]
    table = table.sort_values("sample", ignore_index=True)
    twice = table["sample"][table["sample"].duplicated()]
    if len(twice):
        raise UserError(f"{dataset}: {len(twice)} samples are listed twice under {root}, e.g. {twice.iloc[0]}")
    return Catalog(dataset, Path(root), table, tuple(warnings), tuple(classes), tuple(mask_classes), splits or {})


def spelt_alike(names: Iterable[str]) -> list[list[str]]:
    """Those that differ in capitals, spaces, "_", "-" and the codes of the same characters alone, together, sorted."""
    found: dict[str, set[str]] = {}
    for name in names:
        key = re.sub(r"[\s_-]+", "-", unicodedata.normalize("NFKC", name).casefold())
        found.setdefault(key, set()).add(name)
    return [sorted(alike) for alike in found.values() if len(alike) > 1]


def list_images(folder: Path) -> dict[str, Path]:
    """Image files directly inside ``folder`` by stem, sorted; hidden and system files are ignored.

    Raises UserError where two files share a stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name in JUNK or path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in found:
            raise UserError(f"{folder} holds {path.name} and {found[path.stem].name}: keep one of the two")
        found[path.stem] = path
    return found


def readable(folder: Path) -> bool:
    """May this folder be listed and entered?"""
    return os.access(folder, os.R_OK | os.X_OK)


def pair(
    images: dict[str, Path], masks: dict[str, Path], where: Path
) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Images with their masks by stem, and a warning with a count for each kind of orphan."""
    both = [(stem, images[stem], masks[stem]) for stem in images if stem in masks]
    warnings = []
    for kind, lonely in (
        ("without a mask", sorted(set(images) - set(masks))),
        ("masks without an image", sorted(set(masks) - set(images))),
    ):
        if lonely:
            noun = "" if kind.startswith("masks") else "image(s) "
            warnings.append(f"{len(lonely)} {noun}{kind} left out under {where}, e.g. {lonely[0]}")
    return both, warnings


def other_files(folder: Path) -> list[Path]:
    """What lies in ``folder`` beside images, sorted; hidden and system files are ignored."""
    return [
        path
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if path.suffix.lower() not in IMAGE_SUFFIXES and path.name not in JUNK and not path.name.startswith(".")
    ]


def strays(*folders: Path) -> list[str]:
    """A warning with a count where folders of images hold something else than images."""
    found = sorted(f"{folder.name}/{path.name}" for folder in folders for path in other_files(folder))
    return [f"{len(found)} files or folders among the images are no images, e.g. {found[0]}"] if found else []


def missing(dataset: str, card: Card, root: Path, expected: str) -> UserError:
    """The one sentence for a root that is not what it should be."""
    return UserError(f"{dataset}: {root} does not hold {expected}. {card.obtain}")


def differences(card: Card, found: Mapping[str, int]) -> list[str]:
    """One warning that names every published count that ``found`` does not meet, or none."""
    off = [f"{name} {found.get(name, 0)} of {count}" for name, count in card.counts.items() if found.get(name) != count]
    if not off:
        return []
    more = f" and {len(off) - 6} more" if len(off) > 6 else ""
    return [f"counts differ from the published ones (here, of): {', '.join(off[:6])}{more}"]
