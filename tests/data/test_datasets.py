"""Readers: what they find, what they warn of, what they refuse; and the two real datasets where they are."""

import os
import shutil
import stat
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from fedkvasir.data.catalog import COLUMNS
from fedkvasir.data.datasets import DATASETS, cvc_clinicdb, find_all, find_dataset, find_root, folder, kvasir_seg
from fedkvasir.errors import UserError
from tests.conftest import Miniatures


def picture(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (20, 16), 90).save(path)


def kvasir(root: Path, stems: tuple[str, ...] = ("a", "b", "c")) -> Path:
    for stem in stems:
        picture(root / "images" / f"{stem}.jpg")
        picture(root / "masks" / f"{stem}.jpg", "L")
    return root


def test_every_dataset_carries_a_card_and_is_found_by_its_name() -> None:
    for name, dataset in DATASETS.items():
        assert find_dataset(name) is dataset
        assert dataset.card.obtain.endswith(".") and dataset.card.citation and dataset.card.license


def test_kvasir_seg_reads_split_and_boxes(tmp_path: Path) -> None:
    root = kvasir(tmp_path / "Kvasir-SEG")
    (root / "train.txt").write_text("c\na\n")
    (root / "val.txt").write_text("b\n")
    (root / "kavsir_bboxes.json").write_text(
        '{"a": {"height": 16, "width": 20, "bbox": [{"label": "polyp", "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}]}}'
    )
    table = kvasir_seg.read(root).table
    assert list(table.columns) == list(COLUMNS)
    assert list(table["sample"]) == ["kvasir-seg/a", "kvasir-seg/b", "kvasir-seg/c"]
    assert list(table["official_split"]) == ["train", "val", "train"]
    assert table["boxes"][0] == [[1, 2, 3, 4]]


def test_orphans_and_system_files_are_counted_or_ignored(tmp_path: Path) -> None:
    root = kvasir(tmp_path / "Kvasir-SEG")
    picture(root / "images" / "lonely.JPG")
    picture(root / "masks" / "nobody.jpg", "L")
    for junk in (".DS_Store", "._a.jpg", "Thumbs.db"):
        (root / "images" / junk).write_bytes(b"junk")
    catalog = kvasir_seg.read(root)
    assert len(catalog.table) == 3
    assert any("1 image(s) without a mask left out" in text and "lonely" in text for text in catalog.warnings)
    assert any("1 masks without an image left out" in text and "nobody" in text for text in catalog.warnings)


def test_clinicdb_finds_sequences_and_accepts_tif_and_underscored_folders(tmp_path: Path) -> None:
    root = tmp_path / "CVC-ClinicDB"
    for number in (1, 25, 26, 612):
        picture(root / "Original" / f"{number}.tif")
        picture(root / "Ground_Truth" / f"{number}.tif", "L")
    groups = cvc_clinicdb.read(root).table["group"]
    assert [name[-5:] for name in groups] == ["seq01", "seq01", "seq02", "seq29"]


def test_a_root_is_found_when_wrapped_or_doubled_and_two_copies_are_refused(tmp_path: Path) -> None:
    dataset = find_dataset("kvasir-seg")
    root = kvasir(tmp_path / "downloads" / "kvasir-seg" / "Kvasir-SEG")
    assert find_root(dataset, tmp_path, None) == root
    kvasir(tmp_path / "downloads" / "copy" / "Kvasir-SEG")
    with pytest.raises(UserError, match=r"two copies, .* choose one with data.roots.kvasir-seg"):
        find_root(dataset, tmp_path, None)
    assert find_root(dataset, tmp_path, str(root)) == root


def test_an_archive_that_a_dataset_ships_in_its_root_is_no_other_one_to_unpack(
    miniatures: Miniatures, tmp_path: Path
) -> None:
    shutil.copytree(miniatures("polypgen", 2), tmp_path / "PolypGen2021_MultiCenterData_v3")
    assert list(tmp_path.rglob("*.zip"))
    with pytest.raises(UserError, match=r"kvasir-seg: nothing under .* looks like it\. Download"):
        find_root(find_dataset("kvasir-seg"), tmp_path, None)
    (tmp_path / "kvasir-seg.zip").touch()
    with pytest.raises(UserError, match=r"looks like it\. .*/kvasir-seg\.zip is not unpacked"):
        find_root(find_dataset("kvasir-seg"), tmp_path, None)


