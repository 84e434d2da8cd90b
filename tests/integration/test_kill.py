"""kill -9 of the driver, of a worker or of Ray's node at any moment, then the same command: the same weights, no record
doubled or lost."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from fedkvasir.runs import Run
from fedkvasir.simulation import run_scenario
from tests.integration.background import Background

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "kill_storm.csv"
OVERRIDES = ("training.epochs=6", "federation.rounds=3")


class Driver(Background):
    """`fedkvasir run` in a process of its own, with two Ray workers."""

    def __init__(self, scenario: Path, out: Path, *overrides: str) -> None:
        super().__init__(out, "run", str(scenario), *OVERRIDES, *overrides, "--workers", "2")

    def workers(self) -> list[psutil.Process]:
        return self.children("_Worker")

    def node(self) -> psutil.Process | None:
        """Ray's node of this run, once it is there."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next((child for child in children if child.name() == "raylet"), None)

    def kill(self) -> None:
        """kill -9, and see that its workers do not outlive it (Ray's own agents take a minute longer)."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive

    def finish(self) -> None:
        assert self.process.wait(timeout=200) == 0, self.log.read_text()

    def trained(self, center: str, number: int) -> bool:
        """The hospital has trained this round and kept its state; the server may not have heard of it yet."""
        return any(self.out.glob(f"*/centers/{center}/{number:04d}.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], Run]:
    """The run that nobody kills, once an algorithm."""
    runs: dict[str, Run] = {}

    def run(scenario: Path, algorithm: str) -> Run:
        if algorithm not in runs:
            out = tmp_path_factory.mktemp(algorithm)
            runs[algorithm] = run_scenario(scenario, (*OVERRIDES, f"algorithm={algorithm}"), out=out, engine="local")
        return runs[algorithm]

    return run


def check(out: Path, expected: Run) -> None:
    run = Run(next(path for path in out.iterdir() if path.is_dir()))
    assert run.result["weights_sha256"] == expected.result["weights_sha256"]
    for table, key in (
        ("rounds", ["round", "phase", "center", "metric"]),
        ("samples", ["checkpoint", "center", "split", "sample"]),
    ):
        rows, reference = getattr(run, table), getattr(expected, table)
        assert not rows.duplicated(key).any()
        assert sorted(rows[key].itertuples(index=False, name=None)) == sorted(
            reference[key].itertuples(index=False, name=None)
        )


class Storm:
    """Kills at random moments over runs of eight rounds, one run after another until there were enough of them."""

    # scaffold: hospitals keep a state of their own
    ROUNDS = ("federation.rounds=8", "training.epochs=2", "algorithm=scaffold")
    STARTING, LONGEST_S = 0.25, 4.0
    """A quarter of the kills hits a driver that starts; the others one that has committed a round, at most so many
    seconds later."""

    def __init__(self, scenario: Path, folder: Path, expected: Run, seed: int) -> None:
        self.scenario, self.folder, self.expected = scenario, folder, expected
        self.rng, self.rows = np.random.default_rng(seed), list[dict[str, object]]()

    def rage(self, kinds: list[str]) -> pd.DataFrame:
        """One row a kill: run, kind, round that was committed last, and how the driver ended of it."""
        runs = 0
        while len(self.rows) < len(kinds):
            runs += 1
            out = self.folder / f"{runs}" / "runs"
            out.parent.mkdir()
            while not list(out.glob("*/result.json")):
                driver = Driver(self.scenario, out, *self.ROUNDS)
                while driver.process.poll() is None and len(self.rows) < len(kinds):
                    self._strike(driver, runs, kinds[len(self.rows)])
                if len(self.rows) == len(kinds) and driver.process.poll() is None:
                    driver.finish()
                assert driver.process.returncode in (0, 1, -signal.SIGKILL), driver.log.read_text()
            check(out, self.expected)
        return pd.DataFrame(self.rows)

    def _strike(self, driver: Driver, run: int, kind: str) -> None:
        before, starts = self._committed(driver), self.rng.random() < self.STARTING
        while not starts and driver.process.poll() is None and self._committed(driver) == before:
            time.sleep(0.05)
        wait_s = self.rng.uniform(0, self.LONGEST_S)
        with suppress(subprocess.TimeoutExpired):
            driver.process.wait(wait_s)
        try:
            victims = {"driver": [driver.process], "worker": driver.workers(), "node": [driver.node()]}[kind]
        except psutil.NoSuchProcess:
            return  # it has ended
        if not victims or victims[0] is None:
            return  # not there yet, or gone: another moment
        victim = victims[int(self.rng.integers(len(victims)))]
        committed = self._committed(driver)
        if kind == "worker":  # other work on the machine does not starve it
            assert victim.nice() == psutil.Process().nice()
        if kind == "driver":
            driver.kill()
        else:
            victim.kill()
        if kind == "node":
            driver.process.wait(timeout=180)
        self.rows.append(
            {
                "kill": len(self.rows) + 1,
                "run": run,
                "kind": kind,
                "after_s": round(wait_s, 1),
                "last_committed_round": committed,
            }
        )

    @staticmethod
    def _committed(driver: Driver) -> int:
        return max((int(path.stem) for path in driver.out.glob("*/checkpoints/[0-9]*.safetensors")), default=0)


@pytest.mark.timeout(600)
def test_random_kills_of_driver_worker_and_node(tiny: Path, tmp_path: Path) -> None:
    """Nor does it matter that hospitals are on two Ray workers: undisturbed, they were in one process."""
    expected = run_scenario(tiny, (*OVERRIDES, *Storm.ROUNDS), out=tmp_path / "undisturbed", engine="local")
    kills = Storm(tiny, tmp_path, expected, seed=0).rage(["worker", "driver", "node"])
    assert kills["kind"].tolist() == ["worker", "driver", "node"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thirty_random_kills(tiny: Path, tmp_path: Path) -> None:
    """Its record is benchmarks/results/kill_storm.csv; every run in it ended in the undisturbed run's sha256."""
    expected = run_scenario(tiny, (*OVERRIDES, *Storm.ROUNDS), out=tmp_path / "undisturbed", engine="local")
    kinds = np.random.default_rng(0).choice(["driver", "worker", "node"], size=30).tolist()
    kills = Storm(tiny, tmp_path, expected, seed=1).rage(kinds)
    assert len(kills) == 30
    kills.assign(weights_sha256=expected.result["weights_sha256"][:16]).to_csv(RECORD, index=False)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_the_driver_is_killed_twice(
    tiny: Path, tmp_path: Path, undisturbed: Callable[[Path, str], Run], algorithm: str
) -> None:
    """Once in the middle of round 1, once in the middle of round 3."""
    out = tmp_path / "runs"
    expected = undisturbed(tiny, algorithm)
    first = Driver(tiny, out, f"algorithm={algorithm}")
    first.wait_for(lambda: any(out.glob("*/plan.json")))
    time.sleep(6)
    first.kill()
    second = Driver(tiny, out, f"algorithm={algorithm}")
    second.wait_for(lambda: second.committed(2))
    second.kill()
    assert not list(out.glob("*/result.json"))
    Driver(tiny, out, f"algorithm={algorithm}").finish()
    check(out, expected)


