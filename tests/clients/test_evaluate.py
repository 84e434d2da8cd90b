"""The evaluation pass: what is recorded beside the default scoring, and what must never pass for an empty mask."""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from clients import evaluate as evaluation
from clients.evaluate import evaluate, predict
from fedkvasir.data.loader import eval_batches
from fedkvasir.errors import RunFailed, UserError
from fedkvasir.evaluation.protocol import center_scores
from fedkvasir.evaluation.selection import selection_score
from fedkvasir.metrics.segmentation import by_image
from fedkvasir.models import build_model
from fedkvasir.models.network import native_mask
from fedkvasir.plan import Plan, make_plan
from fedkvasir.report.sections import run_tables
from fedkvasir.scenario import load
from fedkvasir.simulation import run_scenario

BOTH = "evaluation.scoring=[default, endocv2021-official]"
CPU = torch.device("cpu")


def records_of(plan: Plan, center: str = "edinburgh") -> pd.DataFrame:
    """One center's test images under an untrained network that says polyp here and there."""
    torch.set_num_threads(1)
    network = build_model(plan.scenario.model, plan.scenario.task, len(plan.classes), seed=1)
    rows, _ = evaluate(network, plan.part(center, "test"), plan.scenario, plan.classes, CPU, "float32")
    return rows.assign(center=center, role="holdout", split="test")


def test_official_rows_follow_and_change_nothing_of_the_default_ones(tiny: Path) -> None:
    alone, both = records_of(make_plan(load(tiny))), records_of(make_plan(load(tiny, (BOTH,))))
    assert list(both["scoring"]) == ["default"] * len(alone) + ["endocv2021-official"] * len(alone)
    pd.testing.assert_frame_equal(both.head(len(alone)), alone)
    assert list(both["sample"].tail(len(alone))) == list(alone["sample"])
    assert center_scores(both) == center_scores(alone)
    assert selection_score(both, "oracle") == selection_score(alone, "oracle")
    pd.testing.assert_frame_equal(by_image(both), by_image(alone))


def test_official_counts_are_of_the_mask_file_and_the_prediction_enlarged_afterwards(tiny: Path) -> None:
    plan = make_plan(load(tiny, (BOTH,)))
    official = records_of(plan).query("scoring == 'endocv2021-official'").set_index("sample")
    network = build_model(plan.scenario.model, plan.scenario.task, 1, seed=1)
    samples, enlarged = plan.part("edinburgh", "test"), 0
    for positions, batch in eval_batches(samples, plan.scenario.training.batch_size):
        with torch.inference_mode():
            logits, _ = predict(network.eval(), batch, CPU, "float32")
        for position, own in zip(positions, logits, strict=False):
            row = samples.table.iloc[position]
            truth = cv2.imread(row["mask"], cv2.IMREAD_GRAYSCALE) > 0
            small = (own[0] > 0).numpy().astype(np.uint8)
            found = cv2.resize(small, truth.shape[::-1], interpolation=cv2.INTER_AREA) > 0
            expected = [found & truth, found & ~truth, ~found & truth, ~found & ~truth]
            assert list(official.loc[row["sample"], ["tp", "fp", "fn", "tn"]]) == [part.sum() for part in expected]
            enlarged += small.any() and not small.all()
    assert enlarged


@pytest.mark.parametrize(("batch_size", "shapes"), [(8, [8, 8, 8]), (16, [16, 16]), (32, [32]), (10**6, [64])])
def test_every_batch_has_one_shape_and_a_size_above_all_images_costs_no_more_than_they(
    tiny: Path, batch_size: int, shapes: list[int]
) -> None:
    samples = make_plan(load(tiny)).part("edinburgh", "test")
    batches = list(eval_batches(samples, batch_size))
    assert [len(batch.images) for _, batch in batches] == shapes
    assert np.concatenate([positions for positions, _ in batches]).tolist() == list(range(len(samples)))


