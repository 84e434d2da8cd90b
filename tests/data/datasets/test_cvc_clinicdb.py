"""CVC-ClinicDB: 612 frames, 29 sequences, TIF as published, PNG and TIF on Kaggle."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedkvasir.data.catalog import Catalog
from fedkvasir.data.datasets import cvc_clinicdb, find_dataset, find_root
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def original(root: Path, *names: str, masks: str = "Ground Truth") -> Path:
    touch(root / "Original", *names)
    touch(root / masks, *names)
    return root


def warned(catalog: Catalog, words: str) -> bool:
    return any(words in text for text in catalog.warnings)


@pytest.mark.parametrize(
    ("frame", "group"),
    [("1", "seq01"), ("25", "seq01"), ("26", "seq02"), ("205", "seq10"), ("206", "seq11"), ("612", "seq29")],
)
def test_the_sequence_follows_from_the_frame_number(frame: str, group: str) -> None:
    assert cvc_clinicdb.sequence(frame) == f"cvc-clinicdb/{group}"


@pytest.mark.parametrize("frame", ["0", "613", "-1", "p1", "²", ""])
def test_other_names_have_no_sequence(frame: str) -> None:
    assert cvc_clinicdb.sequence(frame) is None


@pytest.mark.parametrize("masks", ["Ground Truth", "Ground_Truth", "GroundTruth"])
def test_the_release_and_its_three_spellings_of_the_mask_folder(tmp_path: Path, masks: str) -> None:
    original(tmp_path / "CVC-ClinicDB", "7.tif", "26.TIF", ".DS_Store", "._7.tif", "Thumbs.db", masks=masks)
    root = find_root(find_dataset("cvc-clinicdb"), tmp_path, None)
    table = cvc_clinicdb.read(root).table
    assert list(table["sample"]) == ["cvc-clinicdb/007", "cvc-clinicdb/026"]
    assert list(table["image"]) == ["Original/7.tif", "Original/26.TIF"]
    assert list(table["mask"]) == [f"{masks}/7.tif", f"{masks}/26.TIF"]
    assert set(table["center"]) == {"barcelona"}


def test_of_kaggles_two_copies_png_is_read_and_said_so(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    original(root / "PNG", "1.png")
    original(root / "TIF", "1.tif")
    touch(root, "metadata.csv", "class_dict.csv")
    assert find_root(find_dataset("cvc-clinicdb"), tmp_path, None) == root
    catalog = cvc_clinicdb.read(root)
    assert list(catalog.table["image"]) == ["PNG/Original/1.png"]
    assert warned(catalog, "2 copies of the images: PNG/Original is read, not TIF/Original")


def test_one_of_kaggles_copies_alone_is_read_without_a_word(tmp_path: Path) -> None:
    original(tmp_path / "TIF", "1.tif")
    catalog = cvc_clinicdb.read(tmp_path)
    assert list(catalog.table["image"]) == ["TIF/Original/1.tif"] and not warned(catalog, "copies")


def test_plain_images_and_masks_are_known_by_the_folders_name_outside_of_pranets_bundle(tmp_path: Path) -> None:
    for parent in ("data", "TestDataset"):
        for part in ("images", "masks"):
            touch(tmp_path / parent / "CVC-ClinicDB" / part, "3.png")
    root = find_root(find_dataset("cvc-clinicdb"), tmp_path, None)
    assert root == tmp_path / "data" / "CVC-ClinicDB"
    assert list(cvc_clinicdb.read(root).table["image"]) == ["images/3.png"]


def test_surprises_are_counted(tmp_path: Path) -> None:
    root = original(tmp_path, "1.png", "2.png", "613.png", "frame.png")
    touch(root / "Original", "9.png")
    touch(root / "Ground Truth", "8.png")
    catalog = cvc_clinicdb.read(root)
    assert len(catalog.table) == 2
    assert warned(catalog, "1 image(s) without a mask left out") and warned(catalog, "1 masks without an image")
    assert warned(catalog, "2 images left out, their names are not a frame number 1-612, e.g. 613")
    assert warned(catalog, "images 2 of 612, sequences 1 of 29")


def test_complete_data_differs_in_nothing(tmp_path: Path) -> None:
    root = original(tmp_path, *(f"{number}.tif" for number in range(1, 613)))
    catalog = cvc_clinicdb.read(root)
    assert len(catalog.table) == 612 and catalog.table["group"].nunique() == 29 and not catalog.warnings


def test_what_is_not_the_dataset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not hold Original/N.png .* Ask for CVC-ClinicDB"):
        cvc_clinicdb.read(tmp_path)
    original(tmp_path, "1.png")
    touch(tmp_path / "Original", "1.tif")
    with pytest.raises(UserError, match=r"holds 1\.tif and 1\.png: keep one"):
        cvc_clinicdb.read(tmp_path)


def test_miniature(tmp_path: Path) -> None:
    root = miniature("cvc-clinicdb", tmp_path, 12)
    table = cvc_clinicdb.read(root).table
    assert len(table) == 12 and list(table.groupby("group").size()) == [2] * 6
    listing = pd.read_csv(root / "metadata.csv")
    assert [f"cvc-clinicdb/seq{number:02d}" for number in listing["sequence_id"]] == list(table["group"])
    values = [np.unique(np.asarray(Image.open(root / mask))) for mask in table["mask"]]
    assert Image.open(root / "TIF/Ground Truth/1.tif").size == (96, 72)
    assert any(len(value) > 2 for value in values) and any(list(value) == [0, 255] for value in values)


@pytest.mark.real
def test_the_listing_of_the_real_data_does_not_change(real_data: Path) -> None:
    catalog = cvc_clinicdb.read(find_root(find_dataset("cvc-clinicdb"), real_data, None))
    assert catalog.hash == "8573800f38f1d3825edb8fa48a940560f03035f23463da19cf2cad998aaf7c61"
    assert not catalog.warnings
