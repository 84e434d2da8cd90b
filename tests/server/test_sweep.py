"""How a sweep goes on from what earlier calls of it have tried; Ray is not started."""

from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from ray.tune.experiment import Trial

from fedkvasir.runs import Checkpoint
from fedkvasir.simulation import _run_point
from fedkvasir.study import Line, Study
from fedkvasir.sweep import axes_of, load_sweep, tried
from server.sweep import SCORE, TIME, Trials, _optuna, _Watching

OPTUNA = "sweep={ranges: {training.lr: {low: 0.001004, high: 0.1}}, search: optuna, budget: 3}"
ASHA = "sweep={grid: {training.lr: [0.1, 0.2, 0.3]}, stop: asha}"


def test_optuna_begins_with_what_it_had_chosen_and_knows_what_that_came_to(tiny: Path) -> None:
    pytest.importorskip("optuna")
    scenario = load_sweep(tiny, [OPTUNA])
    ((cell, _),) = tried(scenario)
    begun, over = (Line(cell.at({"training.lr": rate})) for rate in (0.001, 0.03))
    over.state, over.validation = "finished", 0.7
    searcher: Any = _optuna(axes_of(scenario, cell), [begun, Line(cell)], [over])
    first, second = (searcher.suggest(name)["training.lr"] for name in "ab")
    assert first == 0.001004 and second not in (0.001004, 0.03)  # which 0.001 was before it was rounded
    assert [(trial.params["training.lr"], trial.value) for trial in searcher._ot_study.trials if trial.value] == [
        (0.03, 0.7)
    ]


def test_asha_measures_by_all_rounds_of_what_was_finished_or_stopped_before(tiny: Path, tmp_path: Path) -> None:
    scenario = load_sweep(tiny, [ASHA])
    study = Study.of(scenario, tmp_path)
    ((_, points),) = tried(scenario)
    over = [Line(point, state=state, run=state) for point, state in zip(points, ("finished", "stopped"), strict=False)]
    for line, scores in zip(over, ({1: 0.5, 2: 0.4, 3: 0.8}, {1: 0.2}), strict=True):
        study.run(line.run).commit(Checkpoint(max(scores), {}, {}, scores=scores), pd.DataFrame(), pd.DataFrame())
    halving = Trials(study, scenario, lambda scenario, told: study.run(""))._halving(over)
    tuner: Any = None
    decided = []
    for number, (round_, score) in enumerate([(1, 0.3), (1, 0.6), (3, 0.7)]):
        trial = Trial("", trial_id=str(number), stub=True)
        halving.on_trial_add(tuner, trial)
        decided.append(halving.on_trial_result(tuner, trial, {TIME: round_, SCORE: score}))
    assert decided == ["STOP", "CONTINUE", "STOP"]


@pytest.mark.parametrize("block", [OPTUNA, ASHA])
def test_other_seeds_of_the_best_setting_are_run_to_their_end_whatever_the_search(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    """Nothing is chosen among seeds: one of them that is behind another is no worse setting."""
    scenario = load_sweep(tiny, [block, "seed=0,1,2", "algorithm=fedavg,fedprox"])
    study, runs = Study.of(scenario, tmp_path), list[tuple[Any, ...]]()
    trials = Trials(study, scenario, lambda scenario, told: study.run(""))
    monkeypatch.setattr(trials, "_tune", lambda *told: runs.append(told))
    later = [Line(points[0].seeded(seed)) for seed in (1, 2) for _, points in tried(scenario)]
    trials._work(later, lambda line: None)
    ((lines, _, space, samples),) = runs
    assert list(lines) == later and space == {"line": {"grid_search": [0, 1, 2, 3]}} and samples == 1


def test_asha_lets_a_run_of_many_rounds_go_on_beside_one_of_few(tiny: Path, tmp_path: Path) -> None:
    scenario = load_sweep(tiny, ["sweep={grid: {federation.rounds: [1, 6]}, stop: asha}"])
    study = Study.of(scenario, tmp_path)
    trials = Trials(study, scenario, lambda scenario, told: study.run(""))
    halving, alone, tuner = trials._halving([]), Trial("", stub=True), cast(Any, None)
    halving.on_trial_add(tuner, alone)
    assert {halving.on_trial_result(tuner, alone, {TIME: n, SCORE: 0.5}) for n in range(1, 7)} == {"CONTINUE"}


def test_a_run_that_was_finished_before_tells_all_its_rounds_and_stays_finished(tiny: Path, tmp_path: Path) -> None:
    """Others are measured by every one of them; it may be behind them, and is there all the same."""
    scenario = load_sweep(tiny, [ASHA, "federation.rounds=2"])
    ((_, (point, *_)),) = tried(scenario)
    heard: list[tuple[int, float]] = []
    for _ in range(2):
        run = _run_point(
            None, str(tmp_path), 0, point.scenario, lambda run, number, score: heard.append((number, score))
        )
    assert [number for number, _ in heard] == [1, 2, 1, 2] and heard[:2] == heard[2:]
    line = Line(point)
    watching = _Watching([line], lambda line: None, {})
    watching.over("a", {"line": 0}, {TIME: 1, SCORE: 0.1, "so far": str(run.folder)})
    assert line.state == "finished" and line.hash == run.plan.hash


@pytest.mark.parametrize(
    ("device", "gpus", "share"),
    [("auto", 0, None), ("auto", 2, 0.5), ("cpu", 2, None), ("cuda", 0, 1 / 3), ("cuda", 2, 0.5)],
)
def test_a_run_asks_for_a_gpu_where_there_is_one_or_it_must_have_one(
    device: str, gpus: int, share: float | None, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cluster that has none yet as well: it grows by what is asked for."""
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8, "GPU": gpus} if gpus else {"CPU": 8})
    scenario = load_sweep(tiny, ["seed=0,1", f"resources.device={device}"])
    study = Study.of(scenario, tmp_path)
    trials = Trials(study, scenario, lambda scenario, told: study.run(""), workers=3)
    assert [bundle.get("GPU") for bundle in trials._resources().bundles] == [share] * 3
