"""PolypGen: its published tree, its eight quirks, patients that stay whole, published splits, every real name."""

import csv
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedkvasir.data.datasets import DATASETS, find_dataset, find_root, polypgen
from fedkvasir.data.miniatures import miniature
from fedkvasir.data.miniatures import polypgen as small
from fedkvasir.errors import UserError

SPLIT_FILES = [f"all_centres_{part}_split.csv" for part in ("train", "val", "in_test")]


def touch(root: Path, *names: str, text: str = "") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def single(root: Path, center: str, *stems: str) -> Path:
    """Image, mask and an empty box file of single frames."""
    for stem in stems:
        touch(root, f"data_{center}/images_{center}/{stem}.jpg", f"data_{center}/masks_{center}/{stem}_mask.jpg")
        touch(root, f"data_{center}/bbox_{center}/{stem}_mask.txt", text="\n")
    return root


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature("polypgen", tmp_path_factory.mktemp("mini"), 3)


PUBLISHED = [
    "data_C1/images_C1/169OLCV1_100H0007.jpg",
    "data_C1/masks_C1/169OLCV1_100H0007_mask.jpg",
    "data_C1/bbox_C1/169OLCV1_100H0007_mask.txt",
    "data_C1/bbox_image_C1/169OLCV1_100H0007_mask_bbox.jpg",
    "data_C1/bbox_image_C1/957OLCV1_100H0002_mask_bbox.jpg",
    "data_C1/images_C1/100S0003.jpg",
    "data_C1/masks_C1/100S0003_mask.jpg",
    "data_C1/bbox_C1/100S0003_mask.txt",
    "data_C1/bbox_image_C1/100S0003_mask_bbox.jpg",
    "data_C2/images_C2/EndoCV2021_001000.jpg",
    "data_C2/masks_C2/EndoCV2021_001000_mask.jpg",
    "data_C2/bbox_C2/EndoCV2021_001000.txt",
    "data_C2/bbox_image_C2/EndoCV2021_001000_bbox.jpg",
    "data_C3/images_C3/C3_EndoCV2021_00489_.jpg",
    "data_C3/masks_C3/C3_EndoCV2021_00489_mask.jpg",
    "data_C3/images_C3/C3_EndoCV2021_001.jpg",
    "data_C3/masks_C3/C3_EndoCV2021_001_mask.jpg",
    "data_C3/bbox_C3/C3_EndoCV2021_001.txt",
    "data_C3/bbox_image_C3/C3_EndoCV2021_001_bbox.jpg",
    "data_C4/images_C4/31_endocv2021_positive_329 2.jpg",
    "data_C4/masks_C4/31_endocv2021_positive_329 2_mask.jpg",
    "data_C4/bbox_C4/31_endocv2021_positive_329 2_mask.txt",
    "data_C4/bbox_image_C4/31_endocv2021_positive_329 2_mask_bbox.jpg",
    "data_C5/images_C5/EndoCV2021_C5_50000003.jpg",
    "data_C5/masks_C5/EndoCV2021_C5_50000003_mask.jpg",
    "data_C5/bbox_C5/EndoCV2021_C5_50000003_mask.txt",
    "data_C5/bbox_image_C5/EndoCV2021_C5_50000003_mask_bbox.jpg",
    "data_C6/images_C6/EndoCV2021_C6_0100001.jpg",
    "data_C6/masks_C6/EndoCV2021_C6_0100001_mask.jpg",
    "data_C6/bbox_C6/EndoCV2021_C6_0100001_mask.txt",
    "data_C6/bbox_images_C6/EndoCV2021_C6_0100001_mask_bbox.jpg",
    "sequenceData/positive/seq2/images_seq2/0_endocv2021_positive_167.jpg",
    "sequenceData/positive/seq2/masks_seq2/0_endocv2021_positive_167_mask.jpg",
    "sequenceData/positive/seq2/masks_seq2/0_endocv2021_positive_167.txt",
    "sequenceData/positive/seq2/bbox_seq2/0_endocv2021_positive_167.txt",
    "sequenceData/positive/seq2/bbox_image_seq2/0_endocv2021_positive_167_bbox.jpg",
    "sequenceData/positive/seq11/images_seq11/EndoCV2021_seq11_Image_2194041.jpg",
    "sequenceData/positive/seq11/masks_seq11/EndoCV2021_seq11_Image_2194041_mask.jpg",
    "sequenceData/positive/seq11/bbox_seq11/EndoCV2021_seq11_Image_2194041.txt",
    "sequenceData/positive/seq11/bbox_image_seq11/EndoCV2021_seq11_Image_2194041_bbox.jpg",
    "sequenceData/positive/seq16/images_seq16/seq1_C6_100.jpg",
    "sequenceData/positive/seq16/masks_seq16/seq1_C6_100_mask.jpg",
    "sequenceData/positive/seq16/bbox_seq16/seq1_C6_100.txt",
    "sequenceData/positive/seq16/bbox_image_seq16/seq1_C6_100_bbox.jpg",
    "sequenceData/negativeOnly/seq1_neg/frame_0.jpg",
    "sequenceData/negativeOnly/seq23_neg/frame_0.jpg",
    "imagesAll_positive/169OLCV1_100H0007.jpg",
    "imagesAll_positive/seq1_C6_100.jpg",
    "dataDetails_PolypGen_SingleFrames/dataDetails_C1.csv",
    "codes/convert2vocFromMask.py",
    "PolypGen2021_MultiCenterData_Concatenated.zip",
    "readme.md",
    "license.txt",
    "fileStructure_all.txt",
    ".DS_Store",
    "data_C1/.DS_Store",
    "sequenceData/positive/.DS_Store",
    "sequenceData/negativeOnly/.DS_Store",
]


