"""EndoCV2021, the challenge's training release: polyps from five hospitals, single frames and video sequences."""

from pathlib import Path

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, make_catalog
from fedkvasir.data.datasets import polypgen

COUNTS: dict[str, dict[str, int]] = {
    "singles": {"C1 singles": 256, "C2 singles": 301, "C3 singles": 457, "C4 singles": 227, "C5 singles": 208},
    "positive": {"positive sequences": 15, "sequence frames": 1793},
}

CARD = Card(
    title="EndoCV2021 (training release)",
    source="https://endocv2021.grand-challenge.org",
    citation="Ali et al., Assessing generalisability of deep learning-based polyp detection and segmentation methods "
    "through a computer vision challenge, Scientific Reports 2024",
    license="given to the challenge's participants; ask the organisers. PolypGen, CC BY 4.0, is the public successor",
    obtain="Ask for the training data at https://endocv2021.grand-challenge.org and unzip them so that the data folder "
    "holds trainData_EndoCV2021_21_Feb2021-V2/data_C1 ... data_C5 and sequenceData.",
    centers="C1 France (Paris), C2 Italy (Padova), C3 Italy (Aviano), C4 Norway (Oslo), C5 United Kingdom (Oxford); "
    "unknown: the negative sequences. Which number is which hospital follows from the order of the paper's table",
    groups="patient number in the name (C1, C4 and its sequences), else the sequence; none for single frames of "
    "C2, C3, C5",
    counts={name: n for part in COUNTS.values() for name, n in part.items()},
    quirks=(
        "its single frames and positive sequences are PolypGen's, too: never train on one and test on the other",
        "masks are JPEG with ringing: binarised at > 127; the challenge's own evaluation reads them at > 0",
        "C4: one name holds a blank (31_endocv2021_positive_329 2); samples are named without it",
        "C1: three names have no patient number: one group, C1-p995",
        "folders inside sequences are plain images and masks",
        "several C4 sequences are parts of one video (seq1 and seq2, seq3 and seq4, seq6 and seq10): one group",
        "seq5, seq12, seq13: two are of C2, one of C5, which is not published; here by the shape of one frame",
        "a positive folder or name does not mean a polyp; negative sequences have no masks: empty by definition",
        "how many negative frames there are is not published; that the sequences are seq1-seq15 with 1,793 frames is "
        "derived from PolypGen's counts",
    ),
)


def _recognise(root: Path) -> bool:
    if polypgen.DATASET.recognise(root):
        return False
    sequences_only = (root / "sequenceData").is_dir() and "endocv2021" in root.name.lower()
    return sequences_only or any((root / f"data_{center}").is_dir() for center in polypgen.CENTERS)


def read(root: Path, *, parts: tuple[str, ...] = polypgen.PARTS) -> Catalog:
    """List single frames, positive and negative sequences, or the ``parts`` asked for."""
    root = Path(root)
    listing = polypgen.list_tree("endocv2021", CARD, root, parts)
    warnings = listing.warnings + differences(polypgen.counted(CARD, COUNTS, parts), listing.found)
    return make_catalog("endocv2021", root, listing.rows, warnings)


DATASET = Dataset("endocv2021", CARD, ("segmentation",), _recognise, read)
