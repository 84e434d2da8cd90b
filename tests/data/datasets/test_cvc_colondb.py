"""CVC-ColonDB: 380 frames; sequences are known up to frame 300."""

from pathlib import Path

import pytest

from fedkvasir.data.datasets import cvc_colondb, find_dataset, find_root
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    ("frame", "group"),
    [("1", "seq01"), ("38", "seq01"), ("39", "seq02"), ("77", "seq05"), ("148", "seq06"), ("149", "seq07"),
     ("156", "seq09"), ("208", "seq10"), ("209", "seq11"), ("264", "seq14"), ("300", "seq15")],
)  # fmt: skip
def test_the_sequence_follows_from_the_frame_number(frame: str, group: str) -> None:
    assert cvc_colondb.sequence(frame) == f"cvc-colondb/{group}"


@pytest.mark.parametrize("frame", ["0", "301", "380", "a"])
def test_no_sequence_is_stated_above_frame_300(frame: str) -> None:
    assert cvc_colondb.sequence(frame) is None


def test_images_and_masks_doubled_as_they_circulate(tmp_path: Path) -> None:
    root = tmp_path / "CVC-ColonDB" / "CVC-ColonDB"
    for part in ("images", "masks"):
        touch(root / part, "1.png", "149.PNG", "380.png", ".DS_Store")
    assert find_root(find_dataset("cvc-colondb"), tmp_path, None) == root
    catalog = cvc_colondb.read(root)
    table = catalog.table
    assert list(table["sample"]) == ["cvc-colondb/001", "cvc-colondb/149", "cvc-colondb/380"]
    assert list(table["mask"]) == ["masks/1.png", "masks/149.PNG", "masks/380.png"]
    assert list(table["group"]) == ["cvc-colondb/seq01", "cvc-colondb/seq07", None]
    assert set(table["center"]) == {"barcelona"}
    assert catalog.warnings == ("counts differ from the published ones (here, of): images 3 of 380",)


def test_the_original_release_keeps_images_masks_and_contours_in_one_folder(tmp_path: Path) -> None:
    root = tmp_path / "CVC-ColonDB" / "CVC-ColonDB"
    touch(root, ".DS_Store", "5.tiff", "p5.tiff", "cp5.tiff", "c5.tiff", "s5.tiff", "6.tiff", "p7.tiff", "overview.bmp")
    assert find_root(find_dataset("cvc-colondb"), tmp_path, None) == root
    catalog = cvc_colondb.read(root)
    assert list(catalog.table["image"]) == ["5.tiff"] and list(catalog.table["mask"]) == ["p5.tiff"]
    unknown, images, masks, _ = catalog.warnings
    assert unknown == "1 images of unknown meaning left out, e.g. overview"
    assert "1 image(s) without a mask" in images and "1 masks without an image" in masks


def test_a_name_that_is_no_number_stays_and_is_counted(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        touch(tmp_path / part, "polyp-a.png", "2.png")
    catalog = cvc_colondb.read(tmp_path)
    assert list(catalog.table["group"]) == ["cvc-colondb/seq01", None]
    assert catalog.warnings[0] == "1 image names are not a frame number, e.g. polyp-a"


def test_what_is_not_the_dataset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cvc-colondb: .* does not hold images/N.png .* Get CVC-ColonDB"):
        cvc_colondb.read(tmp_path)


def test_miniature(tmp_path: Path) -> None:
    root = miniature("cvc-colondb", tmp_path, 12)
    assert root == tmp_path / "cvc-colondb" / "CVC-ColonDB" / "CVC-ColonDB"
    table = cvc_colondb.read(root).table
    assert len(table) == 12 and table["group"].nunique() == 6 and table["group"].isna().sum() == 1
