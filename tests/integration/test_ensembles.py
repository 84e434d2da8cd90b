"""DivergentNets as a federation: members one by one, then the ensemble of their selected checkpoints."""

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from clients.app import _stage, forget
from fedkvasir import simulation
from fedkvasir.console import Screen
from fedkvasir.data.loader import eval_batches
from fedkvasir.errors import UserError
from fedkvasir.exchange import read, sha256
from fedkvasir.plan import make_plan
from fedkvasir.runs import Run
from fedkvasir.scenario import load

ADAM = ("training.optimizer=adam", "training.lr=0.01")
MODEL = "model={name: ensemble, encoder: tu-lcnet_050, members: [{name: unet, decoder_channels: [16, 8, 8, 4, 4]}, "
MEAN = (MODEL + "fpn, fpn]}", *ADAM)
LEARNED = (MODEL + "fpn, fpn], fusion: {name: learned, rounds: 2, lr: 0.05}}", *ADAM)


def run(scenario: Path, out: Path, *overrides: str, engine: str = "local", screen: Screen | None = None) -> Run:
    return simulation.run_scenario(scenario, overrides, out=out, engine=engine, workers=2, screen=screen)


@pytest.fixture(scope="module")
def ensemble(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(scenario, tmp_path_factory.mktemp("runs"), *MEAN)


def test_every_member_is_an_ordinary_run(ensemble: Run) -> None:
    assert list(ensemble.members) == ["unet", "fpn", "fpn-2"]
    for name, member in ensemble.members.items():
        assert member.finished and member.plan.scenario.name == name
        assert list(member.table()["center"]) == list(ensemble.table()["center"])


def test_a_member_has_the_bits_of_the_same_model_trained_alone(ensemble: Run, scenario: Path, tmp_path: Path) -> None:
    alone = run(scenario, tmp_path, *ADAM, "model={name: fpn, encoder: tu-lcnet_050}")
    member = ensemble.members["fpn"]
    assert alone.result["best_sha256"] == member.result["best_sha256"]
    pd.testing.assert_frame_equal(alone.samples, member.samples)


def test_the_second_of_two_of_one_architecture_is_another_network(ensemble: Run) -> None:
    assert ensemble.members["fpn"].result["best_sha256"] != ensemble.members["fpn-2"].result["best_sha256"]


def test_the_ensemble_holds_its_members_best_weights_and_says_what_they_say_on_average(ensemble: Run) -> None:
    network, (_, batch) = ensemble.model(), next(eval_batches(ensemble.plan.part("edinburgh", "test"), 4))
    with torch.inference_mode():
        alone = [member.model("best")(batch.images).double().numpy() for member in ensemble.members.values()]
        fused = network(batch.images).double().numpy()
    np.testing.assert_allclose(expit(fused), expit(np.stack(alone)).mean(axis=0), atol=1e-6)
    assert sha256(read(network, network.state_dict())) == ensemble.result["best_sha256"]


def test_a_process_lets_go_of_one_member_before_it_holds_the_next(ensemble: Run) -> None:
    """Five networks of 50 million parameters and their hospitals would not fit beside each other."""
    forget()
    first = weakref.ref(_stage(str(ensemble.folder), "unet")("alta").network)
    gc.collect()
    assert first() is not None
    _stage(str(ensemble.folder), "fpn")("alta")
    gc.collect()
    assert first() is None
    forget()


def test_records_of_the_ensemble_are_at_every_center_that_tests_and_validates(ensemble: Run) -> None:
    places = ensemble.samples.groupby(["checkpoint", "split"])["center"].unique().map(sorted)
    tested = ["alta", "bergen", "cadiz", "edinburgh"]
    assert places["best", "test"] == places["last", "test"] == tested
    assert places["0", "val"] == tested[:3]


def test_the_ensemble_is_compared_with_its_members(ensemble: Run) -> None:
    comparison = ensemble.comparison().set_index("model")
    assert list(comparison.index) == ["unet", "fpn", "fpn-2", "ensemble"]
    for name, run in {**ensemble.members, "ensemble": ensemble}.items():
        scores = run.table().set_index("center")["dice"]
        pd.testing.assert_series_equal(comparison.loc[name, scores.index].astype(float), scores, check_names=False)
    assert ensemble.result["wall_s"] >= sum(member.result["wall_s"] for member in ensemble.members.values())
    page = (ensemble.folder / "report.html").read_text()
    for name in ensemble.members:
        assert f'href="members/{name}/report.html"' in page
        assert (ensemble.folder / "members" / name / "report.html").is_file()


def test_one_member_at_a_time_gives_the_same_bits_and_holds_one(ensemble: Run) -> None:
    images = torch.rand(2, 3, 32, 32)
    lean = ensemble.model(one_at_a_time=True)
    assert sum(parameter.numel() for parameter in lean.parameters()) == 0
    with torch.inference_mode():
        assert torch.equal(lean(images), ensemble.model()(images))


def with_members(other: Run, scenario: Path, out: Path, *overrides: str) -> Run:
    """A run of another fusion with members that are trained already."""
    name = make_plan(load(scenario, overrides)).name
    shutil.copytree(other.folder / "members", out / name / "members")
    return run(scenario, out, *overrides)


@pytest.fixture(scope="module")
def learned(ensemble: Run, scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return with_members(ensemble, scenario, tmp_path_factory.mktemp("learned"), *LEARNED)


def test_weighted_members_weigh_what_they_scored_in_validation(ensemble: Run, scenario: Path, tmp_path: Path) -> None:
    weighted = with_members(ensemble, scenario, tmp_path, MODEL + "fpn, fpn], fusion: weighted}", *ADAM)
    chosen = [member.checkpoint("best") for member in weighted.members.values()]
    scores = np.array([checkpoint.scores[checkpoint.best] for checkpoint in chosen])
    assert scores.max() > scores.min()
    np.testing.assert_allclose(weighted.checkpoint("best").buffers["fusion.weights"], scores / scores.sum(), rtol=1e-6)


def test_a_learned_fusion_is_fitted_on_half_of_the_validation_groups_and_scored_on_the_others(learned: Run) -> None:
    """Scored on what it was fitted on, it would win every comparison by validation scores."""
    fusion, val = learned.plan.stage(""), learned.plan.samples.query("split == 'val'")
    fitted, scored = (fusion.samples.query(f"split == {split!r}") for split in ("train", "val"))
    assert not {*fitted["group"]} & {*scored["group"]}
    assert sorted([*fitted["sample"], *scored["sample"]]) == sorted(val["sample"])
    assert [*fitted["center"].unique()] == [*scored["center"].unique()] == ["alta", "bergen", "cadiz"]
    trained = learned.rounds.query("phase == 'train'").groupby("center")["samples"].first()
    assert trained.to_dict() == fitted.groupby("center").size().to_dict()
    validated = learned.samples.query("split == 'val'").groupby("checkpoint")["sample"].unique().map(sorted)
    assert all(samples == sorted(scored["sample"]) for samples in validated)


def test_a_learned_fusion_leaves_members_alone(ensemble: Run, learned: Run) -> None:
    start, end = 1 / 3, learned.checkpoint("last").shared["fusion.layers.0.weight"].ravel()
    assert np.abs(end - start).max() > 1e-4
    for name, member in learned.members.items():
        assert member.result["best_sha256"] == ensemble.members[name].result["best_sha256"]
    # the members travel to hospitals and not back
    costs = learned.rounds.query("phase == 'train'")
    assert (costs["bytes_up"] < 1000).all() and (costs["bytes_down"] > 1_000_000).all()


class StopAt(Screen):
    """Stops the run, as Ctrl-C would, at an event."""

    def __init__(self, member: int, round: int) -> None:
        super().__init__(quiet=True)
        self.stop, self.member = (member, round), 0

    def event(self, plan, event) -> None:  # type: ignore[no-untyped-def]
        self.member = event.facts["number"] if event.kind == "member" else self.member
        if (self.member, event.round) == self.stop and event.kind == "round":
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param((2, 1), id="in the second member", marks=pytest.mark.slow),
        pytest.param((0, 1), id="while the fusion is learned"),
    ],
)
def test_stopped_and_gone_on_with_the_bits_are_those_of_one_go(
    stop: tuple[int, int], ensemble: Run, learned: Run, scenario: Path, tmp_path: Path
) -> None:
    if stop[0] == 0:
        shutil.copytree(ensemble.folder / "members", tmp_path / learned.plan.name / "members")
    with pytest.raises(KeyboardInterrupt):
        run(scenario, tmp_path, *LEARNED, screen=StopAt(*stop))
    assert run(scenario, tmp_path, *LEARNED).result["weights_sha256"] == learned.result["weights_sha256"]


