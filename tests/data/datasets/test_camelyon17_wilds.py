"""Camelyon17-WILDS: hospitals, slides and both published splits out of metadata.csv."""

from pathlib import Path

import pandas as pd
import pytest

from fedkvasir.data.datasets import camelyon17_wilds, find_dataset, find_root
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError

HEADER = ",patient,node,x_coord,y_coord,tumor,slide,center,split\n"
# Patients 004, 020, 042, 060 and 099 are of hospitals 0 to 4; slide 23 is patient 042, node 3.
LINES = (
    "0,004,4,3328,21792,1,0,0,0",
    "1,004,4,3200,22272,0,0,0,1",
    "2,020,4,100,200,1,10,1,0",
    "3,042,3,100,200,1,23,2,1",
    "4,040,1,100,200,0,21,2,0",
    "5,060,3,100,200,0,30,3,0",
    "6,099,4,100,200,1,49,4,1",
)
FILES = (
    "patient_004_node_4/patch_patient_004_node_4_x_3328_y_21792.png",
    "patient_004_node_4/patch_patient_004_node_4_x_3200_y_22272.PNG",
    "patient_020_node_4/patch_patient_020_node_4_x_100_y_200.png",
    "patient_042_node_3/patch_patient_042_node_3_x_100_y_200.png",
    "patient_040_node_1/patch_patient_040_node_1_x_100_y_200.png",
    "patient_060_node_3/patch_patient_060_node_3_x_100_y_200.png",
    "patient_099_node_4/patch_patient_099_node_4_x_100_y_200.png",
)


def write(root: Path, lines: tuple[str, ...] = LINES, files: tuple[str, ...] = FILES) -> Path:
    for name in files:
        path = root / "patches" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "metadata.csv").write_text(HEADER + "\n".join(lines) + "\n")
    return root


def test_hospital_slide_label_and_official_split(tmp_path: Path) -> None:
    catalog = camelyon17_wilds.read(write(tmp_path))
    table = catalog.table.set_index("sample")
    first = table.loc["camelyon17-wilds/patient_004_node_4_x_3328_y_21792"]
    assert first["image"] == f"patches/{FILES[0]}"
    assert (first["center"], first["group"], first["label"]) == ("hospital-0", "camelyon17-wilds/patient-004", "tumor")
    assert table.loc["camelyon17-wilds/patient_004_node_4_x_3200_y_22272", "image"] == f"patches/{FILES[1]}"
    split = {sample[25:33]: (row["center"], row["official_split"]) for sample, row in table.iloc[2:].iterrows()}
    assert split == {
        "020_node": ("hospital-1", "val"),  # its own column says 0: the loader overrides it
        "040_node": ("hospital-2", "test"),
        "042_node": ("hospital-2", "test"),
        "060_node": ("hospital-3", "train"),
        "099_node": ("hospital-4", "val"),  # the random tenth of the training hospitals
    }
    assert catalog.classes == ("normal", "tumor")
    assert catalog.warnings == (
        "counts differ from the published ones (here, of): patches 7 of 455954, slides 6 of 50, train 2 of 302436, "
        "id-val 2 of 33560, val 1 of 34904, test 2 of 85054",
    )


def test_mixed_to_test_moves_slide_23_into_train(tmp_path: Path) -> None:
    catalog = camelyon17_wilds.read(write(tmp_path))
    official = dict(zip(catalog.table["sample"], catalog.table["official_split"], strict=True))
    mixed = catalog.splits["mixed-to-test"]
    assert set(mixed) == set(official)
    moved = {sample: part for sample, part in mixed.items() if part != official[sample]}
    assert moved == {"camelyon17-wilds/patient_042_node_3_x_100_y_200": "train"}


