"""Many hospitals: called and drawn in time, pixels mapped once, and nothing kept of a hospital that has answered."""

import gc
import runpy
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from clients.hospital import Hospital
from fedkvasir.algorithms.base import to_record
from fedkvasir.exchange import State
from fedkvasir.plan import make_plan
from fedkvasir.runs import Run
from fedkvasir.scenario import load
from server.grid import LocalGrid
from server.rounds import RoundLoop, roll_call
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "scale.py"


@pytest.fixture(scope="module")
def scale() -> dict[str, Any]:
    """What the benchmark defines."""
    return runpy.run_path(str(SCRIPT))


def loop_of(scale: dict[str, Any], tiny: Path, folder: Path, hospitals: int) -> RoundLoop:
    plan, run = scale["crowd"](make_plan(load(tiny)), hospitals), Run(folder / "run")
    run.start(plan, "local", 1)
    grid = LocalGrid(scale["nodes_of"](plan, run), "clients.app:app", 1)
    return RoundLoop(grid, roll_call(grid, plan), plan, run, lambda event: None)


def test_ten_thousand_hospitals_are_called_and_drawn_within_a_minute(
    scale: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    began = time.process_time()
    loop = loop_of(scale, tiny, tmp_path, 10_000)
    drawn = [loop._cohort(number) for number in range(1, 21)]
    assert time.process_time() - began < 60
    assert list(loop.nodes) == sorted(loop.plan.centers.index) and len(loop.nodes) == 10_000
    assert {len(set(centers)) for centers in drawn} == {500} and len(set().union(*drawn)) > 5000


def test_hospitals_share_the_pixels_and_nothing_is_kept_of_one_that_has_answered(
    scale: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    loop = loop_of(scale, tiny, tmp_path, 40)
    loop._round(1, loop._resume())
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Hospital)]
    (store,) = loop.plan.samples["store"].unique()
    mapped = [place.path for place in psutil.Process().memory_maps(grouped=False)]
    assert mapped.count(f"{store}/images.npy") == mapped.count(f"{store}/masks.npy") == 1


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_weights_are_let_go_of_with_the_answer(scale: dict[str, Any], tiny: Path, tmp_path: Path, kind: str) -> None:
    """At once: what waits for Python to look for cycles piles up in a worker, message by message."""
    loop = loop_of(scale, tiny, tmp_path, 2)
    begun, (node, _) = loop._resume(), loop.nodes.values()
    facts: dict[str, Any] = {
        "server-round": 1,
        "attempt": 1,
        "keep": 0,
        "member": "",
        "validate": "",
        "split": "val",
        "start-from": 0,
        "gallery": False,
    }
    states: dict[str, State] = {"arrays": begun.shared, "buffers": begun.buffers, "local": {}, "frozen": {}}
    content = RecordDict({name: to_record(state) for name, state in states.items()})
    content["config"] = ConfigRecord(facts)
    kept = weakref.ref(content)
    gc.disable()
    try:
        (reply,) = loop.grid.send_and_receive([Message(content, node, kind)])
        assert not reply.has_error()
        del content
        assert kept() is None
    finally:
        gc.enable()


def test_what_must_hold_is_judged_by_the_figures(scale: dict[str, Any]) -> None:
    def weighed(experiment: str, rounds: int, growth_mib: float, pss_mib: float) -> list[dict[str, Any]]:
        return [
            {
                "experiment": experiment, "round": number, "process": kind, "pss_mib": pss_mib,
                "rss_mib": 1000 + growth_mib * number, "seconds": 1.0,
            }
            for number in range(1, rounds + 1)
            for kind in ("driver", "workers", "ray")
        ]  # fmt: skip

    def holds(growth_mib: float, pss_mib: float) -> list[bool]:
        many, few = weighed("thousand", 20, growth_mib, pss_mib), weighed("four", 50, growth_mib, 500)
        return [held for held, _ in scale["verdicts"](pd.DataFrame(many + few))]

    assert holds(0.5, 600) == [True] * 5
    assert holds(1.5, 600) == [True, False, True, False, True]
    assert holds(3.0, 1100) == [False] * 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_hospitals_train_in_flat_memory(tmp_path: Path) -> None:
    table = tmp_path / "scale.csv"
    done = subprocess.run([sys.executable, str(SCRIPT), "--results", str(table)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds") == 6
    rows = pd.read_csv(table)
    assert rows.groupby("experiment")["round"].max().to_dict() == {"four": 50, "roll-call": 0, "thousand": 20}
