"""``training.batch_size: auto``: the largest batch that fits this machine, found before the run has its name.

A batch size changes results. So the number found takes the place of ``auto`` in the scenario, in the run's hash and in
its ``scenario.yaml``, and the same machine must find the same number again when a stopped run goes on: what counts is
all the memory it has, never what happens to be free.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedkvasir import machine
from fedkvasir.data.loader import Batch
from fedkvasir.errors import UserError, reason_of
from fedkvasir.gpu import CONTEXT_BYTES, is_full
from fedkvasir.models import build_model
from fedkvasir.scenario import Scenario
from fedkvasir.training import make_optimizer, settle_arithmetic, train_epochs

if TYPE_CHECKING:
    from fedkvasir.plan import Plan

SIZES = (64, 32, 16, 8, 4, 2)
JOINED = 1
"""A last batch of one image joins the one before."""
PROCESS_BYTES = 1.5 * 2**30
"""A worker without a network: Python, torch and the pages of the images."""
COPIES = 6
"""Of the parameters: weights, gradients, an optimiser's two moments, what was received and what an algorithm keeps."""
BACKWARD = 1.5
"""What a step holds at most, as a multiple of what its forward pass keeps for the backward pass."""
GPU_SHARE = 0.9
"""Of a worker's part of a GPU: the rest is the algorithm's, and CUDA's own if it is enough for that."""


def fix_batch_size(plan: "Plan") -> "Plan":
    """The plan with a number for ``training.batch_size: auto``: the largest power of two, up to 64 and to the images of
    the smallest training hospital, of which a step fits into a worker's part of the memory.

    On a GPU that is ``gpu_per_center`` of it (half of it for ``auto``), and steps are tried. Elsewhere it is the part
    of the machine's memory that the worker has of its cores, and what a step keeps is counted. Of an ensemble every
    member must fit. Raises UserError where not even two images do.
    """
    training = plan.scenario.training
    if training.batch_size != "auto":
        return plan
    smallest = int(plan.centers.loc[plan.training_centers, "train"].min())
    sizes = [size for size in SIZES if size <= smallest]
    largest = _largest_tried if plan.device == "cuda" else _largest_counted
    found = min(largest(member, sizes) for member in list(plan.members.values()) or [plan])
    if found:
        resolved = training.model_copy(update={"batch_size": found})
        return replace(plan, scenario=plan.scenario.model_copy(update={"training": resolved}))
    raise UserError(
        f"training.batch_size = auto: not even two images of {plan.scenario.data.image_size} pixels fit into a "
        "worker's memory; choose a smaller data.image_size or model, or give a center more of the machine (resources)"
    )


def example_batch(scenario: Scenario, classes: int, size: int, device: str = "cpu") -> Batch:
    """A batch of noise in the shape that the scenario trains on."""
    side = scenario.data.image_size
    images = torch.rand(size, 3, side, side, device=device).to(memory_format=torch.channels_last)
    if scenario.task == "segmentation":
        return Batch(images, (torch.rand(size, classes, side, side, device=device) > 0.5).float())
    return Batch(images, torch.arange(size, device=device) % classes)  # of one class alone, the loss may weigh nothing


def timed_steps(plan: "Plan", size: int, together: int, steps: int) -> tuple[list[float], int]:
    """Train so many steps, each of ``together`` batches of ``size`` images of noise, as a hospital trains: seconds of
    each, and the network's parameters."""
    scenario, device = plan.scenario, torch.device(plan.device)
    settle_arithmetic(scenario.resources.threads_per_center)  # the kernels that a hospital trains with
    network = build_model(scenario.model, scenario.task, len(plan.classes)).to(device)
    batch, optimizer = example_batch(scenario, len(plan.classes), size), make_optimizer(network, scenario.training)
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        train_epochs(
            network, lambda _: iter([batch] * together), plan.loss(), optimizer, {0: 0.0}, device, plan.precision,
            [together],
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
    return seconds, sum(parameter.numel() for parameter in network.parameters())


def step_bytes(plan: "Plan") -> tuple[int, int]:
    """Bytes of the network's parameters, and bytes an image that a forward pass keeps for its backward pass.

    Counted without computing: on torch's meta device, where tensors have shapes and no numbers.
    """
    scenario, classes, size = plan.scenario, len(plan.classes), 2
    network = build_model(scenario.model, scenario.task, classes).to("meta").train()
    batch = example_batch(scenario, classes, size, "meta")
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    for tensor in network.state_dict().values():
        keep(tensor)
    own = set(kept)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        plan.loss()(network(batch.images), batch.targets)
    parameters = sum(parameter.nbytes for parameter in network.parameters())
    return parameters, sum(storage.nbytes() for key, storage in kept.items() if key not in own) // size


def _largest_counted(plan: "Plan", sizes: list[int]) -> int:
    """Of descending sizes the first that fits, or 0."""
    part = min(1.0, plan.scenario.resources.threads_per_center / machine.cores())
    parameters, image = step_bytes(plan)
    room = part * machine.memory_bytes() - PROCESS_BYTES - COPIES * parameters
    return next((size for size in sizes if BACKWARD * (size + JOINED) * image <= room), 0)


def _largest_tried(plan: "Plan", sizes: list[int]) -> int:
    """As :func:`_largest_counted`."""
    asked = plan.scenario.resources.gpu_per_center
    part = 0.5 if asked == "auto" or not asked else asked
    total = torch.cuda.mem_get_info()[1]
    share = min(GPU_SHARE * part, part - CONTEXT_BYTES / total)
    if share <= 0:
        return 0
    _refuse_a_gpu_in_use(share)
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        return next((size for size in sizes if _fits(plan, size, share)), 0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _refuse_a_gpu_in_use(share: float) -> None:
    """Of one in use torch says what it says of a small one."""
    free, total = torch.cuda.mem_get_info()
    if free < share * total:
        raise UserError(
            f"training.batch_size = auto: {(total - free) / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB are in use"
            ", and what fits must not depend on that: wait until they are free, or give a number"
        )


def _fits(plan: "Plan", size: int, share: float) -> bool:
    try:
        timed_steps(plan, size + JOINED, 1, steps=2)  # with the second the optimiser's moments are there
        return True
    except RuntimeError as error:
        if not is_full(reason_of(error)):
            raise
    finally:
        torch.cuda.empty_cache()
    _refuse_a_gpu_in_use(share)  # others may have taken it meanwhile
    return False
