"""The evaluation pass: one row an image, counts at native size or class probabilities."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedkvasir.data.loader import Batch, Samples, ahead, eval_batches
from fedkvasir.metrics import endocv2021
from fedkvasir.metrics.boundary import distances
from fedkvasir.metrics.classification import PREFIX
from fedkvasir.metrics.segmentation import DEFAULT, count
from fedkvasir.models.network import native_mask
from fedkvasir.scenario import Evaluation, Scenario


def evaluate(
    network: nn.Module,
    samples: Samples,
    scenario: Scenario,
    classes: tuple[str, ...],
    device: torch.device,
    precision: str,
    threads: int = 0,
) -> tuple[pd.DataFrame, float]:
    """Per-image records in the order of ``samples``, and the seconds that the network took for them.

    threads: that score the masks of a batch, the same ones, while a GPU computes the next; 0: none.
    Segmentation: one row an image and class; logits go back to the native size bilinearly, then the threshold; columns
    class, scoring, threshold, height, width, tp, fp, fn, tn (pixels), hd, hd95, assd, nsd, tolerance_px. Where the
    scenario asks for it, the same images follow once more under scoring ``endocv2021-official``.
    Classification: label and one probability column a class.
    Raises ValueError, with the center's name, where the network's output is not a number.
    """
    table = samples.table
    rows = table[["sample", "group"]].reset_index(drop=True)
    if scenario.task == "classification":
        _, batches, seconds = zip(*_logits(network, samples, scenario, device, precision), strict=True)
        probabilities = torch.cat([logits.softmax(dim=1) for logits in batches]).double().numpy()
        rows["label"] = table["label"].to_numpy()
        return rows.join(pd.DataFrame(probabilities, columns=[PREFIX + name for name in classes])), sum(seconds)
    settings, network_s = scenario.evaluation, 0.0
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in settings.scoring}
    batches = _logits(network, samples, scenario, device, precision)
    scored = partial(_scored, samples=samples, settings=settings, classes=len(classes))
    for own, seconds in ahead(scored, batches, threads) if threads else map(scored, batches):
        network_s += seconds
        for name, found in own.items():
            scores[name] += found
    rows = rows.loc[rows.index.repeat(len(classes))].reset_index(drop=True)
    rows["class"] = [*classes] * len(table)
    rows["scoring"], rows["threshold"] = "", settings.threshold
    rows[["height", "width"]] = table[["height", "width"]].to_numpy().repeat(len(classes), axis=0)
    parts = [rows.assign(scoring=name).join(pd.DataFrame(own)) for name, own in scores.items()]
    return pd.concat(parts, ignore_index=True).assign(tolerance_px=settings.tolerance_px), network_s


def _scored(
    batch: tuple[np.ndarray, Tensor, float], samples: Samples, settings: Evaluation, classes: int
) -> tuple[dict[str, list[dict[str, float]]], float]:
    """Scoring -> records of a batch, one an image and class, in order; and the seconds that came with it."""
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in settings.scoring}
    positions, logits, seconds = batch
    for index, position in enumerate(positions):
        truth = samples.native_mask(int(position))
        prediction = native_mask(logits[index], truth.shape, settings.threshold)
        for number in range(1, classes + 1):
            found, there = prediction == number, truth == number
            scores[DEFAULT].append(count(found, there) | distances(found, there, settings.tolerance_px))
        if endocv2021.OFFICIAL in scores:
            small = native_mask(logits[index], logits.shape[2:], settings.threshold)
            source = samples.table["mask"].iloc[position]
            truth = endocv2021.read_mask(Path(source)) if source else truth
            for number in range(1, classes + 1):
                scores[endocv2021.OFFICIAL].append(endocv2021.record(small == number, truth == number))
    return scores, seconds


@torch.inference_mode()
def _logits(
    network: nn.Module, samples: Samples, scenario: Scenario, device: torch.device, precision: str
) -> Iterator[tuple[np.ndarray, Tensor, float]]:
    """(positions, logits on the host, seconds of the network) batch by batch, padding removed."""
    network.eval()
    for positions, batch in eval_batches(samples, scenario.training.batch_size):
        padded, seconds = predict(network, batch, device, precision)
        logits = padded[: len(positions)]
        if broken := int((~logits.isfinite().flatten(1).all(dim=1)).sum()):
            # NaN is above no threshold: it would pass for an empty mask.
            raise ValueError(
                f"{samples.table['center'].iloc[0]}: the network's output is not a number on {broken} of "
                f"{len(positions)} images; the training diverged, lower training.lr and run again"
            )
        yield positions, logits, seconds


def predict(network: nn.Module, batch: Batch, device: torch.device, precision: str) -> tuple[Tensor, float]:
    """Logits of one batch, float32 on the host, and the seconds of the network's forward pass alone."""
    images = batch.images.to(device)
    _wait(device)
    began = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = network(images)
    _wait(device)
    seconds = time.perf_counter() - began
    return logits.float().cpu(), seconds


def _wait(device: torch.device) -> None:
    """A GPU works on while Python goes on; the clock must not."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
