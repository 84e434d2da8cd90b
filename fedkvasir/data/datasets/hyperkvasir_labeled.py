"""HyperKvasir labeled-images: 10,662 images in 23 classes from Baerum hospital, Norway, with two official splits."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedkvasir.data.catalog import (
    IMAGE_SUFFIXES,
    JUNK,
    Card,
    Catalog,
    Dataset,
    differences,
    make_catalog,
    missing,
)
from fedkvasir.errors import UserError

NAME = "hyperkvasir-labeled"
TRACTS = ("lower-gi-tract", "upper-gi-tract")
CATEGORIES = (
    "anatomical-landmarks",
    "pathological-findings",
    "quality-of-mucosal-view",  # the videos' spelling
    "quality-of-mucosal-views",
    "therapeutic-interventions",
)
COUNTS = {
    "barretts": 41,
    "barretts-short-segment": 53,
    "bbps-0-1": 646,
    "bbps-2-3": 1148,
    "cecum": 1009,
    "dyed-lifted-polyps": 1002,
    "dyed-resection-margins": 989,
    "esophagitis-a": 403,
    "esophagitis-b-d": 260,
    "hemorrhoids": 6,
    "ileum": 9,
    "impacted-stool": 131,
    "polyps": 1028,
    "pylorus": 999,
    "retroflex-rectum": 391,
    "retroflex-stomach": 764,
    "ulcerative-colitis-grade-0-1": 35,
    "ulcerative-colitis-grade-1": 201,
    "ulcerative-colitis-grade-1-2": 11,
    "ulcerative-colitis-grade-2": 443,
    "ulcerative-colitis-grade-2-3": 28,
    "ulcerative-colitis-grade-3": 133,
    "z-line": 932,
}
"""Images by class, counted in the official split lists."""
CLASSES = tuple(COUNTS)
CSV_NAMES = {
    "polyps": "polyp",
    "hemorrhoids": "hemorroids",
    "cecum": "normal-cecum",
    "pylorus": "normal-pylorus",
    "z-line": "normal-z-line",
    "esophagitis-a": "oesophagitis-a",
    "esophagitis-b-d": "oesophagitis-b-d",
    "barretts-short-segment": "short-segment-barretts",
}
"""Folder name -> what the official split lists write, where the two differ."""
ALIASES: dict[str, str] = (
    {name: name for name in CLASSES}
    | {written: name for name, written in CSV_NAMES.items()}
    | {f"ulcerative-colitis-{grade}": f"ulcerative-colitis-grade-{grade}" for grade in ("0-1", "1-2", "2-3")}
)
"""Every published spelling of a class (folders, split lists, the repository's README) -> the folder name."""
DISTINCT = ("bbps-0-1", "bbps-2-3", "impacted-stool", "retroflex-rectum", "retroflex-stomach")
"""Classes that no other dataset has under any name."""
DEPTH = 4
"""Class folders lie at most so deep: tract, category, class, and one folder that somebody put around them."""
FOLDS = {"2_fold_split.csv": 2, "5_fold_split.csv": 5}

CARD = Card(
    title="HyperKvasir, labeled images",
    source="https://datasets.simula.no/hyper-kvasir/",
    citation="Borgli et al., HyperKvasir, a comprehensive multi-class image and video dataset for gastrointestinal "
    "endoscopy, Scientific Data 7, 283 (2020)",
    license="CC BY 4.0",
    obtain="Download hyper-kvasir-labeled-images.zip from https://datasets.simula.no/hyper-kvasir/ and unzip it so "
    "that the data folder holds labeled-images/lower-gi-tract and labeled-images/upper-gi-tract; for the official "
    "splits put the folder official_splits of https://github.com/simula/hyper-kvasir beside labeled-images.",
    centers="Baerum, Vestre Viken, Norway",
    groups="none published: no patient ids exist; near-duplicates are kept together",
    count=10662,
    counts={"images": 10662} | COUNTS,
    quirks=(
        "the official splits were cut per class, not per patient",
        "the split lists spell eight classes differently from the folders (hemorroids, polyp, normal-cecum ...)",
        "the column 'Video file' of image-labels.csv holds the image's name without its suffix",
        "1,000 of the 1,028 polyps are those of the segmented images and of Kvasir-SEG",
        "the paper speaks of three official splits; two are published",
    ),
)


def class_of(name: str) -> str | None:
    """The class that a folder's or a list's spelling means; null for a name that is none of the 23."""
    return ALIASES.get(hyphenated(name))


def hyphenated(name: str) -> str:
    """Lower case, one hyphen for everything that is neither letter nor digit: ``BBPS 0-1`` becomes ``bbps-0-1``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Does the folder directly hold a file of this kind? Stops at the first."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(suffixes) and entry.name[0] != "." for entry in entries)


def tract_tree_holds(root: Path, suffixes: tuple[str, ...]) -> bool:
    """Does ``<tract>/<category>/<class>`` below ``root`` hold a file of this kind?"""
    return any(holds(folder, suffixes) for tract in TRACTS for folder in (root / tract).glob("*/*"))


def _recognise(root: Path) -> bool:
    if root.name in CATEGORIES or (root / "video-labels.csv").is_file():
        return False
    return (
        (root / "image-labels.csv").is_file()
        or tract_tree_holds(root, IMAGE_SUFFIXES)
        or any(holds(root / name, IMAGE_SUFFIXES) for name in DISTINCT)
    )


def files_by_folder(dataset: str, root: Path, suffixes: tuple[str, ...]) -> tuple[dict[Path, list[str]], list[str]]:
    """File names of this kind by folder, :data:`DEPTH` levels deep, and a warning for files of other kinds in there.

    Hidden and system files are ignored. Raises UserError where a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{dataset}: {error.filename} cannot be listed ({error.strerror})") from error

    found: dict[Path, list[str]] = {}
    stray: list[str] = []
    for place, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        folder = Path(place)
        depth = len(folder.relative_to(root).parts)
        folders[:] = [name for name in sorted(folders) if name[0] != "." and depth < DEPTH]
        visible = [name for name in sorted(names) if name[0] != "." and name not in JUNK]
        kept = [name for name in visible if name.lower().endswith(suffixes)]
        if kept:
            found[folder] = kept
        if depth:
            stray += [name for name in visible if not name.lower().endswith(suffixes) and name not in FOLDS]
    return found, [f"{len(stray)} other files ignored under {root}, e.g. {stray[0]}"] if stray else []


def odd_names(stems: Iterable[str]) -> list[str]:
    """A warning where names are not UUIDs, as all published ones are."""
    odd = [stem for stem in stems if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", stem)]
    return [f"{len(odd)} file names are not UUIDs, e.g. {odd[0]}"] if odd else []


def rows_of(
    dataset: str, listing: Path, columns: Sequence[str], separator: str = ",", errors: str = "strict"
) -> list[dict[str, str]]:
    """The rows of a CSV, cells stripped. Raises UserError where it is not UTF-8 text or lacks a column."""
    try:
        with listing.open(encoding="utf-8-sig", errors=errors, newline="") as lines:
            reader = csv.DictReader(lines, delimiter=separator, restval="")
            reader.fieldnames = header = [name.strip() for name in reader.fieldnames or ()]
            if not set(columns) <= set(header):
                raise UserError(
                    f"{dataset}: {listing} has the columns {', '.join(header) or '(none)'}; "
                    f"needed, separated by {separator!r}: {', '.join(columns)}"
                )
            return [{column: row[column].strip() for column in columns} for row in reader]
    except UnicodeDecodeError as error:
        raise UserError(f"{dataset}: {listing} is not UTF-8 text; save it as UTF-8") from error
    except (csv.Error, OSError) as error:
        raise UserError(f"{dataset}: {listing} cannot be read as CSV: {error}") from error


def read(root: Path, *, official_splits: str | None = None) -> Catalog:
    """List the images by class folder, wherever below the root it lies and however its name is spelled.

    official_splits: the folder of ``2_fold_split.csv`` and ``5_fold_split.csv``; null looks for it in the root, beside
    it and one level up. Named splits are ``2-fold-0``, ``2-fold-1`` and ``5-fold-0`` to ``5-fold-4``: that fold is the
    test part. ``2-fold-0`` is the usual one. Raises UserError where a list is broken.
    """
    root = Path(root)
    folders, warnings = files_by_folder(NAME, root, IMAGE_SUFFIXES)
    unknown = {folder: names for folder, names in folders.items() if class_of(folder.name) is None}
    if unknown:
        counts = ", ".join(f"{folder.relative_to(root).as_posix()} {len(names)}" for folder, names in unknown.items())
        left = sum(map(len, unknown.values()))
        warnings.append(f"{left} images left out, their folder is none of the 23 classes: {counts}")
    images = [
        (Path(name).stem, str(class_of(folder.name)), (folder / name).relative_to(root))
        for folder, names in folders.items()
        for name in names
        if folder not in unknown
    ]
    if not images:
        raise missing(NAME, CARD, root, "a class folder with images, e.g. lower-gi-tract/anatomical-landmarks/cecum")
    classes: dict[str, list[str]] = {}
    for stem, label, _ in images:
        classes.setdefault(stem, []).append(label)
    twice = {stem: labels for stem, labels in classes.items() if len(labels) > 1}
    if twice:
        stem, labels = next(iter(twice.items()))
        example = f"{stem} in {' and '.join(labels)}"
        warnings.append(f"{len(twice)} file names stand in two folders, e.g. {example}: all kept, as one group")
    rows = [
        {
            "sample": f"{NAME}/{path.parent.as_posix()}/{stem}" if stem in twice else f"{NAME}/{stem}",
            "center": "baerum",
            "group": f"{NAME}/{stem}" if stem in twice else None,
            "image": path.as_posix(),
            "label": label,
        }
        for stem, label, path in images
    ]
    warnings += odd_names(classes)
    warnings += _check_labels(root / "image-labels.csv", classes)
    folds: dict[str, dict[str, int]] = {}
    for listing in _split_lists(root, official_splits):
        folds[listing.name], more = _read_folds(listing, classes)
        warnings += more
    splits = {
        f"{FOLDS[name]}-fold-{test}": {
            str(row["sample"]): "test" if found[stem] == test else "train"
            for row, (stem, _, _) in zip(rows, images, strict=True)
            if stem in found
        }
        for name, found in folds.items()
        if found
        for test in range(FOLDS[name])
    }
    usual = splits.get("2-fold-0", {})
    rows = [row | {"official_split": usual.get(str(row["sample"]))} for row in rows]
    warnings += differences(CARD, {"images": len(rows)} | Counter(label for _, label, _ in images))
    return make_catalog(NAME, root, rows, warnings, CLASSES, splits)


def _check_labels(listing: Path, classes: dict[str, list[str]]) -> list[str]:
    """Warnings where image-labels.csv and the class folders disagree."""
    if not listing.is_file():
        return []
    rows = rows_of(NAME, listing, ("Video file", "Finding"))
    return _compare(listing, [(Path(row["Video file"]).stem, row["Finding"]) for row in rows], classes)


def _compare(listing: Path, listed: list[tuple[str, str]], classes: dict[str, list[str]]) -> list[str]:
    """Warnings with counts: (stem, class name) pairs of a list against the classes of the images that are here."""
    stems = Counter(stem for stem, _ in listed)
    twice = [stem for stem, count in stems.items() if count > 1]
    gone = [stem for stem in stems if stem not in classes]
    new = [stem for stem in classes if stem not in stems]
    other = [f"{stem} as {name}" for stem, name in listed if stem in classes and class_of(name) not in classes[stem]]
    kinds = (
        (twice, "names stand more than once in"),
        (gone, "rows have no image here:"),
        (new, "images have no row in"),
        (other, "images lie in a folder of another class than in"),
    )
    return [f"{len(found)} {what} {listing.name}, e.g. {found[0]}" for found, what in kinds if found]


def above(root: Path) -> list[Path]:
    """The two folders above the root, and where it is a link, the two above what it leads to."""
    return [*root.absolute().parents[:2], *root.resolve().parents[:2]]


def _split_lists(root: Path, official_splits: str | None) -> list[Path]:
    """The official split lists that are there."""
    if official_splits is not None:
        places = [Path(official_splits).expanduser()]
    else:
        places = [root, root / "official_splits"]
        places += [
            folder / name for folder in above(root) for name in ("official_splits", "hyper-kvasir/official_splits")
        ]
    found = [next((folder / name for folder in places if (folder / name).is_file()), None) for name in FOLDS]
    if official_splits is not None and not any(found):
        raise UserError(f"{NAME}: option official_splits: {places[0]} holds neither {' nor '.join(FOLDS)}")
    return [path for path in found if path]


def _read_folds(listing: Path, classes: dict[str, list[str]]) -> tuple[dict[str, int], list[str]]:
    """The fold of every image that is here, by stem, and warnings where list and folders disagree."""
    rows = rows_of(NAME, listing, ("file-name", "class-name", "split-index"), ";")
    folds: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        stem, index = Path(row["file-name"]).stem, row["split-index"]
        if stem in folds:
            raise UserError(f"{NAME}: {listing} lists {row['file-name']} twice (line {line}); get the file anew")
        if index not in map(str, range(FOLDS[listing.name])):
            last = FOLDS[listing.name] - 1
            raise UserError(f"{NAME}: {listing} line {line}: split-index {index!r} is not 0 to {last}")
        folds[stem] = int(index)
    listed = [(Path(row["file-name"]).stem, row["class-name"]) for row in rows]
    return {stem: fold for stem, fold in folds.items() if stem in classes}, _compare(listing, listed, classes)


DATASET = Dataset(NAME, CARD, ("classification",), _recognise, read)
