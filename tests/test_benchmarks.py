"""The benchmarks' scripts run and say what they promise; what they measure is not tested here."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.conftest import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
SMALL = ("data.image_size=32", "training.batch_size=4", "training.epochs=1", "federation.rounds=2")


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True, timeout=280
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run benchmarks/gpu_check.py itself")
def test_gpu_check_says_loudly_that_there_is_no_gpu() -> None:
    done = _run("gpu_check.py")
    assert done.returncode == 0, done.stderr
    assert "NO GPU HERE: NOTHING WAS CHECKED" in done.stdout


def test_a_fault_of_one_gpu_check_does_not_hide_the_others(tmp_path: Path) -> None:
    bench = runpy.run_path(str(BENCHMARKS / "gpu_check.py"))["Bench"]("cpu", (), tmp_path, tmp_path)

    def broken() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    bench.attempt(broken)
    bench.attempt(lambda: bench.expect(True, "another: fine"))
    lines = pd.read_csv(tmp_path / "gpu_check-cpu-checks.csv")
    assert list(lines["said"]) == ["FAIL", "PASS"] and bench.expect.failed == 1
    assert lines["text"][0] == "broken: OutOfMemoryError: CUDA out of memory"


@pytest.mark.slow
def test_gpu_check_compares_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything but CUDA, on the CPU: there, both engines must end in the same weights."""
    check = runpy.run_path(str(BENCHMARKS / "gpu_check.py"))["check"]
    synthetic = "data.options.synthetic={patients_per_center: 10, image_scale: 0.2}"
    assert check("cpu", tmp_path, only=["rays"]) == 2 and "--only rays: there is local ray " in capsys.readouterr().out
    code = check("cpu", tmp_path, (*SMALL, synthetic, "model.encoder=tu-lcnet_050"))
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "FAIL" not in printed
    assert "ray and local: the same weights" in printed
    assert list(pd.read_csv(tmp_path / "gpu_check-cpu.csv")["variant"]) == ["local", "ray", "auto", "float32"]
    assert "DONE" in set(pd.read_csv(tmp_path / "gpu_check-cpu-checks.csv")["said"])


@pytest.mark.slow
def test_overhead_ends_with_the_ratio(tiny: Path, tmp_path: Path) -> None:
    table = tmp_path / "overhead.csv"
    arguments = ["--scenario", str(tiny), "--rounds", "2", "--repeats", "1", "--results", str(table)]
    for _ in range(2):  # the second run's row takes the place of the first's
        done = _run("overhead.py", *arguments)
        assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"ratio \d+\.\d\d x", done.stdout.splitlines()[-1])
    assert list(pd.read_csv(table)["data"]) == ["rendered"]


@pytest.mark.slow
def test_metrics_speed_prints_seconds_and_keeps_them(tmp_path: Path) -> None:
    table = tmp_path / "metrics_speed.csv"
    for _ in range(2):  # the second run's rows take the place of the first's
        done = _run("metrics_speed.py", "--masks", "4", "--results", str(table))
        assert "for 4 masks of 1280 x 1024" in done.stdout, done.stderr
    rows = pd.read_csv(table)
    assert list(rows["what"]) == ["counts", "distances", "official"] and (rows["seconds"] > 0).all()