def test_the_published_tree_written_down_by_hand(tmp_path: Path) -> None:
    root = tmp_path / "PolypGen2021_MultiCenterData_v3" / "PolypGen2021_MultiCenterData_v3"
    touch(root, *PUBLISHED)
    touch(root, "data_C1/bbox_C1/169OLCV1_100H0007_mask.txt", text="polyp 432 624 648 768\npolyp 1 2 3 4\n")
    assert find_root(find_dataset("polypgen"), tmp_path, None) == root
    catalog = polypgen.read(root)
    assert [tuple(row) for row in catalog.table[["sample", "center", "group"]].itertuples(index=False)] == [
        ("polypgen/C1/100S0003", "C1", "polypgen/C1-p995"),
        ("polypgen/C1/169OLCV1_100H0007", "C1", "polypgen/C1-p169"),
        ("polypgen/C2/EndoCV2021_001000", "C2", None),
        ("polypgen/C3/C3_EndoCV2021_001", "C3", None),
        ("polypgen/C3/C3_EndoCV2021_00489", "C3", None),
        ("polypgen/C4/31_endocv2021_positive_3292", "C4", "polypgen/C4-p31"),
        ("polypgen/C5/EndoCV2021_C5_50000003", "C5", None),
        ("polypgen/C6/EndoCV2021_C6_0100001", "C6", None),
        ("polypgen/seq11/EndoCV2021_seq11_Image_2194041", "C1", "polypgen/seq11"),
        ("polypgen/seq16/seq1_C6_100", "C6", "polypgen/seq16"),
        ("polypgen/seq1_neg/frame_0", "unknown", "polypgen/seq1_neg"),
        ("polypgen/seq2/0_endocv2021_positive_167", "C4", "polypgen/C4-p0"),
        ("polypgen/seq23_neg/frame_0", "unknown", "polypgen/seq23_neg"),
    ]
    rows = catalog.table.set_index("sample")
    odd = rows.loc["polypgen/C3/C3_EndoCV2021_00489"]
    assert odd["image"].endswith("_00489_.jpg") and odd["mask"].endswith("_00489_mask.jpg") and odd["boxes"] is None
    assert rows.loc["polypgen/C1/169OLCV1_100H0007", "boxes"] == [[432, 624, 648, 768], [1, 2, 3, 4]]
    assert rows.loc["polypgen/C2/EndoCV2021_001000", "boxes"] == []
    assert rows.loc["polypgen/C4/31_endocv2021_positive_3292", "image"].endswith("329 2.jpg")
    assert list(rows.index[rows["empty"]]) == ["polypgen/seq1_neg/frame_0", "polypgen/seq23_neg/frame_0"]
    assert list(rows.index[rows["mask"].isna()]) == list(rows.index[rows["empty"]])
    for path in (*rows["image"], *rows["mask"].dropna()):
        assert (root / path).is_file()
    *warnings, counts = catalog.warnings
    assert warnings == [
        "2 frames of 2 negative sequences: their hospital is not published, center unknown",
        "1 box overlay(s) without an image ignored (data_C1/bbox_image_C1 1), e.g. 957OLCV1_100H0002_mask_bbox.jpg",
        "1 image(s) of C1 without a patient number in the name: the group C1-p995 (data_C1/images_C1 1), "
        "e.g. 100S0003.jpg",
        "1 image(s) spelled differently from their masks, paired all the same (data_C3/images_C3 1), "
        "e.g. C3_EndoCV2021_00489_.jpg",
        "1 image(s) without a box file: boxes unknown (data_C3/images_C3 1), e.g. C3_EndoCV2021_00489_.jpg",
        "1 stray .txt file(s) among images or masks ignored (sequenceData/positive/seq2/masks_seq2 1), "
        "e.g. 0_endocv2021_positive_167.txt",
    ]
    assert counts.startswith("counts differ from the published ones (here, of): C1 singles 2 of 256, C2 singles 1 of")


