"""What a plan will cost on this machine, from one measured step."""

import os
import resource
import time
from dataclasses import dataclass

import torch

from fedkvasir.batch_size import example_batch
from fedkvasir.models import build_model
from fedkvasir.plan import Plan
from fedkvasir.training import NoHooks, make_optimizer, train_epochs

START_S = 15.0
"""Ray and the workers' imports."""


@dataclass(frozen=True)
class Estimate:
    """Seconds and MiB; rough: one step was measured on this machine as it is now."""

    workers: int
    step_s: float
    total_s: float
    worker_mib: float
    parameters: int


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def choose_workers(plan: Plan, asked: int | None) -> int:
    """As asked, else as many as the machine serves at once, and no more than there are centers to train."""
    scenario = plan.scenario
    share = scenario.resources.gpu_per_center
    if asked:
        return asked
    limit = max(1, cores() // scenario.resources.threads_per_center)
    if plan.device == "cuda":
        gpus = torch.cuda.device_count()
        limit = min(limit, gpus * 2 if share == "auto" or not share else max(1, int(gpus / share)))
    return max(1, min(limit, len(plan.training_centers)))


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
    scenario, device = plan.scenario, torch.device(plan.device)
    training = scenario.training
    torch.set_num_threads(scenario.resources.threads_per_center)
    network = build_model(scenario.model, scenario.task, len(plan.classes)).to(device)
    batch = example_batch(scenario, len(plan.classes), training.batch_size)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        train_epochs(
            network, lambda _: iter([batch] * training.accumulate), plan.loss(), make_optimizer(network, training),
            {0: 0.0}, NoHooks(), device, plan.precision, training.accumulate,
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
    step_s = min(seconds)
    counts, rounds = plan.centers, scenario.federation.rounds
    image_s = step_s / (training.batch_size * training.accumulate) / 3  # a forward pass is about a third of a step
    steps = [plan.steps_per_round(center) for center in plan.training_centers]
    round_s = max(max(steps), sum(steps) / workers) * step_s + counts["val"].sum() * image_s / workers
    test_s = 2 * counts["test"].sum() * image_s / workers
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Estimate(workers, step_s, START_S + rounds * round_s + test_s, peak_mib, parameters)
