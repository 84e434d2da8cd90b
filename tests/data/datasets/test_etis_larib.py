"""ETIS-Larib: 196 TIFs, masks with a leading p."""

from pathlib import Path

import pytest
from PIL import Image

from fedkvasir.data.datasets import etis_larib, find_dataset, find_root
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize("wrapped", ["", "ETIS-LaribPolypDB"])
def test_mask_p7_belongs_to_image_7(tmp_path: Path, wrapped: str) -> None:
    root = tmp_path / wrapped / "ETIS-LaribPolypDB"
    touch(root / "ETIS-LaribPolypDB", "7.tif", "196.tif", ".DS_Store")
    touch(root / "Ground Truth", "p7.tif", "p196.tif")
    assert find_root(find_dataset("etis-larib"), tmp_path, None) == root
    catalog = etis_larib.read(root)
    assert list(catalog.table["sample"]) == ["etis-larib/007", "etis-larib/196"]
    assert list(catalog.table["image"]) == ["ETIS-LaribPolypDB/7.tif", "ETIS-LaribPolypDB/196.tif"]
    assert list(catalog.table["mask"]) == ["Ground Truth/p7.tif", "Ground Truth/p196.tif"]
    assert set(catalog.table["center"]) == {"paris"} and catalog.table["group"].isna().all()
    assert catalog.warnings == ("counts differ from the published ones (here, of): images 2 of 196",)


def test_a_renamed_root_is_known_by_its_tree(tmp_path: Path) -> None:
    touch(tmp_path / "polyps of paris" / "ETIS-LaribPolypDB", "1.tif")
    touch(tmp_path / "polyps of paris" / "Ground Truth", "p1.tif")
    assert find_root(find_dataset("etis-larib"), tmp_path, None) == tmp_path / "polyps of paris"


def test_png_copies_use_one_name_for_both(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        touch(tmp_path / "etis-larib" / part, *(f"{number}.png" for number in range(1, 197)))
    catalog = etis_larib.read(find_root(find_dataset("etis-larib"), tmp_path, None))
    assert len(catalog.table) == 196 and not catalog.warnings


def test_surprises_are_counted(tmp_path: Path) -> None:
    touch(tmp_path / "ETIS-LaribPolypDB", "1.tif", "2.tif", "x.tif")
    touch(tmp_path / "Ground Truth", "p1.tif", "p3.tif", "px.tif")
    image, mask, odd, _ = etis_larib.read(tmp_path).warnings
    assert "1 image(s) without a mask" in image and "1 masks without an image" in mask
    assert odd == "1 image names are not a frame number, e.g. x"


def test_what_is_not_the_dataset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"etis-larib: .* does not hold ETIS-LaribPolypDB/N.tif"):
        etis_larib.read(tmp_path)
    touch(tmp_path / "ETIS-LaribPolypDB", "1.tif")
    touch(tmp_path / "Ground Truth", "p1.tif", "1.tif")
    with pytest.raises(UserError, match="holds masks N and pN of the same frame; keep one of the two"):
        etis_larib.read(tmp_path)


def test_miniature(tmp_path: Path) -> None:
    root = miniature("etis-larib", tmp_path, 3)
    assert len(etis_larib.read(root).table) == 3
    assert Image.open(root / "ETIS-LaribPolypDB" / "1.tif").size == Image.open(root / "Ground Truth" / "p1.tif").size
    assert Image.open(root / "Ground Truth" / "p1.tif").size == (306, 242)
