"""kill -9 of the driver or of a worker at any moment, then the same command: the same weights, no record doubled."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fedkvasir.runs import Run
from fedkvasir.simulation import run_scenario

OVERRIDES = ("training.epochs=6", "federation.rounds=3")


class Driver:
    """`fedkvasir run` in a process of its own, with two Ray workers."""

    def __init__(self, scenario: Path, out: Path, *overrides: str) -> None:
        command = [str(Path(sys.executable).with_name("fedkvasir")), "run", str(scenario), *OVERRIDES, *overrides]
        command += ["--out", str(out), "--workers", "2"]
        self.log = out.parent / "driver.log"
        self.process = subprocess.Popen(command, stdout=self.log.open("a"), stderr=subprocess.STDOUT)
        self.out = out

    def wait_for(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not happened():
            assert self.process.poll() is None, f"ended too early:\n{self.log.read_text()}"
            assert time.monotonic() < end, f"it never happened:\n{self.log.read_text()}"
            time.sleep(0.01)

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "_Worker" in " ".join(child.cmdline())]

    def kill(self) -> None:
        """kill -9, and see that its workers do not outlive it (Ray's own agents take a minute longer)."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive

    def finish(self) -> None:
        assert self.process.wait(timeout=200) == 0, self.log.read_text()

    def committed(self, number: int) -> bool:
        return any(self.out.glob(f"*/checkpoints/{number:04d}.safetensors"))

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


@pytest.mark.parametrize("algorithm", ["fedavg", pytest.param("scaffold", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("algorithm", [pytest.param("fedavg", marks=pytest.mark.slow), "scaffold"])
def test_a_worker_is_killed_and_the_run_goes_on_by_itself(
    tiny: Path, tmp_path: Path, undisturbed: Callable[[Path, str], Run], algorithm: str
) -> None:
    out = tmp_path / "runs"
    driver = Driver(tiny, out, f"algorithm={algorithm}")
    driver.wait_for(lambda: driver.committed(1))
    driver.workers()[0].kill()
    driver.finish()
    check(out, undisturbed(tiny, algorithm))


def test_ctrl_c_leaves_a_run_that_the_same_command_resumes(
    tiny: Path, tmp_path: Path, undisturbed: Callable[[Path, str], Run]
) -> None:
    out = tmp_path / "runs"
    driver = Driver(tiny, out, "algorithm=fedavg")
    driver.wait_for(lambda: driver.committed(1))
    os.kill(driver.process.pid, signal.SIGINT)
    assert driver.process.wait(timeout=60) == 1
    assert "the same command goes on" in driver.log.read_text() and "Traceback" not in driver.log.read_text()
    Driver(tiny, out, "algorithm=fedavg").finish()
    assert "going on after round" in driver.log.read_text()
    check(out, undisturbed(tiny, "fedavg"))


def test_two_commands_never_write_one_folder(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    driver = Driver(tiny, out)
    driver.wait_for(lambda: any(out.glob("*/plan.json")))
    try:
        second = Driver(tiny, out)
        assert second.process.wait(timeout=60) == 2
        assert "is in use by another process" in second.log.read_text()
    finally:
        driver.kill()
