"""A study carries out every run of a protocol, goes on where it was stopped, and says at any moment what is done."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedkvasir.errors import UserError
from fedkvasir.methods import methods_of, of_study
from fedkvasir.report.study import study_tables
from fedkvasir.runs import Run
from fedkvasir.scenario import Scenario, load
from fedkvasir.simulation import Simulation, run_scenario
from fedkvasir.study import Study, one_by_one, validation_score
from tests.conftest import Command

SHORT = ("federation.rounds=1", "data.options.synthetic.patients_per_center=6")
BROKEN = "{name: fedprox, mu: 1.0e+38}"
"""The penalty is infinite after one step."""


def asked(scenario: Path, protocol: str, *overrides: str) -> Scenario:
    return load(scenario, (*SHORT, *overrides, f"protocol={protocol}"))


@pytest.fixture(scope="module")
def study(scenario: Path, out: Path) -> Study:
    protocol = "{kind: holdout, seeds: [0, 1], baselines: [local], tune: {training.lr: [0.0001, 0.05]}}"
    with Simulation(out=out, engine="local") as simulation:
        return simulation.study(asked(scenario, protocol))


def test_every_run_is_in_the_index_with_what_came_of_it(study: Study) -> None:
    index = study.index
    assert len(index) == 4 * 2 + 4 and set(index["state"]) == {"finished"}
    assert {"training.lr", "federation.train"} < set(index.columns)  # the keys that differ
    assert index.loc[index["hospital"] == "alta", "federation.train"].unique().tolist() == ["alta"]
    for row in index.itertuples():
        run = study.run(row.run)
        assert run.plan.hash == row.hash and run.plan.scenario.seed == row.seed
        assert run.plan.scenario.protocol is None and f"training.lr={run.plan.scenario.training.lr}" == row.setting
        table = run.table()
        seen = table.loc[table["role"] == "train", "dice"].mean()
        np.testing.assert_allclose(row.seen, seen)
        np.testing.assert_allclose(row.validation, validation_score(run))


def test_settings_that_nothing_can_judge_are_refused_before_anything_is_run(scenario: Path, tmp_path: Path) -> None:
    tuned = "{kind: holdout, seeds: [0], baselines: [local], tune: {training.lr: [0.0001, 0.05]}}"
    refused = pytest.raises(UserError, match="local at alta: validation images decide between its 2 settings")
    with Simulation(out=tmp_path, engine="local") as simulation, refused:
        simulation.study(asked(scenario, tuned, "data.centers.alta.val=0"))
    assert not list(tmp_path.glob("*/plan.json"))


@pytest.mark.slow
def test_a_hospital_that_is_a_part_of_a_center_is_compared_on_the_tests_they_share(
    scenario: Path, tmp_path: Path
) -> None:
    cut = ("data.centers.alta.partition={kind: iid, parts: 2}", "data.options.synthetic.patients_per_center=12")
    with Simulation(out=tmp_path, engine="local") as simulation:
        study = simulation.study(asked(scenario, "{kind: within, seeds: [0], baselines: [local]}", *cut))
    (row,) = study_tables(study)["alone"].rows
    alone = {own.hospital: study.run(own.run).table().set_index("center")["dice"] for own in study.index.itertuples()}
    homes = {"alta-1": "alta", "alta-2": "alta", "bergen": "bergen", "cadiz": "cadiz"}
    worse = [name for name, home in homes.items() if not alone[""][home] > alone[name][home]]
    assert row.cells[:2] == (4, 4 - len(worse)) and row.cells[3] == ", ".join(worse)


def test_a_setting_is_chosen_by_validation_and_every_seed_runs_with_it(study: Study) -> None:
    for _, cell in study.index.groupby(["method", "hospital"]):
        first = cell[cell["seed"] == 0]
        assert len(first) == 2 and first["chosen"].sum() == 1
        chosen = first[first["chosen"]].iloc[0]
        assert chosen["validation"] == first["validation"].max()
        (second,) = cell[cell["seed"] == 1].itertuples()
        assert second.chosen and second.setting == chosen["setting"]


def test_a_finished_run_is_not_run_again_whoever_asked_for_it(study: Study, scenario: Path, out: Path) -> None:
    row = study.index[study.index["method"] == "fedavg"].iloc[0]
    by_hand = run_scenario(scenario, (*SHORT, row["setting"]), out=out, engine="local")
    assert by_hand.folder == study.run(row["run"]).folder
    files = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*")}
    before = study.index
    with Simulation(out=out, engine="local") as simulation:
        again = simulation.study(study.scenario)
    assert again.folder == study.folder
    pd.testing.assert_frame_equal(again.index, before)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*")} == files


def test_a_run_that_fails_is_listed_and_the_others_are_run(scenario: Path, tmp_path: Path, command: Command) -> None:
    protocol = f"{{kind: holdout, seeds: [0], algorithms: [{BROKEN}, fedavg]}}"
    words = ("run", scenario, *SHORT, f"protocol={protocol}", "--engine", "local", "--out", tmp_path)
    said = command(*words)
    assert said.returncode == 1 and "1 of 2 runs failed" in said.stderr and "Traceback" not in said.stderr
    (folder,) = tmp_path.glob("tiny-study-*")
    failed, fine = Study(folder).index.itertuples()
    assert failed.state == "failed" and "training diverged" in failed.reason and not failed.chosen
    assert fine.state == "finished" and fine.chosen
    assert failed.reason.split("(")[0].strip() in said.stdout
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert command(*words).returncode == 1  # it is tried again, and alone
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")} == kept


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs in which each center in turn is held out; the second test that asks for them finds them finished."""
    return tmp_path_factory.mktemp("in-turn")