def test_the_card_adds_up() -> None:
    card = polypgen.CARD
    centers = [card.counts[f"{center} singles"] for center in polypgen.CENTERS]
    sequences = [card.counts[f"seq{k} frames"] for k in range(1, 24)]
    by_center = [card.counts.get(f"{center} sequence frames", 0) for center in polypgen.CENTERS]
    assert (sum(centers), sum(sequences), sum(by_center)) == (1537, 2225, 2225)
    assert card.count == 8037 == 1537 + 2225 + card.counts["negative frames"]
    assert [frames for frames, _ in small.SEQUENCES.values()] == sequences
    assert sum(empty for _, empty in small.SEQUENCES.values()) == 515 and sum(small.EMPTY.values()) == 125


class TestMiniature:
    """What its tree holds, read from its files, and what the reader makes of it."""

    def test_has_every_center_and_sequence(self, mini: Path) -> None:
        assert mini.name == "PolypGen2021_MultiCenterData_v3"
        table = polypgen.read(mini).table
        names = table["sample"].str.split("/").str[1]
        assert set(names) == {
            *(f"C{k}" for k in range(1, 7)),
            *(f"seq{k}" for k in range(1, 24)),
            *(f"seq{k}_neg" for k in range(1, 24)),
        }
        assert Counter(names)["C1"] == 3 and len(table) == 6 * 3 + 23 * 2 + 23 * 2
        centers = dict(zip(names, table["center"], strict=True))
        assert [k for k in range(1, 24) if centers[f"seq{k}"] == "C2"] == [12, 13, 14, 15]
        assert [k for k in range(1, 24) if centers[f"seq{k}"] == "C5"] == [5]

    def test_parts_of_one_video_are_one_group(self, mini: Path) -> None:
        table = polypgen.read(mini).table
        group = dict(zip(table["sample"].str.split("/").str[1], table["group"], strict=True))
        assert group["seq1"] == group["seq2"] == "polypgen/C4-p0"
        assert group["seq3"] == group["seq4"] and group["seq6"] == group["seq10"]
        assert group["seq7"] == "polypgen/seq7" and group["seq12"] == "polypgen/seq12"

    def test_shows_the_eight_quirks(self, mini: Path) -> None:
        c3 = mini / "data_C3"
        assert (c3 / "images_C3/C3_EndoCV2021_00489_.jpg").is_file()
        assert (c3 / "masks_C3/C3_EndoCV2021_00489_mask.jpg").is_file()
        details = mini / "dataDetails_PolypGen_SingleFrames"
        assert "C3_EndoCV2021_00489].jpg" in (details / "dataDetails_C3.csv").read_text()
        assert len([*(c3 / "bbox_C3").iterdir()]) == 1 and not (details / "dataDetails_C6.csv").exists()
        assert (mini / "data_C1/bbox_image_C1/957OLCV1_100H0002_mask_bbox.jpg").is_file()
        strays = {path.parent.name for path in mini.rglob("masks_*/*.txt")}
        assert strays == {"masks_seq2", "masks_seq7", "masks_seq8"}
        assert (mini / "data_C6/bbox_images_C6").is_dir()
        ends = {
            center: {"_mask.txt" in p.name for p in mini.glob(f"data_{center}/bbox_*/*.txt")} for center in small.FULL
        }
        assert ends == {"C1": {True}, "C2": {False}, "C3": {False}, "C4": {True}, "C5": {True}, "C6": {True}}
        assert (mini / "data_C4/images_C4/31_endocv2021_positive_329 2.jpg").is_file()
        assert len([*mini.rglob(".DS_Store")]) == 12
        assert len([*(mini / "imagesAll_positive").glob("*.jpg")]) == 6 * 3 + 23 * 2

    def test_masks_ring_and_boxes_fit_them(self, mini: Path) -> None:
        modes, ringing, empty = set(), 0, Counter[str]()
        for row in polypgen.read(mini, parts=["singles", "positive"]).table.to_dict("records"):
            with Image.open(mini / row["image"]) as image, Image.open(mini / row["mask"]) as mask:
                assert image.size == mask.size and max(image.size) <= 480
                modes.add(mask.mode)
                grey = np.asarray(mask.convert("L"))
            ringing += bool(((grey > 0) & (grey < 128)).any())
            found = np.argwhere(grey > 127)
            name = row["sample"].split("/")[1]
            empty[name] += not len(found)
            if row["boxes"] is None:
                assert name == "C3" and len(found)
                continue
            assert bool(row["boxes"]) == bool(len(found))
            if row["boxes"]:
                x0, y0 = np.min(row["boxes"], axis=0)[:2]
                x1, y1 = np.max(row["boxes"], axis=0)[2:]
                # The ringing moves an edge by a pixel or two; parts below the release's limit have no box.
                assert np.abs(np.array([y0, x0, y1 - 1, x1 - 1]) - [*found.min(0), *found.max(0)]).max() <= 4
        assert modes == {"RGB", "L"} and ringing > 40
        assert empty["seq1"] == empty["seq7"] == 2 and empty["seq3"] == empty["seq12"] == 0 and empty["C4"] == 1

    def test_splits_of_the_published_form_lie_beside_it(self, mini: Path) -> None:
        catalog = polypgen.read(mini)
        assert list(catalog.splits) == ["patients", *(f"patients-without-C{k}" for k in range(1, 7))]
        centers = {sample.split("/")[1] for sample in catalog.splits["patients-without-C6"]}
        assert centers == {"C1", "C2", "C3", "C4", "C5"}
        assert set(catalog.splits["patients"].values()) == {"train", "val", "test"}
        text = (mini.parent / "patient_splits/all_centres_train_split.csv").read_text()
        assert text.startswith(",image,mask\n0,data/data_C1/images_C1/") and "995OLCV1_100S0001" in text
        assert "31_endocv2021_positive_3292.jpg" in "".join(
            path.read_text() for path in (mini.parent / "patient_splits").glob("all_centres_*")
        )
        assert not any("published patient splits" in text for text in catalog.warnings)

    def test_every_center_has_an_image_without_polyp_from_twelve_on(self) -> None:
        for center in small.FULL:
            shots = small.singles(center, 12)
            assert len(shots) == 12 and 1 <= sum(not shot.polyp for shot in shots) <= 4
            assert len({shot.patient for shot in shots}) >= 6


