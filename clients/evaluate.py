"""The evaluation pass: one row an image, counts at native size or class probabilities."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedkvasir.data.loader import Batch, Samples, eval_batches
from fedkvasir.metrics.boundary import distances
from fedkvasir.metrics.classification import PREFIX
from fedkvasir.metrics.segmentation import count
from fedkvasir.prediction import native_mask
from fedkvasir.scenario import Scenario


def evaluate(
    network: nn.Module,
    samples: Samples,
    scenario: Scenario,
    classes: tuple[str, ...],
    device: torch.device,
    precision: str,
) -> pd.DataFrame:
    """Per-image records in the order of ``samples``.

    Segmentation: one row an image and class; logits go back to the native size bilinearly, then the threshold; columns
    class, scoring, threshold, height, width, tp, fp, fn, tn (pixels), hd, hd95, assd, nsd, tolerance_px.
    Classification: label and one probability column a class.
    """
    table = samples.table
    rows = table[["sample", "group"]].reset_index(drop=True)
    if scenario.task == "classification":
        found = [logits.softmax(dim=1) for _, logits in _logits(network, samples, scenario, device, precision)]
        probabilities = torch.cat(found).double().numpy()
        rows["label"] = table["label"].to_numpy()
        return rows.join(pd.DataFrame(probabilities, columns=[PREFIX + name for name in classes]))
    scores, scoring = [], scenario.evaluation
    for positions, logits in _logits(network, samples, scenario, device, precision):
        for index, position in enumerate(positions):
            truth = samples.store.native_mask(int(table["row"].iloc[position]))
            prediction = native_mask(logits[index], truth.shape, scoring.threshold)
            for number in range(1, len(classes) + 1):
                found, there = prediction == number, truth == number
                scores.append(count(found, there) | distances(found, there, scoring.tolerance_px))
    rows = rows.loc[rows.index.repeat(len(classes))].reset_index(drop=True)
    rows["class"] = [*classes] * len(table)
    rows["scoring"], rows["threshold"] = "default", scoring.threshold
    rows[["height", "width"]] = table[["height", "width"]].to_numpy().repeat(len(classes), axis=0)
    return rows.join(pd.DataFrame(scores)).assign(tolerance_px=scoring.tolerance_px)


@torch.inference_mode()
def _logits(
    network: nn.Module, samples: Samples, scenario: Scenario, device: torch.device, precision: str
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(positions, logits on the host) batch by batch, padding removed."""
    network.eval()
    for positions, batch in eval_batches(samples, scenario.training.batch_size):
        yield positions, predict(network, batch, device, precision)[: len(positions)]


def predict(network: nn.Module, batch: Batch, device: torch.device, precision: str) -> Tensor:
    """Logits of one batch, float32 on the host."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return network(batch.images.to(device)).float().cpu()
