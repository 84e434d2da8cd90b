"""Labels and clusters for pictures that nobody has labelled."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedkvasir.baselines import find_method, run_baseline
from fedkvasir.baselines.labels import find_pictures, label_images
from fedkvasir.data.datasets import hyperkvasir_unlabeled
from fedkvasir.data.miniatures.hyperkvasir_unlabeled import PATIENTS, TISSUES, uuid_name
from fedkvasir.errors import UserError
from fedkvasir.plan import Plan, make_plan
from fedkvasir.scenario import parse
from tests.conftest import Command, Miniatures

CENTER = {"dataset": "kvasir-v2", "test": 0.3, "partition": {"kind": "iid", "parts": 2}}
RAW = {
    "name": "two-parts",
    "task": "classification",
    "data": {"image_size": 32, "centers": {"baerum": CENTER}},
    "model": {"name": "lcnet_050"},
    "training": {"loss": "cross-entropy"},
}


def plan_at(root: Path) -> Plan:
    return make_plan(parse(RAW | {"data": RAW["data"] | {"roots": {"kvasir-v2": str(root)}}}, "test"))


@pytest.fixture
def kvasir(miniatures: Miniatures) -> Path:
    return miniatures("kvasir-v2", 12)


@pytest.fixture
def without_features(kvasir: Path, tmp_path: Path) -> Path:
    """The same pictures; their features are nowhere near."""
    root = tmp_path / "alone" / "deep" / "kvasir-dataset-v2"
    shutil.copytree(kvasir, root)
    return root


@pytest.mark.parametrize("name", ["logistic-regression", "k-means"])
def test_published_features_serve_where_both_sides_have_the_same(
    name: str, kvasir: Path, miniatures: Miniatures
) -> None:
    """The miniature's features belong to the tissue that is painted: a picture of a class gets its label."""
    pictures = find_pictures(str(miniatures("hyperkvasir-unlabeled", 12)))
    table, features, _ = label_images(plan_at(kvasir), find_method(name, "classification"), pictures)
    assert features.startswith("published, sha256 ")
    painted = {f"images/{uuid_name(PATIENTS + n)}.jpg": TISSUES[(PATIENTS + n) % len(TISSUES)] for n in range(12)}
    truth = table["image"].map(painted)
    known = truth != "normal-colon"  # no class of Kvasir
    assert list(table["label"][known]) == list(truth[known]) and known.sum() >= 10
    np.testing.assert_allclose(table.filter(like="p_").sum(axis=1), 1)
    clusters = table.filter(like="cluster_")
    assert list(clusters) == (["cluster_baerum-1", "cluster_baerum-2"] if name == "k-means" else [])
    if name == "k-means":  # the clusters of a picture say all that its probabilities say
        assert clusters.nunique().min() > 5 and clusters.stack().between(0, 7).all()
        assert table.filter(like="p_").groupby([clusters[column] for column in clusters]).nunique().max(axis=None) == 1


def test_other_features_or_none_are_not_mixed_with_those_published(
    kvasir: Path, miniatures: Miniatures, tmp_path: Path
) -> None:
    root = tmp_path / "unlabeled-images"
    shutil.copytree(miniatures("hyperkvasir-unlabeled", 12), root)
    for column in ("JCD_0", None):
        if column:
            table = hyperkvasir_unlabeled.features(miniatures("hyperkvasir-unlabeled", 12))[[column]]
            rows = "".join(f"{sample.split('/')[1]}.jpg,{value}\n" for sample, value in table[column].items())
            (root / "some.arff").write_text(
                f"@relation r\n@attribute f string\n@attribute {column} real\n@data\n{rows}"
            )
        else:
            (root / "some.arff").unlink()
        pictures = find_pictures(str(root))
        _, features, _ = label_images(plan_at(kvasir), find_method("k-nearest", "classification"), pictures)
        assert features == "pixels"


