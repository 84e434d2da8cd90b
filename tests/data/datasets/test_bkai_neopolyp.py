"""BKAI-IGH NeoPolyp-Small: two colours, one mask; labels on demand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedkvasir.data import formats
from fedkvasir.data.datasets import bkai_neopolyp, find_dataset, find_root
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def picture(path: Path, *colours: tuple[int, int, int]) -> None:
    """32 x 32 stripes of the colours, black on the right."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    for place, colour in enumerate(colours):
        pixels[:, 16 * place : 16 * place + 16] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def tree(root: Path, *masks: tuple[tuple[int, int, int], ...], suffix: str = ".jpeg", doubled: bool = True) -> Path:
    for number, colours in enumerate(masks):
        for part in ("train", "train_gt"):
            folder = root / part / part if doubled else root / part
            picture(folder / f"{number:032x}{suffix}", *(colours if part == "train_gt" else (BLACK,)))
    return root


def test_the_miniature_is_read(tmp_path: Path) -> None:
    dataset = find_dataset("bkai-neopolyp")
    root = miniature("bkai-neopolyp", tmp_path, 4)
    assert root.name == "bkai-igh-neopolyp" and find_root(dataset, tmp_path, None) == root
    catalog = dataset.read(root)
    assert set(catalog.table["center"]) == {"hanoi"} and catalog.table["group"].isna().all()
    assert catalog.table["label"].isna().all() and catalog.classes == ()
    assert catalog.warnings == (
        "1 test images left out, their masks are not published",
        "counts differ from the published ones (here, of): images 4 of 1000, test images 1 of 200",
    )
    row = catalog.table.iloc[0]
    assert row["image"].startswith("train/train/") and row["mask"].startswith("train_gt/train_gt/")
    assert next(formats.masks(root / row["mask"], [None])).shape == (240, 320)


def test_labels_of_the_miniature(tmp_path: Path) -> None:
    catalog = bkai_neopolyp.read(miniature("bkai-neopolyp", tmp_path, 4), labels=True)
    assert catalog.classes == ("neoplastic", "non-neoplastic", "both")
    assert sorted(catalog.table["label"]) == ["both", "neoplastic", "neoplastic", "non-neoplastic"]


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".JPG"])
def test_red_is_neoplastic_green_is_not_and_a_polyp_is_either(suffix: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "b", (RED,), (BLACK, GREEN), (RED, GREEN), (BLACK,), suffix=suffix)
    catalog = bkai_neopolyp.read(root, labels=True)
    assert list(catalog.table["label"]) == ["neoplastic", "non-neoplastic", "both", None]
    assert any("1 masks are neither red nor green" in text for text in catalog.warnings)
    masks = [next(formats.masks(root / mask, [None])) for mask in catalog.table["mask"]]
    assert [round(float(mask.mean()), 1) for mask in masks] == [0.2, 0.2, 0.5, 0]


def test_folders_may_not_be_doubled_and_masks_of_another_suffix(tmp_path: Path) -> None:
    root = tree(tmp_path / "renamed", (RED,), (GREEN,), doubled=False)
    first = root / "train_gt" / f"{0:032x}.jpeg"
    picture(first.with_suffix(".png"), RED)
    first.unlink()
    assert bkai_neopolyp.DATASET.recognise(root)
    assert list(bkai_neopolyp.read(root, labels=True).table["label"]) == ["neoplastic", "non-neoplastic"]


def test_surprises_are_counted(tmp_path: Path) -> None:
    root = tree(tmp_path / "b", (RED,), (GREEN,))
    picture(root / "train" / "train" / "lonely.jpeg")
    picture(root / "train_gt" / "train_gt" / "nobody.jpeg")
    for folder in ("train", "train_gt"):
        picture(root / folder / folder / "polyp 7.jpeg", RED)
        (root / folder / folder / "._x.jpeg").touch()
    (root / "train" / "train" / "readme.md").touch()
    catalog = bkai_neopolyp.read(root)
    assert len(catalog.table) == 3
    for text in (
        "1 image(s) without a mask left out",
        "1 masks without an image left out",
        "1 files or folders among the images are no images, e.g. train/readme.md",
        "1 names are not of 32 hex digits, e.g. polyp 7",
        "images 3 of 1000, test images 0 of 200",
    ):
        assert any(text in warning for warning in catalog.warnings), text


def test_wrong_input_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not hold train/train/\*\.jpeg"):
        bkai_neopolyp.read(tmp_path)
    root = tree(tmp_path / "b", (RED,))
    (root / "train_gt" / "train_gt" / f"{0:032x}.jpeg").write_bytes(b"half")
    assert len(bkai_neopolyp.read(root).table) == 1
    with pytest.raises(UserError, match=r"the mask .* cannot be read: unzip it again"):
        bkai_neopolyp.read(root, labels=True)
