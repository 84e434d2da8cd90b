"""HyperKvasir segmented-images: 1,000 polyp images with masks and boxes from Baerum hospital, Norway."""

from pathlib import Path

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
from fedkvasir.data.datasets.kvasir_seg import read_boxes

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
    listing = root / "bounding-boxes.json"
    boxes, more = read_boxes(listing, images) if listing.is_file() else ({}, [f"{listing} is missing: no boxes"])
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


DATASET = Dataset(NAME, CARD, ("segmentation",), _recognise, read)