def test_stopped_at_any_moment_the_index_is_right_and_the_same_call_goes_on(scenario: Path, in_turn: Path) -> None:
    own = asked(scenario, "{kind: leave-one-center-out, seeds: [0]}")
    study, done = Study.of(own, in_turn), list[str]()
    with Simulation(out=in_turn, engine="local") as simulation:

        def execute(point: Scenario) -> Run:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(study.index.loc[study.index["state"] == "running", "holdout"].item())
            return simulation.run(point, brief=True)

        with pytest.raises(KeyboardInterrupt):
            study.carry_out(own, one_by_one(execute))
        assert done == ["alta", "bergen"]
        assert study.index["state"].tolist() == ["finished", "finished", "waiting", "waiting"]
        with pytest.raises(UserError, match="no method has finished a seed yet"):
            of_study(study)
        whole = simulation.study(own)
    assert whole.index["state"].tolist() == ["finished"] * 4


def test_the_methods_of_a_study_have_a_table_a_seed(study: Study) -> None:
    fedavg, local = methods_of([str(study.folder)])
    assert (fedavg.name, local.name) == ("fedavg", "local") and fedavg.seeds == local.seeds == (0, 1)
    assert fedavg.scopes == local.scopes == {"alta": "seen", "bergen": "seen", "cadiz": "seen", "edinburgh": "unseen"}
    chosen = study.index[study.index["chosen"] & (study.index["seed"] == 0)].set_index("hospital")
    for hospital in ("alta", "bergen", "cadiz"):  # at home every hospital's own model counts, and only that
        own, expected = local.samples[0], study.run(chosen.loc[hospital, "run"]).samples
        expected = expected[(expected["checkpoint"] == "best") & (expected["split"] == "test")]
        expected = expected[expected["center"] == hospital].reset_index(drop=True)
        own = own[own["center"] == hospital].reset_index(drop=True)
        assert set(own.pop("run")) == {study.run(chosen.loc[hospital, "run"]).plan.hash}
        pd.testing.assert_frame_equal(own, expected)
    away = local.samples[0][local.samples[0]["role"] == "holdout"]
    assert set(away["center"]) == {"edinburgh"} and (away.groupby("sample").size() == 3).all()


def test_a_center_held_out_in_one_run_and_training_in_others_is_told_apart(scenario: Path, in_turn: Path) -> None:
    with Simulation(out=in_turn, engine="local") as simulation:
        own = simulation.study(asked(scenario, "{kind: leave-one-center-out, seeds: [0]}"))
    (method,) = of_study(own)
    centers = ("alta", "bergen", "cadiz", "edinburgh")
    assert method.scopes == {c: "unseen" for c in centers} | {f"{c} (seen)": "seen" for c in centers}
    for row in own.index.itertuples():
        records, table = method.samples[0], own.run(row.run).table().set_index("center")
        left_out = records[records["center"] == row.holdout]
        assert (left_out["role"] == "holdout").all() and left_out["sample"].nunique() == table.loc[
            row.holdout, "images"
        ]


@pytest.mark.slow
def test_workers_that_stay_between_runs_leave_the_same_weights(study: Study, scenario: Path, tmp_path: Path) -> None:
    protocol = "{kind: holdout, seeds: [0, 1], baselines: [local]}"
    with Simulation(out=tmp_path, engine="ray", workers=2) as simulation:
        parallel = simulation.study(asked(scenario, protocol, "training.lr=0.05"))
    ours = parallel.index.set_index("hash")["run"]
    theirs = study.index[study.index["setting"] == "training.lr=0.05"].set_index("hash")["run"]
    both = ours.index.intersection(theirs.index)
    assert len(both) >= 4
    for hash_ in both:
        assert parallel.run(ours[hash_]).result["weights_sha256"] == study.run(theirs[hash_]).result["weights_sha256"]
