"""HyperKvasir segmented-images: polyps with masks and boxes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedkvasir.data.datasets import find_dataset, find_root
from fedkvasir.data.datasets.hyperkvasir_segmented import read
from fedkvasir.data.formats import picture
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError

DATASET = find_dataset("hyperkvasir-segmented")
A, B, C = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")
BOX = {"label": "polyp", "xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}
ENTRY = {"height": 48, "width": 64, "bbox": [BOX]}


def small(folder: Path, boxes: object) -> Path:
    root = folder / "segmented-images"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
        for stem in (A, B):
            (root / part / f"{stem}.jpg").touch()
    (root / "bounding-boxes.json").write_text(boxes if isinstance(boxes, str) else json.dumps(boxes))
    return root


def warnings(root: Path) -> list[str]:
    return [text for text in read(root).warnings if not text.startswith("counts differ")]


def test_boxes_are_read_in_pixels(tmp_path: Path) -> None:
    root = small(tmp_path, {A: {**ENTRY, "bbox": [BOX, {**BOX, "xmin": 3}]}, B: {**ENTRY, "bbox": []}})
    table = read(root).table
    assert list(table["sample"]) == [f"hyperkvasir-segmented/{A}", f"hyperkvasir-segmented/{B}"]
    assert list(table["boxes"]) == [[[1, 2, 30, 40], [3, 2, 30, 40]], []]
    assert list(table["image"]) == [f"images/{A}.jpg", f"images/{B}.jpg"] and set(table["center"]) == {"baerum"}
    assert read(root).warnings == (
        "counts differ from the published ones (here, of): images 2 of 1000, boxes 2 of 1071",
    )


def test_orphans_and_odd_boxes_are_counted(tmp_path: Path) -> None:
    root = small(tmp_path, {A: {**ENTRY, "bbox": [{**BOX, "xmax": 65}]}, C: ENTRY})
    (root / "images" / "lonely.jpg").touch()
    (root / "images" / "notes.txt").touch()
    (root / "masks" / f"{C}.jpg").touch()
    assert warnings(root) == [
        f"1 image(s) without a mask left out under {root}, e.g. lonely",
        f"1 masks without an image left out under {root}, e.g. {C}",
        f"1 other files ignored under {root}, e.g. notes.txt",
        "1 file names are not UUIDs, e.g. lonely",
        f"1 entries hold no boxes inside their image and are left out: bounding-boxes.json, e.g. {A}",
        f"1 entries have no image: bounding-boxes.json, e.g. {C}",
        f"2 images have no entry: bounding-boxes.json, e.g. {B}",
    ]
    assert read(root).table["boxes"].isna().all()


@pytest.mark.parametrize("entry", [{}, {"bbox": 3}, {**ENTRY, "bbox": [{}]}, {**ENTRY, "width": None}, [], "polyp"])
def test_an_odd_entry_is_no_traceback(tmp_path: Path, entry: object) -> None:
    root = small(tmp_path, {A: entry, B: ENTRY})
    why = "1 entries hold no boxes inside their image and are left out"
    assert warnings(root) == [f"{why}: bounding-boxes.json, e.g. {A}"]


def test_a_missing_box_file_is_a_warning_and_a_broken_one_an_error(tmp_path: Path) -> None:
    root = small(tmp_path, {})
    (root / "bounding-boxes.json").unlink()
    assert DATASET.recognise(root)
    assert warnings(root) == [f"{root / 'bounding-boxes.json'} is missing: no boxes"]
    for text in ('{"half', "[]"):
        (root / "bounding-boxes.json").write_text(text)
        with pytest.raises(UserError, match="unpack it again or remove it"):
            read(root)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"does not hold images/\*.jpg and masks"):
        read(tmp_path)


def test_the_root_is_known_by_its_box_file_or_its_name(tmp_path: Path) -> None:
    root = small(tmp_path / "hyper-kvasir-segmented-images", {})
    assert find_root(DATASET, tmp_path, None) == root
    renamed = root.rename(tmp_path / "polyps")
    assert DATASET.recognise(renamed)
    (renamed / "bounding-boxes.json").rename(renamed / "kavsir_bboxes.json")
    assert not DATASET.recognise(renamed)


def test_miniature_boxes_are_a_pixel_wider_than_its_ringing_masks(tmp_path: Path) -> None:
    root = miniature("hyperkvasir-segmented", tmp_path, 3)
    assert warnings(root) == []
    for _, row in read(root).table.iterrows():
        raw = np.asarray(Image.open(root / row["mask"]))
        assert raw.ndim == 3 and len(np.unique(raw)) > 2
        (mask,) = picture.masks(root / row["mask"], [None])
        columns, lines = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        wide = [columns[0] - 1, lines[0] - 1, columns[-1] + 2, lines[-1] + 2]
        (box,) = row["boxes"]
        assert np.abs(np.subtract(box, np.clip(wide, 0, [*mask.shape[::-1], *mask.shape[::-1]]))).max() <= 1


def test_the_miniature_shares_its_polyps_with_the_labeled_images_and_with_kvasir_seg(tmp_path: Path) -> None:
    segmented, labeled = (miniature(f"hyperkvasir-{part}", tmp_path, 2) for part in ("segmented", "labeled"))
    names = {path.name: path.read_bytes() for path in (segmented / "images").glob("*.jpg")}
    polyps = labeled / "lower-gi-tract" / "pathological-findings" / "polyps"
    assert {path.name: path.read_bytes() for path in polyps.glob("*.jpg")} == names
    renamed = (miniature("kvasir-seg", tmp_path, 2) / "images").glob("*.jpg")
    assert {path.read_bytes() for path in renamed} >= set(names.values())
