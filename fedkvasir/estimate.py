"""What a plan will cost on this machine, from one measured step."""

import math
import resource
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from fedkvasir import machine
from fedkvasir.batch_size import timed_steps
from fedkvasir.errors import UserError
from fedkvasir.evaluation.selection import is_due, looked_at
from fedkvasir.gpu import CONTEXT_BYTES, share_of_one, workers_on_one
from fedkvasir.plan import Plan
from fedkvasir.points import goes_round

START_S = 15.0
"""Ray and the workers' imports."""
USED = 0.8
"""Of the memory that is free: a hospital's own images and state come on top of a step, and others want some, too."""


@dataclass(frozen=True)
class Estimate:
    """Seconds and MiB; rough: one step was measured on this machine as it is now."""

    workers: int
    step_s: float
    total_s: float
    worker_mib: float
    parameters: int


@dataclass(frozen=True)
class Choice:
    """How many workers, and why so many."""

    workers: int
    because: str = ""


@dataclass(frozen=True)
class Step:
    """What one training step of one hospital takes, in a process of its own."""

    seconds: float
    host_mib: float
    """Of memory that no other worker shares."""
    gpu_mib: float


def choose_workers(plan: Plan, asked: int | None) -> Choice:
    """As asked (--workers, else resources.workers); else as many as the machine serves at once, and no more than there
    are centers to train. Under ``resources: auto`` a step is measured, and memory limits them as well.

    Raises UserError where the machine has not what is asked for.
    """
    scenario, gpus = plan.scenario, torch.cuda.device_count() if plan.device == "cuda" else 0
    share, wanted = scenario.resources.gpu_per_center, asked or scenario.resources.workers
    if wanted == "auto":
        hospitals = len(plan.training_centers)
        return within_limits(plan, measure_step(plan), {f"{hospitals} hospitals train": hospitals})
    if isinstance(wanted, int):
        if plan.device == "cuda" and share != "auto" and share and wanted > gpus * workers_on_one(share):
            need = math.ceil(wanted / workers_on_one(share))
            raise UserError(f"{wanted} workers at resources.gpu_per_center={share} need {need} GPUs, here are {gpus}")
        return Choice(wanted, "as asked")
    limit = max(1, machine.cores() // scenario.resources.threads_per_center)
    if gpus:
        limit = min(limit, gpus * workers_on_one(0 if share == "auto" else share))
    return Choice(max(1, min(limit, len(plan.training_centers))))


def gpu_share(plan: Plan, workers: int) -> float:
    """How much of a GPU each worker asks Ray for."""
    if plan.device != "cuda":
        return 0.0
    share = plan.scenario.resources.gpu_per_center
    return share_of_one(workers, torch.cuda.device_count()) if share == "auto" else share


def measure_step(plan: Plan) -> Step:
    """Take three steps of one hospital in a new process, which has what a worker has; it takes some seconds. Raises
    UserError where there is not enough memory for them."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(_steps, plan).result()
    except BrokenProcessPool as error:
        raise UserError(
            "resources: auto finds no room for one hospital: the process that tried a step was killed, perhaps for its "
            "memory; choose a smaller batch_size or model"
        ) from error


def _steps(plan: Plan) -> Step:
    # An ensemble's members are trained one by one, and nothing of what they form, or next to nothing.
    seconds = max(_fastest_step(member)[0] for member in list(plan.members.values()) or [plan])
    gpu_bytes = torch.cuda.max_memory_reserved() + CONTEXT_BYTES if plan.device == "cuda" else 0
    return Step(seconds, machine.peak_bytes() / 2**20, gpu_bytes / 2**20)


def within_limits(plan: Plan, step: Step, others: Mapping[str, int]) -> Choice:
    """The least of what cores, memory, GPUs and others allow.

    others: in words, and how many workers each allows.
    """
    threads, share = plan.scenario.resources.threads_per_center, plan.scenario.resources.gpu_per_center
    free_mib = machine.free_memory_bytes() / 2**20
    allowed = {
        **others,
        f"{machine.cores()} cores at {threads} a hospital": machine.cores() // threads,
        f"{free_mib / 1024:.1f} GiB of free memory at {step.host_mib / 1024:.2f} a worker": int(
            USED * free_mib / step.host_mib
        ),
    }
    if plan.device == "cuda":
        free = [torch.cuda.mem_get_info(index)[0] / 2**20 for index in range(torch.cuda.device_count())]
        said = f"{len(free)} GPU(s) with {min(free) / 1024:.1f} GiB free at {step.gpu_mib / 1024:.2f} a worker"
        allowed[said] = len(free) * int(USED * min(free) / step.gpu_mib)
        if share != "auto" and share:
            allowed[f"{len(free)} GPU(s) at {share} of one a worker"] = len(free) * workers_on_one(share)
    if lacking := next((said for said, count in allowed.items() if "GiB" in said and count < 1), None):
        raise UserError(
            f"resources: auto finds no room for one hospital: {lacking}; choose a smaller batch_size or model"
        )
    workers = max(1, min(allowed.values()))
    reasons = ", ".join(f"{said} allow {count}" for said, count in allowed.items())
    return Choice(workers, f"{reasons}; a step takes {step.seconds:.2f} s")


def estimate(plan: Plan, workers: int) -> Estimate:
    """Measure a training step and an evaluation batch at the plan's size, then count; for an ensemble, its members'.

    Forming the ensemble, a few passes over validation and test images, is not counted; nor what compilation costs and
    gains.
    """
    if plan.members:
        parts = [estimate(member, workers) for member in plan.members.values()]
        return Estimate(
            workers,
            sum(part.step_s for part in parts) / len(parts),
            sum(part.total_s for part in parts) - START_S * (len(parts) - 1),
            max(part.worker_mib for part in parts),
            sum(part.parameters for part in parts),
        )
    scenario = plan.scenario
    step_s, parameters = _fastest_step(plan)
    counts, rounds = plan.centers, scenario.federation.rounds
    size, together = _largest_step(plan)
    image_s = step_s / (size * together) / 3  # a forward pass is about a third of a step
    steps = [plan.steps_per_round(center) for center in plan.training_centers]
    asked = 1 if goes_round(scenario) else scenario.federation.asked(len(steps))
    round_s = max(max(steps) if asked > 1 else 0, sum(steps) / len(steps) * asked / workers) * step_s
    evaluation, (split, role) = scenario.evaluation, looked_at(scenario.evaluation.select)
    scored = sum(is_due(number + 1, evaluation.every, rounds) for number in range(rounds))
    val_s = scored * counts.loc[counts["role"] == role, split].sum() * image_s / workers
    test_s = 2 * counts["test"].sum() * image_s / workers
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if plan.device == "cuda":
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
    return Estimate(workers, step_s, START_S + rounds * round_s + val_s + test_s, peak_mib, parameters)


def _fastest_step(plan: Plan) -> tuple[float, int]:
    """Seconds of the fastest of three steps, and the network's parameters."""
    seconds, parameters = timed_steps(plan, *_largest_step(plan), steps=3)
    return min(seconds), parameters


def _largest_step(plan: Plan) -> tuple[int, int]:
    """Images of a batch, and batches of a step, at the hospital with the most training images."""
    held = plan.centers["train"]
    size = min(plan.scenario.training.batch_size, int(held.max()))
    return size, plan.batches_of_steps(str(held.idxmax()))[0]
