"""CVC-ClinicDB (CVC-612): 612 polyp frames from 29 video sequences, Hospital Clinic, Barcelona."""

from bisect import bisect_left
from pathlib import Path

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, list_images, make_catalog, missing, pair, strays

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
    "folder holds CVC-ClinicDB/Original and CVC-ClinicDB/Ground Truth. Copies inside a PraNet TrainDataset or "
    "TestDataset are read by the dataset pranet.",
    centers="Hospital Clinic, Barcelona, Spain",
    groups="video sequence (29)",
    count=612,
    counts={"images": 612, "sequences": 29},
    quirks=(
        "as downloaded: TIF; the Kaggle copy holds PNG/ and TIF/, of which PNG is read; its metadata.csv is not",
        "138 of the 612 masks have grey edges: binarised at > 127",
        "frames of a sequence are near-duplicates; the same page speaks of 25 studies, other papers of 31 sequences",
    ),
)
MASK_FOLDERS = ("Ground Truth", "Ground_Truth", "GroundTruth")


def mask_folder(root: Path) -> Path | None:
    """The folder of masks under any of its three spellings."""
    return next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)


def known_by_name(root: Path, start: str) -> bool:
    """Is this ``images`` and ``masks`` in a folder whose name starts so? Not inside PraNet's TestDataset."""
    return (
        root.name.lower().replace("_", "-").startswith(start)
        and root.absolute().parent.name != "TestDataset"
        and (root / "images").is_dir()
        and (root / "masks").is_dir()
    )


def sequence(frame: str) -> str | None:
    """The group of a frame by its number, "1" to "612"; null for any other name."""
    if not (frame.isdecimal() and 1 <= int(frame) <= LAST_FRAMES[-1]):
        return None
    return f"cvc-clinicdb/seq{bisect_left(LAST_FRAMES, int(frame)) + 1:02d}"


def _copies(root: Path) -> list[tuple[Path, Path]]:
    """(images, masks) of every copy under the root, the preferred one first."""
    copies = [(place / "Original", mask_folder(place)) for place in (root, root / "PNG", root / "TIF")]
    found = [(images, masks) for images, masks in copies if images.is_dir() and masks]
    return found + ([(root / "images", root / "masks")] if known_by_name(root, "cvc-clinicdb") else [])


def _recognise(root: Path) -> bool:
    return bool(_copies(root))


def read(root: Path) -> Catalog:
    """List frames and masks; the sequence follows from the frame number."""
    root = Path(root)
    copies = _copies(root)
    images = list_images(copies[0][0]) if copies else {}
    if not images:
        raise missing("cvc-clinicdb", CARD, root, "Original/N.png (or .tif) and Ground Truth/N.png")
    pairs, warnings = pair(images, list_images(copies[0][1]), root)
    warnings += strays(*copies[0])
    if len(copies) > 1:
        places = [folder.relative_to(root).as_posix() for folder, _ in copies]
        warnings.append(f"{len(copies)} copies of the images: {places[0]} is read, not {', '.join(places[1:])}")
    odd = [stem for stem, _, _ in pairs if sequence(stem) is None]
    if odd:
        warnings.append(f"{len(odd)} images left out, their names are not a frame number 1-612, e.g. {odd[0]}")
    rows = [
        {
            "sample": f"cvc-clinicdb/{int(stem):03d}",
            "center": "barcelona",
            "group": sequence(stem),
            "image": image.relative_to(root).as_posix(),
            "mask": mask.relative_to(root).as_posix(),
        }
        for stem, image, mask in pairs
        if stem not in odd
    ]
    warnings += differences(CARD, {"images": len(rows), "sequences": len({row["group"] for row in rows})})
    return make_catalog("cvc-clinicdb", root, rows, warnings)


DATASET = Dataset("cvc-clinicdb", CARD, ("segmentation",), _recognise, read)
