"""Kvasir v1, v2, SEG and Sessile: how they are told apart, read, and what is said about what is odd."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedkvasir.data import formats
from fedkvasir.data.datasets import find_dataset, find_root, kvasir_seg, kvasir_sessile, kvasir_v1, kvasir_v2
from fedkvasir.data.miniatures import kvasir_seg as seg_miniature
from fedkvasir.data.miniatures import miniature
from fedkvasir.data.store import open_store
from fedkvasir.errors import UserError

V2, V1, SEG, SESSILE = (find_dataset(name) for name in ("kvasir-v2", "kvasir-v1", "kvasir-seg", "kvasir-sessile"))
CLASSES = (
    "dyed-lifted-polyps",
    "dyed-resection-margins",
    "esophagitis",
    "normal-cecum",
    "normal-pylorus",
    "normal-z-line",
    "polyps",
    "ulcerative-colitis",
)
LENGTHS = {"JCD": 168, "Tamura": 18, "ColorLayout": 33, "EdgeHistogram": 80, "AutoColorCorrelogram": 256, "PHOG": 630}
UUID = "0a7bdce4-ac0d-44ef-93ee-92dfc8fe0b81"
IDS = ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "ck2da7fwcjfis07218r1rvm95")


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def classes(root: Path, names: tuple[str, ...] = CLASSES, images: int = 1) -> Path:
    for name in names:
        for number in range(images):
            touch(root / name / f"{number:08x}{UUID[8:]}.jpg")
    return root


def polyps(root: Path, ids: tuple[str, ...] = IDS) -> Path:
    for name in ids:
        touch(root / "images" / f"{name}.jpg")
        touch(root / "masks" / f"{name}.jpg")
    return root


def known(root: Path) -> list[str]:
    return [dataset.name for dataset in (V1, V2, SEG, SESSILE) if dataset.recognise(root)]


class TestClasses:
    """Kvasir v1 and v2."""

    def test_published_counts(self) -> None:
        assert kvasir_v2.CARD.count == 8000 and dict(kvasir_v2.CARD.counts) == dict.fromkeys(CLASSES, 1000)
        assert kvasir_v1.CARD.count == 4000 and dict(kvasir_v1.CARD.counts) == dict.fromkeys(CLASSES, 500)

    @pytest.mark.parametrize(("name", "folder"), [("kvasir-v2", "kvasir-dataset-v2"), ("kvasir-v1", "kvasir-dataset")])
    def test_the_miniature_is_read(self, name: str, folder: str, tmp_path: Path) -> None:
        root = miniature(name, tmp_path, 2)
        assert root.name == folder and known(root) == [name] and find_root(find_dataset(name), tmp_path, None) == root
        catalog = find_dataset(name).read(root)
        assert catalog.classes == CLASSES and Counter(catalog.table["label"]) == dict.fromkeys(CLASSES, 2)
        assert set(catalog.table["center"]) == {"baerum"} and catalog.table["group"].isna().all()
        assert len(catalog.warnings) == 1 and "dyed-lifted-polyps 2 of " in catalog.warnings[0]
        picture = next(formats.pictures(root / catalog.table["image"][0], [None]))
        assert picture.shape in {(144, 180, 3), (256, 320, 3), (268, 480, 3)}

    def test_a_sample_is_named_by_class_and_uuid(self, tmp_path: Path) -> None:
        row = kvasir_v2.read(classes(tmp_path / "kvasir-dataset-v2")).table.iloc[0]
        assert row["sample"] == f"kvasir-v2/dyed-lifted-polyps/00000000{UUID[8:]}"
        assert row["image"] == f"dyed-lifted-polyps/00000000{UUID[8:]}.jpg"

    def test_classes_are_read_under_other_spellings(self, tmp_path: Path) -> None:
        others = ("Dyed Lifted Polyps", "dyed_resection_margins", "oesophagitis", "cecum", "pylorus", "z-line", "polyp")
        root = classes(tmp_path / "kvasir-v2", (*others, "ulcerative-colitis"))
        assert known(root) == ["kvasir-v2"]
        assert tuple(sorted(kvasir_v2.read(root).table["label"])) == CLASSES

    def test_a_renamed_root_is_v2_above_500_images_in_its_first_class(self, tmp_path: Path) -> None:
        for images, name in ((500, "kvasir-v1"), (501, "kvasir-v2")):
            root = classes(tmp_path / f"renamed{images}")
            classes(root, CLASSES[:1], images)
            assert known(root) == [name]
        assert known(classes(tmp_path / "Kvasir_V2")) == ["kvasir-v2"]

    def test_a_wrapped_root_is_found(self, tmp_path: Path) -> None:
        inner = classes(tmp_path / "zips" / "kvasir-dataset-v2" / "kvasir-dataset-v2")
        assert find_root(V2, tmp_path, None) == inner

    def test_others_with_the_same_folders_are_not_mistaken(self, tmp_path: Path) -> None:
        features, rendered = tmp_path / "kvasir-dataset-v2-features", tmp_path / "alta"
        for name in CLASSES:
            touch(features / name / f"{UUID}.features")
            touch(rendered / name / "p003-1.jpg")
        flat = ("cecum", "dyed-lifted-polyps", "dyed-resection-margins", "polyps", "pylorus", "z-line", "esophagitis-a")
        own = classes(tmp_path / "own")
        touch(own / "samples.csv")
        assert not any(
            known(root) for root in (features, rendered, own, classes(tmp_path / "hyperkvasir", flat), tmp_path)
        )

    def test_surprises_are_counted(self, tmp_path: Path) -> None:
        root = classes(tmp_path / "kvasir-dataset-v2", CLASSES[:7])
        for path in ("polyps/notes.txt", "polyps/one.JPG", "lesions/a.jpg", "polyps/.DS_Store", "polyps/Thumbs.db"):
            touch(root / path)
        catalog = kvasir_v2.read(root)
        assert len(catalog.table) == 8
        assert [text for text in catalog.warnings if "published" not in text] == [
            "1 files or folders among the images are no images, e.g. polyps/notes.txt",
            "1 folders are no class of Kvasir and left out, e.g. lesions",
            "1 names are not UUIDs, e.g. kvasir-v2/polyps/one",
        ]

    def test_wrong_roots_are_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not hold folders named by class"):
            kvasir_v2.read(tmp_path)
        with pytest.raises(UserError, match="does not hold folders named by class"):
            kvasir_v1.read(touch(tmp_path / "file"))
        (tmp_path / "polyps").mkdir()
        with pytest.raises(UserError, match="no image found"):
            kvasir_v2.read(tmp_path)


class TestFeatures:
    """The features zips as a table."""

    text = "".join(f"{name}:{','.join(['0.5'] * length)}\n" for name, length in LENGTHS.items())

    def test_the_miniature_has_one_row_an_image(self, tmp_path: Path) -> None:
        root = miniature("kvasir-v2", tmp_path, 2)
        table = kvasir_v2.features(root)
        assert list(table.index) == list(kvasir_v2.read(root).table["sample"])
        assert table.shape == (16, 1185) and set(table.dtypes) == {np.dtype("float32")}
        assert [table.columns[place] for place in (0, 168, 186, -1)] == [
            "JCD_0",
            "Tamura_0",
            "ColorLayout_0",
            "PHOG_629",
        ]
        file = root.parent / "kvasir-dataset-v2-features" / f"{table.index[3].removeprefix('kvasir-v2/')}.features"
        written = [float(value) for line in file.read_text().splitlines() for value in line.split(":")[1].split(",")]
        assert table.iloc[3].to_numpy() == pytest.approx(written)

    @pytest.mark.parametrize("place", ["", "kvasir-dataset-v2-features", "kvasir-dataset-v2-features/" * 2])
    def test_they_are_found_in_the_root_or_beside_it_and_doubled(self, place: str, tmp_path: Path) -> None:
        touch(tmp_path / place / "polyps" / f"{UUID}.features", self.text)
        classes(tmp_path / "kvasir-dataset-v2")
        roots = [tmp_path, tmp_path / "kvasir-dataset-v2"] if place else [tmp_path]
        assert all(list(kvasir_v2.features(root).index) == [f"kvasir-v2/polyps/{UUID}"] for root in roots)

    def test_v1_has_its_own(self, tmp_path: Path) -> None:
        touch(tmp_path / "kvasir-dataset-features" / "polyps" / f"{UUID}.features", self.text)
        assert list(kvasir_v1.features(tmp_path / "kvasir-dataset").index) == [f"kvasir-v1/polyps/{UUID}"]
        with pytest.raises(UserError, match=r"unzip kvasir-dataset-v2-features\.zip"):
            kvasir_v2.features(tmp_path / "kvasir-dataset-v2")

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            ("Tamura:0.5,", "Tamura:", "line 2: Tamura has 17 values instead of 18"),
            ("Tamura:0.5", "Tamura:x", "line 2: Tamura holds something that is not a number"),
            ("Tamura:", "Gabor:", "line 2 holds no known feature but 'Gabor'"),
            ("Tamura:", "JCD:", "line 2 holds a second line of 'JCD'"),
            (text[text.index("PHOG") :], "", "ends at line 5 without PHOG"),
            (text, "", "ends at line 0 without JCD, Tamura"),
        ],
    )
    def test_an_odd_line_is_named(self, old: str, new: str, sentence: str, tmp_path: Path) -> None:
        path = touch(tmp_path / "polyps" / f"{UUID}.features", self.text.replace(old, new))
        with pytest.raises(UserError) as caught:
            kvasir_v2.features(tmp_path)
        assert str(path) in str(caught.value) and sentence in str(caught.value) and "\n" not in str(caught.value)

    def test_a_file_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        touch(tmp_path / "polyps" / f"{UUID}.features").write_bytes(b"\xff\xfe\x80")
        with pytest.raises(UserError, match="is not a text file"):
            kvasir_v2.features(tmp_path)


class TestPolyps:
    """Kvasir-SEG and Kvasir-Sessile."""

    def test_published_counts(self) -> None:
        assert dict(kvasir_seg.CARD.counts) == {"images": 1000, "boxes": 1071, "train": 880, "val": 120}
        assert dict(kvasir_sessile.CARD.counts) == {"images": 196}

    def test_the_miniature_of_seg_is_read(self, tmp_path: Path) -> None:
        root = miniature("kvasir-seg", tmp_path, 3)
        assert known(root) == ["kvasir-seg"] and {path.name for path in root.iterdir()} == {
            "images", "masks", "kavsir_bboxes.json", "train.txt", "val.txt", ".DS_Store",
        }  # fmt: skip
        catalog = kvasir_seg.read(root)
        assert Counter(catalog.table["official_split"]) == {"train": 5, "val": 1} and len(catalog.warnings) == 1
        for row in catalog.table.to_dict("records"):
            mask = next(formats.masks(root / row["mask"], [None]))
            with Image.open(root / row["mask"]) as written:
                assert written.mode == "RGB" and written.size == mask.shape[::-1]
            y, x = np.nonzero(mask)
            xmin, ymin, xmax, ymax = np.array(row["boxes"]).T
            assert abs(xmin.min() - x.min()) <= 2 and abs(ymin.min() - y.min()) <= 2
            assert abs(xmax.max() - x.max()) <= 3 and abs(ymax.max() - y.max()) <= 3

    def test_the_miniature_of_sessile_is_part_of_that_of_seg(self, tmp_path: Path) -> None:
        seg, sessile = miniature("kvasir-seg", tmp_path, 3), miniature("kvasir-sessile", tmp_path, 2)
        assert sessile.name == "sessile-main-Kvasir-SEG" and known(sessile) == ["kvasir-sessile"]
        catalog = kvasir_sessile.read(sessile)
        assert catalog.warnings == ("counts differ from the published ones (here, of): images 2 of 196",)
        assert Counter(catalog.table["official_split"]) == {"train": 1, "val": 1}
        for image in catalog.table["image"]:
            assert (sessile / image).read_bytes() == (seg / image).read_bytes()

    def test_ids_are_generated_in_the_real_proportion(self) -> None:
        names = [seg_miniature.name(number) for number in range(1000)]
        assert Counter(name[:3] for name in names) == {"cju": 977, "cjy": 13, "ck2": 9, "cjz": 1}
        assert len(set(names)) == 1000 and all(seg_miniature.ID.fullmatch(name) for name in names)

    @pytest.mark.real
    def test_real_ids_could_have_been_generated(self, real_data: Path) -> None:
        names = [path.stem for path in (real_data / "Kvasir-SEG" / "images").glob("*.jpg")]
        assert len(names) == 1000
        assert all(seg_miniature.ID.fullmatch(name) and kvasir_seg.ID.fullmatch(name) for name in names)

    @pytest.mark.parametrize(
        ("folder", "extra", "name"),
        [
            ("Kvasir-SEG", (), "kvasir-seg"),
            ("kvasir_seg", (), "kvasir-seg"),
            ("renamed", ("kavsir_bboxes.json",), "kvasir-seg"),
            ("renamed", ("kvasir_bboxes.json",), "kvasir-seg"),
            ("sessile-main-Kvasir-SEG", (), "kvasir-sessile"),
            ("kvasir-sessile", ("train.txt", "val.txt"), "kvasir-sessile"),
            ("renamed", ("train.txt", "val.txt"), "kvasir-sessile"),
            ("renamed", ("train.txt",), None),
            ("Kvasir", (), None),
            ("segmented-images", ("bounding-boxes.json",), None),
            ("Kvasir-SEG", ("bounding-boxes.json",), None),
        ],
    )
    def test_roots_are_told_apart(self, folder: str, extra: tuple[str, ...], name: str | None, tmp_path: Path) -> None:
        root = polyps(tmp_path / folder)
        for file in extra:
            touch(root / file)
        assert known(root) == ([name] if name else [])

    def test_a_renamed_root_of_other_names_is_neither(self, tmp_path: Path) -> None:
        root = polyps(tmp_path / "renamed", ("1", "2"))
        for file in ("train.txt", "val.txt"):
            touch(root / file)
        assert known(root) == []

    def test_odd_boxes_are_left_out_and_counted(self, tmp_path: Path) -> None:
        root = polyps(tmp_path / "Kvasir-SEG")
        box = {"label": "polyp", "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}
        entries = {
            IDS[0]: {"height": 9, "width": 9, "bbox": [box, box | {"xmax": 8}]},
            IDS[1]: {"height": 9, "width": 9, "bbox": [box | {"xmax": 1}]},
            IDS[2]: {"height": 9, "width": 9},
            "gone": {"bbox": [box]},
        }
        touch(root / "kvasir_bboxes.json", json.dumps(entries))
        touch(root / "annotated_images" / "a.jpg")
        catalog = kvasir_seg.read(root)
        found = dict(zip(catalog.table["sample"].str[-25:], catalog.table["boxes"], strict=True))
        assert found == {IDS[0]: [[1, 2, 3, 4], [1, 2, 8, 4]], IDS[1]: None, IDS[2]: None}
        assert catalog.warnings[:2] == (
            f"2 entries hold no boxes inside their image and are left out: kvasir_bboxes.json, e.g. {IDS[1]}",
            "1 entries have no image: kvasir_bboxes.json, e.g. gone",
        )

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [("{", "is not valid JSON"), ("\xff", "is not valid JSON"), ("[]", "is not an object of image")],
    )
    def test_a_broken_box_file_is_one_sentence(self, text: str, sentence: str, tmp_path: Path) -> None:
        root = polyps(tmp_path / "Kvasir-SEG")
        (root / "kavsir_bboxes.json").write_text(text, encoding="latin-1")
        with pytest.raises(UserError) as caught:
            kvasir_seg.read(root)
        assert sentence in str(caught.value) and "kavsir_bboxes.json" in str(caught.value)

    def test_surprises_of_lists_and_names_are_counted(self, tmp_path: Path) -> None:
        root = polyps(tmp_path / "Kvasir-SEG", (*IDS, "17"))
        touch(root / "train.txt", f"{IDS[0]}.jpg\n{IDS[1]}\nnone\n")
        touch(root / "val.txt", f"{IDS[1]}\n17\n")
        touch(root / "images" / "list.csv")
        catalog = kvasir_seg.read(root)
        assert list(catalog.table["official_split"]) == ["val", "train", "val", None]
        assert catalog.warnings == (
            "1 files or folders among the images are no images, e.g. images/list.csv",
            "1 names are not ids of Kvasir-SEG (25 characters), e.g. 17",
            f"1 names stand in train.txt and in val.txt, taken as val, e.g. {IDS[1]}",
            "1 names in train.txt and val.txt have no image, e.g. none",
            f"1 images are neither in train.txt nor in val.txt, e.g. {IDS[2]}",
            "counts differ from the published ones (here, of): images 4 of 1000, boxes 0 of 1071, train 1 of 880, "
            "val 2 of 120",
        )
        (root / "val.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match=r"val\.txt is not a text file in UTF-8"):
            kvasir_seg.read(root)

    def test_an_empty_sessile_says_how_to_get_it(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"kvasir-sessile: .* does not hold images/.*Download kvasir-sessile\.zip"):
            kvasir_sessile.read(tmp_path)


@pytest.mark.real
def test_one_real_picture_of_each_class_is_read_and_decodes(real_data: Path) -> None:
    catalog = kvasir_v1.read(real_data / "kvasir-sample")
    assert sorted(catalog.table["label"]) == sorted(kvasir_v2.CLASSES)
    store = open_store(catalog, 64)
    assert store.table["error"].isna().all() and store.table["width"].between(576, 1920).all()
