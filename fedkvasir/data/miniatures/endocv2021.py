"""EndoCV2021 in small: the single frames of C1 to C5 and the sequences 1 to 15 are PolypGen's, picture by picture.

Not known of the release, and chosen here: names of negative frames, overlays, and where the boxes of sequences lie.
"""

from dataclasses import replace
from pathlib import Path

from fedkvasir.data.miniatures import polypgen

ROOT = "trainData_EndoCV2021_21_Feb2021-V2"


def render(out: Path, per_center: int) -> Path:
    """``per_center`` single frames a center, at least 2 frames a sequence."""
    root = out / ROOT
    for center in polypgen.CENTERS[:5]:
        # This release writes image ..._00489 as its mask.
        shots = [replace(shot, stem=shot.stem.rstrip("_")) for shot in polypgen.singles(center, per_center)]
        polypgen.write_singles(root, center, shots)
    for number in range(1, 16):
        folder = root / "sequenceData" / "positive" / f"seq{number}"
        polypgen.write_annotated(folder, folder.name, polypgen.sequence(number, per_center), plain=True)
    polypgen.write_negatives(root, range(1, 6), per_center)
    polypgen.write_junk([root, root / "data_C1", root / "sequenceData"])
    return root