def test_parts_that_were_not_asked_for_are_not_missing(mini: Path) -> None:
    table = polypgen.read(mini, parts=["singles"]).table
    assert set(table["sample"].str.split("/").str[1]) == set(small.FULL)
    catalog = polypgen.read(mini, parts=["negative"])
    assert catalog.table["empty"].all() and not catalog.splits
    assert catalog.warnings[-1].endswith("(here, of): negative frames 46 of 4275")
    for parts in (["singels"], "singles", []):
        with pytest.raises(UserError, match="parts is a list of singles, positive, negative; "):
            polypgen.read(mini, parts=parts)


def test_the_center_of_three_sequences_is_read_off_the_shape_of_a_frame(tmp_path: Path) -> None:
    root = single(tmp_path / "PolypGen", "C2", "EndoCV2021_001000")
    for number, size in ((5, (1440, 1064)), (12, (1280, 1024)), (13, (1920, 1080)), (99, (8, 8))):
        name = f"sequenceData/positive/seq{number}"
        touch(root, f"{name}/images_seq{number}/a.jpg", f"{name}/masks_seq{number}/a_mask.jpg")
        Image.new("RGB", size).save(root / f"{name}/images_seq{number}/a.jpg")
    catalog = polypgen.read(root, parts=["positive"])
    assert list(catalog.table["center"]) == ["C5", "unknown", "C2", "unknown"]  # seq12, seq13, seq5, seq99
    assert "by the shape of a frame: seq5 C2, seq12 C5, seq13 unknown" in catalog.warnings[0]
    assert any("1 sequence(s) with a number that is not published" in text for text in catalog.warnings)


