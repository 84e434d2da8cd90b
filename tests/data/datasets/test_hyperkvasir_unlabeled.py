"""HyperKvasir unlabeled-images: pictures without a label, and the ARFF files of features and clusters."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedkvasir.data.datasets import find_dataset, find_root
from fedkvasir.data.datasets.hyperkvasir_unlabeled import clusters, features, read
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError
from tests.conftest import Command

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


class TestTables:
    """The ARFF files, wherever they lie: what they are called is not known, so what they hold decides."""

    head = "@relation r\n@attribute name string\n"
    rows = f"@data\n'images/{B}.jpg',1\n{A}.jpg,2\n"

    def arff(self, path: Path, attribute: str, rows: str = rows) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{self.head}{attribute}\n{rows}")
        return path

    def test_the_miniature_has_features_and_clusters_of_every_image(self, tmp_path: Path, command: Command) -> None:
        root = miniature("hyperkvasir-unlabeled", tmp_path, 12)
        samples = list(read(root).table["sample"])
        numbers, found = features(root), clusters(root)
        assert list(numbers.index) == list(found.index) == samples and list(found.columns) == ["cluster"]
        assert numbers.shape == (12, 1185) and set(numbers.dtypes) == {np.dtype("float32")}
        assert numbers.columns[0] == "JCD_0" and not any("nstance" in column for column in numbers)
        # Twelve pictures of nine tissues: those of one tissue are in one cluster, and nearest in features.
        assert found["cluster"].nunique() == 9
        apart = np.linalg.norm(numbers.to_numpy()[:, None] - numbers.to_numpy()[None], axis=2)
        same = found["cluster"].to_numpy()[:, None] == found["cluster"].to_numpy()[None]
        assert apart[same].max() < apart[~same].min()
        done = command("data", "table", "hyperkvasir-unlabeled", tmp_path, "clusters", tmp_path / "c.csv")
        assert done.returncode == 0, done.stderr
        assert pd.read_csv(tmp_path / "c.csv").to_numpy().tolist() == found.reset_index().to_numpy().tolist()

    @pytest.mark.parametrize(
        "place",
        [
            "unlabeled-images/any.arff",
            "unlabeled-images/clustering_experiments/deep/any.ARFF",
            "clustering_experiments/any.arff",
            "hyper-kvasir-master/clustering_experiments/any.arff",
            "any.arff",
        ],
    )
    def test_they_are_found_in_the_root_beside_it_and_in_a_clone(self, place: str, tmp_path: Path) -> None:
        root = tree(tmp_path / "unlabeled-images", f"images/{A}.jpg", f"images/{B}.jpg")
        self.arff(tmp_path / place, "@attribute size numeric")
        assert features(root)["size"].to_dict() == {f"hyperkvasir-unlabeled/{A}": 2, f"hyperkvasir-unlabeled/{B}": 1}
        with pytest.raises(UserError, match="no ARFF file with cluster assignments at "):
            clusters(root)

    def test_they_are_found_beside_a_link_to_the_images(self, tmp_path: Path) -> None:
        link = tmp_path / "data" / "unlabeled-images"
        self.arff(link.parent / "clustering_experiments" / "any.arff", "@attribute size numeric")
        link.symlink_to(tree(tmp_path / "disk" / "unlabeled-images", f"images/{A}.jpg", f"images/{B}.jpg"))
        assert len(features(link)) == 2

    def test_a_renamed_root_is_known_with_its_arff_files(self, tmp_path: Path) -> None:
        self.arff(tree(tmp_path / "renamed", f"images/{A}.jpg") / "any.arff", "@attribute size numeric")
        assert DATASET.recognise(tmp_path / "renamed")

    def test_one_file_may_hold_both_and_several_files_are_joined_by_image(self, tmp_path: Path) -> None:
        both = f"@data\n{A}.jpg,1,cluster3\n{B}.jpg,2,cluster0\n"
        self.arff(tmp_path / "a.arff", "@attribute size real\n@attribute Cluster {cluster0,cluster3}", both)
        self.arff(tmp_path / "b.arff", "@attribute weight real")
        assert list(features(tmp_path).columns) == ["size", "weight"]
        assert features(tmp_path).to_numpy().tolist() == [[1, 2], [2, 1]]
        assert list(clusters(tmp_path)["cluster"]) == ["cluster3", "cluster0"]

    def test_numbered_clusters_are_whole_numbers(self, tmp_path: Path) -> None:
        self.arff(tmp_path / "a.arff", "@attribute cluster numeric")
        assert list(clusters(tmp_path)["cluster"]) == [2, 1] and clusters(tmp_path)["cluster"].dtype == np.int64

    @pytest.mark.parametrize(
        ("attribute", "rows", "sentence"),
        [
            ("@attribute size numeric", rows.replace(B, A), f"a.arff: hyperkvasir-unlabeled/{A} stands twice"),
            ("@attribute size numeric", rows.replace(",2", ",?"), "a.arff: size is missing in row 2 after @data"),
            ("@attribute size numeric", rows.replace(f"{A}.jpg", "?"), "a.arff: name is missing in row 2 after @data"),
            ("@attribute size numeric", rows.replace(",2", ",two"), "a.arff line 6: size = 'two' is not a number"),
            ("@attribute other numeric", rows, "both hold the attribute other: keep one of them"),
            (
                "@attribute size numeric",
                rows[: rows.index(A)],
                f"name different images, e.g. hyperkvasir-unlabeled/{A}",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_one_sentence(
        self, attribute: str, rows: str, sentence: str, tmp_path: Path
    ) -> None:
        self.arff(tmp_path / "a.arff", attribute, rows)
        self.arff(tmp_path / "b.arff", "@attribute other numeric")
        with pytest.raises(UserError) as caught:
            features(tmp_path)
        assert sentence in str(caught.value) and "\n" not in str(caught.value)

    def test_a_table_without_names_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.arff").write_text("@relation r\n@attribute size numeric\n@data\n1\n")
        with pytest.raises(UserError, match="names no image: an attribute of type string is needed"):
            features(tmp_path)
