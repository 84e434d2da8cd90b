"""Miniature of HyperKvasir's image part as Dataset Ninja exports it in the Supervisely format."""

import base64
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedkvasir.data.miniatures import kvasir_seg
from fedkvasir.data.miniatures.kvasir_v2 import name
from fedkvasir.data.miniatures.paint import boxes, frame, save, write

LABELED = (
    ("lower-gi-tract", "pathological-findings", "polyps", "polyps"),
    ("lower-gi-tract", "pathological-findings", "ulcerative-colitis-grade-2", "ulcerative-colitis"),
    ("upper-gi-tract", "pathological-findings", "esophagitis-a", "esophagitis"),
    ("lower-gi-tract", "anatomical-landmarks", "cecum", "normal-cecum"),
    ("upper-gi-tract", "anatomical-landmarks", "pylorus", "normal-pylorus"),
    ("lower-gi-tract", "therapeutic-interventions", "dyed-lifted-polyps", "dyed-lifted-polyps"),
    ("lower-gi-tract", "therapeutic-interventions", "dyed-resection-margins", "dyed-resection-margins"),
)
"""Seven of the 23 classes: the three tags of their images, and what is painted."""


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A bitmap cut to its extent: base64 of zlib of a two-colour PNG, and where its corner lies (x, y)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = Image.fromarray((mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 127).astype(np.uint8))
    cut.putpalette([0, 0, 0, 255, 255, 255])
    png = BytesIO()
    cut.save(png, format="PNG", transparency=0)
    data = base64.b64encode(zlib.compress(png.getvalue())).decode()
    return {"data": data, "origin": [int(columns[0]), int(rows[0])]}


def _objects(mask: np.ndarray) -> list[dict[str, Any]]:
    common = {"description": "", "tags": [], "labelerLogin": "miniature"}
    bitmap = {"geometryType": "bitmap", "classTitle": "polyp", "bitmap": encode(mask)}
    rectangles = [
        {
            "geometryType": "rectangle",
            "classTitle": "polyp_bbox",
            "points": {"exterior": [[left, top], [right, bottom]], "interior": []},
        }
        for left, top, right, bottom in boxes(mask, margin=1)
    ]
    return [common | thing for thing in (bitmap, *rectangles)]


def _add(folder: Path, number: int, picture: np.ndarray, tags: tuple[str, ...], things: list[dict[str, Any]]) -> None:
    image = f"{name(number)}.jpg"
    save(picture, folder / "img" / image)
    annotation = {
        "description": "",
        "tags": [{"name": tag, "value": None} for tag in tags],
        "size": {"height": picture.shape[0], "width": picture.shape[1]},
        "objects": things,
    }
    write(folder / "ann" / f"{image}.json", annotation)


def render(out: Path, per_center: int) -> Path:
    """``hyper-kvasir`` with ``per_center`` images a class, as many with masks, and as many without any label.

    As in reality the segmented images stand among the labeled polyps again, under the same names.
    """
    root = out / "hyper-kvasir"
    for place, (*tags, label) in enumerate(LABELED):
        for number in range(per_center):
            key = 25000 + 500 * place + number
            picture, mask = frame(*kvasir_seg.SIZES[number % len(kvasir_seg.SIZES)], label, patient=key)
            _add(root / "labeled-images", key, picture, tuple(tags), [])
            if label == "polyps":
                _add(root / "segmented-images", key, picture, (), _objects(mask))
    for key in range(29000, 29000 + per_center):
        _add(root / "unlabeled-images", key, frame(622, 530, "normal-colon", patient=key)[0], (), [])
    names = dict.fromkeys(tag for *tags, _ in LABELED for tag in tags)
    classes = (("polyp", "bitmap", "#D0021B"), ("polyp_bbox", "rectangle", "#4A90E2"))
    meta = {
        "classes": [{"title": title, "shape": shape, "color": color, "hotkey": ""} for title, shape, color in classes],
        "tags": [{"name": tag, "value_type": "none", "color": "#7ED321", "hotkey": ""} for tag in names],
        "projectType": "images",
    }
    write(root / "meta.json", meta)
    write(root / ".DS_Store", "")
    return root
