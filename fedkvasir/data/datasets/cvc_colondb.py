"""CVC-ColonDB: 380 polyp frames from 15 colonoscopy sequences, published by the Computer Vision Center, Barcelona."""

import re
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, list_images, make_catalog, missing, pair, strays
from fedkvasir.data.datasets.cvc_clinicdb import known_by_name

# Sequences of frames 1-300 and the last frame of each, as public code for the original release states them. The 60
# names of CVC-300, 149 to 208, are exactly its sequences 7, 9 and 10. Nobody states those of frames 301-380.
SEQUENCES = (1, 2, 3, 5, 6, 7, 9, 10, 11, 14, 15)
LAST_FRAMES = (38, 60, 76, 97, 148, 155, 203, 208, 263, 273, 300)

CARD = Card(
    title="CVC-ColonDB",
    source="http://mv.cvc.uab.es/projects/colon-qa/cvccolondb",
    citation="Bernal, Sanchez and Vilarino, Towards automatic polyp detection with a polyp appearance model, "
    "Pattern Recognition 2012",
    license="not stated in the sources at hand; research use",
    obtain="Get CVC-ColonDB from http://mv.cvc.uab.es/projects/colon-qa/cvccolondb or a copy of it, and unpack it so "
    "that the data folder holds CVC-ColonDB/images and CVC-ColonDB/masks, or CVC-ColonDB/N.tiff beside pN.tiff. The "
    "copy inside a PraNet TestDataset is read by the dataset pranet.",
    centers="published by the Computer Vision Center, Barcelona, Spain; the sources at hand do not name the hospital",
    groups="video sequence for frames 1-300 (11 of the 15); none published for frames 301-380",
    count=380,
    counts={"images": 380},
    quirks=(
        "the publisher's page says 300 frames from 15 sequences; the files that circulate are 380",
        "CVC-300 comes from the same source: never put the two on opposite sides of a split",
        "the original release keeps images N, masks pN and contours (c, cp, s) in one folder",
    ),
)


def sequence(frame: str) -> str | None:
    """The group of a frame by its number, "1" to "300"; null where no sequence is known."""
    if not (frame.isdecimal() and 1 <= int(frame) <= LAST_FRAMES[-1]):
        return None
    return f"cvc-colondb/seq{SEQUENCES[bisect_left(LAST_FRAMES, int(frame))]:02d}"


def numbered(
    dataset: str,
    center: str,
    root: Path,
    pairs: list[tuple[str, Path, Path]],
    group: Callable[[str], str | None] = lambda frame: None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of frames that are named by their number, and a warning for those that are not."""
    odd = [stem for stem, _, _ in pairs if not stem.isdecimal()]
    rows = [
        {
            "sample": f"{dataset}/{stem.zfill(3)}",
            "center": center,
            "group": group(stem),
            "image": image.relative_to(root).as_posix(),
            "mask": mask.relative_to(root).as_posix(),
        }
        for stem, image, mask in pairs
    ]
    return rows, [f"{len(odd)} image names are not a frame number, e.g. {odd[0]}"] if odd else []


def _flat(root: Path) -> bool:
    return root.name.lower().replace("_", "-").startswith("cvc-colondb") and any(root.glob("p[0-9]*.*"))


def _recognise(root: Path) -> bool:
    return known_by_name(root, "cvc-colondb") or _flat(root)


def read(root: Path) -> Catalog:
    """List frames and masks, out of ``images`` and ``masks`` or out of the one folder of the original release."""
    root = Path(root)
    if (root / "images").is_dir() and (root / "masks").is_dir():
        images, masks = list_images(root / "images"), list_images(root / "masks")
        warnings = strays(root / "images", root / "masks")
    else:
        files = list_images(root)
        images = {stem: path for stem, path in files.items() if stem.isdecimal()}
        masks = {stem[1:]: path for stem, path in files.items() if re.fullmatch(r"p\d+", stem)}
        strange = [stem for stem in files if not re.fullmatch(r"(p|c|cp|s)?\d+", stem)]
        warnings = [f"{len(strange)} images of unknown meaning left out, e.g. {strange[0]}"] if strange else []
    if not images:
        raise missing("cvc-colondb", CARD, root, "images/N.png and masks/N.png, or N.tiff and pN.tiff")
    pairs, orphans = pair(images, masks, root)
    rows, odd = numbered("cvc-colondb", "barcelona", root, pairs, sequence)
    warnings += [*orphans, *odd, *differences(CARD, {"images": len(rows)})]
    return make_catalog("cvc-colondb", root, rows, warnings)


DATASET = Dataset("cvc-colondb", CARD, ("segmentation",), _recognise, read)
