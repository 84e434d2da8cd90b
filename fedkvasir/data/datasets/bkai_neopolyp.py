"""BKAI-IGH NeoPolyp-Small: 1,000 polyp images from Hanoi whose masks say whether a polyp is neoplastic."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, list_images, make_catalog, missing, pair, strays
from fedkvasir.data.formats.picture import FOREGROUND
from fedkvasir.errors import UserError

CARD = Card(
    title="BKAI-IGH NeoPolyp-Small",
    source="https://www.kaggle.com/c/bkai-igh-neopolyp",
    citation="Lan et al., NeoUNet: Towards Accurate Colon Polyp Segmentation and Neoplasm Detection, ISVC 2021",
    license="see the rules of the Kaggle competition",
    obtain="Join https://www.kaggle.com/c/bkai-igh-neopolyp, download its data and unzip it so that the data folder "
    "holds bkai-igh-neopolyp/train/train and bkai-igh-neopolyp/train_gt/train_gt.",
    centers="Institute of Gastroenterology and Hepatology, Hanoi, Vietnam",
    groups="none published",
    count=1000,
    counts={"images": 1000, "test images": 200},
    quirks=(
        "the layout (folders doubled: train/train, train_gt/train_gt, test/test) is that of public code that reads it; "
        "names of 32 hex digits with .jpeg are from memory",
        "masks paint neoplastic polyps red and the others green: a polyp is either, at > 127 in any channel",
        "the masks of the 200 test images are not published: they are left out",
        "labels need the masks' pixels: set the option labels to true for classification",
    ),
)
LABELS = ("neoplastic", "non-neoplastic", "both")
HEX = re.compile(r"[0-9a-f]{32}")


def _recognise(root: Path) -> bool:
    return (root / "train").is_dir() and (root / "train_gt").is_dir()


def _part(root: Path, name: str) -> Path:
    """``train/train`` as unzipped, or ``train``."""
    doubled = root / name / name
    return doubled if doubled.is_dir() else root / name


def _label(mask: Path) -> str | None:
    """What the mask shows, looked at from afar: an eighth of a JPEG's side is decoded, single pixels do not count."""
    try:
        with Image.open(mask) as picture:
            small = (max(1, picture.width // 8), max(1, picture.height // 8))
            picture.draft("RGB", small)
            red, green, _ = np.moveaxis(np.asarray(picture.convert("RGB").resize(small, Image.Resampling.BOX)), 2, 0)
    except OSError as error:
        raise UserError(f"bkai-neopolyp: the mask {mask} cannot be read: unzip it again") from error
    neoplastic = bool(((red > FOREGROUND) & (green <= FOREGROUND)).any())
    other = bool(((green > FOREGROUND) & (red <= FOREGROUND)).any())
    return {(True, False): LABELS[0], (False, True): LABELS[1], (True, True): LABELS[2]}.get((neoplastic, other))


def read(root: Path, *, labels: bool = False) -> Catalog:
    """List the training images and their masks.

    labels: open every mask for the label neoplastic, non-neoplastic or both, which classification needs.
    """
    root = Path(root)
    folders = _part(root, "train"), _part(root, "train_gt")
    images, masks = (list_images(folder) for folder in folders)
    if not images or not masks:
        raise missing("bkai-neopolyp", CARD, root, "train/train/*.jpeg and train_gt/train_gt/*.jpeg")
    pairs, warnings = pair(images, masks, root)
    warnings += strays(*folders)
    if odd := [stem for stem, _, _ in pairs if not HEX.fullmatch(stem)]:
        warnings.append(f"{len(odd)} names are not of 32 hex digits, e.g. {odd[0]}")
    test = list_images(_part(root, "test"))
    if test:
        warnings.append(f"{len(test)} test images left out, their masks are not published")
    rows = [
        {
            "sample": f"bkai-neopolyp/{stem}",
            "center": "hanoi",
            "image": image.relative_to(root).as_posix(),
            "mask": mask.relative_to(root).as_posix(),
            "label": _label(mask) if labels else None,
        }
        for stem, image, mask in pairs
    ]
    if labels and (blank := [row["sample"] for row in rows if row["label"] is None]):
        warnings.append(f"{len(blank)} masks are neither red nor green, their images have no label, e.g. {blank[0]}")
    warnings += differences(CARD, {"images": len(rows), "test images": len(test)})
    return make_catalog("bkai-neopolyp", root, rows, warnings, LABELS if labels else ())


DATASET = Dataset("bkai-neopolyp", CARD, ("segmentation", "classification"), _recognise, read)
