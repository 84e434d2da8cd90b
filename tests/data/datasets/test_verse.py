"""VerSe: scanners, subjects and parts; slices, centroids; and what is wrong with a scan."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedkvasir.data import formats
from fedkvasir.data.datasets import find_dataset, find_root, verse
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError

VERSE19 = ("dataset-verse19training", "dataset-verse19validation", "dataset-verse19test")


def volume(path: Path, shape: tuple[int, int, int] = (20, 12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), path)


def scan(part: Path, name: str, maker: str | None = "Philips", mask: bool = True) -> None:
    """A CT with the files that belong to it, named as in the restructured release."""
    subject = name.split("_")[0]
    volume(part / "rawdata" / subject / f"{name}_ct.nii.gz")
    if maker is not None:
        (part / "rawdata" / subject / f"{name}_ct.json").write_text(json.dumps({"KVP": 120, "Manufacturer": maker}))
    if mask:
        volume(part / "derivatives" / subject / f"{name}_seg-vert_msk.nii.gz")


def test_slices_of_a_scan(tmp_path: Path) -> None:
    root = tmp_path / "dataset-verse19training"
    scan(root, "sub-verse004", "GE MEDICAL SYSTEMS")
    catalog = verse.read(root)
    table = catalog.table
    assert list(table["sample"]) == ["verse/sub-verse004/sagittal-0004", "verse/sub-verse004/sagittal-0012"]
    assert list(table["item"]) == list(table["mask_item"]) == ["sagittal:4", "sagittal:12"]
    row = table.iloc[0]
    assert row["image"] == "rawdata/sub-verse004/sub-verse004_ct.nii.gz"
    assert row["mask"] == "derivatives/sub-verse004/sub-verse004_seg-vert_msk.nii.gz"
    assert (row["center"], row["group"], row["official_split"]) == ("ge-medical-systems", "verse/sub-verse004", "train")
    assert catalog.warnings == (
        "counts differ from the published ones (here, of): scans 1 of 374, train 1 of 141, val 0 of 120, test 0 of 113",
    )


def test_plane_step_and_labels(tmp_path: Path) -> None:
    scan(tmp_path, "sub-verse004")
    axial = verse.read(tmp_path, plane="axial", every=4, labels="vertebrae").table
    assert list(axial["item"]) == ["axial:2", "axial:6"]
    assert list(axial["mask_item"]) == ["axial:2:labels", "axial:6:labels"]
    assert list(verse.read(tmp_path, plane="coronal", every=100).table["item"]) == ["coronal:6"]  # at least the middle
    assert len(verse.read(tmp_path, every=1).table) == 20
    for options, sentence in (
        ({"plane": "oblique"}, "plane is 'oblique'; allowed: sagittal, coronal, axial"),
        ({"labels": "spine"}, "labels is 'spine'; allowed: binary, vertebrae"),
        ({"every": 0}, "every is 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            verse.read(tmp_path, **options)


def test_series_directions_and_sub_gl_are_scans_of_their_subject(tmp_path: Path) -> None:
    names = ("sub-gl003_dir-ax", "sub-verse401_split-verse201", "sub-verse401_split-verse202", "sub-verse500_dir-iso")
    for name in names:
        scan(tmp_path, name)
    table = verse.read(tmp_path, every=100).table
    assert list(table["sample"]) == [f"verse/{name}/sagittal-0010" for name in names]
    assert list(table["group"]) == ["verse/sub-gl003", "verse/sub-verse401", "verse/sub-verse401", "verse/sub-verse500"]


@pytest.mark.parametrize(
    ("folder", "center", "split"),
    [
        ("dataset-verse19training", "verse19", "train"),
        ("dataset-verse20validation", "verse20", "val"),
        ("dataset-03test", "verse20", "test"),
        ("VerSe2019/01_training", "verse19", "train"),
        ("spines", "verse", None),
    ],
)
def test_without_a_maker_the_study_year_is_the_center(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, center: str, split: str | None
) -> None:
    root = tmp_path / folder
    for number, text in enumerate(("", "[1]", '{"Manufacturer": ""}', "{}")):
        scan(root, f"sub-verse50{number}", maker=None)
        (root / f"rawdata/sub-verse50{number}/sub-verse50{number}_ct.json").write_text(text)
    scan(root, "sub-verse504", maker=None)
    catalog = verse.read(root)
    assert set(catalog.table["center"]) == {center} and set(catalog.table["official_split"]) == {split}
    assert catalog.warnings[0] == (f"5 scans name no maker in a _ct.json; their center is {center}, e.g. sub-verse500")
    monkeypatch.chdir(root)
    assert verse.read(Path()).hash == catalog.hash


def test_parts_side_by_side_are_one_root_even_when_each_is_doubled(tmp_path: Path) -> None:
    for number, part in enumerate(VERSE19):
        scan(tmp_path / "verse" / part / (part if number else ""), f"sub-verse{number:03d}")
    assert find_root(find_dataset("verse"), tmp_path, None) == tmp_path / "verse"
    table = verse.read(tmp_path / "verse", every=100).table
    assert list(table["official_split"]) == ["train", "val", "test"]
    assert table["image"][2] == ("dataset-verse19test/dataset-verse19test/rawdata/sub-verse002/sub-verse002_ct.nii.gz")


def test_a_single_part_is_found_wrapped_and_doubled(tmp_path: Path) -> None:
    part = tmp_path / "downloads" / VERSE19[0] / VERSE19[0]
    scan(part, "sub-verse004")
    assert find_root(find_dataset("verse"), tmp_path, None) == part


def test_a_scan_of_both_years_is_read_once_and_a_subject_in_two_parts_is_counted(tmp_path: Path) -> None:
    scan(tmp_path / "dataset-01training", "sub-verse004")
    scan(tmp_path / "dataset-verse19test", "sub-verse004")
    scan(tmp_path / "dataset-verse19test", "sub-verse004_dir-ax", "Siemens")
    catalog = verse.read(tmp_path, every=100)
    assert list(catalog.table["official_split"]) == ["train", "test"]
    assert "1 scans lie in two parts and are read once, e.g. sub-verse004" in catalog.warnings
    assert "1 subjects have scans of more than one official split, e.g. sub-verse004" in catalog.warnings
    assert "1 subjects have scans of more than one center, e.g. sub-verse004" in catalog.warnings


def test_orphans_empty_subjects_odd_names_and_junk(tmp_path: Path) -> None:
    scan(tmp_path, "sub-verse004")
    scan(tmp_path, "sub-verse005", mask=False)
    volume(tmp_path / "derivatives/sub-verse006/sub-verse006_seg-vert_msk.nii.gz")
    volume(tmp_path / "rawdata/sub-verse004/verse004.nii.gz")
    volume(tmp_path / "rawdata/sub-verse004/._sub-verse004_ct.nii.gz")
    (tmp_path / "rawdata/.DS_Store").touch()
    (tmp_path / "rawdata/sub-verse007").mkdir()
    catalog = verse.read(tmp_path)
    assert set(catalog.table["group"]) == {"verse/sub-verse004"}
    text = "\n".join(catalog.warnings)
    assert "1 image(s) without a mask left out" in text and "sub-verse005" in text
    assert "1 masks without an image left out" in text and "sub-verse006" in text
    assert "1 subjects without a CT" in text and "sub-verse007" in text
    assert "1 NIfTI files" in text and "verse004.nii.gz" in text


def test_a_mask_of_another_shape_is_named_with_its_ct(tmp_path: Path) -> None:
    scan(tmp_path, "sub-verse004")
    mask = tmp_path / "derivatives/sub-verse004/sub-verse004_seg-vert_msk.nii.gz"
    volume(mask, (20, 12, 9))
    with pytest.raises(UserError, match=r"_msk\.nii\.gz has 20x12x9 voxels, its CT .*_ct\.nii\.gz 20x12x10"):
        verse.read(tmp_path)


def test_broken_files_are_one_sentence(tmp_path: Path) -> None:
    scan(tmp_path, "sub-verse004")
    ct = tmp_path / "rawdata/sub-verse004/sub-verse004_ct.nii.gz"
    for content in (b"", b"<html>", ct.read_bytes()[:30]):
        ct.write_bytes(content)
        with pytest.raises(UserError, match=r"_ct\.nii\.gz cannot be read \(.*\); download it again") as caught:
            verse.read(tmp_path)
        assert "\n" not in str(caught.value)
    volume(ct.with_name("sub-verse004_ct.nii"))
    with pytest.raises(UserError, match="keep one of the two"):
        verse.read(tmp_path)


def test_folders_without_it_say_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        assert not verse.DATASET.recognise(place)
        with pytest.raises(UserError, match=r"does not hold rawdata/.* Download the subject-based data"):
            verse.read(place)
    scan(tmp_path, "sub-verse004", mask=False)
    (tmp_path / "derivatives").mkdir()
    with pytest.raises(UserError, match="does not hold a CT with its mask"):
        verse.read(tmp_path)


def test_centroids_are_kept_with_their_direction(tmp_path: Path) -> None:
    scan(tmp_path, "sub-verse401_split-verse201")
    path = tmp_path / "derivatives/sub-verse401/sub-verse401_split-verse201_seg-subreg_ctd.json"
    path.write_text('[{"direction": ["P", "I", "R"]}, {"label": 20, "X": 60.5, "Y": 31, "Z": 30.25}]')
    (row,) = verse.centroids(tmp_path).to_dict("records")
    assert row == {
        "scan": "sub-verse401_split-verse201",
        "label": 20,
        "x": 60.5,
        "y": 31.0,
        "z": 30.25,
        "direction": "PIR",
    }
    for text in ("", "[]", "{}", '[{"direction": ["P"]}, {"label": 20, "X": 1}]'):
        path.write_text(text)
        with pytest.raises(UserError, match="is not a list of a direction and vertebrae"):
            verse.centroids(tmp_path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature; the tests above write their own."""
    return miniature("verse", tmp_path_factory.mktemp("verse"), 2)


