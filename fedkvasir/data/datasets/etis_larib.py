"""ETIS-Larib Polyp DB: 196 polyp frames from 34 sequences, Lariboisière hospital, Paris."""

from pathlib import Path

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, list_images, make_catalog, missing, pair, strays
from fedkvasir.data.datasets.cvc_clinicdb import known_by_name, mask_folder
from fedkvasir.data.datasets.cvc_colondb import numbered
from fedkvasir.errors import UserError

CARD = Card(
    title="ETIS-Larib Polyp DB",
    source="https://polyp.grand-challenge.org/EtisLarib/",
    citation="Silva et al., Toward embedded detection of polyps in WCE images for early diagnosis of colorectal "
    "cancer, IJCARS 2014",
    license="not stated in the sources at hand; images: Lariboisière Hospital (AP-HP), masks: ETIS laboratory",
    obtain="Get ETIS-LaribPolypDB.rar from https://polyp.grand-challenge.org/EtisLarib/ and unpack it so that the data "
    "folder holds ETIS-LaribPolypDB/ETIS-LaribPolypDB/N.tif and ETIS-LaribPolypDB/Ground Truth/pN.tif. The copy inside "
    "a PraNet TestDataset is read by the dataset pranet.",
    centers="Lariboisière Hospital (AP-HP), Paris, France",
    groups="none: 34 sequences with 44 polyps, but nobody states where one ends; near-duplicates are kept together",
    count=196,
    counts={"images": 196},
    quirks=("mask pN.tif belongs to image N.tif", "copies: images/N.png and masks/N.png"),
)


def _folders(root: Path) -> tuple[Path, Path] | None:
    masks = mask_folder(root)
    if masks and (root / "ETIS-LaribPolypDB").is_dir():
        return root / "ETIS-LaribPolypDB", masks
    return (root / "images", root / "masks") if known_by_name(root, "etis") else None


def _recognise(root: Path) -> bool:
    return _folders(root) is not None


def read(root: Path) -> Catalog:
    """List frames and masks; mask ``p7`` or ``7`` belongs to image ``7``."""
    root = Path(root)
    folders = _folders(root)
    images = list_images(folders[0]) if folders else {}
    if not folders or not images:
        raise missing("etis-larib", CARD, root, "ETIS-LaribPolypDB/N.tif and Ground Truth/pN.tif")
    listed = list_images(folders[1])
    masks = {stem.removeprefix("p"): path for stem, path in listed.items()}
    if len(masks) < len(listed):
        raise UserError(f"etis-larib: {folders[1]} holds masks N and pN of the same frame; keep one of the two")
    pairs, warnings = pair(images, masks, root)
    rows, odd = numbered("etis-larib", "paris", root, pairs)
    warnings += [*strays(*folders), *odd, *differences(CARD, {"images": len(rows)})]
    return make_catalog("etis-larib", root, rows, warnings)


DATASET = Dataset("etis-larib", CARD, ("segmentation",), _recognise, read)
