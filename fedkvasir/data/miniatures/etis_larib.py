"""Miniature of ETIS-Larib: ``ETIS-LaribPolypDB/N.tif`` with ``Ground Truth/pN.tif``."""

from pathlib import Path

import numpy as np

from fedkvasir.data.miniatures import paint

SIZE = 1225, 966
PATIENTS = 50000


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame 1-196 and its mask; two frames a sequence."""
    return paint.frame(*SIZE, patient=PATIENTS + (number - 1) // 2, shot=(number - 1) % 2 + 1, look="edinburgh")


def render(out: Path, per_center: int) -> Path:
    root = out / "ETIS-LaribPolypDB"
    for number in range(1, per_center + 1):
        pixels, mask = picture(number)
        paint.save(pixels, root / "ETIS-LaribPolypDB" / f"{number}.tif")
        paint.save(mask, root / "Ground Truth" / f"p{number}.tif")
    paint.write(root / "Ground Truth" / ".DS_Store", "")
    return root
