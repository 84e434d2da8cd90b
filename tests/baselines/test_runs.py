"""A baseline is a run like any other: the same plan, the same records, the same report."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedkvasir.baselines import METHODS, find_method, run_baseline
from fedkvasir.errors import UserError
from fedkvasir.plan import Plan, make_plan
from fedkvasir.runs import Run
from fedkvasir.scenario import Fault, load
from fedkvasir.simulation import run_scenario
from tests.conftest import REPOSITORY, Command, Miniatures

SCENARIO = """
question: Are the classes told apart?
task: classification
data:
  image_size: 32
  centers:
    alta: {dataset: synthetic, center: alta, test: 0.3}
    bergen: {dataset: synthetic, center: bergen, test: 0.3}
    edinburgh: {dataset: synthetic, center: edinburgh, role: holdout}
  options:
    synthetic: {task: classification, patients_per_center: 32, image_scale: 0.2}
model: {name: lcnet_050}
training: {loss: cross-entropy, batch_size: 8}
federation: {rounds: 1}
"""
KVASIR = """
task: classification
data:
  image_size: 32
  centers:
    one: {dataset: kvasir-v2, val: 0.1, test: 0.3}
    two: {dataset: kvasir-v1, role: holdout}
  audit: drop
model: {name: lcnet_050}
training: {loss: cross-entropy}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture
def plan(scenario: Path) -> Plan:
    return make_plan(load(scenario))


