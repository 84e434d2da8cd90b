"""Supervisely annotations: one JSON an image, with bitmaps (base64 of zlib of a PNG) and polygons.

The format: https://developer.supervisely.com/getting-started/supervisely-annotation-format
"""

import base64
import binascii
import json
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

SUFFIXES = (".json",)
SHAPES = ("bitmap", "polygon")
"""What is drawn into a mask."""


def read_annotation(path: Path) -> dict[str, Any]:
    """The JSON of one image. Raises ValueError where it is broken or lacks size or objects."""
    try:
        annotation = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from error
    if not isinstance(annotation, dict) or not isinstance(annotation.get("objects"), list):
        raise ValueError("is no annotation in the Supervisely format: it has no list of objects")
    size = annotation.get("size")
    sides = [size.get("height"), size.get("width")] if isinstance(size, dict) else []
    if not sides or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError("is no annotation in the Supervisely format: it has no size with height and width")
    return annotation


def pictures(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    raise ValueError("an annotation holds masks and no picture")


def masks(path: Path, items: Sequence[str | None]) -> Iterator[np.ndarray]:
    """1 where a bitmap or polygon lies. An item is a JSON list of the class titles that count; null takes all."""
    annotation = read_annotation(path)
    for item in items:
        titles = None if item is None else set(json.loads(item))
        mask = np.zeros((annotation["size"]["height"], annotation["size"]["width"]), np.uint8)
        for thing in annotation["objects"]:
            try:
                if titles is None or thing["classTitle"] in titles:
                    _draw(mask, thing)
            except (KeyError, TypeError, IndexError, OSError, ValueError, cv2.error, zlib.error) as error:
                title = thing.get("classTitle") if isinstance(thing, dict) else None
                raise ValueError(f"an object of the class {title} cannot be drawn ({type(error).__name__})") from error
        yield mask


def _draw(mask: np.ndarray, thing: dict[str, Any]) -> None:
    if thing["geometryType"] == "bitmap":
        bitmap = _decode(thing["bitmap"]["data"])
        left, top = (round(value) for value in thing["bitmap"]["origin"])
        # What sticks out of the picture is cut off.
        bitmap = bitmap[max(0, -top) :, max(0, -left) :]
        place = mask[max(0, top) :, max(0, left) :][: bitmap.shape[0], : bitmap.shape[1]]
        place |= bitmap[: place.shape[0], : place.shape[1]]
    elif thing["geometryType"] == "polygon":
        layer = np.zeros_like(mask)
        cv2.fillPoly(layer, [_corners(thing["points"]["exterior"])], 1)
        for hole in thing["points"].get("interior") or ():
            cv2.fillPoly(layer, [_corners(hole)], 0)
        mask |= layer


def _corners(points: list[list[float]]) -> np.ndarray:
    return np.rint(np.asarray(points, dtype=float).reshape(-1, 2)).astype(np.int32)


def _decode(data: str) -> np.ndarray:
    """(h, w) uint8, 0 or 1: the PNG's alpha where it has one, else what is not black."""
    try:
        png = zlib.decompress(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise ValueError("not base64") from error
    with Image.open(BytesIO(png)) as picture:
        if picture.has_transparency_data:
            shown = np.asarray(picture.convert("RGBA"))[:, :, 3:]
        else:
            shown = np.asarray(picture.convert("RGB"))
    return np.any(shown > 0, axis=2).astype(np.uint8)
