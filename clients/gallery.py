"""A few small pictures of best, median and worst cases and of missed polyps, drawn where the images are."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from clients.evaluate import predict
from fedkvasir.data.loader import Samples, eval_batches
from fedkvasir.files import write_atomic
from fedkvasir.metrics import classification, segmentation
from fedkvasir.models.network import native_mask
from fedkvasir.scenario import Scenario

WIDTH = 240
"""Of one picture, pixels."""
MISSED = 2
"""Missed polyps, the largest, that are shown beside the other cases."""
TRUTH, PREDICTION = (0, 230, 118), (255, 64, 200)
"""Outline colours (RGB)."""


def draw_gallery(
    network: nn.Module,
    samples: Samples,
    rows: pd.DataFrame,
    scenario: Scenario,
    device: torch.device,
    precision: str,
    folder: Path,
) -> None:
    """Write ``<center>-<case>.jpg`` (the image; for segmentation beside it the image with both outlines) and
    ``<center>.json`` (rank, sample, score, truth, prediction, file) into ``folder``.

    Ranks are best, median, worst and, for segmentation, missed: nothing was found of what the image shows. An image
    that is among the first three and was missed is drawn once, as ``worst, missed``.
    """
    scores = case_scores(rows, scenario.task).reset_index(drop=True).dropna().sort_values(kind="stable")
    if scores.empty:
        return
    center, cases = rows["center"].iloc[0], []
    places = {"best": scores.index[-1], "median": scores.index[len(scores) // 2], "worst": scores.index[0]}
    missed = _missed(rows) if scenario.task == "segmentation" else []
    others = [position for position in missed if position not in places.values()][:MISSED]
    places |= {f"missed-{number}": position for number, position in enumerate(others, start=1)}
    for name, position in places.items():
        file = f"{center}-{name}.jpg"
        rank = "missed" if position in others else f"{name}, missed" if position in missed else name
        sample = samples.table["sample"].iloc[position]
        case = {"rank": rank, "sample": sample, "score": float(scores[position]), "file": file}
        alone = Samples(samples.table.iloc[[position]].reset_index(drop=True), samples.task)
        pixels = np.array(alone.images([0])[0])
        if scenario.task == "segmentation":
            _, batch = next(eval_batches(alone, scenario.training.batch_size))
            with torch.inference_mode():
                logits, _ = predict(network.eval(), batch, device, precision)
            truth = alone.native_mask(0)
            prediction = native_mask(logits[0], truth.shape, scenario.evaluation.threshold)
            panels = _panels(pixels, truth, prediction)
        else:
            row = rows.iloc[[position]]
            case |= {"truth": row["label"].iloc[0], "prediction": str(classification.predicted(row)[0])}
            panels = _fit(pixels, alone.table.iloc[0])
        picture = cv2.imencode(".jpg", cv2.cvtColor(panels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
        write_atomic(folder / file, picture.tobytes())
        cases.append(case)
    write_atomic(folder / f"{center}.json", json.dumps(cases, indent=1))


def case_scores(rows: pd.DataFrame, task: str) -> pd.Series:
    """What cases are ranked by, one value an image: Dice, or the probability of the true class."""
    if task == "segmentation":
        return segmentation.by_image(rows, alarms=True)["dice"]
    columns = [classification.PREFIX + label for label in rows["label"]]
    return pd.Series([row[column] for (_, row), column in zip(rows.iterrows(), columns, strict=True)], rows.index)


def _missed(rows: pd.DataFrame) -> list[int]:
    """Positions of images that show something of which nothing was found, the largest first."""
    pixels = segmentation.scored(rows).groupby("sample", sort=False)[["tp", "fn"]].sum().reset_index(drop=True)
    missed = pixels[(pixels["tp"] == 0) & (pixels["fn"] > 0)]
    return list(missed.sort_values("fn", ascending=False, kind="stable").index)


def _fit(pixels: np.ndarray, size: pd.Series) -> np.ndarray:
    height = round(WIDTH * size["height"] / size["width"])
    return cv2.resize(pixels, (WIDTH, height), interpolation=cv2.INTER_CUBIC)


def _panels(pixels: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    height = round(WIDTH * truth.shape[0] / truth.shape[1])
    plain = cv2.resize(pixels, (WIDTH, height), interpolation=cv2.INTER_CUBIC)
    outlined = plain.copy()
    for mask, colour in ((truth, TRUTH), (prediction, PREDICTION)):
        small = cv2.resize((mask > 0).astype(np.uint8), (WIDTH, height), interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outlined, outlines, -1, colour, 2, cv2.LINE_AA)
    return np.concatenate([plain, outlined], axis=1)
