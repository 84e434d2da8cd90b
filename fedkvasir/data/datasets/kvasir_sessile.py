"""Kvasir-Sessile: the 196 images of Kvasir-SEG that show a sessile polyp below 10 mm."""

from pathlib import Path

from fedkvasir.data.catalog import Card, Catalog, Dataset
from fedkvasir.data.datasets.kvasir_seg import read_polyps, which

CARD = Card(
    title="Kvasir-Sessile",
    source="https://datasets.simula.no/kvasir-seg/",
    citation="Jha et al., A Comprehensive Study on Colorectal Polyp Segmentation With ResUNet++, Conditional Random "
    "Field and Test-Time Augmentation, JBHI 2021",
    license="research and education",
    obtain="Download kvasir-sessile.zip from https://datasets.simula.no/kvasir-seg/ and unzip it so that the data "
    "folder holds sessile-main-Kvasir-SEG/images and sessile-main-Kvasir-SEG/masks.",
    centers="Baerum, Vestre Viken, Norway",
    groups="none published",
    count=196,
    counts={"images": 196},
    quirks=(
        "a subset of Kvasir-SEG under the same names: never put the two on different sides of a split",
        "masks are JPEG with ringing: binarised at > 127",
        "comes with train.txt and val.txt; their sizes are not confirmed (156 and 40 from memory)",
    ),
)


def _recognise(root: Path) -> bool:
    return which(root) == "kvasir-sessile"


def read(root: Path) -> Catalog:
    """List images, masks and the split that comes with them."""
    return read_polyps("kvasir-sessile", CARD, Path(root))


DATASET = Dataset("kvasir-sessile", CARD, ("segmentation",), _recognise, read)
