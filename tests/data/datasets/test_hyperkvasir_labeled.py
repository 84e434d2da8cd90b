"""HyperKvasir labeled-images: 23 classes by any of their spellings, two official splits, a list to check against."""

import csv
import uuid
from collections import Counter
from pathlib import Path

import pytest

from fedkvasir.data.datasets import find_dataset, find_root
from fedkvasir.data.datasets.hyperkvasir_labeled import ALIASES, CARD, CLASSES, class_of, read
from fedkvasir.data.miniatures import miniature
from fedkvasir.data.miniatures.hyperkvasir_labeled import TREE, fold
from fedkvasir.errors import UserError

DATASET = find_dataset("hyperkvasir-labeled")
A, B, C, D = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abcd")
POLYPS = "lower-gi-tract/pathological-findings/polyps"
ZLINE = "upper-gi-tract/anatomical-landmarks/z-line"
SPLIT = "file-name;class-name;split-index\n"


def tree(root: Path, *files: str) -> Path:
    """A tree of names: a reader opens no image."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def small(folder: Path) -> Path:
    """Two polyps and two z-lines, spelled as in the zip."""
    root = folder / "labeled-images"
    return tree(root, f"{POLYPS}/{A}.jpg", f"{POLYPS}/{B}.jpg", f"{ZLINE}/{C}.jpg", f"{ZLINE}/{D}.jpg")


def warnings(root: Path, **options: str) -> list[str]:
    """What is warned of, apart from the counts: a small tree never has the published ones."""
    return [text for text in read(root, **options).warnings if not text.startswith("counts differ")]


def test_the_card_counts_what_the_facts_page_counts() -> None:
    assert len(CLASSES) == 23 and CARD.count == CARD.counts["images"] == 10662
    assert sum(CARD.counts[name] for name in CLASSES) == 10662
    lower = [name for folder in TREE["lower-gi-tract"].values() for name in folder]
    assert sum(CARD.counts[name] for name in lower) == 7210


@pytest.mark.parametrize(
    ("written", "folder"),
    [
        ("polyps", "polyps"),
        ("polyp", "polyps"),
        ("hemorroids", "hemorrhoids"),
        ("normal-cecum", "cecum"),
        ("normal-pylorus", "pylorus"),
        ("normal-z-line", "z-line"),
        ("oesophagitis-a", "esophagitis-a"),
        ("oesophagitis-b-d", "esophagitis-b-d"),
        ("short-segment-barretts", "barretts-short-segment"),
        ("ulcerative-colitis-0-1", "ulcerative-colitis-grade-0-1"),
        ("BBPS 2-3", "bbps-2-3"),
        ("esophagitis", None),
        ("ulcerative-colitis", None),
    ],
)
def test_a_class_has_many_spellings(written: str, folder: str | None) -> None:
    assert class_of(written) == folder


def test_a_class_is_known_by_its_leaf_folder_wherever_that_lies(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "labeled-images",
        f"lower-gi-tract/pathological-findings/polyp/{A}.JPG",
        f"hemorroids/{B}.jpg",
        f"more/upper-gi-tract/anatomical-landmarks/normal-z-line/{C}.jpeg",
        "image-labels.csv",
    )
    (root / "image-labels.csv").unlink()
    table = read(root).table.set_index("label")
    assert table["sample"].to_dict() == {
        "polyps": f"hyperkvasir-labeled/{A}",
        "hemorrhoids": f"hyperkvasir-labeled/{B}",
        "z-line": f"hyperkvasir-labeled/{C}",
    }
    assert table["image"]["polyps"] == f"lower-gi-tract/pathological-findings/polyp/{A}.JPG"
    assert set(table["center"]) == {"baerum"} and table["group"].isna().all()


def test_the_root_is_known_by_its_tree_and_no_other_dataset_is(tmp_path: Path) -> None:
    assert find_root(DATASET, small(tmp_path / "hyper-kvasir-labeled-images").parents[1], None).name == "labeled-images"
    assert DATASET.recognise(tree(tmp_path / "renamed", f"{POLYPS}/{A}.jpg"))
    assert DATASET.recognise(tree(tmp_path / "flat", f"bbps-0-1/{A}.jpg", f"polyps/{B}.jpg"))
    for other in (
        tree(tmp_path / "labeled-videos", f"{POLYPS}/{A}.avi"),
        tree(tmp_path / "videos-with-stills", "video-labels.csv", f"{POLYPS}/{A}.jpg"),
        tree(tmp_path / "segmented-images", f"images/{A}.jpg", f"masks/{A}.jpg", "bounding-boxes.json"),
        tree(tmp_path / "unlabeled-images", f"images/{A}.jpg"),
        tree(tmp_path / "kvasir-dataset-v2", f"polyps/{A}.jpg", f"normal-cecum/{B}.jpg", f"esophagitis/{C}.jpg"),
        tree(tmp_path / "synthetic", "alta/polyps/p000-1.jpg", "alta/normal-cecum/p001-1.jpg"),
    ):
        assert not DATASET.recognise(other)


def test_half_of_the_tree_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    root = tree(small(tmp_path), f"lower-gi-tract/quality-of-mucosal-views/bbps-0-1/{A[:-1]}1.jpg")
    with pytest.raises(UserError, match="lies inside the dataset; give the folder above it"):
        find_root(DATASET, None, str(root / "lower-gi-tract"))


def test_everything_odd_is_counted(tmp_path: Path) -> None:
    root = tree(
        small(tmp_path),
        f"{POLYPS}/notes.txt",
        f"{POLYPS}/holiday.jpg",
        f"{POLYPS}/.DS_Store",
        f"{POLYPS}/._{A}.jpg",
        f"{ZLINE}/Thumbs.db",
        f"{ZLINE}/{A}.jpg",
        f"tumours/{B[:-1]}1.jpg",
        "license.txt",
    )
    assert warnings(root) == [
        f"1 other files ignored under {root}, e.g. notes.txt",
        "1 images left out, their folder is none of the 23 classes: tumours 1",
        f"1 file names stand in two folders, e.g. {A} in polyps and z-line: all kept, as one group",
        "1 file names are not UUIDs, e.g. holiday",
    ]
    table = read(root).table.set_index("sample")
    twice = [f"hyperkvasir-labeled/{POLYPS}/{A}", f"hyperkvasir-labeled/{ZLINE}/{A}"]
    assert list(table.loc[twice, "group"]) == [f"hyperkvasir-labeled/{A}"] * 2
    assert len(table) == 6


def test_counts_that_differ_are_named(tmp_path: Path) -> None:
    assert (
        read(small(tmp_path))
        .warnings[-1]
        .startswith("counts differ from the published ones (here, of): images 4 of 10662, barretts 0 of 41")
    )


@pytest.mark.parametrize("file", ["image-labels.csv", f"tumours/{A}.jpg"])
def test_a_root_without_a_class_is_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(UserError, match=r"does not hold a class folder with images.*Download hyper-kvasir-labeled"):
        read(tree(tmp_path, file))


def test_a_root_that_is_not_there_or_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="cannot be listed"):
            read(root)


class TestImageLabels:
    """image-labels.csv adds nothing; it is checked against the tree."""

    def write(self, folder: Path, text: str) -> Path:
        root = small(folder)
        (root / "image-labels.csv").write_text(text)
        return root

    def test_agrees(self, tmp_path: Path) -> None:
        text = "Video file,Organ,Finding,Classification\n"
        for stem, finding in ((A, "polyps"), (B, "polyps"), (C, "z-line"), (D, "z-line")):
            text += f"{stem},some organ,{finding},some category\n"
        assert warnings(self.write(tmp_path, text)) == []

    def test_disagrees(self, tmp_path: Path) -> None:
        text = f"Finding,Video file\nz-line,{A}\npolyps,{B}\npolyps,{B}\nz-line,{C}\ncecum,gone\n"
        assert warnings(self.write(tmp_path, text)) == [
            f"1 names stand more than once in image-labels.csv, e.g. {B}",
            "1 rows have no image here: image-labels.csv, e.g. gone",
            f"1 images have no row in image-labels.csv, e.g. {D}",
            f"1 images lie in a folder of another class than in image-labels.csv, e.g. {A} as z-line",
        ]

    def test_lacks_a_column(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="has the columns file, class; needed, separated by ',': Video file, Find"):
            read(self.write(tmp_path, "file,class\n"))


class TestOfficialSplits:
    def write(self, folder: Path, text: str | bytes, name: str = "2_fold_split.csv") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    ROWS = f"{A}.jpg;polyp;0\n{B}.jpg;polyp;1\n{C}.jpg;normal-z-line;0\n{D}.jpg;normal-z-line;1\n"

    @pytest.mark.parametrize(
        "place",
        [".", "official_splits", "../official_splits", "../hyper-kvasir/official_splits", "../../official_splits"],
    )
    def test_is_found_near_the_root(self, tmp_path: Path, place: str) -> None:
        root = small(tmp_path / "hyper-kvasir-labeled-images")
        self.write(root / place, SPLIT + self.ROWS)
        catalog = read(root)
        assert list(catalog.table["official_split"]) == ["test", "train", "test", "train"]
        assert list(catalog.splits) == ["2-fold-0", "2-fold-1"]
        assert catalog.splits["2-fold-1"] == {
            f"hyperkvasir-labeled/{stem}": part for stem, part in ((A, "train"), (B, "test"), (C, "train"), (D, "test"))
        }

    def test_is_found_beside_a_link_to_the_images(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        link = tmp_path / "data" / "labeled-images"
        link.symlink_to(small(tmp_path / "disk"))
        self.write(tmp_path / "data" / "official_splits", SPLIT + self.ROWS)
        assert list(read(link).splits) == ["2-fold-0", "2-fold-1"]

    def test_five_folds(self, tmp_path: Path) -> None:
        rows = "".join(
            f"{stem}.jpg;{label};{fold}\n" for stem, label, fold in ((A, "polyp", 0), (D, "normal-z-line", 4))
        )
        self.write(tmp_path / "official_splits", SPLIT + rows, "5_fold_split.csv")
        catalog = read(small(tmp_path))
        assert list(catalog.splits) == [f"5-fold-{number}" for number in range(5)]
        assert catalog.splits["5-fold-4"] == {f"hyperkvasir-labeled/{A}": "train", f"hyperkvasir-labeled/{D}": "test"}
        assert catalog.table["official_split"].isna().all()

    def test_lies_where_the_option_says(self, tmp_path: Path) -> None:
        root = small(tmp_path)
        assert not read(root).splits
        self.write(tmp_path / "elsewhere", SPLIT + self.ROWS)
        assert read(root, official_splits=str(tmp_path / "elsewhere")).splits
        with pytest.raises(UserError, match=r"holds neither 2_fold_split\.csv nor 5_fold_split\.csv"):
            read(root, official_splits=str(root))

    def test_disagreements_are_counted(self, tmp_path: Path) -> None:
        root = small(tmp_path)
        self.write(
            root, SPLIT + f"{A}.jpg;normal-cecum;0\n{B}.jpg;polyp;1\n{C}.jpg;normal-z-line;0\ngone.jpg;polyp;1\n"
        )
        assert warnings(root) == [
            "1 rows have no image here: 2_fold_split.csv, e.g. gone",
            f"1 images have no row in 2_fold_split.csv, e.g. {D}",
            f"1 images lie in a folder of another class than in 2_fold_split.csv, e.g. {A} as normal-cecum",
        ]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                f"file-name,class-name,split-index\n{A}.jpg,polyp,0\n",
                "has the columns file-name,class-name,split-index;",
            ),
            ("file-name;class-name\n", "needed, separated by ';': file-name, class-name, split-index"),
            (f"{SPLIT}{A}.jpg;polyp;0\n{A}.jpg;polyp;1\n", "twice (line 3)"),
            (f"{SPLIT}{A}.jpg;polyp;2\n", "line 2: split-index '2' is not 0 to 1"),
            (f"{SPLIT}{A}.jpg;polyp\n", "line 2: split-index '' is not 0 to 1"),
            ("", "has the columns (none)"),
            ("file-name;class-name;split-index\n".encode("utf-16"), "is not UTF-8 text"),
        ],
    )
    def test_a_broken_list_is_one_sentence(self, tmp_path: Path, text: str | bytes, sentence: str) -> None:
        root = small(tmp_path)
        self.write(root, text)
        with pytest.raises(UserError) as caught:
            read(root)
        assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_the_miniature_reads_like_the_real_one(tmp_path: Path) -> None:
    root = miniature("hyperkvasir-labeled", tmp_path, 2)
    assert find_root(DATASET, tmp_path, None) == root
    catalog = read(root)
    assert Counter(catalog.table["label"]) == dict.fromkeys(CLASSES, 2)
    assert warnings(root) == []
    assert len(catalog.splits) == 7 and set(catalog.table["official_split"]) == {"train", "test"}


@pytest.mark.parametrize(
    ("count", "folds", "sizes"),
    [
        (9, 5, (1, 1, 1, 1, 5)),
        (6, 5, (1, 1, 1, 1, 2)),
        (28, 5, (5, 5, 5, 5, 8)),
        (41, 2, (20, 21)),
        (3, 5, (0, 0, 0, 0, 3)),
    ],
)
def test_the_miniature_cuts_folds_like_the_published_lists(count: int, folds: int, sizes: tuple[int, ...]) -> None:
    cut = Counter(fold(index, count, folds) for index in range(count))
    assert tuple(cut[number] for number in range(folds)) == sizes


@pytest.mark.real
def test_every_real_name_is_read_and_could_have_been_generated(tmp_path: Path, real_data: Path) -> None:
    splits = real_data / "hyper-kvasir" / "official_splits"
    with (splits / "2_fold_split.csv").open() as lines:
        rows = list(csv.DictReader(lines, delimiter=";"))
    places = {label: f"{tract}/{folder}" for tract in TREE for folder in TREE[tract] for label in TREE[tract][folder]}
    for label, folder in places.items():
        (tmp_path / folder / label).mkdir(parents=True)
    for row in rows:
        name = uuid.UUID(Path(row["file-name"]).stem)
        assert name.version == 4 and row["file-name"] == f"{name}.jpg"
        label = ALIASES[row["class-name"]]
        (tmp_path / places[label] / label / row["file-name"]).touch()
    catalog = read(tmp_path, official_splits=str(splits))
    assert len(catalog.table) == 10662 and catalog.warnings == ()
    assert Counter(catalog.splits["2-fold-0"].values()) == Counter(catalog.table["official_split"])
    label = catalog.table.set_index("sample")["label"]
    ileum = [
        sum(label[name] == "ileum" and part == "test" for name, part in split.items())
        for split in catalog.splits.values()
    ]
    assert ileum == [4, 5, 1, 1, 1, 1, 5]