def test_surprises_are_warned_of_with_counts(tmp_path: Path) -> None:
    root = single(tmp_path / "PolypGen", "C4", "4_endocv2021_positive_1", "4_endocv2021_positive_2", "odd")
    touch(root, "data_C4/bbox_C4/4_endocv2021_positive_1_mask.txt", text="polyp 1 2 three 4")
    touch(root, "data_C4/bbox_C4/4_endocv2021_positive_2_mask.txt", text="polyp 9 9 1 1")
    touch(root, "data_C4/bbox_C4/nobody_mask.txt", "data_C4/images_C4/lonely.JPG", "data_C4/masks_C4/ghost_mask.jpg")
    touch(root, "data_C4/images_C4/notes.doc", "sequenceData/positive/seqX/a.jpg", "data_C4/images_C4/Thumbs.db")
    (root / "sequenceData/positive/seq3/images_seq3").mkdir(parents=True)
    for name in ("0_endocv2021_positive_1", "1_endocv2021_positive_4", "without_number"):
        touch(
            root, f"sequenceData/positive/seq4/images/{name}.jpg", f"sequenceData/positive/seq4/masks/{name}_mask.JPG"
        )
    catalog = polypgen.read(root)
    assert list(catalog.table["boxes"])[:3] == [None, None, []]
    assert set(catalog.table["group"]) == {"polypgen/C4-p4", None, "polypgen/C4-p0"}
    warnings = "\n".join(catalog.warnings)
    for sentence in (
        "1 image(s) without a mask left out",
        "1 masks without an image left out",
        "1 image(s) of C4 without a patient number in the name: no group (data_C4/images_C4 1), e.g. odd.jpg",
        "2 box file(s) with a line other than 'polyp xmin ymin xmax ymax': boxes unknown",
        "1 box file(s) without an image ignored",
        "1 stray .doc file(s) among images or masks ignored",
        "1 file(s) or folder(s) among the sequences left out (sequenceData/positive 1), e.g. seqX",
        "1 sequence(s) without a frame",
        "1 sequence(s) with several patient numbers: the lowest is the group",
        "3 image(s) without a box file: boxes unknown",
    ):
        assert sentence in warnings
    assert "Thumbs" not in warnings


