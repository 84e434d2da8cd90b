"""Miniature of PraNet's ``TrainDataset`` and ``TestDataset``; the pictures are those of its sources' miniatures."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fedkvasir.data.miniatures import cvc_300, cvc_clinicdb, cvc_colondb, etis_larib, kvasir_seg, paint

Picture = tuple[np.ndarray, np.ndarray]


def kvasir(number: int) -> Picture:
    """A picture of Kvasir-SEG; its mask went through JPEG before it became a PNG, so it has more than two levels."""
    pixels, mask = kvasir_seg.polyp(number)
    ringing: Any = cv2.imdecode(cv2.imencode(".jpg", mask)[1], cv2.IMREAD_GRAYSCALE)
    return pixels, ringing


def render(out: Path, per_center: int) -> Path:
    """``per_center`` pictures of each source; a quarter as many more to test Kvasir and CVC-ClinicDB on, at least two.

    As published, frames to test CVC-ClinicDB on come from sequences that are trained on (from ``per_center`` 5 up).
    """
    root = out / "data"
    every = per_center + max(2, per_center // 4)
    polyps = [(kvasir_seg.name(number), kvasir(number)) for number in range(every)]
    clinic = [(str(number), cvc_clinicdb.picture(number)) for number in cvc_clinicdb.frames(every)]
    tests = {
        "Kvasir": polyps[per_center:],
        "CVC-ClinicDB": clinic[per_center:],
        "CVC-300": [(str(number), cvc_colondb.picture(number)) for number in cvc_300.frames(per_center)],
        "CVC-ColonDB": [(str(number), cvc_colondb.picture(number)) for number in cvc_colondb.frames(per_center)],
        "ETIS-LaribPolypDB": [(str(number + 1), etis_larib.picture(number + 1)) for number in range(per_center)],
    }
    _write(root / "TrainDataset", "image", "mask", [*polyps[:per_center], *clinic[:per_center]])
    for name, pictures in tests.items():
        _write(root / "TestDataset" / name, "images", "masks", pictures)
    paint.write(root / "TestDataset" / ".DS_Store", "")
    return root


def _write(place: Path, images: str, masks: str, pictures: list[tuple[str, Picture]]) -> None:
    for name, (pixels, mask) in pictures:
        paint.save(pixels, place / images / f"{name}.png")
        paint.save(mask, place / masks / f"{name}.png")
