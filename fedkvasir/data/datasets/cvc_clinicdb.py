"""CVC-ClinicDB (CVC-612): 612 polyp frames from 29 video sequences, Hospital Clinic, Barcelona."""

from bisect import bisect_left
from pathlib import Path

from fedkvasir.data.catalog import Card, Catalog, Dataset, list_images, make_catalog, missing, pair

# The last frame of each of the 29 sequences (the table of the grand-challenge page).
LAST_FRAMES = (
    25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317,
    342, 363, 383, 408, 428, 447, 466, 478, 503, 528, 546, 571, 591, 612,
)  # fmt: skip

CARD = Card(
    title="CVC-ClinicDB",
    source="https://polyp.grand-challenge.org/CVCClinicDB/",
    citation="Bernal et al., WM-DOVA maps for accurate polyp highlighting in colonoscopy, CMIG 2015",
    license="research and education, no commercial use",
    obtain="Ask for CVC-ClinicDB at https://polyp.grand-challenge.org/CVCClinicDB/ and unpack it so that the data "
    "folder holds CVC-ClinicDB/Original and CVC-ClinicDB/Ground Truth.",
    centers="Hospital Clinic, Barcelona, Spain",
    groups="video sequence (29)",
    count=612,
    quirks=("as downloaded: TIF; copies: PNG", "some masks have grey edges: binarised at > 127"),
)
MASK_FOLDERS = ("Ground Truth", "Ground_Truth", "GroundTruth")


def _mask_folder(root: Path) -> Path | None:
    return next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)


def _recognise(root: Path) -> bool:
    return (root / "Original").is_dir() and _mask_folder(root) is not None


def read(root: Path) -> Catalog:
    """List frames and masks; the sequence follows from the frame number."""
    root = Path(root)
    mask_folder = _mask_folder(root)
    images = list_images(root / "Original")
    if not images or mask_folder is None:
        raise missing("cvc-clinicdb", CARD, root, "Original/N.png (or .tif) and Ground Truth/N.png")
    pairs, warnings = pair(images, list_images(mask_folder), root)
    odd = [stem for stem, _, _ in pairs if not (stem.isdigit() and 1 <= int(stem) <= LAST_FRAMES[-1])]
    if odd:
        warnings.append(f"{len(odd)} images left out, their names are not a frame number 1-612, e.g. {odd[0]}")
    rows = [
        {
            "sample": f"cvc-clinicdb/{int(stem):03d}",
            "center": "barcelona",
            "group": f"cvc-clinicdb/seq{bisect_left(LAST_FRAMES, int(stem)) + 1:02d}",
            "image": f"Original/{image.name}",
            "mask": f"{mask_folder.name}/{mask.name}",
        }
        for stem, image, mask in pairs
        if stem not in odd
    ]
    return make_catalog("cvc-clinicdb", root, rows, warnings)


DATASET = Dataset("cvc-clinicdb", CARD, ("segmentation",), _recognise, read)
