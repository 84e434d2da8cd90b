"""Points of a sweep run as trials of Ray Tune: real processes, many at a time, here and on a cluster of two nodes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import yaml

from fedkvasir import simulation
from fedkvasir.console import Screen
from fedkvasir.errors import UserError
from fedkvasir.live import LiveTable
from fedkvasir.models import build_model
from fedkvasir.runs import Run
from fedkvasir.scenario import load
from fedkvasir.simulation import run_scenario, run_sweep
from fedkvasir.study import Line, Study
from fedkvasir.sweep import load_sweep
from tests.conftest import TINY, Command
from tests.data.test_hospitals import pictures
from tests.integration.background import Background, command_of
from tests.integration.crowded_point import crowded_point, seeing_point

SHORT = ("federation.rounds=2", "data.options.synthetic.patients_per_center=6")
RATES = ("training.lr=0.01,0.05",)
WORDS = (*SHORT, "algorithm=fedavg,fedbn", *RATES)
RAY = str(Path(sys.executable).with_name("ray"))


def weights(study: Study) -> dict[tuple[str, str, int], str]:
    """(method, setting, seed) -> sha256 of the run's weights."""
    rows = study.index.itertuples()
    return {(row.method, row.setting, row.seed): study.run(row.run).result["weights_sha256"] for row in rows}


class Sweeping(Background):
    """`fedkvasir sweep` in a process of its own."""

    def __init__(self, scenario: Path, out: Path, *words: str) -> None:
        super().__init__(out, "sweep", str(scenario), *words)

    def trials(self) -> list[psutil.Process]:
        return self.children("ImplicitFunc")


@pytest.fixture(scope="module")
def sweep(scenario: Path, out: Path) -> Study:
    return run_sweep(load_sweep(scenario, WORDS), out=out)


def test_every_point_is_run_and_the_best_setting_of_every_method_counts(sweep: Study) -> None:
    index = sweep.index
    assert index["state"].tolist() == ["finished"] * 4
    for _, own in index.groupby("method"):
        assert own.loc[own["chosen"], "validation"].item() == own["validation"].max()
    page = (sweep.folder / "report.html").read_text()
    assert "The same number of settings, 2, was tried of every method" in page and "What it depends on" in page
    assert not (sweep.folder / "tune").exists()  # Tune's own state is thrown away


