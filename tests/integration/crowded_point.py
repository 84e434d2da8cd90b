"""Points of a sweep on GPUs that are not there: real runs on one that is full where two are at work, what they see."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from fedkvasir import simulation
from fedkvasir.errors import RunFailed
from fedkvasir.runs import Run
from fedkvasir.scenario import Scenario

real = simulation._run_point


def crowded_point(
    data: str | None, out: str, workers: int, scenario: Scenario, told: Callable[[Run, int, float], None]
) -> Run:
    with Path(out, "device").open("w") as device:
        try:
            fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailed("round 1: alta: OutOfMemoryError: CUDA out of memory.") from None
        time.sleep(8)
        return real(data, out, workers, scenario, told)


def seeing_point(
    data: str | None, out: str, workers: int, scenario: Scenario, told: Callable[[Run, int, float], None]
) -> Run:
    """Ray hides GPUs by an empty CUDA_VISIBLE_DEVICES."""
    raise RunFailed(f"CUDA_VISIBLE_DEVICES: {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}")