@pytest.mark.slow
def test_workers_give_the_bits_of_one_process(ensemble: Run, scenario: Path, tmp_path: Path) -> None:
    parallel = run(scenario, tmp_path, *MEAN, engine="ray")
    assert parallel.result["weights_sha256"] == ensemble.result["weights_sha256"]
    pd.testing.assert_frame_equal(parallel.samples, ensemble.samples)


@pytest.mark.slow
def test_classifiers_are_averaged_too(scenario: Path, tmp_path: Path) -> None:
    task = ("task=classification", "data.options.synthetic.task=classification", "training.loss=cross-entropy")
    model = "model={name: ensemble, members: [lcnet_050, resnet18], fusion: {name: learned, rounds: 1}}"
    classifiers = run(scenario, tmp_path, *task, model, "federation.rounds=1")
    assert np.allclose(classifiers.samples.filter(like="p_").sum(axis=1), 1)
    assert classifiers.result["rounds"] == 1


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ((*MEAN, "algorithm=fedbn"), "layers stay at their hospitals .* cannot be formed into an ensemble"),
        ((*MEAN, "federation.buffers=local"), "cannot be formed into an ensemble"),
        ((*LEARNED, "evaluation.select=last"), "model.fusion = learned is fitted on validation images"),
        ((*LEARNED, "data.centers.cadiz.val=0.1"), "fitted on half .* validation groups .*: cadiz has one"),
    ],
)
def test_what_no_ensemble_can_be_formed_of(overrides: tuple[str, ...], sentence: str, scenario: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        make_plan(load(scenario, overrides))