def test_a_root_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"does not hold data_C1/images_C1.*synapse\.org"):
            polypgen.read(place)
    (tmp_path / "data_C6").mkdir()
    with pytest.raises(UserError, match="no image found"):
        polypgen.read(tmp_path)
    single(tmp_path, "C4", "31_endocv2021_positive_329 2", "31_endocv2021_positive_3292")
    with pytest.raises(UserError, match="one name twice: keep one of the two"):
        polypgen.read(tmp_path)


@pytest.mark.parametrize("mark", ["data_C6", "imagesAll_positive", "sequenceData/positive/seq16"])
def test_a_renamed_root_is_recognised_and_no_other_dataset_is(tmp_path: Path, mark: str) -> None:
    root = single(tmp_path / "downloads" / "ours", "C1", "169OLCV1_100H0007")
    (root / mark).mkdir(parents=True)
    assert [name for name, dataset in DATASETS.items() if dataset.recognise(root)] == ["polypgen"]
    assert find_root(find_dataset("polypgen"), tmp_path, None) == root


def test_a_folder_of_that_name_without_images_is_not_it(tmp_path: Path) -> None:
    touch(tmp_path / "PolypGen", "patient_splits/all_centres_val_split.csv", "dataDetails/dataDetails_C1.csv")
    assert not polypgen.DATASET.recognise(tmp_path / "PolypGen")


