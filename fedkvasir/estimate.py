"""What a plan will cost on this machine, from one measured step."""

import os
import resource
import time
from dataclasses import dataclass

import torch

from fedkvasir.data.loader import Batch
from fedkvasir.models import build_model
from fedkvasir.plan import Plan
from fedkvasir.training import make_optimizer, train_epochs

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
    """Measure a training step and an evaluation batch at the plan's size, then count."""
    scenario, device = plan.scenario, torch.device(plan.device)
    training, size = scenario.training, scenario.data.image_size
    torch.set_num_threads(scenario.resources.threads_per_center)
    network = build_model(scenario.model, scenario.task, len(plan.classes)).to(device)
    images = torch.rand(training.batch_size, 3, size, size).to(memory_format=torch.channels_last)
    if scenario.task == "segmentation":
        batch = Batch(images, (torch.rand(training.batch_size, len(plan.classes), size, size) > 0.5).float())
    else:
        batch = Batch(images, torch.zeros(training.batch_size, dtype=torch.long))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        train_epochs(
            network, lambda _: iter([batch]), plan.loss(), make_optimizer(network, training),
            {0: 0.0}, _NoHooks(), device, plan.precision,
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
    step_s = min(seconds)
    counts, rounds = plan.centers, scenario.federation.rounds
    image_s = step_s / training.batch_size / 3  # a forward pass is about a third of a step
    steps = [plan.steps_per_round(center) for center in plan.training_centers]
    round_s = max(max(steps), sum(steps) / workers) * step_s + counts["val"].sum() * image_s / workers
    test_s = 2 * counts["test"].sum() * image_s / workers
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Estimate(workers, step_s, START_S + rounds * round_s + test_s, peak_mib, parameters)


class _NoHooks:
    def penalty(self) -> None:
        return None

    def correct(self) -> None:
        return None
