"""How many hospitals work at a time: by cores, by what is asked for, or by what one measured step takes."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from fedkvasir import machine
from fedkvasir.errors import UserError
from fedkvasir.estimate import START_S, Step, choose_workers, estimate, measure_step, within_limits
from fedkvasir.plan import Plan, make_plan
from fedkvasir.scenario import Scenario, load
from fedkvasir.simulation import Simulation


def plan_of(scenario: Path, *overrides: str) -> Plan:
    return make_plan(load(scenario, overrides))


def test_a_number_is_taken_and_the_command_line_has_the_last_word(tiny: Path) -> None:
    plan = plan_of(tiny, "resources.workers=3")
    assert choose_workers(plan, None).workers == 3 and choose_workers(plan, 2).workers == 2


def test_otherwise_as_many_as_there_are_cores_and_hospitals(tiny: Path) -> None:
    assert choose_workers(plan_of(tiny), None).workers == min(machine.cores(), 3)
    assert choose_workers(plan_of(tiny, "resources.threads_per_center=99"), None).workers == 1


def test_what_gpus_lack_is_never_asked_for(tiny: Path) -> None:
    plan = replace(plan_of(tiny, "resources.gpu_per_center=1.0"), device="cuda")
    with pytest.raises(UserError, match=r"4 workers at resources.gpu_per_center=1.0 need 4 GPUs, here are \d+"):
        choose_workers(plan, 4)


def test_a_step_is_measured_in_a_process_of_its_own(tiny: Path) -> None:
    plan = plan_of(tiny, "resources=auto")
    step = measure_step(plan)
    assert 0 < step.seconds < 30 and 50 < step.host_mib < 4000 and step.gpu_mib == 0
    choice = within_limits(plan, step, {"3 hospitals train": 3})
    assert 1 <= choice.workers <= min(machine.cores(), 3)
    assert "3 hospitals train allow 3" in choice.because and "a step takes" in choice.because


def test_memory_is_that_of_the_step_while_it_is_taken(tiny: Path) -> None:
    """A larger picture takes more, though nothing is held once the step is over."""
    few, many = (measure_step(plan_of(tiny, f"data.image_size={size}")).host_mib for size in (64, 256))
    assert many > few + 100


def test_a_process_that_dies_of_its_step_is_told_in_a_sentence(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedkvasir.estimate._steps", _die)
    with pytest.raises(UserError, match="the process that tried a step was killed, perhaps for its memory"):
        measure_step(plan_of(tiny))


def _die(plan: Plan) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_is_not_thrown_away_for_one_that_cannot_begin(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = load(tiny, ("federation.rounds=1",))
    with Simulation(out=tmp_path, engine="local") as hospitals:
        run = hospitals.run(scenario)

    def refuse(plan: Plan, asked: int | None) -> None:
        raise UserError("no room")

    monkeypatch.setattr("fedkvasir.simulation.choose_workers", refuse)
    with Simulation(out=tmp_path, engine="ray") as hospitals, pytest.raises(UserError, match="no room"):
        hospitals.run(scenario, fresh=True)
    assert run.finished


def test_of_an_ensemble_the_steps_of_its_members_are_measured(tiny: Path) -> None:
    """What it forms of them trains nothing, or next to nothing."""
    plan = plan_of(tiny, "model={name: ensemble, encoder: tu-lcnet_050, members: [unet, linknet]}")
    assert measure_step(plan).seconds > 0


def test_before_memory_is_measured_the_workers_of_the_run_before_are_let_go_of(tiny: Path, tmp_path: Path) -> None:
    """What they hold would not be free for this run's, which are counted as if they were the only ones."""
    held = []

    class Watched(Simulation):
        def plan(self, scenario: Scenario) -> Plan:
            held.append(self._grid is not None)
            return super().plan(scenario)

    with Watched(out=tmp_path, engine="local") as hospitals:
        for seed, *more in ((1,), (2,), (3, "resources=auto")):
            hospitals.run(load(tiny, ("federation.rounds=1", f"seed={seed}", *more)))
    assert held == [False, True, False]


def test_a_batch_above_what_hospitals_hold_is_measured_as_what_they_hold(tiny: Path) -> None:
    plan = plan_of(tiny, "training.batch_size=1000000", "training.accumulate=1000")
    found = estimate(plan, 1)  # of a million images a step would take hours
    assert found.step_s < 30 and found.worker_mib < 4000


def test_only_what_is_asked_in_a_round_is_counted(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three hospitals one in a round, or validation once: so much less time."""
    monkeypatch.setattr("fedkvasir.estimate._fastest_step", lambda plan: (1.0, 1))

    def total_s(*overrides: str) -> float:
        return estimate(plan_of(tiny, "federation.rounds=30", *overrides), 1).total_s - START_S

    every = total_s()
    for fewer in ("federation.fraction=0.34", "algorithm=cyclic"):
        assert total_s(fewer) == pytest.approx(every / 3, rel=0.35)
    assert total_s("evaluation.every=30") < every and total_s("evaluation.select=oracle") != every


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_a_class_that_nobody_trains_on_is_measured_as_well(tiny: Path, smoothing: float) -> None:
    """Even the first, under class weights that are counted."""
    loss = f"{{name: cross-entropy, class_weights: balanced, label_smoothing: {smoothing}}}"
    classify = ("task=classification", "data.options.synthetic.task=classification", "model={name: lcnet_050}")
    plan = plan_of(tiny, *classify, f"training.loss={loss}")
    plan = replace(
        plan, classes=("aardvark", *plan.classes), samples=plan.samples.assign(target=plan.samples.target + 1)
    )
    assert plan.class_counts["aardvark"] == 0 and estimate(plan, 1).step_s > 0


def test_memory_limits_how_many_share_it(tiny: Path) -> None:
    plan, free_mib = plan_of(tiny, "resources=auto"), machine.free_memory_bytes() / 2**20
    assert within_limits(plan, Step(1.0, 0.5 * free_mib, 0.0), {}).workers == 1
    with pytest.raises(UserError, match=r"finds no room for one hospital: .* GiB of free memory at"):
        within_limits(plan, Step(1.0, 2 * free_mib, 0.0), {})
