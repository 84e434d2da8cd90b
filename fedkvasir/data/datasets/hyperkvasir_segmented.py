"""HyperKvasir segmented-images: 1,000 polyp images with masks and boxes from Baerum hospital, Norway."""

import json
from pathlib import Path
from typing import Any

from fedkvasir.data.catalog import (
    IMAGE_SUFFIXES,
    Card,
    Catalog,
    Dataset,
    differences,
    list_images,
    make_catalog,
    missing,
    pair,
)
from fedkvasir.data.datasets import hyperkvasir_labeled
from fedkvasir.data.datasets.hyperkvasir_labeled import files_by_folder, odd_names
from fedkvasir.errors import UserError

NAME = "hyperkvasir-segmented"
CARD = Card(
    title="HyperKvasir, segmented images",
    source=hyperkvasir_labeled.CARD.source,
    citation=hyperkvasir_labeled.CARD.citation,
    license=hyperkvasir_labeled.CARD.license,
    obtain="Download hyper-kvasir-segmented-images.zip from https://datasets.simula.no/hyper-kvasir/ and unzip it so "
    "that the data folder holds segmented-images/images, segmented-images/masks and bounding-boxes.json beside them.",
    centers="Baerum, Vestre Viken, Norway",
    groups="none published; near-duplicates are kept together",
    count=1000,
    counts={"images": 1000, "boxes": 1071},
    quirks=(
        "the same pictures as Kvasir-SEG and as 1,000 of the labeled polyps",
        "masks are three-channel JPEG with ringing: binarised at > 127",
        "boxes are about one pixel wider than the mask on each side, clipped at the border",
    ),
)


def _recognise(root: Path) -> bool:
    return (
        (root / "images").is_dir()
        and (root / "masks").is_dir()
        and ((root / "bounding-boxes.json").is_file() or "segmented-images" in root.name.lower().replace("_", "-"))
    )


def read(root: Path) -> Catalog:
    """List images, masks and boxes (integer pixels of the native image). Raises UserError for a broken box file."""
    root = Path(root)
    images, masks = list_images(root / "images"), list_images(root / "masks")
    if not images or not masks:
        raise missing(NAME, CARD, root, "images/*.jpg and masks/*.jpg")
    pairs, warnings = pair(images, masks, root)
    warnings += files_by_folder(NAME, root, IMAGE_SUFFIXES)[1] + odd_names(images)
    boxes, more = _boxes(root / "bounding-boxes.json", images)
    rows = [
        {
            "sample": f"{NAME}/{stem}",
            "center": "baerum",
            "image": f"images/{image.name}",
            "mask": f"masks/{mask.name}",
            "boxes": boxes.get(stem),
        }
        for stem, image, mask in pairs
    ]
    warnings += more + differences(CARD, {"images": len(rows), "boxes": sum(map(len, boxes.values()))})
    return make_catalog(NAME, root, rows, warnings)


def _boxes(listing: Path, images: dict[str, Path]) -> tuple[dict[str, list[list[int]]], list[str]]:
    """[xmin, ymin, xmax, ymax] by stem, and warnings with counts for what the box file lacks or has too much."""
    if not listing.is_file():
        return {}, [f"{listing} is missing: no boxes"]
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{NAME}: {listing} is not JSON ({error}); get it anew or move it away") from error
    if not isinstance(entries, dict):
        raise UserError(f"{NAME}: {listing} is not an object of boxes by image name; get it anew or move it away")
    read = {stem: _corners(entry) for stem, entry in entries.items() if stem in images}
    kinds = (
        ([stem for stem, found in read.items() if found is None], "entries are odd and left out of"),
        ([stem for stem in entries if stem not in images], "entries have no image here:"),
        ([stem for stem in images if stem not in entries], "images have no entry in"),
    )
    warnings = [f"{len(found)} {what} {listing.name}, e.g. {found[0]}" for found, what in kinds if found]
    return {stem: found for stem, found in read.items() if found is not None}, warnings


def _corners(entry: Any) -> list[list[int]] | None:
    """The boxes of one entry; null where one of them is not four numbers that span a box inside the image."""
    try:
        found = [[int(box[key]) for key in ("xmin", "ymin", "xmax", "ymax")] for box in entry["bbox"]]
        width, height = int(entry["width"]), int(entry["height"])
    except (KeyError, TypeError, ValueError):
        return None
    inside = all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in found)
    return found if inside else None


DATASET = Dataset(NAME, CARD, ("segmentation",), _recognise, read)