@pytest.mark.slow
def test_the_driver_is_killed_between_a_hospitals_training_and_the_commit(
    tiny: Path, tmp_path: Path, undisturbed: Callable[[Path, str], Run]
) -> None:
    """The hospital has already kept the state of round 2: it must begin round 2 again from the state of round 1."""
    out = tmp_path / "runs"
    driver = Driver(tiny, out, "algorithm=scaffold")
    driver.wait_for(lambda: driver.trained("alta", 2))
    driver.kill()
    assert not driver.committed(2)
    Driver(tiny, out, "algorithm=scaffold").finish()
    check(out, undisturbed(tiny, "scaffold"))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_a_worker_is_killed_and_the_run_goes_on_by_itself(
    tiny: Path, tmp_path: Path, undisturbed: Callable[[Path, str], Run], algorithm: str
) -> None:
    out = tmp_path / "runs"
    driver = Driver(tiny, out, f"algorithm={algorithm}")
    driver.wait_for(lambda: driver.committed(1))
    driver.workers()[0].kill()
    driver.finish()
    check(out, undisturbed(tiny, algorithm))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_run_that_the_same_command_resumes(
    tiny: Path, tmp_path: Path, undisturbed: Callable[[Path, str], Run], number: signal.Signals
) -> None:
    out = tmp_path / "runs"
    driver = Driver(tiny, out, "algorithm=fedavg")
    driver.wait_for(lambda: driver.committed(1))
    os.kill(driver.process.pid, number)
    assert driver.process.wait(timeout=60) == 1
    assert "the same command goes on" in driver.log.read_text() and "Traceback" not in driver.log.read_text()
    Driver(tiny, out, "algorithm=fedavg").finish()
    assert "going on after round" in driver.log.read_text()
    check(out, undisturbed(tiny, "fedavg"))


@pytest.mark.slow
def test_ctrl_c_twice_within_a_second_still_leaves_a_run_that_goes_on(
    tiny: Path, tmp_path: Path, undisturbed: Callable[[Path, str], Run]
) -> None:
    out = tmp_path / "runs"
    driver = Driver(tiny, out, "algorithm=fedavg")
    driver.wait_for(lambda: driver.committed(1))
    for _ in range(2):
        os.kill(driver.process.pid, signal.SIGINT)
        time.sleep(0.4)
    assert driver.process.wait(timeout=60) != 0
    Driver(tiny, out, "algorithm=fedavg").finish()
    assert "going on after round" in driver.log.read_text()
    check(out, undisturbed(tiny, "fedavg"))


@pytest.mark.slow
def test_two_commands_never_write_one_folder(tiny: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "runs", ("run", str(tiny), "federation.rounds=1000", "--engine", "local")
    first = Background(out, *words)
    first.wait_for(lambda: any(out.glob("*/plan.json")))
    try:
        second = Background(out, *words)
        assert second.process.wait(timeout=60) == 2
        assert "is in use by another process" in second.log.read_text()
    finally:
        first.process.kill()
        first.process.wait()
