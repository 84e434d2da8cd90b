"""EndoCV2021: plain folders inside sequences, names with blanks, and the same pictures as PolypGen."""

import csv
from pathlib import Path

import pytest

from fedkvasir.data.datasets import DATASETS, endocv2021, find_dataset, find_root
from fedkvasir.data.miniatures import miniature
from fedkvasir.data.miniatures import polypgen as names
from fedkvasir.errors import UserError

ROOT = "trainData_EndoCV2021_21_Feb2021-V2"


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def single(root: Path, center: str, *stems: str) -> Path:
    for stem in stems:
        touch(root, f"data_{center}/images_{center}/{stem}.jpg", f"data_{center}/masks_{center}/{stem}_mask.jpg")
    return root


def test_the_published_tree_written_down_by_hand(tmp_path: Path) -> None:
    root = tmp_path / "zip" / ROOT
    single(root, "C1", "169OLCV1_100H0007", "100S0001")
    single(root, "C4", "13_endocv2021_positive_222", "35_endocv2021_negative_1058", "31_endocv2021_positive_329 2")
    single(root, "C5", "EndoCV2021_C5_50000003")
    touch(root, "data_C1/bbox_C1/169OLCV1_100H0007_mask.txt", "data_C1/.DS_Store", "sequenceData/.DS_Store")
    touch(
        root,
        "sequenceData/positive/seq2/images/0_endocv2021_positive_167.jpg",
        "sequenceData/positive/seq2/masks/0_endocv2021_positive_167_mask.jpg",
        "sequenceData/positive/seq14/images_seq14/EndoCV2021_seq14_136.jpg",
        "sequenceData/positive/seq14/masks_seq14/EndoCV2021_seq14_136_mask.jpg",
        "sequenceData/negativeOnly/seq1_neg/frame.jpg",
    )
    assert find_root(find_dataset("endocv2021"), tmp_path, None) == root
    catalog = endocv2021.read(root)
    assert [tuple(row) for row in catalog.table[["sample", "center", "group", "empty"]].itertuples(index=False)] == [
        ("endocv2021/C1/100S0001", "C1", "endocv2021/C1-p995", False),
        ("endocv2021/C1/169OLCV1_100H0007", "C1", "endocv2021/C1-p169", False),
        ("endocv2021/C4/13_endocv2021_positive_222", "C4", "endocv2021/C4-p13", False),
        ("endocv2021/C4/31_endocv2021_positive_3292", "C4", "endocv2021/C4-p31", False),
        ("endocv2021/C4/35_endocv2021_negative_1058", "C4", "endocv2021/C4-p35", False),
        ("endocv2021/C5/EndoCV2021_C5_50000003", "C5", None, False),
        ("endocv2021/seq14/EndoCV2021_seq14_136", "C2", "endocv2021/seq14", False),
        ("endocv2021/seq1_neg/frame", "unknown", "endocv2021/seq1_neg", True),
        ("endocv2021/seq2/0_endocv2021_positive_167", "C4", "endocv2021/C4-p0", False),
    ]
    assert list(catalog.table["boxes"])[:2] == [None, []]
    assert catalog.warnings[-1] == (
        "counts differ from the published ones (here, of): C1 singles 2 of 256, C2 singles 0 of 301, "
        "C3 singles 0 of 457, C4 singles 3 of 227, C5 singles 1 of 208, positive sequences 2 of 15 and 1 more"
    )
    assert not endocv2021.read(root, parts=["negative"]).warnings[1:]


def test_its_miniature_has_the_pictures_of_polypgen(tmp_path: Path) -> None:
    ours, theirs = (miniature(name, tmp_path, 2) for name in ("endocv2021", "polypgen"))
    assert ours.name == ROOT
    table = endocv2021.read(ours).table
    assert set(table["sample"].str.split("/").str[1]) == {
        *(f"C{k}" for k in range(1, 6)), *(f"seq{k}" for k in range(1, 16)), *(f"seq{k}_neg" for k in range(1, 6)),
    }  # fmt: skip
    assert table["boxes"].isna().sum() == 10  # only the negative frames
    for image in ("data_C2/images_C2/EndoCV2021_001010.jpg", "data_C4/masks_C4/31_endocv2021_positive_329 2_mask.jpg"):
        assert (ours / image).read_bytes() == (theirs / image).read_bytes()
    assert [name for name, dataset in DATASETS.items() if dataset.recognise(ours)] == ["endocv2021"]
    assert [name for name, dataset in DATASETS.items() if dataset.recognise(theirs)] == ["polypgen"]


def test_renamed_or_sequences_only_it_is_recognised(tmp_path: Path) -> None:
    assert endocv2021.DATASET.recognise(single(tmp_path / "ours", "C3", "C3_EndoCV2021_001"))
    (tmp_path / "trainData_EndoCV2021_5_Feb2021" / "sequenceData").mkdir(parents=True)
    assert endocv2021.DATASET.recognise(tmp_path / "trainData_EndoCV2021_5_Feb2021")
    (tmp_path / "videos" / "sequenceData").mkdir(parents=True)
    assert not endocv2021.DATASET.recognise(tmp_path / "videos")


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"endocv2021: .* does not hold data_C1/images_C1.*grand-challenge"):
        endocv2021.read(tmp_path)
    with pytest.raises(
        UserError, match="endocv2021: parts is a list of singles, positive, negative; nothing is not one"
    ):
        endocv2021.read(tmp_path, parts=[])


@pytest.mark.real
def test_every_real_name_is_accepted_and_could_have_been_generated(real_data: Path, tmp_path: Path) -> None:
    listed = 0
    for path in (real_data / "EndoCV2021" / "lists").glob("*.csv"):
        with path.open() as file:
            for row in csv.DictReader(file):
                assert names.could_generate(path.stem, Path(row["image_path"]).stem)
                touch(tmp_path, row["image_path"], row["mask_path"])
                listed += 1
    catalog = endocv2021.read(tmp_path / ROOT, parts=["singles"])
    assert len(catalog.table) == listed == 1241
    assert dict(catalog.table["center"].value_counts()) == {"C1": 256, "C2": 301, "C3": 457, "C4": 227}
    groups = catalog.table.groupby("center")["group"].nunique()
    assert (groups["C1"], groups["C4"]) == (159, 31)
    assert catalog.warnings[-1].endswith("(here, of): C5 singles 0 of 208")
    assert not any("left out" in text for text in catalog.warnings)