def test_its_records_are_those_of_a_network_run(scenario: Path, tmp_path: Path, command: Command) -> None:
    network = run_scenario(scenario, out=tmp_path / "network", engine="local")
    done = command("baseline", scenario, "k-nearest", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "k-nearest at 2 hospitals, features: pixels" in done.stdout and "sha256" not in done.stdout
    folder = next((tmp_path / "runs").iterdir())
    run = Run(folder)
    assert folder.name == f"small-k-nearest-{run.plan.hash[:8]}" and run.plan.hash != network.plan.hash
    theirs, ours = (one.samples[one.samples["split"] == "test"].reset_index(drop=True) for one in (network, run))
    assert list(ours.columns) == list(run.samples.columns) == list(network.samples.columns)
    assert (ours.dtypes == theirs.dtypes).all()
    same = ["checkpoint", "center", "role", "split", "sample", "group", "label"]
    pd.testing.assert_frame_equal(ours[same], theirs[same])
    assert list(run.rounds.columns) == list(network.rounds.columns)
    assert list(run.table().columns) == list(network.table().columns)
    assert set(run.result) == set(network.result)
    pd.testing.assert_frame_equal(run.plan.samples, network.plan.samples)
    assert run.plan.data_sha256 == network.plan.data_sha256 and run.plan.catalogs == network.plan.catalogs
    report = (folder / "report.html").read_text()
    assert "center-wise, k-nearest, classification" in report and "scikit-learn" in report
    (folder / "report.html").unlink()
    assert command("report", folder).returncode == 0 and (folder / "report.html").is_file()
    refused = command("predict", folder, tmp_path, "--out", tmp_path / "masks")
    assert refused.returncode == 2 and "holds no checkpoint" in refused.stderr


def test_two_runs_give_the_same_bits_and_a_finished_one_is_opened(plan: Plan, tmp_path: Path) -> None:
    method = find_method("k-means", "classification")
    one, two = (run_baseline(plan, method, out=tmp_path / name) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one.samples, two.samples, check_exact=True)
    written = (one.folder / "samples.parquet").stat().st_mtime_ns
    again = run_baseline(plan, method, out=tmp_path / "one")
    assert again.folder == one.folder and (one.folder / "samples.parquet").stat().st_mtime_ns == written
    run_baseline(plan, method, out=tmp_path / "one", fresh=True)
    assert (one.folder / "samples.parquet").stat().st_mtime_ns > written


def test_what_changes_the_numbers_changes_the_folder(plan: Plan, tmp_path: Path) -> None:
    runs = [
        run_baseline(plan, find_method("k-means", "classification", clusters), out=tmp_path) for clusters in (None, 3)
    ]
    assert runs[0].folder != runs[1].folder
    assert runs[1].plan.scenario.model.parameters == {"features": "pixels", "clusters": 3}
    assert runs[1].samples.filter(like="p_").drop_duplicates().shape[0] <= 2 * 3 + 3 * 3


def test_a_run_on_wrong_labels_is_another_than_one_that_was_fitted_on_the_right_ones(
    plan: Plan, tmp_path: Path
) -> None:
    """Before, it had the same name, and the right ones."""
    fault = Fault(kind="wrong-labels", share=0.5)
    struck = replace(plan, scenario=plan.scenario.model_copy(update={"faults": (fault,)}))
    run = run_baseline(struck, find_method("majority", "classification"), out=tmp_path)
    parameters = run.plan.scenario.model.parameters
    assert parameters == {"features": "none", "wrong_labels": True} and run.plan.scenario.faults == (fault,)


def test_published_features_are_used_where_every_center_has_them(
    miniatures: Miniatures, tmp_path: Path, command: Command
) -> None:
    """The drawn features belong to their classes: what the majority cannot do is easy with them."""
    (tmp_path / "kvasir.yaml").write_text(KVASIR)
    # v2 extends v1: what is tested on at the holdout is left out of training.
    roots = [f"data.roots.{name}={miniatures(name, count)}" for name, count in (("kvasir-v1", 4), ("kvasir-v2", 12))]
    for name in ("logistic-regression", "majority"):
        done = command("baseline", "kvasir.yaml", name, *roots, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    logistic, majority = (
        Run(next((tmp_path / "runs").glob(f"kvasir-{name}-*"))) for name in ("logistic-regression", "majority")
    )
    assert logistic.plan.scenario.model.parameters["features"].startswith("published, sha256 ")
    assert majority.plan.scenario.model.parameters["features"] == "none"
    assert (logistic.table()["macro_f1"] > majority.table()["macro_f1"] + 0.5).all()


def test_published_features_that_cannot_be_used_are_told(
    scenario: Path, miniatures: Miniatures, tmp_path: Path
) -> None:
    """Hospitals of which one has no published features see pixels, all of them."""
    roots = {
        "kvasir-v2": str(miniatures("kvasir-v2", 4)),
        "hyperkvasir-labeled": str(miniatures("hyperkvasir-labeled", 4)),
    }
    centers = {"one": {"dataset": "hyperkvasir-labeled"}, "two": {"dataset": "kvasir-v2", "role": "holdout"}}
    overrides = (f"data.centers={centers}", f"data.roots={roots}", "data.labels=kvasir-8", "data.audit=drop")
    mixed = make_plan(load(scenario, overrides))
    run = run_baseline(mixed, find_method("k-nearest", "classification"), out=tmp_path)
    assert run.plan.scenario.model.parameters["features"] == "pixels"
    assert (
        "features are computed from the pixels, not those published: hyperkvasir-labeled publishes none"
        in run.plan.warnings
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("k-mean", "classification"), "unknown baseline 'k-mean' (did you mean 'k-means'?)"),
        (("majority", "segmentation"), "baselines are for classification, and this scenario's task is segmentation"),
        (("majority", "classification", 4), "--clusters is for k-means; majority has none"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(arguments: tuple, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        find_method(*arguments)
    assert sentence in str(caught.value)


def test_a_segmentation_scenario_is_refused_before_anything_is_read(tiny: Path, command: Command) -> None:
    done = command("baseline", tiny, "random", cwd=tiny.parent)
    assert done.returncode == 2 and "baselines are for classification" in done.stderr
    assert not (tiny.parent / "runs").exists()


def test_references_need_no_scikit_learn_and_the_others_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name, method in METHODS.items():
        if method.looks:
            with pytest.raises(UserError, match=rf"{name} needs scikit-learn: pip install 'fedkvasir\[classical\]'"):
                find_method(name, "classification")
        else:
            assert find_method(name, "classification").name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scenario_name", ["hyperkvasir-classification", "hyperkvasir-to-kvasir"])
def test_the_repositorys_scenarios(scenario_name: str, name: str, miniatures: Miniatures, tmp_path: Path) -> None:
    path = REPOSITORY / "scenarios" / f"{scenario_name}.yaml"
    few = ("data.centers.baerum.partition.minimum=2",) if "classification" in scenario_name else ()
    datasets = {center.dataset for center in load(path).data.centers.values()}
    roots = tuple(f"data.roots.{dataset}={miniatures(dataset)}" for dataset in datasets)
    run = run_baseline(make_plan(load(path, (*few, *roots))), find_method(name, "classification"), out=tmp_path)
    assert run.finished and np.isfinite(run.table()["macro_f1"]).all()
