"""PCam: hospitals by slide, swapped mirrors, packed and broken files."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from fedkvasir.data import formats
from fedkvasir.data.datasets import find_dataset, find_root, pcam
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError

SLIDES = {
    "train": ["camelyon16_train_tumor_001", "camelyon16_train_normal_101", "camelyon16_train_tumor_001"],
    "valid": ["camelyon16_train_normal_001", "camelyon16_train_tumor_071", "camelyon16_train_tumor_071"],
    "test": ["camelyon16_test_001", "camelyon16_test_002", "camelyon16_test_002"],
}
TUMOR = {"train": [1, 0, 0], "valid": [0, 1, 0], "test": [0, 0, 1]}


def write(root: Path, part: str, tumor: list[int], slides: list[str], said: list[int] | None = None) -> None:
    """The three files of a part; ``said`` is what the meta file says of the labels."""
    root.mkdir(parents=True, exist_ok=True)
    prefix = f"camelyonpatch_level_2_split_{part}"
    with h5py.File(root / f"{prefix}_x.h5", "w") as file:
        file["x"] = np.arange(len(slides) * 96 * 96 * 3, dtype=np.uint8).reshape(-1, 96, 96, 3)
    with h5py.File(root / f"{prefix}_y.h5", "w") as file:
        file["y"] = np.array(tumor, np.uint8).reshape(-1, 1, 1, 1)
    truth = [bool(value) for value in said or tumor]
    meta = pd.DataFrame({"coord_y": 1, "coord_x": 2, "tumor_patch": truth, "center_tumor_patch": truth, "wsi": slides})
    meta.to_csv(root / f"{prefix}_meta.csv")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, slides in SLIDES.items():
        write(tmp_path / "pcam", part, TUMOR[part], slides)
    return tmp_path / "pcam"


@pytest.mark.parametrize(
    ("slide", "center"),
    [
        ("camelyon16_train_normal_100", "rumc"),
        ("camelyon16_train_normal_101", "umcu"),
        ("camelyon16_train_normal_161", None),
        ("camelyon16_train_tumor_070", "rumc"),
        ("camelyon16_train_tumor_071", "umcu"),
        ("camelyon16_train_tumor_112", None),
        ("camelyon16_test_001", "umcu"),
        ("camelyon16_test_002", "rumc"),
        ("camelyon16_test_128", "umcu"),
        ("camelyon16_test_130", "rumc"),
        ("camelyon17_test_001", None),
    ],
)
def test_the_hospital_follows_from_the_slide(slide: str, center: str | None) -> None:
    assert pcam.center_of(slide) == center


def test_hospitals_have_as_many_slides_as_published() -> None:
    train = [
        f"camelyon16_train_{kind}_{n:03d}"
        for kind, last in (("normal", 160), ("tumor", 111))
        for n in range(1, last + 1)
    ]
    train.remove("camelyon16_train_normal_086")
    test = [f"camelyon16_test_{n:03d}" for n in range(1, 131) if n != 49]
    assert pd.Series(map(pcam.center_of, train)).value_counts().to_dict() == {"rumc": 169, "umcu": 101}
    assert pd.Series(map(pcam.center_of, test)).value_counts().to_dict() == {"rumc": 74, "umcu": 55}


def test_rows_of_the_three_parts(root: Path) -> None:
    catalog = pcam.read(root)
    table = catalog.table.set_index("sample")
    assert list(table.index) == [f"pcam/{part}-{row:06d}" for part in ("test", "train", "valid") for row in range(3)]
    first = table.loc["pcam/train-000001"]
    assert first["image"] == "camelyonpatch_level_2_split_train_x.h5" and first["item"] == "1"
    assert (first["center"], first["group"]) == ("umcu", "pcam/camelyon16_train_normal_101")
    assert (first["label"], first["official_split"]) == ("normal", "train")
    assert set(table["official_split"][table.index.str.contains("valid")]) == {"val"}
    assert table.loc["pcam/test-000002", "label"] == "tumor"
    assert catalog.classes == ("normal", "tumor")
    assert catalog.warnings == (
        "counts differ from the published ones (here, of): patches 9 of 327680, train 3 of 262144, valid 3 of 32768, "
        "test 3 of 32768",
    )


def test_patches_per_slide_takes_evenly_spaced_rows_of_every_slide(tmp_path: Path) -> None:
    slides = ["camelyon16_train_tumor_001"] * 10 + ["camelyon16_train_tumor_002"] * 2
    write(tmp_path, "train", [1] * 12, slides)
    assert list(pcam.read(tmp_path, patches_per_slide=3).table["item"].astype(int)) == [0, 4, 7, 10, 11]
    assert len(pcam.read(tmp_path, patches_per_slide=100).table) == 12
    with pytest.raises(UserError, match="patches_per_slide: at least 1, not 0"):
        pcam.read(tmp_path, patches_per_slide=0)


def test_swapped_labels_name_the_two_parts(tmp_path: Path) -> None:
    write(tmp_path, "valid", [0, 0, 1], SLIDES["valid"], said=[0, 1, 0])
    write(tmp_path, "test", [0, 1, 0], SLIDES["test"], said=[0, 0, 1])
    with pytest.raises(
        UserError, match=r"files of valid and test are swapped: the labels in valid_y\.h5 are those of test"
    ):
        pcam.read(tmp_path)


def test_labels_that_fit_no_part_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", [1, 1, 0], SLIDES["train"], said=[1, 0, 0])
    with pytest.raises(UserError, match=r"train_y\.h5 and train_meta\.csv disagree on 1 of 3 labels"):
        pcam.read(tmp_path)


def test_parts_swapped_altogether_are_told_by_their_slides(tmp_path: Path) -> None:
    write(tmp_path, "valid", TUMOR["test"], SLIDES["test"])
    write(tmp_path, "test", TUMOR["valid"], SLIDES["valid"])
    catalog = pcam.read(tmp_path)
    split = catalog.table.set_index("sample")["official_split"]
    assert split["pcam/valid-000000"] == "test" and split["pcam/test-000000"] == "val"
    assert any("3 patches in the test files are of training slides and counted as val" in w for w in catalog.warnings)
    assert any("3 patches in the valid files are of test slides and counted as test" in w for w in catalog.warnings)


def test_slides_of_no_known_hospital_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "train", [1, 0], ["camelyon16_train_tumor_001", "camelyon16_train_tumor_500"])
    catalog = pcam.read(tmp_path)
    assert len(catalog.table) == 1
    assert any(text.startswith("1 patches left out") and "tumor_500" in text for text in catalog.warnings)


def broken(root: Path, name: str, content: bytes | None) -> None:
    path = root / f"camelyonpatch_level_2_split_{name}"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("valid_y.h5", None, "holds no camelyonpatch_level_2_split_valid_y.h5"),
        ("test_x.h5", None, "holds no camelyonpatch_level_2_split_test_x.h5"),
        ("test_meta.csv", None, "slides, and so hospitals and groups, are named there. Download the six"),
        ("train_y.h5", b"\x89HDF\r\n\x1a\n half", "is not a whole HDF5 file"),
        ("train_x.h5", b"<html>", "is not a whole HDF5 file"),
        ("train_meta.csv", b"", "cannot be read as CSV"),
        ("train_meta.csv", b"wsi;center_tumor_patch\na;True\n", "only wsi;center_tumor_patch; it should hold"),
        ("train_meta.csv", b"wsi,tumor_patch\na,True\n", "has no column center_tumor_patch, only wsi, tumor_patch"),
        ("train_meta.csv", b"wsi,center_tumor_patch\n\xff\xfe,True\n", "cannot be read as CSV"),
        ("train_meta.csv", b"wsi,center_tumor_patch\na,True,\n", "its first row has more cells than its header"),
        ("train_meta.csv", b"wsi,center_tumor_patch\na,True\n", "x has 3 rows, y 3, meta 1"),
    ],
)
def test_a_broken_file_is_one_sentence(root: Path, name: str, content: bytes | None, sentence: str) -> None:
    broken(root, name, content)
    with pytest.raises(UserError) as caught:
        pcam.read(root)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_an_hdf5_without_y_is_named(root: Path) -> None:
    (root / "camelyonpatch_level_2_split_train_y.h5").write_bytes(
        (root / "camelyonpatch_level_2_split_train_x.h5").read_bytes()
    )
    with pytest.raises(UserError, match=r"train_y\.h5 holds x and no 'y'"):
        pcam.read(root)


def test_empty_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", [], [])
    with pytest.raises(UserError, match="pcam: no image found"):
        pcam.read(tmp_path)


def test_packed_files_ask_for_gunzip(tmp_path: Path) -> None:
    for end in ("x", "y"):
        (tmp_path / f"camelyonpatch_level_2_split_train_{end}.h5.gz").touch()
    assert find_root(find_dataset("pcam"), tmp_path, None) == tmp_path
    with pytest.raises(UserError, match=r"is packed; unpack with gunzip: `gunzip -k camelyonpatch\S+_train_x\.h5\.gz`"):
        pcam.read(tmp_path)


def test_a_folder_without_any_of_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        assert not pcam.DATASET.recognise(place)
        with pytest.raises(UserError, match=r"pcam: .* Download the six camelyonpatch"):
            pcam.read(place)


def test_verify_compares_md5_sums_and_names_a_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pcam.verify(tmp_path) == []
    sums = {"train": "b026324c6904b2a9cb4b88d6d61c81d1", "test": "26ab0db90d72e28ad0ba1e22ee510510"}  # of 1 and 2
    for part, text in (("train", "1\n"), ("valid", "2\n"), ("test", "3\n")):
        (tmp_path / f"camelyonpatch_level_2_split_{part}_x.h5.gz").write_text(text)
        monkeypatch.setitem(pcam.MD5, f"{part}_x.h5.gz", sums.get(part, "0"))
    valid, test = pcam.verify(tmp_path)
    assert valid.endswith(
        "valid_x.h5.gz: its MD5 sum is that of camelyonpatch_level_2_split_test_x.h5.gz: the two files are swapped"
    )
    assert "test_x.h5.gz: its MD5 sum is 6d7fce9fee471194aa8b5b6e47267f03, published is 26ab0d" in test


def test_the_published_sums_start_as_the_facts_page_has_them() -> None:
    starts = [pcam.MD5[f"{part}_x.h5.gz"][:8] for part in ("train", "valid", "test")]
    assert starts == ["1571f514", "d8c2d60d", "d5b63470"]


def test_the_miniature_reads_like_the_real_files(tmp_path: Path) -> None:
    root = miniature("pcam", tmp_path, 4)
    assert find_root(find_dataset("pcam"), tmp_path, None) == root
    catalog = pcam.read(root)
    table = catalog.table
    assert len(catalog.warnings) == 1 and "counts differ" in catalog.warnings[0]
    assert set(table.value_counts(["center", "official_split", "label"])) == {2}
    assert table.groupby(["center", "official_split"])["group"].nunique().eq(4).all()
    assert table.groupby("group")["official_split"].nunique().eq(1).all()
    pictures = [next(formats.pictures(root / row.image, [row.item])) for row in table.itertuples()]
    assert {picture.shape for picture in pictures} == {(96, 96, 3)}
    darkness = (
        pd.Series([255 - picture.mean() for picture in pictures]).groupby([table["center"], table["label"]]).mean()
    )
    for center in ("rumc", "umcu"):
        assert darkness[center]["tumor"] > darkness[center]["normal"] + 5


def test_the_same_miniature_has_the_same_bytes(tmp_path: Path) -> None:
    one, two = (miniature("pcam", tmp_path / name, 2) for name in "ab")
    assert [path.name for path in sorted(one.iterdir())] == [path.name for path in sorted(two.iterdir())]
    assert all(path.read_bytes() == (two / path.name).read_bytes() for path in one.iterdir())