def test_missing_and_unlisted_files_are_counted(tmp_path: Path) -> None:
    extra = ("patient_020_node_4/patch_patient_020_node_4_x_9_y_9.png", "patient_077_node_0/a.png")
    root = write(tmp_path, files=FILES[1:] + extra)
    for junk in (".DS_Store", "patient_020_node_4/._patch.png", "patient_020_node_4/Thumbs.db", "Thumbs.db"):
        (root / "patches" / junk).touch()
    catalog = camelyon17_wilds.read(root)
    assert len(catalog.table) == 6
    gone, extra_files, folders, _ = catalog.warnings
    assert gone.startswith("1 patches of metadata.csv have no file and are left out") and FILES[0] in gone
    assert extra_files == "1 files in the folders of patches are not in metadata.csv and left out"
    assert folders == "1 entries of patches are not in metadata.csv and left out, e.g. patient_077_node_0"


def test_a_center_that_is_not_the_patients_is_counted(tmp_path: Path) -> None:
    catalog = camelyon17_wilds.read(write(tmp_path, lines=("0,004,4,3328,21792,1,0,3,0", *LINES[1:])))
    assert catalog.table["center"].iloc[1] == "hospital-0"
    assert any(
        text.startswith("1 rows of metadata.csv name a center") and "patient 004" in text for text in catalog.warnings
    )


def test_patches_per_slide_keeps_every_slide(tmp_path: Path) -> None:
    catalog = camelyon17_wilds.read(write(tmp_path), patches_per_slide=1)
    assert len(catalog.table) == catalog.table["group"].nunique() == 6
    assert set(catalog.splits["mixed-to-test"]) == set(catalog.table["sample"])


@pytest.mark.parametrize(
    ("csv", "sentence"),
    [
        ("", "cannot be read as CSV"),
        ("patient;node\n004;4\n", "has no column patient, node, x_coord"),
        (HEADER.replace(",tumor", ",label") + LINES[0], "has no column tumor, only"),
        (HEADER + LINES[0] + "\n1,104,4,1,1,1,52,5,0\n", "line 3: patient is not a whole number from 0 to 99"),
        (HEADER + "0,../..,4,1,1,1,0,0,0\n", "line 2: patient is not a whole number"),
        (HEADER + "0,004,4,1,,1,0,0,0\n", "line 2: y_coord is not a whole number; download"),
        (HEADER + "0,004,4,1,1,yes,0,0,0\n", "line 2: tumor is not a whole number from 0 to 1"),
        (HEADER + "0,004,4,1,1,1,0,0,2\n", "line 2: split is not a whole number from 0 to 1"),
        (HEADER + LINES[0] + "\n" + LINES[0] + "\n", "1 samples are listed twice"),
        (HEADER, "lists no patch"),
    ],
)
def test_a_broken_listing_is_one_sentence(tmp_path: Path, csv: str, sentence: str) -> None:
    root = write(tmp_path)
    (root / "metadata.csv").write_text(csv)
    with pytest.raises(UserError) as caught:
        camelyon17_wilds.read(root)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(
            UserError, match=r"does not hold metadata\.csv and patches\. Install the Python package wilds"
        ):
            camelyon17_wilds.read(place)


def test_the_miniature_has_five_hospitals_that_can_be_split(tmp_path: Path) -> None:
    root = miniature("camelyon17-wilds", tmp_path, 8)
    assert root.name == "camelyon17_v1.0"
    assert find_root(find_dataset("camelyon17-wilds"), tmp_path, None) == root
    catalog = camelyon17_wilds.read(root)
    table = catalog.table
    assert len(catalog.warnings) == 1 and "counts differ" in catalog.warnings[0]
    assert table["center"].value_counts().to_dict() == {f"hospital-{n}": 8 for n in range(5)}
    assert table.groupby("center")["group"].nunique().eq(3).all()  # of four slides two are of one patient
    assert set(table.value_counts(["group", "label"])) == {1, 2}
    assert pd.Series(catalog.splits["mixed-to-test"]).value_counts()["train"] == 8 * 3 + 2  # slide 23 is there
