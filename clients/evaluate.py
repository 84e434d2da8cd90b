"""The evaluation pass: one row an image, counts at native size or class probabilities."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from fedkvasir.data.loader import Batch, Samples, eval_batches
from fedkvasir.metrics.classification import PREFIX
from fedkvasir.metrics.segmentation import count
from fedkvasir.models.network import Network
from fedkvasir.scenario import Scenario


def evaluate(
    network: Network,
    samples: Samples,
    scenario: Scenario,
    classes: tuple[str, ...],
    device: torch.device,
    precision: str,
) -> pd.DataFrame:
    """Per-image records in the order of ``samples``.

    Segmentation: logits go back to the native size bilinearly, then the threshold; columns class, scoring, threshold,
    height, width, tp, fp, fn, tn. Classification: label and one probability column a class.
    """
    table = samples.table
    rows = table[["sample", "group"]].reset_index(drop=True)
    if scenario.task == "classification":
        found = [logits.softmax(dim=1) for _, logits in _logits(network, samples, scenario, device, precision)]
        probabilities = torch.cat(found).double().numpy()
        rows["label"] = table["label"].to_numpy()
        return rows.join(pd.DataFrame(probabilities, columns=[PREFIX + name for name in classes]))
    counts = [
        count(native_mask(logits[index], samples, int(position), scenario.evaluation.threshold), truth)
        for positions, logits in _logits(network, samples, scenario, device, precision)
        for index, position in enumerate(positions)
        for truth in [samples.store.native_mask(int(table["row"].iloc[position]))]
    ]
    rows["class"], rows["scoring"], rows["threshold"] = "polyp", "default", scenario.evaluation.threshold
    rows[["height", "width"]] = table[["height", "width"]].to_numpy()
    return rows.join(pd.DataFrame(counts))


def native_mask(logits: Tensor, samples: Samples, position: int, threshold: float) -> np.ndarray:
    """(1, S, S) logits of one sample -> (H, W) bool at its native size."""
    row = samples.table.iloc[position]
    return resize_logits(logits, int(row["height"]), int(row["width"])) > logit(threshold)


def resize_logits(logits: Tensor, height: int, width: int) -> np.ndarray:
    """(1, S, S) logits -> (height, width) float32, bilinear."""
    return F.interpolate(logits[None].float(), (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


@torch.inference_mode()
def _logits(
    network: Network, samples: Samples, scenario: Scenario, device: torch.device, precision: str
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(positions, logits on the host) batch by batch, padding removed."""
    network.eval()
    for positions, batch in eval_batches(samples, scenario.training.batch_size):
        yield positions, predict(network, batch, device, precision)[: len(positions)]


def predict(network: Network, batch: Batch, device: torch.device, precision: str) -> Tensor:
    """Logits of one batch, float32 on the host."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return network(batch.images.to(device)).float().cpu()