def test_a_part_or_copy_inside_a_root_is_no_second_dataset(tmp_path: Path) -> None:
    root = tmp_path / "CVC-ClinicDB"  # as Kaggle has it
    for copy in ("PNG", "TIF"):
        picture(root / copy / "Original" / "1.png")
        picture(root / copy / "Ground Truth" / "1.png", "L")
    assert [path for _, path in find_all(tmp_path)] == [root]


def test_the_twin_tree_in_a_zip_made_on_a_mac_is_no_dataset(tmp_path: Path) -> None:
    root = kvasir(tmp_path / "kvasir-seg" / "Kvasir-SEG")
    for kind in ("images", "masks"):
        twin = tmp_path / "kvasir-seg" / "__MACOSX" / "Kvasir-SEG" / kind
        twin.mkdir(parents=True)
        (twin / "._a.jpg").write_bytes(b"attributes")
    assert [path for _, path in find_all(tmp_path)] == [root]


def test_a_folder_that_may_not_be_read_hides_no_dataset_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "mnt" / "disk" / "data"  # so deep that no other test's dataset lies in a folder above
    root, locked = kvasir(disk / "Kvasir-SEG"), disk / "lost+found"  # as every disk has it
    locked.mkdir()
    inside, listing = locked / "derivatives", Path.iterdir

    def refuse(path: Path) -> bool:  # to the superuser, too, who runs tests in containers
        if path in (locked, inside):
            raise PermissionError(13, "Permission denied", str(path))
        return path.exists() and stat.S_ISDIR(path.stat().st_mode)

    monkeypatch.setattr(os, "access", lambda path, mode: path != locked)
    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(path) and listing(path))
    monkeypatch.setattr(Path, "is_dir", lambda path: path == locked or refuse(path))
    assert find_root(find_dataset("kvasir-seg"), disk, None) == root
    assert [path for _, path in find_all(disk)] == [root]
    with pytest.raises(UserError, match=r"nothing under .* looks like it\. .*lost\+found may not be read"):
        find_root(find_dataset("verse"), disk, None)


def test_folders_above_that_may_not_be_listed_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user" / "data").mkdir(parents=True)
    listing = os.scandir

    def refuse(path: Path) -> object:
        if path == tmp_path:  # on many clusters /scratch is so
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"nothing under .* looks like it\. Download kvasir-dataset-v2\.zip"):
        find_root(find_dataset("kvasir-v2"), tmp_path / "user" / "data", None)


