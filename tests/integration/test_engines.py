"""The same scenario and seed end in the same weights: in this process, on one worker, on two; and under Flower."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

from fedkvasir.runs import Run
from fedkvasir.simulation import run_scenario

REPOSITORY = Path(__file__).resolve().parents[2]


def run_cli(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    command = [str(Path(sys.executable).with_name("fedkvasir")), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, env=os.environ | environment)


@pytest.fixture(scope="module")
def decoys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose own clients.py and server.py must never be taken for ours."""
    folder = tmp_path_factory.mktemp("decoys")
    for name in ("clients.py", "server.py"):
        (folder / name).write_text("raise SystemExit('the decoy was imported')\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_local_one_worker_and_two_workers_agree_bit_by_bit(
    tiny: Path, tmp_path: Path, decoys: Path, algorithm: str
) -> None:
    results = {}
    engines = {
        "local": ("--engine", "local"),
        "ray1": ("--engine", "ray", "--workers", "1"),
        "ray2": ("--engine", "ray", "--workers", "2"),
    }
    for name, options in engines.items():
        done = run_cli("run", tiny, f"algorithm={algorithm}", "--out", tmp_path / name, *options, cwd=decoys)
        assert done.returncode == 0, done.stderr
        run = Run(next((tmp_path / name).iterdir()))
        assert run.result["weights_sha256"] in done.stdout
        samples = run.samples.sort_values(["checkpoint", "center", "split", "sample"])
        results[name] = (run.folder.name, run.result["weights_sha256"], samples.to_csv(index=False))
    assert all(result == results["local"] for result in results.values())


@pytest.fixture(scope="module")
def finished(scenario: Path, out: Path) -> Run:
    return run_scenario(scenario, out=out, engine="local")


def test_records_are_complete_and_never_doubled(finished: Run) -> None:
    rounds, samples = finished.rounds, finished.samples
    key = ["round", "phase", "center", "metric"]
    assert not rounds.duplicated(key).any()
    assert not samples.duplicated(["checkpoint", "center", "split", "sample"]).any()
    assert set(rounds[rounds["phase"] == "train"]["round"]) == {1, 2, 3}
    counts = finished.plan.centers
    for checkpoint in ("best", "last"):
        chosen = samples[samples["checkpoint"] == checkpoint]
        pd.testing.assert_series_equal(
            chosen.groupby("center").size(), counts["test"][counts["test"] > 0], check_names=False
        )
    assert set(samples[samples["role"] == "holdout"]["split"]) == {"test"}
    for number in ("1", "2", "3"):
        chosen = samples[samples["checkpoint"] == number]
        assert set(chosen["split"]) == {"val"} and set(chosen["role"]) == {"train"}
    assert (rounds[rounds["phase"] == "train"][["bytes_down", "bytes_up", "steps", "seconds"]] > 0).all().all()


def test_a_finished_run_is_opened_not_run_again_and_fresh_begins_anew(finished: Run, scenario: Path, out: Path) -> None:
    result, sha256 = finished.folder / "result.json", finished.result["weights_sha256"]
    stamp = result.stat().st_mtime_ns
    run_scenario(scenario, out=out, engine="local")
    assert result.stat().st_mtime_ns == stamp
    again = run_scenario(scenario, out=out, engine="local", fresh=True)
    assert result.stat().st_mtime_ns > stamp and again.result["weights_sha256"] == sha256


def test_another_seed_keeps_the_splits_and_changes_the_weights(tiny: Path, tmp_path: Path) -> None:
    zero, one = (
        run_scenario(tiny, (f"seed={seed}", "federation.rounds=1"), out=tmp_path, engine="local") for seed in (0, 1)
    )
    columns = ["sample", "center", "split"]
    pd.testing.assert_frame_equal(zero.plan.samples[columns], one.plan.samples[columns])
    assert zero.result["weights_sha256"] != one.result["weights_sha256"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm=fedprox",),
        ("algorithm=fedbn",),
        ("algorithm={name: fedadam, eta: 0.01}",),
        ("federation.buffers=local",),
        ("training.optimizer=adam", "training.optimizer_state=keep"),
        ("federation.fraction=0.6",),
        ("evaluation.select=oracle",),
        ("evaluation.every=2", "training.schedule={name: cosine, factor: 0.1}"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_algorithm_and_policy_runs_to_a_table(tiny: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """In two rounds: the second begins with what the first has left."""
    run = run_scenario(tiny, ("federation.rounds=2", *overrides), out=tmp_path, engine="local")
    table = run.table()
    assert list(table["role"]) == ["train"] * 3 + ["holdout"]
    assert table["dice"].notna().all()


def test_the_model_of_a_run_is_a_torch_module_with_the_recorded_weights(finished: Run) -> None:
    import torch

    from fedkvasir.exchange import read, sha256

    model = finished.model("last")
    assert sha256(read(model, model.state_dict())) == finished.result["weights_sha256"]
    assert model(torch.rand(1, 3, 50, 70)).shape == (1, 1, 50, 70)


@pytest.mark.slow
def test_stock_flwr_run_ends_in_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    """The same ServerApp and ClientApp under Flower's own simulation."""
    ours = run_scenario(tiny, ("federation.rounds=1",), out=tmp_path / "ours", engine="local")
    tiny.write_text(tiny.read_text().replace("rounds: 3", "rounds: 1"))
    home, flwr = tmp_path / "home", str(Path(sys.executable).with_name("flwr"))
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39191",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    config = f'scenario="{tiny}" out="{tmp_path / "flwr"}"'
    nodes = "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2"
    command = [flwr, "run", str(REPOSITORY), "local", "-c", config, "--federation-config", nodes, "--format", "json"]
    try:
        started = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert started.returncode == 0, started.stdout + started.stderr
        end, finished = time.monotonic() + 240, tmp_path / "flwr" / ours.folder.name / "result.json"
        while not finished.is_file() and time.monotonic() < end:
            time.sleep(1)
        log = next(home.rglob("superlink.log"), None)
        assert finished.is_file(), log.read_text()[-3000:] if log else "no log"
        assert json.loads(finished.read_text())["weights_sha256"] == ours.result["weights_sha256"]
    finally:
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # gone meanwhile, or somebody else's
                if process.environ().get("FLWR_HOME") == str(home):
                    process.kill()


def test_a_best_round_long_ago_still_finds_the_layers_its_hospitals_kept_then(tiny: Path, tmp_path: Path) -> None:
    """One hospital a round and a rate that spoils the model: the best round is early, and many states came after it."""
    overrides = ("algorithm=fedbn", "federation.fraction=0.34", "federation.rounds=9", "training.lr=3")
    run = run_scenario(tiny, overrides, out=tmp_path, engine="local")
    best, last = run.checkpoint("best"), run.checkpoint("last")
    assert best.round <= 6 and best.kept != last.kept
    assert set(run.samples["checkpoint"]) >= {"best", "last"}
