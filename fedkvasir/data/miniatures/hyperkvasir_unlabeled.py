"""Miniature of HyperKvasir unlabeled-images: all kinds of pictures, no label, no list."""

from pathlib import Path

from fedkvasir.data.miniatures import paint
from fedkvasir.data.miniatures.hyperkvasir_labeled import SIZES
from fedkvasir.data.miniatures.hyperkvasir_segmented import uuid_name
from fedkvasir.data.synthetic import CLASSES, HEALTHY

PATIENTS = 8000
TISSUES = (*CLASSES, HEALTHY)


def render(out: Path, per_center: int) -> Path:
    root = out / "unlabeled-images"
    for patient in range(PATIENTS, PATIENTS + per_center):
        pixels = paint.frame(*SIZES[patient % len(SIZES)], TISSUES[patient % len(TISSUES)], patient)[0]
        paint.save(pixels, root / "images" / f"{uuid_name(patient)}.jpg")
    paint.write(root / ".DS_Store", "Bud1")
    return root