def test_a_picture_gets_the_probabilities_that_its_record_has(without_features: Path, tmp_path: Path) -> None:
    """The common test set's pictures, labelled as strangers: the same bits as in the run's records."""
    plan, method = plan_at(without_features), find_method("k-nearest", "classification")
    run = run_baseline(plan, method, out=tmp_path)
    table, features, _ = label_images(plan, method, find_pictures(str(without_features)))
    assert features == run.plan.scenario.model.parameters["features"] == "pixels"
    table["sample"] = "kvasir-v2/" + table["image"].str.removesuffix(".jpg")
    records = run.samples[run.samples["checkpoint"] == "best"].set_index("sample").filter(like="p_")
    labelled = table.set_index("sample").loc[records.index]
    pd.testing.assert_frame_equal(labelled[records.columns], records, check_exact=True)
    assert (labelled["label"] == records.idxmax(axis=1).str.removeprefix("p_")).all()


def test_the_command_labels_a_folder_of_pictures(without_features: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "two.yaml").write_text(str(RAW))  # YAML reads what Python writes here
    shutil.copytree(without_features / "polyps", tmp_path / "ours")
    call = ("baseline", "two.yaml", "k-means", "--data", without_features, "--clusters", 3, "--unlabeled")
    done = command(*call, "ours", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = next((tmp_path / "runs").glob("*/labels.csv"))
    assert "12 images labelled in" in done.stdout and "features: pixels" in done.stdout
    table = pd.read_csv(path)
    classes = list(run_columns(path.parent))
    assert list(table.columns) == ["image", "label", "cluster_baerum-1", "cluster_baerum-2", *classes]
    assert sorted(table["image"]) == sorted(p.name for p in (tmp_path / "ours").glob("*.jpg"))
    assert set(table["cluster_baerum-1"]) <= {0, 1, 2}
    done = command(*call, "ours", "--labels-out", "own.csv", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "own.csv").read_text() == path.read_text()
    labelled = path.read_text()
    (tmp_path / "own.csv").write_text("notes")
    done = command(*call, "ours", "--labels-out", "own.csv", cwd=tmp_path)
    assert done.returncode == 2 and "own.csv is there and holds something else; name another file" in done.stderr
    path.unlink()
    (tmp_path / "ours" / "a-torn.jpg").write_bytes(b"no picture")
    done = command(*call, "ours", cwd=tmp_path)
    assert done.returncode == 2 and "12 images labelled in" in done.stdout
    assert "1 of 13 files could not be read to the end: ours/a-torn.jpg (" in done.stderr
    assert path.read_text() == labelled
    path.unlink()
    for whole in (tmp_path / "ours").glob("[!a]*.jpg"):
        whole.unlink()
    done = command(*call, "ours", cwd=tmp_path)
    assert done.returncode == 2 and "1 of 1 files could not be read to the end" in done.stderr and not path.exists()


def run_columns(folder: Path) -> pd.Index:
    samples = pd.read_parquet(folder / "samples.parquet")
    return samples.columns[samples.columns.str.startswith("p_")]


def test_a_dataset_is_found_by_name_by_root_or_taken_for_a_folder(miniatures: Miniatures, tmp_path: Path) -> None:
    root = miniatures("hyperkvasir-unlabeled", 12)
    by_name, by_root = find_pictures("hyperkvasir-unlabeled", root.parent), find_pictures(str(root))
    pd.testing.assert_frame_equal(by_name.table, by_root.table)
    assert by_name.dataset is by_root.dataset is hyperkvasir_unlabeled.DATASET
    inside = find_pictures(str(root / "images"))
    assert inside.dataset is None and len(inside.table) == 12
    for where, sentence in (("nowhere", "neither a folder nor a dataset"), (str(tmp_path), "no picture in it")):
        with pytest.raises(UserError, match=f"--unlabeled {where}: {sentence}"):
            find_pictures(where)
