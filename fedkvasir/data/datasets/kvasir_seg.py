"""Kvasir-SEG: 1,000 polyp images with masks from Baerum hospital, Norway."""

import json
from pathlib import Path

from fedkvasir.data.catalog import Card, Catalog, Dataset, list_images, make_catalog, missing, pair

CARD = Card(
    title="Kvasir-SEG",
    source="https://datasets.simula.no/kvasir-seg/",
    citation="Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MMM 2020",
    license="research and education",
    obtain="Download kvasir-seg.zip from https://datasets.simula.no/kvasir-seg/ and unzip it into the data folder.",
    centers="Baerum, Vestre Viken, Norway",
    groups="none published; near-duplicates are kept together",
    count=1000,
    quirks=(
        "masks are JPEG with ringing: binarised at > 127",
        "the box file is spelled kavsir_bboxes.json",
        "train.txt and val.txt (880 and 120) come from a repository of their own, not with the zip",
        "the same pictures as HyperKvasir segmented-images, under other names",
    ),
)


def _recognise(root: Path) -> bool:
    return (
        (root / "images").is_dir()
        and (root / "masks").is_dir()
        and (root.name.lower().startswith("kvasir-seg") or any(root.glob("k*sir_bboxes.json")))
    )


def read(root: Path) -> Catalog:
    """List images, masks, boxes and the official split (``val.txt`` is what papers test on)."""
    root = Path(root)
    images, masks = list_images(root / "images"), list_images(root / "masks")
    if not images or not masks:
        raise missing("kvasir-seg", CARD, root, "images/*.jpg and masks/*.jpg")
    pairs, warnings = pair(images, masks, root)
    split: dict[str, str] = {}
    for name in ("train", "val"):
        listing = root / f"{name}.txt"
        if listing.is_file():
            split |= dict.fromkeys(listing.read_text().split(), name)
    unknown = set(split) - set(images)
    if unknown:
        warnings.append(f"{len(unknown)} names in train.txt and val.txt have no image, e.g. {min(unknown)}")
    boxes: dict[str, dict] = {}
    for listing in sorted(root.glob("k*sir_bboxes.json")):
        boxes = json.loads(listing.read_text())
    rows = [
        {
            "sample": f"kvasir-seg/{stem}",
            "center": "baerum",
            "image": f"images/{image.name}",
            "mask": f"masks/{mask.name}",
            "official_split": split.get(stem),
            "boxes": [[box[k] for k in ("xmin", "ymin", "xmax", "ymax")] for box in boxes[stem]["bbox"]]
            if stem in boxes
            else None,
        }
        for stem, image, mask in pairs
    ]
    return make_catalog("kvasir-seg", root, rows, warnings)


DATASET = Dataset("kvasir-seg", CARD, ("segmentation",), _recognise, read)
