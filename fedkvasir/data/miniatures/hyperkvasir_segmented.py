"""Miniature of HyperKvasir segmented-images: the pictures and masks of Kvasir-SEG under other names, with boxes."""

import uuid
from pathlib import Path

import numpy as np

from fedkvasir.data.miniatures import paint
from fedkvasir.data.miniatures.kvasir_seg import polyp


def uuid_name(number: int) -> str:
    """A version 4 UUID, like every file name of HyperKvasir; the same number gives the same name."""
    return str(uuid.UUID(bytes=np.random.default_rng(number).bytes(16), version=4))


def render(out: Path, per_center: int) -> Path:
    root = out / "segmented-images"
    boxes = {}
    for patient in range(per_center):
        name, (picture, mask) = uuid_name(patient), polyp(patient)
        paint.save(picture, root / "images" / f"{name}.jpg")
        paint.save(paint.rgb(mask), root / "masks" / f"{name}.jpg")
        found = [
            {"label": "polyp", "xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
            for xmin, ymin, xmax, ymax in paint.boxes(mask, margin=1)
        ]
        boxes[name] = {"height": mask.shape[0], "width": mask.shape[1], "bbox": found}
    paint.write(root / "bounding-boxes.json", boxes)
    for folder in (root, root / "images"):
        paint.write(folder / ".DS_Store", "Bud1")
    return root
