"""Cores and memory within the limits of control groups, as a container sees them."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fedkvasir import machine


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups in the place of the machine's own; this process is in its root."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_groups", lambda: iter([tmp_path]))
    return tmp_path


def test_without_limits_it_is_the_machine(groups: Path) -> None:
    assert machine.cores() == len(os.sched_getaffinity(0))
    assert machine.memory_bytes() == psutil.virtual_memory().total
    (groups / "cpu.max").write_text("max 100000\n")
    (groups / "memory.max").write_text("max\n")
    assert machine.cores() == len(os.sched_getaffinity(0))
    assert machine.memory_bytes() == psutil.virtual_memory().total


def test_a_quota_of_one_and_a_half_cores_is_one(groups: Path) -> None:
    (groups / "cpu.max").write_text("150000 100000\n")
    assert machine.cores() == 1
    (groups / "cpu.max").write_text("50000 100000\n")
    assert machine.cores() == 1  # there is always one


def test_version_one_of_control_groups(groups: Path) -> None:
    (groups / "cpu.cfs_quota_us").write_text("100000\n")
    (groups / "cpu.cfs_period_us").write_text("100000\n")
    (groups / "memory.limit_in_bytes").write_text("1000\n")
    assert machine.cores() == 1 and machine.memory_bytes() == 1000


def test_pages_of_files_count_as_free(groups: Path) -> None:
    for name, text in {
        "memory.max": "1000",
        "memory.current": "900",
        "memory.stat": "anon 1\ninactive_file 300",
    }.items():
        (groups / name).write_text(text)
    assert machine.memory_bytes() == 1000 and machine.free_memory_bytes() == 400


PEAK = """
import numpy, psutil
from fedkvasir import machine
before = machine.peak_bytes()
held = numpy.ones(40_000_000)
del held
print(machine.peak_bytes() - before, machine.peak_bytes() - psutil.Process().memory_full_info().uss)
"""


def test_the_peak_is_what_was_held_not_what_is_left_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    since, above = map(int, done.stdout.split())
    assert 300e6 < since < 350e6 and above > 250e6


def test_this_process_is_in_control_groups_that_can_be_read() -> None:
    assert 1 <= machine.cores() <= len(os.sched_getaffinity(0))
    assert 0 < machine.free_memory_bytes() <= machine.memory_bytes() <= psutil.virtual_memory().total
