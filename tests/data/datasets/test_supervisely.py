"""Supervisely exports: centers, groups, labels, boxes and masks out of annotations."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkvasir.data import formats
from fedkvasir.data.datasets import find_dataset, find_root, supervisely
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError

META = {
    "classes": [
        {"title": "polyp", "shape": "polygon", "color": "#ff0000"},
        {"title": "tool", "shape": "bitmap", "color": "#00ff00"},
        {"title": "box", "shape": "rectangle", "color": "#0000ff"},
    ],
    "tags": [
        {"name": "center", "value_type": "any_string", "color": "#ffffff"},
        {"name": "Patient", "value_type": "any_number", "color": "#ffffff"},
        {"name": "lower", "value_type": "none", "color": "#ffffff"},
        {"name": "cecum", "value_type": "none", "color": "#ffffff"},
        {"name": "ileum", "value_type": "none", "color": "#ffffff"},
    ],
}
POLYP = {
    "classTitle": "polyp",
    "geometryType": "polygon",
    "points": {"exterior": [[1, 1], [5, 1], [5, 5]], "interior": []},
}
BOX = {"classTitle": "box", "geometryType": "rectangle", "points": {"exterior": [[9, 2], [3, 8]], "interior": []}}


def project(root: Path, meta: Any = META) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "meta.json").write_text(json.dumps(meta))
    return root


def add(folder: Path, name: str, *objects: Any, tags: dict[str, Any] | None = None) -> None:
    for part in ("img", "ann"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "img" / name).touch()
    listed = [{"name": tag, "value": value} for tag, value in (tags or {}).items()]
    annotation = {"size": {"height": 10, "width": 12}, "tags": listed, "objects": objects}
    (folder / "ann" / f"{name}.json").write_text(json.dumps(annotation))


def test_the_miniature_is_read_as_the_export_of_hyperkvasir(tmp_path: Path) -> None:
    dataset = find_dataset("supervisely")
    root = miniature("supervisely", tmp_path, 2)
    assert find_root(dataset, tmp_path, None) == root
    catalog = dataset.read(root)
    table = catalog.table
    assert Counter(table["center"]) == {"labeled-images": 14, "segmented-images": 2, "unlabeled-images": 2}
    assert catalog.classes == (
        "cecum",
        "dyed-lifted-polyps",
        "dyed-resection-margins",
        "esophagitis-a",
        "polyps",
        "pylorus",
        "ulcerative-colitis-grade-2",
    )
    assert catalog.warnings == (
        "14 images of labeled-images without a mask: the folder has no object of the classes",
        "2 images of unlabeled-images without a mask: the folder has no object of the classes",
    )
    labels = table[table["center"] == "labeled-images"]
    assert set(Counter(labels["label"]).values()) == {2} and labels["mask"].isna().all()
    segmented = table[table["center"] == "segmented-images"]
    assert set(segmented["image"].str[-40:]) <= set(labels[labels["label"] == "polyps"]["image"].str[-40:])
    for row in segmented.to_dict("records"):
        mask = next(formats.masks(root / row["mask"], [row["mask_item"]]))
        y, x = np.nonzero(mask)
        assert mask.shape == next(formats.pictures(root / row["image"], [None])).shape[:2]
        xmin, ymin, xmax, ymax = np.array(row["boxes"]).T
        assert 0 <= x.min() - xmin.min() <= 1 and 0 <= y.min() - ymin.min() <= 1
        assert 1 <= xmax.max() - x.max() <= 2 and 1 <= ymax.max() - y.max() <= 2


def test_center_group_label_boxes_and_mask(tmp_path: Path) -> None:
    root = project(tmp_path / "p")
    add(root / "Day 1", "a.jpg", POLYP, BOX, tags={"center": "Oslo", "Patient": 7, "cecum": None})
    add(root / "Day 1", "a.png")
    catalog = supervisely.read(root)
    first, second = catalog.table.to_dict("records")
    assert (first["sample"], first["center"], first["group"]) == ("supervisely/Day 1/a.jpg", "oslo", "supervisely/7")
    assert (first["image"], first["mask"]) == ("Day 1/img/a.jpg", "Day 1/ann/a.jpg.json")
    assert first["mask_item"] == '["polyp", "tool"]' and first["boxes"] == [[3, 2, 9, 8]] and first["label"] == "cecum"
    assert (second["center"], second["group"], second["label"], second["boxes"]) == ("day-1", None, None, [])
    sums = [next(formats.masks(root / row["mask"], [row["mask_item"]])).sum() for row in (first, second)]
    assert sums == [15, 0] and catalog.warnings == () and catalog.classes == ("cecum",)


def test_the_label_is_the_most_specific_tag(tmp_path: Path) -> None:
    root = project(tmp_path / "p")
    add(root / "d", "1.jpg", tags={"lower": None, "cecum": None})
    add(root / "d", "2.jpg", tags={"lower": None, "ileum": None})
    assert list(supervisely.read(root).table["label"]) == ["cecum", "ileum"]
    add(root / "d", "3.jpg", tags={"cecum": None, "ileum": None})
    catalog = supervisely.read(root)
    assert list(catalog.table["label"]) == [None, None, None]
    assert any("3 images with several tags, none more specific, have no label" in text for text in catalog.warnings)


def test_classes_choose_what_the_mask_shows(tmp_path: Path) -> None:
    root = project(tmp_path / "p")
    add(root / "d", "1.jpg", POLYP, BOX)
    assert list(supervisely.read(root, classes=["polyp"]).table["mask_item"]) == ['["polyp"]']
    catalog = supervisely.read(root, classes=["tool"])
    assert catalog.table["mask"][0] is None
    assert catalog.warnings == ("1 images of d without a mask: the folder has no object of the classes",)
    assert "1 objects of the classes are neither bitmap nor polygon and not in the masks" in supervisely.read(
        root, classes=["polyp", "box"]
    ).warnings  # fmt: skip
    with pytest.raises(UserError, match=r"has no class 'polip'; its classes: polyp, tool, box"):
        supervisely.read(root, classes=["polip"])


def test_a_nested_dataset_and_a_wrapped_root_are_found(tmp_path: Path) -> None:
    root = project(tmp_path / "export" / "p")
    add(root / "outer", "1.jpg")
    add(root / "outer" / "datasets" / "inner", "1.jpg")
    assert find_root(find_dataset("supervisely"), tmp_path, None) == root
    assert list(supervisely.read(root).table["center"]) == ["outer", "inner"]


def test_surprises_are_counted(tmp_path: Path) -> None:
    root = project(tmp_path / "p")
    for name in ("1.JPG", "2.jpg", "3.jpg"):
        add(root / "d", name)
    (root / "d" / "img" / "2.jpg").unlink()
    (root / "d" / "ann" / "3.jpg.json").unlink()
    for junk in (".DS_Store", "._1.jpg", "notes.txt"):
        (root / "d" / "img" / junk).touch()
    catalog = supervisely.read(root)
    assert list(catalog.table["sample"]) == ["supervisely/d/1.JPG"]
    for text in (
        "1 files or folders among the images are no images, e.g. img/notes.txt",
        "1 images without an annotation left out",
        "1 annotations without an image left out",
    ):
        assert any(text in warning for warning in catalog.warnings), text


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("meta.json", "{", "is not the meta.json of a project"),
        ("meta.json", '{"classes": 3}', "is not the meta.json of a project"),
        ("d/ann/1.jpg.json", "{", "is not valid JSON"),
        ("d/ann/1.jpg.json", '{"objects": []}', "it has no size with height and width"),
        ("d/ann/1.jpg.json", '{"size": {"height": 1, "width": 1}}', "it has no list of objects"),
        ("d/ann/1.jpg.json", '{"size": {"height": 1, "width": 1}, "objects": [1]}', "no annotation in the Supervisely"),
    ],
)
def test_broken_json_is_one_sentence(file: str, text: str, sentence: str, tmp_path: Path) -> None:
    root = project(tmp_path / "p")
    add(root / "d", "1.jpg")
    (root / file).write_text(text)
    with pytest.raises(UserError) as caught:
        supervisely.read(root)
    assert sentence in str(caught.value) and str(root / file) in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_roots_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"meta\.json cannot be read"):
        supervisely.read(tmp_path)
    root = project(tmp_path / "p")
    with pytest.raises(UserError, match=r"does not hold <dataset>/img"):
        supervisely.read(root)
    (root / "d" / "img").mkdir(parents=True)
    with pytest.raises(UserError, match="has img but no ann"):
        supervisely.read(root)
