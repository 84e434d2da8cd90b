"""A sweep as the settings that it tries of every method."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from fedkvasir.errors import UserError
from fedkvasir.methods import of_study
from fedkvasir.names import spelled_out
from fedkvasir.plan import NUMBERS, make_plan
from fedkvasir.points import Point
from fedkvasir.scenario import Range, load
from fedkvasir.study import Changed, Line, Study
from fedkvasir.sweep import changes_of, load_sweep, protocol_of, tried

RANGE = "{training.lr: {low: 0.0001, high: 0.1, log: true}}"


def settings(scenario: Path, *words: str) -> dict[str, list[Point]]:
    """Method -> its points, of a scenario with one holdout."""
    return {cell.method: points for cell, points in tried(load_sweep(scenario, words))}


def texts(points: list[Point]) -> list[str]:
    return [point.setting for point in points]


def test_words_of_several_values_are_axes_and_others_overrides(tiny: Path) -> None:
    scenario = load_sweep(tiny, ["algorithm=fedavg,fedbn", "seed=0..4", "training.lr=1e-3,0.05", "federation.rounds=2"])
    assert scenario.federation.rounds == 2 and scenario.sweep is not None
    assert protocol_of(scenario).seeds == (0, 1, 2, 3, 4) and protocol_of(scenario).kind == "holdout"
    found = {cell.method: points for cell, points in tried(scenario)}
    assert texts(found["fedavg"]) == texts(found["fedbn"]) == ["training.lr=0.001", "training.lr=0.05"]


def test_a_point_is_the_run_that_the_same_overrides_make(tiny: Path) -> None:
    found = settings(tiny, "algorithm=fedavg,fedbn", "training.lr=1e-3,0.05")
    assert found["fedbn"][0].scenario == spelled_out(load(tiny, ("algorithm=fedbn", "training.lr=1e-3")))


def test_an_algorithms_own_parameters_are_varied_for_it_alone(tiny: Path) -> None:
    found = settings(tiny, "algorithm=fedavg,{name: fedprox, mu: [0.1, 1]}", "training.lr=0.1,0.2")
    assert len(found["fedavg"]) == 2 and len(found["fedprox"]) == 4
    assert {point.scenario.algorithm.parameters["mu"] for point in found["fedprox"]} == {0.1, 1}


def test_a_method_is_called_by_all_the_values_that_are_tried_of_it(tiny: Path) -> None:
    found = settings(tiny, "algorithm={name: fedprox, mu: [1e-3, 5]},{name: fedprox, mu: 50},fedavg", "training.lr=0.1")
    assert list(found) == ["fedprox mu=0.001|5", "fedprox mu=50", "fedavg"]
    assert [point.scenario.algorithm.parameters["mu"] for point in found["fedprox mu=0.001|5"]] == [0.001, 5]


def test_a_word_takes_the_place_of_an_axis_of_the_block(tiny: Path) -> None:
    for block in (f"sweep={{ranges: {RANGE}, search: random, budget: 3}}", "sweep={grid: {training.lr: [1, 2]}}"):
        found = settings(tiny, block, "training.lr=0.2")
        assert texts(found["fedavg"]) == ["training.lr=0.2"]


def test_a_range_of_one_value_is_an_override(tiny: Path) -> None:
    found = settings(tiny, "seed=3..3", "training.lr=0.1,0.2")
    assert [point.seed for point in found["fedavg"]] == [3, 3]


def test_rounds_that_are_tried_are_stretched_for_a_model_that_goes_round(tiny: Path) -> None:
    found = settings(tiny, "protocol={kind: holdout, baselines: [cyclic]}", "federation.rounds=1,2")
    rounds = {method: [point.scenario.federation.rounds for point in points] for method, points in found.items()}
    assert rounds == {"fedavg": [1, 2], "cyclic": [3, 6]}
    same = settings(tiny, "algorithm=fedavg,cyclic", "federation.rounds=1,2")
    assert {method: [point.scenario.federation.rounds for point in points] for method, points in same.items()} == rounds


def test_a_budget_gives_every_method_the_same_number_of_settings(tiny: Path) -> None:
    words = "algorithm=fedavg,{name: fedprox, mu: [0.1, 1]}", "training.lr=0.1,0.2,0.3", "sweep.budget=3"
    found = settings(tiny, *words)
    assert Counter(map(len, found.values())) == {3: 2} and texts(found["fedprox"]) != texts(found["fedavg"])
    assert settings(tiny, *words) == found  # drawn, but the same every time


def test_methods_draw_the_same_of_what_they_have_in_common(tiny: Path) -> None:
    block = f"sweep={{ranges: {RANGE}, search: random, budget: 4}}"
    found = settings(tiny, block, "algorithm=fedavg,{name: fedprox, mu: [0.1, 1, 10]}")
    rates = {method: [point.scenario.training.lr for point in points] for method, points in found.items()}
    assert rates["fedavg"] == rates["fedprox"] and len(set(rates["fedavg"])) == 4
    assert all(0.0001 <= rate <= 0.1 for rate in rates["fedavg"])
    assert min(rates["fedavg"]) < 0.01 < max(rates["fedavg"])  # evenly by order of magnitude
    for search in ("random", "grid"):
        block = f"sweep={{grid: {{training.lr: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}}, search: {search}, budget: 5}}"
        found = settings(tiny, block, "algorithm=fedavg,{name: fedprox, mu: [0.1, 1, 10]}")
        rates = {method: [point.scenario.training.lr for point in points] for method, points in found.items()}
        assert rates["fedavg"] == rates["fedprox"] and len(set(rates["fedavg"])) == 5


def test_axes_that_mean_nothing_together_are_refused_before_optuna_can_draw_them(tiny: Path) -> None:
    axes = "{grid: {training.optimizer: [sgd, adam]}, ranges: {training.momentum: {low: 0.5, high: 0.9}}"
    with pytest.raises(UserError, match=r"training\.momentum = 0\.5 means nothing under training\.optimizer = adam"):
        settings(tiny, f"sweep={axes}, search: optuna, budget: 4}}")


def test_no_combination_of_lists_is_drawn_twice(tiny: Path) -> None:
    block = "sweep={grid: {training.lr: [0.1, 0.2, 0.3], training.batch_size: [2, 4]}, search: random, budget: %d}"
    for budget, count in ((5, 5), (6, 6), (20, 6)):
        found = settings(tiny, block % budget, "algorithm=fedavg,fedbn")
        assert texts(found["fedavg"]) == texts(found["fedbn"]) and len(set(texts(found["fedavg"]))) == count
    narrow = "sweep={ranges: {training.lr: {low: 0.1, high: 0.103}}, search: random, budget: 9}"
    assert len(set(texts(settings(tiny, narrow)["fedavg"]))) == 4  # of three digits there are no more


@pytest.mark.parametrize("search", ["grid", "random"])
def test_a_budget_that_one_method_cannot_spend_is_refused(tiny: Path, search: str) -> None:
    block = f"sweep={{grid: {{training.lr: [0.1, 0.2]}}, search: {search}, budget: 3}}"
    with pytest.raises(
        UserError, match=r"sweep.budget = 3 is to be the same .* fedavg has 2 setting\(s\): set it to 2"
    ):
        settings(tiny, block, "algorithm=fedavg,{name: fedprox, mu: [0.1, 1]}")


def test_a_setting_that_comes_twice_is_tried_once(tiny: Path) -> None:
    assert len(settings(tiny, "training.lr=0.1,1e-1,0.2")["fedavg"]) == 2


def test_a_scenario_with_a_protocol_is_swept_in_all_of_its_arms(tiny: Path) -> None:
    protocol = "protocol={kind: leave-one-center-out, seeds: [3], baselines: [pooled]}"
    cells = [(c.holdout, c.method, len(p)) for c, p in tried(load_sweep(tiny, [protocol, "training.lr=0.1,0.2"]))]
    assert len(cells) == 8 and {count for _, _, count in cells} == {2}
    assert protocol_of(load_sweep(tiny, [protocol, "training.lr=0.1,0.2"])).seeds == (3,)


def test_without_a_holdout_hospitals_are_tested_within(tiny: Path) -> None:
    words = "data.centers.edinburgh.role=train", "training.lr=0.1,0.2"
    assert protocol_of(load_sweep(tiny, words)).kind == "within"
    assert settings(tiny, *words)["fedavg"][0].holdout == ""


def test_a_setting_is_found_again_by_its_text() -> None:
    axes = {"algorithm.mu": [0.1, 1], "training": [{"lr": 0.1, "epochs": 2}], "federation.buffers": [None, "local"]}
    axes |= {"training.lr": Range(low=0.001, high=0.1)}
    changes = {"algorithm.mu": 1, "training": {"lr": 0.1, "epochs": 2}, "federation.buffers": None, "training.lr": 0.02}
    setting = "algorithm.mu=1, training={'lr': 0.1, 'epochs': 2}, federation.buffers=None, training.lr=0.02"
    assert changes_of(setting, axes) == changes
    assert changes_of("training.lr=0.02", axes) is None and changes_of("", axes) is None


@pytest.mark.parametrize(
    "block",
    [
        "sweep={grid: {training.lr: [0.1, 0.2, 0.3, 0.4]}, stop: asha}",
        f"sweep={{ranges: {RANGE}, search: optuna, budget: 4}}",
    ],
)
def test_what_was_chosen_and_stopped_stays_so_when_the_sweep_goes_on(tiny: Path, tmp_path: Path, block: str) -> None:
    scenario = load_sweep(tiny, [block])
    study, given = Study.of(scenario, tmp_path), list[list[tuple[str, str, float]]]()

    def work(lines: Sequence[Line], changed: Changed) -> None:
        given.append([(line.point.setting, line.state, line.validation) for line in lines])
        if not lines or len(given) > 1:
            return
        states = ("stopped", "running", "failed", "waiting")  # the last has not begun
        for line, state, rate in zip(lines, states, (0.1, 0.2, 0.3, 0.4), strict=True):
            if state != "waiting":
                line.point = line.point if line.point.setting else line.point.at({"training.lr": rate})
                line.state, line.validation, line.run = state, rate, f"tiny-{rate}"
                make_plan(line.point.scenario).save(study.run(line.run).folder)
                changed(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.carry_out(scenario, work)
    with pytest.raises(UserError, match="`fedkvasir sweep` goes on with it"):
        of_study(study)
    before = study.index
    study.carry_out(scenario, work)
    first, second = given[:2]
    assert second[0] == ("training.lr=0.1", "stopped", 0.1)
    assert [own[:2] for own in second[1:3]] == [("training.lr=0.2", "waiting"), ("training.lr=0.3", "waiting")]
    assert second[3][:2] == first[3][:2]  # what optuna has not chosen yet is left to it
    pd.testing.assert_frame_equal(study.index[:1], before[:1])
    calls = len(given)
    study.carry_out(scenario, work, known=lambda own: None)  # on other images there is no run of it
    assert given[calls][0][:2] == ("training.lr=0.1", "waiting")


def test_what_was_stopped_is_tried_again_where_its_run_is_gone_or_another(tiny: Path, tmp_path: Path) -> None:
    scenario = load_sweep(tiny, ["sweep={grid: {training.lr: [0.1, 0.2]}, stop: asha}"])
    study, states = Study.of(scenario, tmp_path), list[list[str]]()

    def work(lines: Sequence[Line], changed: Changed) -> None:
        states.append([line.state for line in lines])
        for line in lines:
            line.state, line.run = "stopped", line.point.setting
            changed(line)

    study.carry_out(scenario, work)
    there, other = (study.run(f"training.lr={rate}").folder for rate in (0.1, 0.2))
    for folder, rate in ((there, 0.1), (other, 0.3)):
        make_plan(load(tiny, (f"training.lr={rate}",))).save(folder)
    study.carry_out(scenario, work)
    assert [own for own in states if own] == [["waiting", "waiting"], ["stopped", "waiting"]]


def test_a_sweep_from_before_a_change_of_numbers_is_another(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it stopped, and by what scores it chose, is of other numbers."""
    scenario = load_sweep(tiny, ["training.lr=0.1,0.2"])
    before = Study.of(scenario, tmp_path)
    monkeypatch.setattr("fedkvasir.study.NUMBERS", NUMBERS + 1)
    assert Study.of(scenario, tmp_path).folder != before.folder