def test_a_missing_root_says_how_to_get_the_dataset(tmp_path: Path) -> None:
    dataset = find_dataset("kvasir-seg")
    for place in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"Download kvasir-seg\.zip"):
            find_root(dataset, place, None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        find_root(dataset, tmp_path / "file", None)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "Kvasir-SEG"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    with pytest.raises(UserError, match=r"does not hold images/\*.jpg"):
        kvasir_seg.read(root)


class TestFolder:
    """A hospital's own data in five minutes."""

    def write(self, root: Path, csv: str) -> Path:
        for name in ("1.png", "2.png", "3.png"):
            picture(root / name)
        picture(root / "m1.png", "L")
        (root / "samples.csv").write_text(csv, errors="surrogateescape")  # a lone byte, as of Latin-1
        return root

    def test_reads_masks_labels_centers_and_groups(self, tmp_path: Path) -> None:
        csv = "image, mask,label ,center,group\n1.png,m1.png,polyp,a,p1\n2.png,,normal,b,p1\n3.png,,normal,b,\n"
        catalog = folder.read(self.write(tmp_path / "ours", csv))
        table = catalog.table
        assert list(table["center"]) == ["a", "b", "b"]
        assert list(table["empty"]) == [False, True, True]
        assert list(table["group"]) == ["ours/p1", "ours/p1", None]
        assert catalog.classes == ("normal", "polyp")

    def test_blanks_around_a_cell_make_no_other_patient(self, tmp_path: Path) -> None:
        csv = "image,mask,group\n1.png,m1.png,p1 \n2.png, ,p1\n3.png,,\n"
        catalog = folder.read(self.write(tmp_path / "ours", csv))
        assert list(catalog.table["group"]) == ["ours/p1", "ours/p1", None]
        assert list(catalog.table["empty"]) == [False, True, True]
        assert not catalog.warnings

    @pytest.mark.parametrize("column", ["center", "group"])
    def test_patients_and_hospitals_that_are_spelt_in_two_ways_are_told(self, tmp_path: Path, column: str) -> None:
        csv = f"image,mask,{column}\n1.png,m1.png,Case 3\n2.png,,case_3\n3.png,,case 4\n"
        (told,) = folder.read(self.write(tmp_path / "ours", csv)).warnings
        assert told == f"Case 3 and case_3 are different {column}s by their spelling alone; write them alike"

    def test_pictures_with_one_mask_are_counted(self, tmp_path: Path) -> None:
        csv = "image,mask\n1.png,m1.png\n2.png,./m1.png\n3.png,\n"
        (told,) = folder.read(self.write(tmp_path / "ours", csv)).warnings
        assert told == "2 images share a mask with another one, e.g. m1.png"

    def test_patients_whose_number_stands_at_two_hospitals_are_counted(self, tmp_path: Path) -> None:
        csv = "image,mask,center,group\n1.png,m1.png,bergen,1\n2.png,,cadiz,1\n3.png,,cadiz,2\n"
        (warning,) = folder.read(self.write(tmp_path / "ours", csv)).warnings
        assert warning.startswith("1 of 2 groups stand at several centers") and "e.g. 1 at bergen and cadiz" in warning
        apart = csv.replace("bergen,1", "bergen,bergen-1")
        assert not folder.read(self.write(tmp_path / "apart", apart)).warnings

    @pytest.mark.parametrize(
        ("csv", "sentence"),
        [
            ("image;mask\n1.png;m1.png\n", "allowed, comma separated"),
            ("image,maks\n1.png,m1.png\n", "has the columns image, maks"),
            ("image\n1.png\n", "needs a column mask"),
            ("image,mask\n1.png,m1.png\n1.png,m1.png\n", "lists 1.png twice"),
            ("image,mask\n1.png,m1.png\n./1.png,\n", "lists ./1.png twice"),
            ("image,mask\n1.png,./1.png\n", "line 2: 1.png is named as its own mask"),
            ("image,mask\nnone.png,m1.png\n", "line 2: image none.png does not exist"),
            ("image,mask\n1.png,m9.png\n", "line 2: mask m9.png does not exist"),
            ("image,mask\n../../etc/passwd,\n", "lies outside"),
            (
                "image,mask\n1.png,m1.png\n2.png",
                "cannot be read as CSV: line 3 has 1 of 2 cells: is the file cut short?",
            ),
            ("image,mask\n1.png,m1\0.png\n", "line 2 holds a zero byte: the file is damaged"),
            ("image,mask\n\n1.png,m1.png\n\n,\n", "line 5 names no image"),
            ("", "cannot be read as CSV"),
            ("image,mask\nS\udce4ule.png,\n", "is not in UTF-8; save it as CSV UTF-8"),
            ("image,mask\n1.png,m1.png,\n2.png,,\n", "samples.csv cannot be read as CSV: its first row has more cells"),
        ],
    )
    def test_a_wrong_csv_is_one_sentence(self, tmp_path: Path, csv: str, sentence: str) -> None:
        with pytest.raises(UserError) as caught:
            folder.read(self.write(tmp_path / "ours", csv))
        assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.real
def test_real_kvasir_seg_is_complete(real_data: Path) -> None:
    catalog = kvasir_seg.read(find_root(find_dataset("kvasir-seg"), real_data, None))
    assert len(catalog.table) == 1000 and not catalog.warnings
    assert dict(catalog.table["official_split"].value_counts()) == {"train": 880, "val": 120}
    assert catalog.table["boxes"].notna().all()


@pytest.mark.real
def test_real_clinicdb_sequences_are_those_of_the_published_list(real_data: Path) -> None:
    root = find_root(find_dataset("cvc-clinicdb"), real_data, None)
    table = cvc_clinicdb.read(root).table
    published = pd.read_csv(root / "frame_to_sequence.csv").set_index("frame")["sequence"]
    ours = {int(sample[-3:]): int(group[-2:]) for sample, group in zip(table["sample"], table["group"], strict=True)}
    assert ours == published.to_dict() and len(set(ours.values())) == 29
