"""CVC-300 (CVC-T): the 60 test frames of EndoScene, from the source of CVC-ColonDB."""

from pathlib import Path

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, list_images, make_catalog, missing, pair, strays
from fedkvasir.data.datasets.cvc_clinicdb import known_by_name
from fedkvasir.data.datasets.cvc_colondb import numbered, sequence

CARD = Card(
    title="CVC-300",
    source="https://github.com/DengPingFan/PraNet",
    citation="Vazquez et al., A benchmark for endoluminal scene segmentation of colonoscopy images, "
    "Journal of Healthcare Engineering 2017",
    license="not stated in the sources at hand; research use",
    obtain="Get a copy of CVC-300 and unpack it so that the data folder holds CVC-300/images and CVC-300/masks. The "
    "copy inside PraNet's TestDataset (https://github.com/DengPingFan/PraNet) is read by the dataset pranet.",
    centers="published by the Computer Vision Center, Barcelona, Spain; the sources at hand do not name the hospital",
    groups="video sequence of CVC-ColonDB, by the frame number",
    count=60,
    counts={"images": 60},
    quirks=(
        "the 60 test frames, numbered 149 to 208, not all 300 of the name",
        "the same source as CVC-ColonDB, whose sequences its groups name: never on opposite sides of a split",
    ),
)


def _recognise(root: Path) -> bool:
    return known_by_name(root, "cvc-300")


def read(root: Path) -> Catalog:
    """List frames and masks; the sequence is CVC-ColonDB's, so that both lie on one side of a split."""
    root = Path(root)
    folders = root / "images", root / "masks"
    images, masks = (list_images(folder) for folder in folders)
    if not images or not masks:
        raise missing("cvc-300", CARD, root, "images/N.png and masks/N.png")
    pairs, warnings = pair(images, masks, root)
    rows, odd = numbered("cvc-300", "barcelona", root, pairs, sequence)
    warnings += [*strays(*folders), *odd, *differences(CARD, {"images": len(rows)})]
    return make_catalog("cvc-300", root, rows, warnings)


DATASET = Dataset("cvc-300", CARD, ("segmentation",), _recognise, read)
