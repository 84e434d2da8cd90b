"""Camelyon17-WILDS: metadata.csv and a folder of patches for every slide; patches keep their real 96 x 96 pixels."""

from pathlib import Path

from fedkvasir.data.miniatures import paint
from fedkvasir.data.miniatures.pcam import patch

STAINS = ((1.25, 0.45), (0.85, 0.75), (1.45, 0.25), (0.7, 0.5), (1.05, 0.95))
"""Strength of hematoxylin and eosin in each of the five hospitals' laboratories."""
SLIDES_PER_HOSPITAL = 10


def slide_name(hospital: int, index: int) -> tuple[int, int]:
    """Patient and node of a hospital's slide; 20 patients of a hospital are numbered in a row, nodes are 0 to 4. The
    first patient has two slides."""
    return 20 * hospital + 2 * max(index - 1, 0), (hospital + 3 * index) % 5


def render(out: Path, per_center: int) -> Path:
    """``per_center`` patches of each hospital, two or more a slide, half of them tumor; one in ten is id-val."""
    root = out / "camelyon17_v1.0"
    slides = min(SLIDES_PER_HOSPITAL, max(2, per_center // 2))
    listing = [",patient,node,x_coord,y_coord,tumor,slide,center,split"]
    for hospital, stain in enumerate(STAINS):
        for number in range(per_center):
            index, tumor = number // 2 % slides, number % 2
            slide = SLIDES_PER_HOSPITAL * hospital + index
            patient, node = slide_name(hospital, index)
            x, y = 3000 + 32 * number, 20_000 + 96 * index
            folder = f"patient_{patient:03d}_node_{node}"
            pixels = patch(bool(tumor), 1000 + slide, number, stain)
            paint.save(pixels, root / "patches" / folder / f"patch_{folder}_x_{x}_y_{y}.png")
            split = int(number % 10 == 9)
            listing.append(f"{len(listing) - 1},{patient:03d},{node},{x},{y},{tumor},{slide},{hospital},{split}")
    paint.write(root / "metadata.csv", "\n".join(listing) + "\n")
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return root