class TestPatientSplits:
    """The CSVs of arXiv 2408.11701: their names differ from the release's in known ways."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = single(tmp_path / "PolypGen_v3", "C1", "100H0050", "169OLCV1_100H0007")
        single(root, "C4", "31_endocv2021_positive_329 2", "4_endocv2021_positive_1")
        touch(root, "data_C3/images_C3/C3_EndoCV2021_00489_.jpg", "data_C3/masks_C3/C3_EndoCV2021_00489_mask.jpg")
        return root

    def write(self, folder: Path, *texts: str) -> Path:
        for name, text in zip(SPLIT_FILES, texts, strict=True):
            touch(folder, name, text=text)
        return folder

    TEXTS = (
        ",image,mask\n0,data/data_C1/images_C1/995OLCV1_100H0050.jpg,x\n1,data/data_C3/images_C3/C3_EndoCV2021_00489].jpg,x\n",
        ",image,mask\n0,data/data_C4/images_C4/31_endocv2021_positive_3292.jpg,x\n",
        ",image,mask\n0,data/data_C1/images_C1/169OLCV1_100H0007.jpg,x\n1,data/data_C6/images_C6/gone.jpg,x\n2\n",
    )

    @pytest.mark.parametrize(
        "place", ["patient_splits", "../patient_splits", "../PolypGen/patient_splits", "../elsewhere"]
    )
    def test_are_found_beside_the_root_or_where_the_option_says(self, root: Path, place: str) -> None:
        self.write(root / place, *self.TEXTS)
        catalog = polypgen.read(root, patient_splits=place if place == "../elsewhere" else None)
        assert catalog.splits == {
            "patients": {
                "polypgen/C1/100H0050": "train",
                "polypgen/C3/C3_EndoCV2021_00489": "train",
                "polypgen/C4/31_endocv2021_positive_3292": "val",
                "polypgen/C1/169OLCV1_100H0007": "test",
            }
        }
        assert catalog.table["official_split"].isna().all()
        warnings = "\n".join(catalog.warnings)
        assert "without an image here: patients 2, e.g. data/data_C6/images_C6/gone.jpg" in warnings
        assert "1 single frames are in no part of the published split patients, e.g. polypgen/C4/4_endo" in warnings

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("image;mask\na.jpg;b.jpg\n", "has no column image, comma separated; its columns: image;mask"),
            ("", "has no column image, comma separated; its columns: none"),
            (TEXTS[1] + "1,data/data_C4/images_C4/31_endocv2021_positive_3292.jpg,x\n", "which the split patients has"),
            (TEXTS[0], "995OLCV1_100H0050.jpg, which the split patients has already; keep one row"),
        ],
    )
    def test_a_wrong_csv_is_one_sentence(self, root: Path, text: str, sentence: str) -> None:
        self.write(root / "patient_splits", self.TEXTS[0], text, self.TEXTS[2])
        with pytest.raises(UserError) as caught:
            polypgen.read(root)
        assert sentence in str(caught.value) and "\n" not in str(caught.value)

    def test_not_utf_8_a_missing_file_and_a_wrong_folder(self, root: Path) -> None:
        folder = self.write(root / "patient_splits", *self.TEXTS)
        (folder / SPLIT_FILES[1]).write_bytes(b",image\n0,\xff.jpg\n")
        with pytest.raises(UserError, match=r"val_split.csv cannot be read as CSV"):
            polypgen.read(root)
        (folder / SPLIT_FILES[1]).unlink()
        with pytest.raises(UserError, match=r"lacks all_centres_val_split.csv of the split patients"):
            polypgen.read(root)
        with pytest.raises(UserError, match=r"patient_splits .*nowhere holds no all_centres_train_split.csv"):
            polypgen.read(root, patient_splits="nowhere")


@pytest.mark.real
def test_every_real_name_is_accepted_and_could_have_been_generated(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "PolypGen"
    listed: dict[str, set[str]] = {center: set() for center in small.FULL}
    for path in (*folder.glob("patient_splits/*.csv"), *folder.glob("dataDetails/*.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                place = Path(row.get("image") or row["fileList"])
                listed[place.parent.name.removeprefix("images_")].add(place.stem)
    assert {center: len(stems) for center, stems in listed.items()} == small.FULL | {"C6": 87}
    root = tmp_path / "PolypGen2021_MultiCenterData_v3"
    for center, stems in listed.items():
        assert [stem for stem in stems if not small.could_generate(center, stem)] == []
        single(root, center, *stems)
    catalog = polypgen.read(root, parts=["singles"], patient_splits=str(folder / "patient_splits"))
    assert len(catalog.table) == 1536
    groups = catalog.table.groupby("center")["group"].nunique()
    assert (groups["C1"], groups["C4"]) == (159, 31)
    assert [text for text in catalog.warnings if "counts" not in text] == [
        "3 image(s) of C1 without a patient number in the name: the group C1-p995 (data_C1/images_C1 3), "
        "e.g. 995OLCV1_100H0050.jpg"
    ]
    assert {
        name: tuple(Counter(split.values())[k] for k in ("train", "val", "test"))
        for name, split in catalog.splits.items()
    } == {
        "patients": (1250, 152, 134),
        "patients-without-C1": (1038, 90, 152),
        "patients-without-C2": (1011, 98, 126),
        "patients-without-C3": (868, 113, 98),
        "patients-without-C4": (1044, 156, 109),
        "patients-without-C5": (1073, 113, 142),
        "patients-without-C6": (1207, 122, 120),
    }
    group = dict(zip(catalog.table["sample"], catalog.table["group"], strict=True))
    for split in catalog.splits.values():
        sides = {(group[sample], part) for sample, part in split.items() if group[sample]}
        assert max(Counter(name for name, _ in sides).values()) == 1


def test_names_that_no_center_has_could_not_have_been_generated() -> None:
    for center, stem in (
        ("C1", "13_endocv2021_positive_222"),
        ("C1", "169OLCV1_100X0007"),
        ("C1", "169OLCV1_100H007"),
        ("C2", "EndoCV2021_001432"),
        ("C3", "C3_EndoCV2021_00041"),
        ("C3", "C3_EndoCV2021_00488_"),
        ("C4", "36_endocv2021_positive_1"),
        ("C6", "EndoCV2021_C5_50000003"),
    ):
        assert not small.could_generate(center, stem)
    for center, full in small.FULL.items():
        names = [stem for stem, _ in small.single_names(center, full)]
        assert len(set(names)) == full and all(small.could_generate(center, stem) for stem in names)


def full_size_tree(root: Path) -> int:
    """All files of the release under generated names, pictures empty; returns how many there are."""
    boxes = iter(range(10_000))

    def annotated(folder: Path, name: str, stems: list[str], empty: int, tail: str = "", plural: str = "") -> None:
        kinds = ("images", "masks", "bbox", f"bbox_image{plural}")
        images, masks, texts, overlays = (folder / f"{kind}_{name}" for kind in kinds)
        for path in (images, masks, texts, overlays):
            path.mkdir(parents=True)
        stopped = "C3_EndoCV2021_00489" if name == "C3" else None
        for i, stem in enumerate(stems):
            (images / f"{stem}.jpg").touch()
            (together / f"{stem}.jpg").touch()
            plain = stem.rstrip("_")
            (masks / f"{plain}_mask.jpg").touch()
            if stopped and plain >= stopped:
                continue
            twice = i >= empty and next(boxes) < 308
            text = "\n" if i < empty else "polyp 432 624 648 768\n" * (1 + twice)
            (texts / f"{plain}{tail}.txt").write_text(text)
            (overlays / f"{plain}{tail}_bbox.jpg").touch()

    together = root / "imagesAll_positive"
    together.mkdir(parents=True)
    for center, full in small.FULL.items():
        stems = sorted(stem for stem, _ in small.single_names(center, full))
        tail, plural = "" if center in ("C2", "C3") else "_mask", "s" if center == "C6" else ""
        # One mask of C2 has stray pixels and no box.
        annotated(root / f"data_{center}", center, stems, small.EMPTY[center] + (center == "C2"), tail, plural)
    (root / "data_C1/bbox_image_C1/957OLCV1_100H0002_mask_bbox.jpg").touch()
    for number, (frames, empty) in small.SEQUENCES.items():
        folder = root / "sequenceData" / "positive" / f"seq{number}"
        annotated(folder, folder.name, small.sequence_names(number, frames), empty)
        if number in small.STRAY:
            for stem in small.sequence_names(number, frames):
                (folder / f"masks_{folder.name}" / f"{stem}.txt").touch()
        if number in polypgen.BY_SHAPE:
            first = min((folder / f"images_{folder.name}").iterdir())
            Image.new("L", (1280, 1024) if number == 5 else (1440, 1064)).save(first)
    for number in range(1, 24):
        folder = root / "sequenceData" / "negativeOnly" / f"seq{number}_neg"
        folder.mkdir(parents=True)
        for stem in small.negative_names(number, 186 if number <= 20 else 185):
            (folder / f"{stem}.jpg").touch()
    for i in range(28):
        (root / f"document_{i}.txt").touch()
    return sum(path.is_file() for path in root.rglob("*"))


def test_the_full_size_tree_is_listed_in_time(tmp_path: Path) -> None:
    root = tmp_path / "PolypGen2021_MultiCenterData_v3"
    assert full_size_tree(root) == 23_170
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        catalog = polypgen.read(root)
        seconds.append(time.perf_counter() - began)
    print(f"23,170 files: first {seconds[0]:.2f} s, again {min(seconds[1:]):.2f} s")
    assert seconds[0] < 20 and min(seconds[1:]) < 1
    assert len(catalog.table) == 8037 and sum(map(len, catalog.table["boxes"].dropna())) == 3365
    assert dict(catalog.table["center"].value_counts()) == {
        "unknown": 4275, "C2": 1166, "C4": 677, "C6": 520, "C1": 484, "C5": 458, "C3": 457,
    }  # fmt: skip
    assert [text.partition(" (")[0] for text in catalog.warnings] == [
        "center of 3 sequences is not published; by the shape of a frame: seq5 C5, seq12 C2, seq13 C2",
        "4275 frames of 23 negative sequences: their hospital is not published, center unknown",
        "1 box overlay(s) without an image ignored",
        "3 image(s) of C1 without a patient number in the name: the group C1-p995",
        "1 image(s) spelled differently from their masks, paired all the same",
        "64 image(s) without a box file: boxes unknown",
        "184 stray .txt file(s) among images or masks ignored",
    ]
