"""Masks out of Supervisely annotations: bitmaps and polygons, and what is broken about them."""

import base64
import json
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedkvasir.data import formats
from fedkvasir.data.miniatures.supervisely import encode

# The example of the format's documentation: a 3 x 3 bitmap without its middle and middle right pixel.
DOCUMENTED = (
    "eJzrDPBz5+WS4mJgYOD19HAJAtLMIMwIInOeqf8BUmwBPiGuQPr///9Lb86/C2QxlgT5BTM4PLuRBuTwebo4hlTMSa44cOHAB6Dq"
    "Y0yORgq8YkAZBk9XP5d1TglNANAFGzA="
)


def bitmap(data: str, x: int, y: int, title: str = "polyp") -> dict[str, Any]:
    return {"classTitle": title, "geometryType": "bitmap", "bitmap": {"data": data, "origin": [x, y]}}


def polygon(exterior: list[Any], *interior: list[Any]) -> dict[str, Any]:
    points = {"exterior": exterior, "interior": list(interior)}
    return {"classTitle": "polyp", "geometryType": "polygon", "points": points}


def annotation(path: Path, *objects: dict[str, Any], height: int = 6, width: int = 8) -> Path:
    path.write_text(json.dumps({"size": {"height": height, "width": width}, "tags": [], "objects": objects}))
    return path


def mask(path: Path, item: str | None = None) -> np.ndarray:
    return next(formats.masks(path, [item]))


def png(picture: Image.Image, **options: Any) -> str:
    out = BytesIO()
    picture.save(out, format="PNG", **options)
    return base64.b64encode(zlib.compress(out.getvalue())).decode()


def test_a_bitmap_lies_at_its_origin(tmp_path: Path) -> None:
    found = mask(annotation(tmp_path / "a.jpg.json", bitmap(DOCUMENTED, 4, 1)))
    assert found.shape == (6, 8) and found.dtype == np.uint8
    assert found[1:4, 4:7].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1]] and found.sum() == 7


@pytest.mark.parametrize(("x", "y", "left"), [(6, 1, 5), (-1, -1, 2), (100, 100, 0)])
def test_what_sticks_out_of_the_picture_is_cut_off(tmp_path: Path, x: int, y: int, left: int) -> None:
    assert mask(annotation(tmp_path / "a.json", bitmap(DOCUMENTED, x, y))).sum() == left


def test_the_bitmap_is_the_alpha_of_a_png_or_else_what_is_not_black(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 1, 255]], np.uint8))
    rgba = Image.fromarray(np.array([[[9, 9, 9, 0], [0, 0, 0, 255], [9, 9, 9, 255]]], np.uint8))
    for picture in (grey, grey.convert("RGB"), rgba):
        assert mask(annotation(tmp_path / "a.json", bitmap(png(picture), 0, 0)))[0, :4].tolist() == [0, 1, 1, 0]


def test_a_polygon_is_filled_and_has_holes(tmp_path: Path) -> None:
    square = [[1, 1], [5, 1], [5, 5], [1, 5]]
    found = mask(annotation(tmp_path / "a.json", polygon(square, [[3, 3], [3.2, 3], [3, 3.2]])))
    assert found[1:6, 1:6].sum() == 24 and found.sum() == 24 and found[3, 3] == 0


def test_an_item_names_the_classes_that_count(tmp_path: Path) -> None:
    path = annotation(tmp_path / "a.json", bitmap(DOCUMENTED, 0, 0), bitmap(DOCUMENTED, 4, 0, "tool; metal"))
    sums = [found.sum() for found in formats.masks(path, ['["polyp"]', '["tool; metal"]', "[]", None])]
    assert sums == [7, 7, 0, 14]


def test_what_the_miniature_encodes_is_decoded(tmp_path: Path) -> None:
    drawn = np.zeros((6, 8), np.uint8)
    drawn[2:5, 3:7] = 255
    drawn[3, 4] = 0
    thing = {"classTitle": "polyp", "geometryType": "bitmap", "bitmap": encode(drawn)}
    assert (mask(annotation(tmp_path / "a.json", thing)) * 255 == drawn).all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not valid JSON"),
        ("[]", "no list of objects"),
        ('{"objects": []}', "no size with height and width"),
        ('{"size": {"height": 0, "width": 8}, "objects": []}', "no size with height and width"),
        ('{"size": {"height": 6, "width": 8}, "objects": [{"classTitle": "polyp"}]}', "class polyp cannot be drawn"),
        ('{"size": {"height": 6, "width": 8}, "objects": [3]}', "cannot be drawn"),
    ],
)
def test_a_broken_annotation_is_one_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        mask(path)


@pytest.mark.parametrize(
    "data", ["?", base64.b64encode(b"no zlib").decode(), base64.b64encode(zlib.compress(b"x")).decode()]
)
def test_a_broken_bitmap_is_one_reason(tmp_path: Path, data: str) -> None:
    with pytest.raises(ValueError, match="an object of the class polyp cannot be drawn"):
        mask(annotation(tmp_path / "a.json", bitmap(data, 0, 0)))


def test_an_annotation_holds_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no picture"):
        formats.pictures(annotation(tmp_path / "a.json"), [None])