def test_the_same_command_has_nothing_left_to_do(
    sweep: Study, scenario: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = sweep.index
    monkeypatch.setattr("ray.init", None)  # it is not even started
    run_sweep(load_sweep(scenario, WORDS), out=out)
    pd.testing.assert_frame_equal(sweep.index, index)


@pytest.mark.slow
def test_the_same_command_runs_only_what_is_not_there(sweep: Study, scenario: Path, out: Path) -> None:
    before = weights(sweep)
    shutil.rmtree(out / sweep.index["run"].iloc[1])
    done = {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")}
    run_sweep(load_sweep(scenario, WORDS), out=out)
    assert weights(sweep) == before and {path: path.stat().st_mtime_ns for path in done} == done


def test_a_point_has_the_same_bits_alone(sweep: Study, scenario: Path, tmp_path: Path) -> None:
    alone = run_scenario(scenario, (*SHORT, "algorithm=fedbn", "training.lr=0.05"), out=tmp_path, engine="local")
    assert weights(sweep)["fedbn", "training.lr=0.05", 0] == alone.result["weights_sha256"]


@pytest.mark.slow
def test_paths_of_a_scenario_are_relative_to_the_working_folder(tmp_path: Path, command: Command) -> None:
    names = [f"{n:02d}" for n in range(24)]
    rows = [f"images/{name}.jpg,masks/{name}.jpg,{'ab'[int(name) % 2]}" for name in names]
    (pictures(tmp_path / "ours", names) / "samples.csv").write_text("\n".join(["image,mask,center", *rows]))
    own = yaml.safe_load(TINY)
    own["data"] = {"image_size": 32, "roots": {"folder": "ours"}, "centers": {}}
    own["data"]["centers"] = {name: {"dataset": "folder", "center": name} for name in "ab"}
    own["data"]["centers"]["a"]["root"] = "ours"
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(own))
    assert command("data", "split", path, "--freeze", "split.csv", cwd=tmp_path).returncode == 0
    torch.save(build_model(load(path).model, "segmentation", 1, 0).body.state_dict(), tmp_path / "start.pth")
    words = ["data.split_file=split.csv", "model.weights=start.pth", "federation.rounds=1", *RATES]
    words += ["evaluation.scoring=[default,endocv2021-official]", "data.audit=warn"]
    done = command("sweep", path, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (study,) = map(Study, (tmp_path / "runs").glob("own-sweep-*"))
    # A worker of `run` is in another folder.
    masks = [study.run(name).plan.samples["mask"] for name in study.index["run"]]
    assert all(Path(mask).is_absolute() for own in masks for mask in own) and len(masks) == 2


@pytest.mark.slow
def test_the_runs_of_a_study_are_those_of_run_many_at_a_time(scenario: Path, tmp_path: Path, command: Command) -> None:
    protocol = "protocol={kind: within, seeds: [0, 1], baselines: [local], tune: {training.lr: [0.01, 0.05]}}"
    done = command("sweep", scenario, *SHORT, protocol, "--concurrent", "2", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (study,) = map(Study, tmp_path.glob("tiny-study-*"))
    index, times = study.index, {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert index["state"].tolist() == ["finished"] * len(index) and len(times) == len(index) > 4
    assert set(index.groupby(["method", "hospital"])["setting"].nunique()) == {2}
    again = command("run", scenario, *SHORT, protocol, "--out", tmp_path)
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(study.index, index)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")} == times
    alone = study.run(index["run"].iloc[-1])
    fresh = run_scenario(alone.folder / "scenario.yaml", out=tmp_path / "alone", engine="local")
    assert fresh.result["weights_sha256"] == alone.result["weights_sha256"]


@pytest.mark.slow
def test_nothing_is_computed_twice_and_a_killed_trial_goes_on(sweep: Study, scenario: Path, out: Path) -> None:
    done = {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")}
    words = (*SHORT, "algorithm=fedavg", *RATES, "seed=0..1")
    running = Sweeping(scenario, out, *words)
    running.wait_for(lambda: len(list(out.glob("tiny-*/plan.json"))) > len(done) and running.trials())
    for trial in running.trials():
        trial.kill()
    assert running.process.wait(timeout=400) == 0, running.log.read_text()
    assert "Traceback" not in running.log.read_text()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(out.glob("*/result.json"))) == len(done) + 2
    study = Study.of(load_sweep(scenario, words), out)
    assert study.index["state"].tolist() == ["finished"] * 4
    assert {key: value for key, value in weights(study).items() if key[2] == 0} == {
        key: value for key, value in weights(sweep).items() if key[0] == "fedavg"
    }


@pytest.mark.slow
def test_two_sweeps_at_once_wait_for_what_they_share(scenario: Path, tmp_path: Path) -> None:
    words = (*SHORT, "training.epochs=4")
    both = [
        Sweeping(scenario, tmp_path / "runs", *words, rates, "--concurrent", "2")
        for rates in ("training.lr=0.05,0.02", "training.lr=0.02,0.05,0.03")
    ]
    for running in both:
        assert running.process.wait(timeout=400) == 0, running.log.read_text()
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_at_once_and_the_same_command_goes_on(
    scenario: Path, tmp_path: Path, number: signal.Signals
) -> None:
    words = (*SHORT, "training.epochs=6", "federation.rounds=3", *RATES)
    running = Sweeping(scenario, tmp_path / "runs", *words)
    running.wait_for(lambda: running.committed(1))
    trials = running.trials()
    running.process.send_signal(number)
    assert running.process.wait(timeout=30) == 1
    said = running.log.read_text()
    assert "the same command goes on" in said and "Traceback" not in said
    _, alive = psutil.wait_procs(trials, timeout=30)
    assert not alive
    study = Study.of(load_sweep(scenario, words), tmp_path / "runs")
    assert set(study.index["state"]) <= {"waiting", "finished"} and (study.index["state"] == "waiting").any()
    again = Sweeping(scenario, tmp_path / "runs", *words)
    assert again.process.wait(timeout=400) == 0, again.log.read_text()
    assert study.index["state"].tolist() == ["finished"] * 2


@pytest.mark.slow
def test_a_point_that_fails_is_listed_and_the_others_are_run(scenario: Path, tmp_path: Path, command: Command) -> None:
    said = command("sweep", scenario, *SHORT, "training.lr=0.05,1e38", "--out", tmp_path, "--workers", 2)
    assert said.returncode == 1 and "1 of 2 runs failed" in said.stderr and "Traceback" not in said.stderr
    (folder,) = tmp_path.glob("tiny-sweep-*")
    fine, failed = Study(folder).index.itertuples()
    assert failed.state == "failed" and "no longer a number" in failed.reason
    assert fine.state == "finished" and Run(tmp_path / fine.run).result["rounds"] == 2


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Ray counts one GPU here, whether there is one or not; what finds it is patched in place of a run."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    return monkeypatch


@pytest.mark.slow
def test_as_many_share_a_gpu_as_fit_and_what_finds_it_full_has_one_of_its_own(
    scenario: Path, tmp_path: Path, one_gpu: pytest.MonkeyPatch
) -> None:
    """Its memory is a stand-in."""
    one_gpu.setattr(simulation, "_run_point", crowded_point)
    seen = set[int]()
    one_gpu.setattr(simulation, "LiveTable", lambda screen: Counting(screen, seen))
    words = (*SHORT, *RATES, "seed=0,1", "resources.gpu_per_center=0.5")
    study = run_sweep(load_sweep(scenario, words), out=tmp_path, concurrent=4)
    assert max(seen) == 2 and study.index["state"].tolist() == ["finished"] * 4
    again = study.index["reason"] == "run again with a GPU of its own: out of GPU memory beside others"
    assert 1 <= again.sum() < 4 and set(study.index.loc[~again, "reason"]) == {""}


@pytest.mark.slow
def test_the_processes_of_a_run_share_a_gpu_and_what_never_fits_is_refused(
    scenario: Path, tmp_path: Path, one_gpu: pytest.MonkeyPatch
) -> None:
    one_gpu.setattr(simulation, "_run_point", seeing_point)
    study = run_sweep(load_sweep(scenario, RATES), out=tmp_path, workers=3)
    assert study.index["reason"].str.startswith("CUDA_VISIBLE_DEVICES").all()  # they were begun
    with pytest.raises(
        UserError, match=r"takes 3 process\(es\) with 1 CPU and 0.5 GPU each, .* room for 2: set a lower"
    ):
        run_sweep(load_sweep(scenario, (*RATES, "resources.gpu_per_center=0.5")), out=tmp_path, workers=3)


class Counting(LiveTable):
    """How many runs were seen running at a time."""

    def __init__(self, screen: Screen, seen: set[int]) -> None:
        super().__init__(screen)
        self.seen = seen

    def __call__(self, line: Line, number: int, of: int) -> None:
        super().__call__(line, number, of)
        self.seen.add(sum(line.state == "running" for line in self.lines.values()))


@pytest.mark.slow
def test_asha_stops_what_is_behind_and_what_goes_on_is_whole(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = "sweep={grid: {training.lr: [0.002, 0.005, 0.2, 0.3, 0.4]}, stop: asha}"
    words = (block, "federation.rounds=4", "data.options.synthetic.patients_per_center=6", "seed=0,1,2")
    study = run_sweep(load_sweep(scenario, words), out=tmp_path, concurrent=1)
    index = study.index
    assert len(index) == 5 + 2 and {"stopped", "finished"} == set(index["state"])
    assert index.loc[index["state"] == "stopped", "reason"].str.contains("behind others of fedavg at round").all()
    for row in index[index["state"] == "finished"].itertuples():
        assert study.run(row.run).result["rounds"] == 4
    of_best = index[index["seed"] > 0]  # every one is run to its end: of seeds none is behind another
    assert (of_best["state"] == "finished").all() and list(of_best["seed"]) == [1, 2]
    assert {*of_best["setting"]} == {index.loc[index["chosen"], "setting"].iloc[0]}
    for name in index.loc[index["state"] == "stopped", "run"]:
        assert len(Run(tmp_path / name).rounds) and not Run(tmp_path / name).finished
    monkeypatch.setattr("ray.init", None)  # what is over is not begun again
    again = run_sweep(load_sweep(scenario, words), out=tmp_path, concurrent=1)
    pd.testing.assert_frame_equal(again.index, index)


@pytest.mark.slow
def test_optuna_spends_the_budget_of_every_method_and_goes_on_from_what_it_knows(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    block = "sweep={ranges: {training.lr: {low: 0.001, high: 0.3, log: true}}, search: optuna, budget: %d}"
    rest = ("algorithm=fedavg,{name: fedprox, mu: [0.1, 1]}", "federation.rounds=1")
    study = run_sweep(load_sweep(scenario, (block % 3, *rest)), out=tmp_path)
    index = study.index
    assert index["state"].tolist() == ["finished"] * 6 and index.groupby("method").size().tolist() == [3, 3]
    with monkeypatch.context() as patch:
        patch.setattr("ray.init", None)  # nothing new is tried
        again = run_sweep(load_sweep(scenario, (block % 3, *rest)), out=tmp_path)
    pd.testing.assert_frame_equal(again.index, index)
    gone = index.groupby("method").tail(1)
    for name in gone["run"]:
        shutil.rmtree(tmp_path / name)
    waiting = index.assign(state=index["state"].mask(index["run"].isin(gone["run"]), "waiting"))
    waiting.to_parquet(study.folder / "runs.parquet", index=False)
    more = run_sweep(load_sweep(scenario, (block % 3, *rest)), out=tmp_path).index
    assert more["setting"].tolist() == index["setting"].tolist()  # nothing else is drawn


# ---- a cluster


@pytest.mark.slow
def test_without_an_address_another_ray_of_the_machine_is_left_alone(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6399")
    words = (*SHORT, "federation.rounds=1")
    study = run_sweep(load_sweep(scenario, (*words, *RATES)), out=tmp_path)
    alone = run_scenario(scenario, (*words, "training.lr=0.05"), out=tmp_path / "alone", workers=1)
    assert weights(study)["fedavg", "training.lr=0.05", 0] == alone.result["weights_sha256"]


def started(*words: str, env: dict[str, str]) -> list[psutil.Process]:
    """Start a node; the processes that are new and Ray's."""
    before = set(psutil.pids())
    subprocess.run([RAY, "start", *words], check=True, capture_output=True, env=env, timeout=120)
    new = [psutil.Process(pid) for pid in psutil.pids() if pid not in before]
    return [process for process in new if "ray" in command_of(process)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Two nodes on loopback, of one processor each, and of a GPU where torch sees none; its address."""
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    common = ["--num-cpus", "1", "--num-gpus", "1", "--node-ip-address", "127.0.0.1", "--disable-usage-stats"]
    head = ["--head", "--port", "6399", "--include-dashboard", "false", "--temp-dir", f"/tmp/ray-{os.getpid()}"]
    mine = started(*common, *head, "--ray-client-server-port", "20399", env=env)
    try:
        mine += started(*common, "--address", "127.0.0.1:6399", env=env)
        yield "127.0.0.1:6399"
    finally:
        for process in mine:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(mine, timeout=20)
        for process in alive:
            process.kill()


@pytest.mark.slow
def test_a_point_has_the_same_bits_among_eight_and_on_a_cluster_of_two_nodes(
    scenario: Path, tmp_path: Path, cluster: str, command: Command
) -> None:
    eight = (*SHORT, "algorithm=fedavg,fedbn", "training.lr=0.01,0.02,0.03,0.05")
    beside = run_sweep(load_sweep(scenario, eight), out=tmp_path / "eight", concurrent=8)
    said = command("sweep", scenario, *WORDS, "--out", tmp_path / "cluster", "--address", cluster)
    assert said.returncode == 0, said.stderr
    there = Study.of(load_sweep(scenario, WORDS), tmp_path / "cluster")
    alone = run_scenario(scenario, (*SHORT, "algorithm=fedbn", "training.lr=0.05"), out=tmp_path / "alone")
    expected = alone.result["weights_sha256"]
    point = ("fedbn", "training.lr=0.05", 0)
    assert weights(beside)[point] == weights(there)[point] == expected
    assert weights(there).items() <= weights(beside).items()


@pytest.mark.slow
def test_a_run_that_a_cluster_has_no_room_for_waits_and_says_so(scenario: Path, tmp_path: Path, cluster: str) -> None:
    """It may be one that grows."""
    running = Sweeping(scenario, tmp_path / "runs", *SHORT, *RATES, "--workers", "3", "--address", cluster)
    running.wait_for(lambda: "there is room for 2" in running.log.read_text())
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(timeout=60) == 1
    said = " ".join(running.log.read_text().split())
    assert "warning a run takes 3 process(es) with 1 CPU and 0.5 GPU each, and there is room for 2: unless" in said


@pytest.mark.slow
def test_on_a_cluster_a_run_sees_the_gpus_of_its_workers(
    scenario: Path, tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It settles what they compute on; it asks for none itself."""
    monkeypatch.setattr(simulation, "_run_point", seeing_point)
    study = run_sweep(load_sweep(scenario, ("training.lr=0.1,0.2",)), out=tmp_path, workers=2, address=cluster)
    assert set(study.index["reason"]) == {"CUDA_VISIBLE_DEVICES: all"}