def test_masks_scored_in_threads_have_the_same_records_in_the_same_order(tiny: Path) -> None:
    plan = make_plan(load(tiny, (BOTH,)))
    network = build_model(plan.scenario.model, plan.scenario.task, 1, seed=1)
    samples = plan.part("edinburgh", "test")
    in_turn, beside = (
        evaluate(network, samples, plan.scenario, plan.classes, CPU, "float32", threads)[0] for threads in (0, 3)
    )
    pd.testing.assert_frame_equal(in_turn, beside, check_exact=True)
    assert in_turn["sample"].nunique() == len(samples) > 3 * plan.scenario.training.batch_size


def test_a_run_with_both_scorings_has_the_tables_of_a_run_without(tiny: Path, tmp_path: Path) -> None:
    one = ("federation.rounds=1",)
    alone, both = (run_scenario(tiny, extra, out=tmp_path, engine="local") for extra in (one, (*one, BOTH)))
    assert alone.folder != both.folder and alone.result["weights_sha256"] == both.result["weights_sha256"]
    pd.testing.assert_frame_equal(alone.table(), both.table())
    assert len(both.samples) == 2 * len(alone.samples)
    cases = [json.loads((run.folder / "gallery" / "edinburgh.json").read_text()) for run in (alone, both)]
    assert cases[0] == cases[1]
    tables, more = run_tables(alone), run_tables(both)
    assert more.keys() - tables.keys() == {"challenge"}
    assert [row.head for row in more["challenge"].rows] == [
        f"{code}, {name}" for code in ("corrected", "official") for name in ("seen", "unseen")
    ]
    assert "As the EndoCV2021 challenge" in (both.folder / "report.html").read_text()


def test_the_scenario_says_what_can_be_asked_for(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.scoring: \[default\] or \[default, endocv2021-official\]"):
        load(tiny, ("evaluation.scoring=[endocv2021-official]",))
    with pytest.raises(UserError, match=r"endocv2021-official scores masks, and task: classification has none"):
        load(tiny, (BOTH, "task=classification"))


class Slow(nn.Module):
    """A network that takes its time, and counts its batches."""

    batches = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        time.sleep(0.05)
        return images[:, :1] - 0.5


def test_the_network_is_timed_and_nothing_around_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, network = make_plan(load(tiny)), Slow()

    def late(*arguments: object) -> np.ndarray:
        time.sleep(0.05)
        return native_mask(*arguments)

    monkeypatch.setattr(evaluation, "native_mask", late)
    rows, network_s = evaluate(network, plan.part("edinburgh", "test"), plan.scenario, plan.classes, CPU, "float32")
    assert len(rows) > 2 * network.batches  # as much sleep again, and more, outside the network
    assert 0.05 * network.batches <= network_s < 0.05 * len(rows)


def test_every_evaluation_is_recorded_with_the_seconds_of_its_network(tiny: Path, tmp_path: Path) -> None:
    rounds = run_scenario(tiny, ("federation.rounds=1",), out=tmp_path, engine="local").rounds.set_index("phase")
    evaluated = rounds.loc[["val", "test"]]
    assert ((evaluated["network_s"] > 0) & (evaluated["network_s"] < evaluated["seconds"])).all()
    assert rounds.loc[["train", "round"], "network_s"].isna().all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_no_number_is_said_and_not_scored(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    plan = make_plan(load(tiny))

    def broken(*arguments: object) -> tuple[torch.Tensor, float]:
        logits, seconds = predict(*arguments)
        logits[1, 0, 3, 3] = value
        return logits, seconds

    monkeypatch.setattr(evaluation, "predict", broken)
    with pytest.raises(ValueError, match=r"^edinburgh: the network's output is not a number on 1 of 4 images; .*lr"):
        records_of(plan)


def test_a_run_whose_network_diverged_ends_in_a_sentence(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "predict", lambda *arguments: (predict(*arguments)[0] * np.nan, 0.0))
    with pytest.raises(
        RunFailed, match=r"^round 1: alta could not be evaluated on val \(ValueError: alta: the network"
    ):
        run_scenario(tiny, out=tmp_path, engine="local")
