"""HyperKvasir unlabeled-images: pictures and nothing else."""

from pathlib import Path

import pytest

from fedkvasir.data.datasets import find_dataset, find_root
from fedkvasir.data.datasets.hyperkvasir_unlabeled import read
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError

DATASET = find_dataset("hyperkvasir-unlabeled")
A, B = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "ab")


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_every_image_is_a_sample_without_label_or_mask(tmp_path: Path) -> None:
    table = read(tree(tmp_path / "unlabeled-images", f"images/{B}.JPG", f"images/{A}.jpg", "images/.DS_Store")).table
    assert list(table["sample"]) == [f"hyperkvasir-unlabeled/{A}", f"hyperkvasir-unlabeled/{B}"]
    assert list(table["image"]) == [f"images/{A}.jpg", f"images/{B}.JPG"]
    assert table[["label", "mask", "group", "official_split"]].isna().all(axis=None)
    assert not table["empty"].any() and DATASET.tasks == ()


def test_everything_odd_is_counted(tmp_path: Path) -> None:
    root = tree(tmp_path, f"images/{A}.jpg", "images/holiday.jpg", "images/list.txt", f"more/{B}.jpg", "readme.txt")
    assert read(root).warnings == (
        f"1 other files ignored under {root}, e.g. list.txt",
        "1 images left out, they lie outside images/: more 1",
        "1 file names are not UUIDs, e.g. holiday",
        "counts differ from the published ones (here, of): images 2 of 99417",
    )


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not hold images/\*.jpg. Download the unlabeled images"):
        read(tree(tmp_path, "images/readme.txt"))


def test_the_root_is_known_by_name_or_where_uuid_pictures_are_all_there_is(tmp_path: Path) -> None:
    root = tree(tmp_path / "hyper_kvasir_unlabeled_images" / "unlabeled-images", f"images/{A}.jpg")
    assert find_root(DATASET, tmp_path, None) == root
    assert DATASET.recognise(tree(tmp_path / "renamed", f"images/{A}.jpg", ".DS_Store"))
    for other in (
        tree(tmp_path / "segmented-images", f"images/{A}.jpg", f"masks/{A}.jpg"),
        tree(tmp_path / "BKAI", f"images/{'a' * 32}.jpg"),
        tree(tmp_path / "ours", f"images/{A}.jpg", "samples.csv"),
        tree(tmp_path / "empty", "images/readme.txt"),
    ):
        assert not DATASET.recognise(other)


def test_the_miniature_reads_like_the_real_one(tmp_path: Path) -> None:
    root = miniature("hyperkvasir-unlabeled", tmp_path, 3)
    assert find_root(DATASET, tmp_path, None) == root
    assert read(root).warnings == ("counts differ from the published ones (here, of): images 3 of 99417",)
