"""The local loop of one hospital in one round: steps, schedule, mixed precision. Plain torch."""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import torch
from torch import Tensor, nn

from fedkvasir.data.loader import Batch
from fedkvasir.errors import UserError
from fedkvasir.scenario import Schedule, Training


class NonFiniteLoss(Exception):
    """The loss, or a weight, became NaN or infinite; the hospital's update must not be used."""


@dataclass(frozen=True)
class Trained:
    """What one round of local training did."""

    loss: float
    """Mean over steps, without the algorithm's penalty."""
    steps: int
    """Of the optimiser; each takes up to ``training.accumulate`` batches."""
    lr_sum: float
    """Learning rate summed over steps (SCAFFOLD divides by it)."""


def settle_arithmetic(threads: int) -> None:
    """How this process computes from now on: equal threads give equal bits, and on a GPU cuDNN must not choose its
    kernels by timing them."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD over all parameters."""
    common: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay}
    if training.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=training.momentum, **common)
    kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), **common)


def learning_rate(training: Training, epoch: int, total_epochs: int) -> float:
    """The rate of a global epoch (0-based): rounds count on, so a schedule spans the whole run."""
    schedule: Schedule | None = training.schedule
    if schedule is None:
        return training.lr
    if schedule.name == "step":
        drops = epoch // schedule.every
        return training.lr * schedule.factor ** (drops if schedule.times is None else min(drops, schedule.times))
    last = training.lr * schedule.factor
    return last + (training.lr - last) * (1 + math.cos(math.pi * epoch / max(total_epochs, 1))) / 2


def check_compiler() -> None:
    """Raises UserError where ``training.compile`` would find no C++ compiler."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        raise UserError(
            f"training.compile = true needs a C++ compiler, and {name} is not on this machine; install one, "
            "name yours in CXX, or set training.compile=false"
        )


def train_epochs(
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    rates: dict[int, float],
    device: torch.device,
    precision: str,
    accumulate: Iterable[int] = repeat(1),
    penalty: Callable[[], Tensor | None] = lambda: None,
    correct: Callable[[], object] = lambda: None,
) -> Trained:
    """Train in place over the global epochs in ``rates`` (epoch -> learning rate).

    precision: as :func:`~fedkvasir.gpu.precision_on` says; ``bfloat16`` is autocast, weights stay float32.
    accumulate: how many batches' gradients make each step of an epoch, every batch by its share of the images, so that
    for a loss that is a mean over images the step is that of one large batch; an epoch's last step takes what is left.
    Batch normalisation sees one batch at a time.
    penalty: added to the loss of every step; correct: called once a step, when its gradients are complete and before
    they are used, and may change them.
    Raises NonFiniteLoss with the step where the loss, or in the end a weight, stopped being a number.
    """
    model.train()
    total = torch.zeros((), dtype=torch.float64, device=device)
    steps, lr_sum = 0, 0.0
    for epoch, rate in rates.items():
        for group in optimizer.param_groups:
            group["lr"] = rate
        remaining, sizes = batches(epoch), iter(accumulate)
        while together := list(islice(remaining, next(sizes, None))):
            count = sum(len(batch.images) for batch in together)
            optimizer.zero_grad(set_to_none=True)
            for batch in together:
                images, targets = (
                    batch.images.to(device, non_blocking=True),
                    batch.targets.to(device, non_blocking=True),
                )
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                    logits = model(images)
                loss = loss_function(logits, targets) * (len(images) / count)
                loss.backward()
                total += loss.detach()
            if (extra := penalty()) is not None:
                extra.backward()
            correct()
            optimizer.step()
            steps, lr_sum = steps + 1, lr_sum + rate
        # One look an epoch: reading a value makes a GPU wait.
        if not math.isfinite(float(total)):
            raise NonFiniteLoss(f"the loss is no longer a number after {steps} step(s); try a lower training.lr")
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        # After the last step no loss would show it.
        raise NonFiniteLoss(f"a weight is no longer a number after {steps} step(s); try a lower training.lr")
    return Trained(float(total) / max(steps, 1), steps, lr_sum)
