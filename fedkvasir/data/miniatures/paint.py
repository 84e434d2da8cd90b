"""What miniatures are painted with: rendered endoscopy at a dataset's own proportions, saved as the dataset is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fedkvasir.data import synthetic
from fedkvasir.data.synthetic.looks import LOOKS
from fedkvasir.data.synthetic.tissue import HEALTHY

SCALE = 0.25
"""A miniature's sides are a quarter of the real ones."""


def frame(
    width: int, height: int, label: str = "polyps", patient: int = 0, shot: int = 1, look: str = "alta", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) uint8 and its polyp mask (H, W) uint8, 0 or 255, at a quarter of ``width`` x ``height``.

    label: one of the eight classes of Kvasir or ``normal-colon``; only ``polyps`` has a mask that is not empty. Two
    shots of a patient show the same tissue from a moved camera; two patients never look the same.
    """
    shape = replace(LOOKS[look], width=width, height=height)
    return synthetic.render(shape, label, seed, patient, shot, SCALE)


def healthy(width: int, height: int, patient: int = 0, shot: int = 1, look: str = "alta") -> np.ndarray:
    """A colon without a polyp, (H, W, 3) uint8."""
    return frame(width, height, HEALTHY, patient, shot, look)[0]


def save(pixels: np.ndarray, path: Path, quality: int = 90) -> None:
    """Write a picture or a mask; the suffix decides how. A mask written as JPEG rings, as the published ones do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": quality} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(pixels).save(path, **options)


def rgb(mask: np.ndarray) -> np.ndarray:
    """A mask in three equal channels, (H, W, 3)."""
    return np.repeat(mask[..., None], 3, axis=2)


def boxes(mask: np.ndarray, margin: int = 0, smallest: int = 0) -> list[tuple[int, int, int, int]]:
    """(xmin, ymin, xmax, ymax) of every connected part above ``smallest`` pixels, widened, clipped at the border.

    xmax and ymax are exclusive at margin 0.
    """
    height, width = mask.shape
    _, _, parts, _ = cv2.connectedComponentsWithStats((mask > 127).astype(np.uint8), connectivity=8)
    found = []
    for x, y, w, h, area in parts[1:].tolist():
        if area > smallest:
            found.append(
                (max(x - margin, 0), max(y - margin, 0), min(x + w + margin, width), min(y + h + margin, height))
            )
    return found


def write(path: Path, content: str | dict[str, Any] | list[Any]) -> None:
    """A text file, or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