def test_with_nothing_to_try_it_is_the_study_that_run_carries_out(tiny: Path, tmp_path: Path) -> None:
    words = ["protocol={kind: within, tune: {training.lr: [0.1, 0.2]}}", "seed=3"]
    assert load_sweep(tiny, words) == load(tiny, words)
    assert Study.of(load_sweep(tiny, words), tmp_path).folder.name.startswith("tiny-study-")


def test_a_sweep_and_the_study_of_its_protocol_are_two_folders(tiny: Path, tmp_path: Path) -> None:
    scenario = load_sweep(tiny, ["protocol={kind: holdout}", "training.lr=0.1,0.2"])
    study, sweep = (Study.of(own, tmp_path) for own in (scenario.model_copy(update={"sweep": None}), scenario))
    assert study.folder.name.startswith("tiny-study-") and sweep.folder.name.startswith("tiny-sweep-")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "nothing to sweep over"),
        (("training.lrr=1,2",), "unknown key training.lrr (did you mean 'lr'?)"),
        (("training.lr=0.1,x",), "training.lr = 'x'"),
        (("algorithm=fedavg,fedpro",), "did you mean 'fedprox'?"),
        (("algorithm=fedavg,{name: fedprox, mu: [1, a]}",), "mu"),
        (("seed=0,0",), "0 stands there twice"),
        (("training.lr=1,2", "evaluation.select=oracle"), "set evaluation.select=train-val"),
        (
            ("training.lr=1,2", "protocol={kind: holdout, tune: {training.lr: [1]}}"),
            "move protocol.tune into sweep.grid",
        ),
        (("sweep={grid: {training.lr: [1, 2]}, search: random}",), "needs budget"),
        ((f"sweep={{ranges: {RANGE}}}",), "set search: random or search: optuna"),
        (("sweep={ranges: {training.lr: {low: 1, high: 0.1}}, search: random, budget: 2}",), "low < high"),
        (("sweep={grid: {training.lr: [1, 2]}, search: optuna, budget: 2}",), "give ranges"),
        (("seed=3..1", "training.lr=1,2"), "seed=3..1 names no value"),
        (("training.lr=",), "training.lr= names no value"),
        (("training.lr=0.1,0.2", "training.lr=0.3,0.4"), "training.lr is given twice"),
        (("algorithm=fedavg,{name: fedprox, mu: []}",), "algorithm.mu: an empty list is no value"),
        (("algorithm=fedavg,{nam: fedprox}",), "key algorithm.name is missing"),
        (("algorithm=fedavg,{name: 3}",), "algorithm.name = 3: input should be a valid string"),
        (("algorithm=fedavg,[fedprox]",), "algorithm"),
        (("algorithm.name=fedprox,fedavg",), "algorithm.name is the method and no setting of it"),
        (("algorithm=fedprox,{name: fedprox, mu: 0.01}",), "perhaps with a default spelled out"),
        (("sweep={grid: {training.lr: 0.1}}",), "sweep.grid.training.lr = 0.1: should be a list, in square brackets"),
        (("name=a,b",), "name is no setting of a method"),
        (("resources.workers=1,2",), "resources.workers is no setting of a method"),
        (("evaluation.select=train-val,last",), "evaluation.select cannot be tried"),
        (("sweep={grid: {evaluation: [{select: oracle}, {select: last}]}}",), "evaluation.select cannot be tried"),
        (("sweep={grid: {federation: [{train: pooled}, {rounds: 2}]}}",), "federation.train is no setting of a method"),
        (("data.centers.alta.val=0.1,0.2",), "data.centers.alta.val decides on the images"),
        (("federation.fraction=0.5,1.0", "protocol={kind: holdout, baselines: [pooled]}"), "federation.fraction=1.0"),
        (("training.batch_size=auto,8",), "training.batch_size = auto"),
        *(
            (
                (f"sweep={{ranges: {{training.batch_size: {{low: 2, high: 8}}}}, search: {search}, budget: 2}}",),
                "training.batch_size cannot have every value between 2 and 8; list those that it can in sweep.grid",
            )
            for search in ("random", "optuna")
        ),
        (("seed=0..100000000",), "seed=0..100000000 has 100000001 values, and a sweep takes 10000 at most"),
        *(
            ((f"sweep={{{block}, stop: asha}}", *words), f"and {what} has no rounds: set sweep.stop=null")
            for block in ("grid: {training.lr: [1, 2]}", f"ranges: {RANGE}, search: optuna, budget: 2")
            for what, *words in (
                ("model.name = ensemble", "model={name: ensemble, members: [unet, linknet], weights: null}"),
                ("ensemble-of-locals", "protocol={kind: holdout, baselines: [ensemble-of-locals]}"),
                ("ensemble-of-locals", "federation.train=ensemble-of-locals"),
            )
        ),
        (
            ("sweep={grid: {model.name: [unet, divergentnets]}, stop: asha}",),
            "model.name = divergentnets has no rounds",
        ),
        (("sweep={ranges: {training.lr: {low: -1, high: 1}}, search: optuna, budget: 2}",), "training.lr = -1"),
    ],
)
def test_what_cannot_be_swept_is_refused_at_once(tiny: Path, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        settings(tiny, *words)
    assert sentence in str(refused.value)