class TestMiniature:
    def test_three_scanners_with_subjects_in_every_part(self, root: Path) -> None:
        assert find_root(find_dataset("verse"), root.parent, None) == root
        catalog = verse.read(root)
        table = catalog.table
        assert len(catalog.warnings) == 1 and "counts differ" in catalog.warnings[0]
        assert set(table["center"]) == {"siemens", "philips", "ge-medical-systems"}
        assert table.groupby("center")["group"].nunique().eq(4).all()
        assert table.groupby("center")["official_split"].nunique().eq(3).all()
        series = table[table["group"] == "verse/sub-verse401"]
        assert series["image"].nunique() == 2 and all("_split-verse" in image for image in series["image"])

    def test_masks_are_float64_in_two_orientations_and_lie_on_bright_bone(self, root: Path) -> None:
        table = verse.read(root, labels="vertebrae").table
        masks = [nibabel.load(root / path) for path in table["mask"].unique()]
        assert {str(mask.get_data_dtype()) for mask in masks} == {"float64"}
        assert {"".join(nibabel.aff2axcodes(mask.affine)) for mask in masks} == {"PIR", "LPS"}
        for (image, mask), rows in table.groupby(["image", "mask"]):
            pictures = list(formats.pictures(root / image, list(rows["item"])))
            labels = list(formats.masks(root / mask, list(rows["mask_item"])))
            assert {picture.shape for picture in pictures} == {(84, 48, 3)}  # 56 voxels of 3 mm at 2 mm
            assert set(np.unique(labels)) == {0, 20, 21, 22, 23, 24}
            heights = [np.argwhere(np.array(labels) == label)[:, 1].mean() for label in range(20, 25)]
            assert heights == sorted(heights)  # L1 above L5
            grey = np.array(pictures)[..., 0]
            assert grey[np.array(labels) > 0].mean() > 100 > grey[np.array(labels) == 0].mean()

    def test_centroids_lie_in_their_vertebra_of_the_stored_volume(self, root: Path) -> None:
        table = verse.centroids(root)
        masks = {path.name.split("_seg-")[0]: path for path in root.rglob("*_seg-vert_msk.nii.gz")}
        assert set(table["scan"]) == set(masks) and set(table["direction"]) == {"PIR", "LPS"}
        for name, rows in table.groupby("scan"):
            stored = nibabel.load(masks[name])
            assert "".join(nibabel.aff2axcodes(stored.affine)) == rows["direction"].iloc[0]
            labels = stored.get_fdata()
            assert [labels[round(r.x), round(r.y), round(r.z)] for r in rows.itertuples()] == [20, 21, 22, 23, 24]

    def test_the_same_call_writes_the_same_bytes(self, root: Path, tmp_path: Path) -> None:
        again = miniature("verse", tmp_path, 2)
        files = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
        assert files == [path.relative_to(again) for path in sorted(again.rglob("*")) if path.is_file()]
        assert all((root / name).read_bytes() == (again / name).read_bytes() for name in files)
