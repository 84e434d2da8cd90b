"""Kvasir-SEG: 1,000 polyp images with masks from Baerum hospital, Norway."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fedkvasir.data.catalog import (
    Card,
    Catalog,
    Dataset,
    differences,
    list_images,
    make_catalog,
    missing,
    pair,
    strays,
)
from fedkvasir.errors import UserError

CARD = Card(
    title="Kvasir-SEG",
    source="https://datasets.simula.no/kvasir-seg/",
    citation="Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MMM 2020",
    license="research and education",
    obtain="Download kvasir-seg.zip from https://datasets.simula.no/kvasir-seg/ and unzip it into the data folder. "
    "For split: official put train.txt and val.txt, which are not in the zip, beside images/: they are in "
    "kvasir-seg-train-val/ of https://github.com/DebeshJha/2020-MediaEval-Medico-polyp-segmentation.",
    centers="Baerum, Vestre Viken, Norway",
    groups="none published; near-duplicates are kept together",
    count=1000,
    counts={"images": 1000, "boxes": 1071, "train": 880, "val": 120},
    quirks=(
        "masks are JPEG with ringing, of three channels in the zip: binarised at > 127",
        "the box file is spelled kavsir_bboxes.json; some copies rename it kvasir_bboxes.json or add annotated_images",
        "train.txt and val.txt (880 and 120) come from a repository of their own, not with the zip",
        "14 pictures are there twice, with and without their margin (ids cjy and cjz); 13 of these twins lie on both "
        "sides of train.txt and val.txt (found by `fedkvasir data audit`, then looked at)",
        "the same pictures as HyperKvasir segmented-images, under other names",
    ),
)
BOX_FILES = ("kavsir_bboxes.json", "kvasir_bboxes.json")
EDGES = ("xmin", "ymin", "xmax", "ymax")
ID = re.compile(r"c[jk][0-9a-z]{23}")
"""Both datasets name a picture by 25 characters, e.g. cju0qkwl35piu0993l0dewei2."""


def which(root: Path) -> str | None:
    """kvasir-seg, kvasir-sessile or neither: by name and box file, else by names like its ids and how many there are.

    A renamed folder without a box file is known by its ids and its two lists; above 500 images it is Kvasir-SEG.
    """
    images, name = root / "images", root.name.lower()
    if not images.is_dir() or not (root / "masks").is_dir() or (root / "bounding-boxes.json").exists():
        return None
    if "sessile" in name:
        return "kvasir-sessile"
    if re.match(r"kvasir[-_ ]?seg", name) or any((root / listing).is_file() for listing in BOX_FILES):
        return "kvasir-seg"
    if not (root / "train.txt").is_file() or not (root / "val.txt").is_file():
        return None
    ids = sum(ID.fullmatch(path.stem) is not None for path in images.iterdir())
    return None if not ids else "kvasir-seg" if ids > 500 else "kvasir-sessile"


def _recognise(root: Path) -> bool:
    return which(root) == "kvasir-seg"


def _split(root: Path, images: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Image name -> train or val, and what is odd about train.txt and val.txt."""
    split: dict[str, str] = {}
    warnings = []
    for name in ("train", "val"):
        listing = root / f"{name}.txt"
        if not listing.is_file():
            continue
        try:
            names = [Path(line).stem for line in listing.read_text(encoding="utf-8").split()]
        except UnicodeDecodeError as error:
            raise UserError(f"{listing} is not a text file in UTF-8: replace or remove it") from error
        if both := sorted(split.keys() & set(names)):
            warnings.append(f"{len(both)} names stand in train.txt and in val.txt, taken as val, e.g. {both[0]}")
        split |= dict.fromkeys(names, name)
    if unknown := split.keys() - set(images):
        warnings.append(f"{len(unknown)} names in train.txt and val.txt have no image, e.g. {min(unknown)}")
    if split and (unlisted := sorted(set(images) - split.keys())):
        warnings.append(f"{len(unlisted)} images are neither in train.txt nor in val.txt, e.g. {unlisted[0]}")
    return split, warnings


def _boxes(entry: dict[str, Any]) -> list[list[int]]:
    """The boxes of one entry. Raises ValueError where one does not span a piece of the image."""
    boxes = [[int(row[edge]) for edge in EDGES] for row in entry["bbox"]]
    width, height = int(entry["width"]), int(entry["height"])
    if not all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in boxes):
        raise ValueError(boxes)
    return boxes


def read_boxes(listing: Path, images: Collection[str]) -> tuple[dict[str, list[list[int]]], list[str]]:
    """Boxes by image name out of ``{name: {height, width, bbox: [{label, xmin, ymin, xmax, ymax}, ...]}}``.

    An odd entry gives its image no boxes, and a warning with a count. Raises UserError where the file is not such JSON.
    """
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{listing} is not valid JSON ({error}): unpack it again or remove it") from error
    if not isinstance(entries, dict):
        raise UserError(f"{listing} is not an object of image names and boxes: unpack it again or remove it")
    boxes, odd = {}, []
    for name in sorted(set(entries) & set(images)):
        try:
            boxes[name] = _boxes(entries[name])
        except (KeyError, TypeError, ValueError):
            odd.append(name)
    kinds = (
        (odd, "entries hold no boxes inside their image and are left out:"),
        (sorted(set(entries) - set(images)), "entries have no image:"),
        (sorted(set(images) - set(entries)), "images have no entry:"),
    )
    return boxes, [f"{len(found)} {what} {listing.name}, e.g. {found[0]}" for found, what in kinds if found]


def read_polyps(dataset: str, card: Card, root: Path) -> Catalog:
    """What Kvasir-SEG and Kvasir-Sessile have in common: images, masks, boxes and two lists."""
    folders = root / "images", root / "masks"
    images, masks = (list_images(folder) for folder in folders)
    if not images or not masks:
        raise missing(dataset, card, root, "images/*.jpg and masks/*.jpg")
    pairs, warnings = pair(images, masks, root)
    warnings += strays(*folders)
    if odd := [stem for stem, _, _ in pairs if not ID.fullmatch(stem)]:
        warnings.append(f"{len(odd)} names are not ids of Kvasir-SEG (25 characters), e.g. {odd[0]}")
    split, notes = _split(root, images)
    warnings += notes
    boxes: dict[str, list[list[int]]] = {}
    listing = next((root / name for name in BOX_FILES if (root / name).is_file()), None)
    if listing:
        boxes, notes = read_boxes(listing, images)
        warnings += notes
    rows = [
        {
            "sample": f"{dataset}/{stem}",
            "center": "baerum",
            "image": f"images/{image.name}",
            "mask": f"masks/{mask.name}",
            "official_split": split.get(stem),
            "boxes": boxes.get(stem),
        }
        for stem, image, mask in pairs
    ]
    parts = [row["official_split"] for row in rows]
    found = {"images": len(rows), "boxes": sum(len(row["boxes"] or ()) for row in rows)}
    found |= {name: parts.count(name) for name in ("train", "val")}
    return make_catalog(dataset, root, rows, warnings + differences(card, found))


def read(root: Path) -> Catalog:
    """List images, masks, boxes and the official split (``val.txt`` is what papers test on)."""
    return read_polyps("kvasir-seg", CARD, Path(root))


DATASET = Dataset("kvasir-seg", CARD, ("segmentation",), _recognise, read)
