"""HyperKvasir unlabeled-images: 99,417 images without a label from Baerum hospital, Norway."""

import os
from pathlib import Path

from fedkvasir.data.catalog import IMAGE_SUFFIXES, Card, Catalog, Dataset, differences, make_catalog, missing
from fedkvasir.data.datasets import hyperkvasir_labeled
from fedkvasir.data.datasets.hyperkvasir_labeled import files_by_folder, odd_names

NAME = "hyperkvasir-unlabeled"
CARD = Card(
    title="HyperKvasir, unlabeled images",
    source=hyperkvasir_labeled.CARD.source,
    citation=hyperkvasir_labeled.CARD.citation,
    license=hyperkvasir_labeled.CARD.license,
    obtain="Download the unlabeled images from https://datasets.simula.no/hyper-kvasir/ and unzip them so that the "
    "data folder holds unlabeled-images/images.",
    centers="Baerum, Vestre Viken, Norway",
    groups="none published; near-duplicates are kept together",
    count=99417,
    counts={"images": 99417},
    quirks=("no label at all: for prediction and pseudo-labels",),
)


def _recognise(root: Path) -> bool:
    """By name; under another name, where UUID pictures in ``images`` are all that is there."""
    if not (root / "images").is_dir():
        return False
    if "unlabeled-images" in root.name.lower().replace("_", "-"):
        return True
    with os.scandir(root) as entries:
        if any(entry.name != "images" and entry.name[0] != "." for entry in entries):
            return False
    with os.scandir(root / "images") as entries:
        first = next((entry.name for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)), "")
    return bool(first) and not odd_names([Path(first).stem])


def read(root: Path) -> Catalog:
    """List the images; there is nothing else."""
    root = Path(root)
    folders, warnings = files_by_folder(NAME, root, IMAGE_SUFFIXES)
    names = folders.pop(root / "images", [])
    if not names:
        raise missing(NAME, CARD, root, "images/*.jpg")
    if folders:
        where = ", ".join(f"{folder.relative_to(root).as_posix()} {len(found)}" for folder, found in folders.items())
        warnings.append(f"{sum(map(len, folders.values()))} images left out, they lie outside images/: {where}")
    warnings += odd_names(Path(name).stem for name in names)
    rows = [{"sample": f"{NAME}/{Path(name).stem}", "center": "baerum", "image": f"images/{name}"} for name in names]
    return make_catalog(NAME, root, rows, warnings + differences(CARD, {"images": len(rows)}))


DATASET = Dataset(NAME, CARD, (), _recognise, read)
