"""Miniature of CVC-ClinicDB as Kaggle carries it: ``PNG`` and ``TIF`` copies and a ``metadata.csv``."""

from pathlib import Path

import cv2
import numpy as np

from fedkvasir.data.datasets.cvc_clinicdb import LAST_FRAMES
from fedkvasir.data.miniatures import paint

SIZE = 384, 288
PATIENTS = 40000
FIRST_FRAMES = (1, *(last + 1 for last in LAST_FRAMES[:-1]))


def frames(count: int) -> list[int]:
    """Frame numbers from at least six sequences: the first frame of each, then the second of each, ..."""
    sequences = list(zip(FIRST_FRAMES, LAST_FRAMES, strict=True))[: max(6, count // 2)]
    turns = [first + turn for turn in range(LAST_FRAMES[-1]) for first, last in sequences if first + turn <= last]
    return turns[:count]


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame 1-612 and its mask: a tissue for each sequence; 2 of 9 masks have grey edges (138 of 612)."""
    first = max(frame for frame in FIRST_FRAMES if frame <= number)
    pixels, mask = paint.frame(*SIZE, patient=PATIENTS + first, shot=number - first + 1, look="bergen")
    return pixels, cv2.blur(mask, (3, 3)) if number % 9 in (1, 5) else mask


def render(out: Path, per_center: int) -> Path:
    root = out / "CVC-ClinicDB"
    table = ["frame_id,sequence_id,png_image_path,tif_image_path,png_mask_path,tif_mask_path"]
    for number in sorted(frames(per_center)):
        pixels, mask = picture(number)
        paths = []
        for folder, content in (("Original", pixels), ("Ground Truth", paint.rgb(mask))):
            for kind in ("PNG", "TIF"):
                paths.append(f"{kind}/{folder}/{number}.{kind.lower()}")
                paint.save(content, root / paths[-1])
        sequence = sum(first <= number for first in FIRST_FRAMES)
        table.append(",".join([str(number), str(sequence), *paths]))
    paint.write(root / "metadata.csv", "\n".join(table) + "\n")
    paint.write(root / "class_dict.csv", "name,r,g,b\nbackground,0,0,0\npolyp,255,255,255\n")
    return root
