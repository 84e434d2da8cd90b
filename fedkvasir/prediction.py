"""Predictions for pictures and videos outside any scenario: masks at native size, or classes."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedkvasir.data.store import square
from fedkvasir.errors import UserError
from fedkvasir.files import refuse_unwritable, unread, write_atomic
from fedkvasir.frames import Frame, decoded, find_sources, left_out, total_of
from fedkvasir.gpu import choose_device, precision_on
from fedkvasir.metrics.classification import PREFIX
from fedkvasir.models.ensemble import OneAtATime
from fedkvasir.models.network import mask_of, native_logits
from fedkvasir.runs import Run

VIEWS: dict[str | None, tuple[tuple[int, ...], ...]] = {None: ((),), "flips": ((), (3,), (2,), (2, 3))}
"""Test-time augmentation: the dimensions of (B, C, H, W) that each view turns around."""
TABLE = "predictions.csv"
"""Written last."""
UNFINISHED = ".predicting.json"
"""What is about to be written, so that a prediction that was stopped may be made anew; goes when the table is there."""
SEGMENTED = ("image", "frame", "class", "mask", "area_px", "area_share", "score")
CLASSIFIED = ("image", "frame", "label")
OUTLINE = (255, 64, 200)
"""Of overlays (RGB): the colour of predictions in reports."""


def fuse(views: Sequence[Tensor], shape: tuple[int, ...], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits (K, S, S) of the same picture by several networks, or of its mirror images turned back; S may differ.

    Returns the mask, as :func:`~fedkvasir.models.network.mask_of`, of the mean of their probabilities, and that mean:
    (K, H, W) float32.
    """
    total: Tensor | int = 0
    for view in views:  # a sum, not a stack: of many networks one map at native size is in memory
        total = total + native_logits(view, shape).sigmoid()
    mean = torch.as_tensor(total) / len(views)
    # Of one view the logits themselves: the mask is the one that evaluation scores, to the last pixel.
    logits = native_logits(views[0], shape) if len(views) == 1 else mean.logit()
    return mask_of(logits, threshold), mean.numpy()


@torch.inference_mode()
def predict_images(
    runs: Sequence[Run],
    sources: Sequence[Path],
    out: Path,
    *,
    device: str = "auto",
    tta: str | None = None,
    overlays: bool = False,
    batch_size: int = 16,
    every: int = 1,
    one_at_a_time: bool = False,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Apply the best model of a run, or the ensemble of several, to pictures and videos; write masks and a table.

    sources: pictures, videos, folders of both (searched to the bottom), patterns with ``*``, ``?`` or ``[``.
    device: ``cpu``, ``cuda``, or ``auto``: the GPU where there is one.
    tta: ``flips`` averages over the picture as it is, left to right, upside down, and both.
    overlays: write the pictures with the predicted outline as well, ``overlays/<name>.jpg``.
    every: of a video, take every so many frames.
    one_at_a_time: of several runs, and of an ensemble's members, hold one in memory, loaded anew for every batch.
    progress: told how many pictures are done and how many there are (a guess where there are videos), from 0 on.
    notice: told at the end what was passed over in folders, and of files with several pages.

    Masks are PNG of native size: 0 and 255, or the number of the class where there are several. A picture's is called
    like the picture, under the folders between it and the folder given; frame 123 of a video is
    ``<video>/000123.png``. Each run sees the picture at its own image size; logits go back to the native size
    bilinearly, and probabilities (sigmoid; softmax for classifiers) are averaged over runs and views. Masks are
    written as they are made, ``predictions.csv`` at the end; no more than two batches of pictures are in memory.

    Returns the table. Segmentation: one row a picture and class; image, frame (null for pictures), class, mask,
    area_px, area_share (of the picture), score (mean probability where the mask shows the class; null where it shows
    none). Classification: image, frame, label and one probability column a class.
    Raises UserError before anything is read for what cannot be done or would overwrite a file that is not of a
    prediction that was stopped, and at the end, when everything else is written, for files that could not be read or
    ended early.
    """
    task, classes, threshold = _agree(runs)
    for run in runs:
        run.refuse_unfinished()
    if (out / TABLE).exists():
        raise UserError(f"{out} holds predictions already; name another folder for --out, or remove it")
    if tta not in VIEWS:
        raise UserError(f"--tta {tta}: use flips")
    if overlays and task != "segmentation":
        raise UserError("--overlays draws the outlines of masks; a classifier makes none")
    refuse_unwritable(out, "--out")
    passed = Counter[str]()
    where, places = torch.device(choose_device(device, "--device")), find_sources(sources, out, passed)
    names = _names(places, overlays) if task == "segmentation" else []
    begun = _refuse_overwriting(out, names)
    total, done, broken = total_of(places, every), 0, dict[Path, str]()
    rows: list[dict[str, Any]] = []
    networks: list[nn.Module] = [
        OneAtATime(partial(run.model, one_at_a_time=True))
        if one_at_a_time and len(runs) > 1
        else run.model(one_at_a_time=one_at_a_time).to(where)
        for run in runs
    ]
    conclude: Callable[..., list[dict[str, Any]]] = partial(_classify, classes=classes)
    if task == "segmentation":
        conclude = partial(_segment, classes=classes, threshold=threshold, out=out, overlays=overlays)
    if names:
        write_atomic(out / UNFINISHED, json.dumps(sorted(begun.union(names))))
    if progress:
        progress(0, total)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        frames = decoded(places, batch_size, every, pool, broken)
        while batch := list(islice(frames, batch_size)):
            logits = [
                view
                for run, network in zip(runs, networks, strict=True)
                for view in _views(network, run, batch, VIEWS[tta], where)
            ]
            for own in pool.map(conclude, batch, zip(*logits, strict=True)):
                rows += own
                done += 1
                if progress:
                    progress(done, max(done, total))
    columns = SEGMENTED if task == "segmentation" else (*CLASSIFIED, *(PREFIX + name for name in classes))
    table = pd.DataFrame(rows, columns=list(columns)).astype({"frame": "Int64"})
    if rows:  # else the folder is free for the next try
        write_atomic(out / TABLE, table.to_csv(index=False))
    (out / UNFINISHED).unlink(missing_ok=True)
    if notice:
        for text in left_out(passed, [path for path in places.values() if path not in broken]):
            notice(text)
    if broken:
        raise unread(broken, len(places))
    return table


def _names(places: Iterable[str], overlays: bool) -> list[str]:
    """What is written under ``out``: files, and with a ``/`` at the end the folders of videos' frames."""
    kinds = [("", ".png"), ("overlays/", ".jpg")][: 1 + overlays]
    return [folder + place + ("" if place.endswith("/") else suffix) for folder, suffix in kinds for place in places]


def _refuse_overwriting(out: Path, names: Iterable[str]) -> set[str]:
    """What a prediction that was stopped was about to write here. Raises UserError where something else is there."""
    unfinished = out / UNFINISHED
    begun = set(json.loads(unfinished.read_text(encoding="utf-8"))) if unfinished.exists() else set()
    there = [out / name for name in names if name not in begun and os.path.lexists(out / name)]  # links to nowhere, too
    if there:
        like = f" ({len(there)} like it)" if len(there) > 1 else ""
        raise UserError(f"{there[0]} is there already and would be overwritten{like}; name another folder for --out")
    return begun


def _agree(runs: Sequence[Run]) -> tuple[str, tuple[str, ...], float]:
    """Task, classes and threshold of all runs. Raises UserError where they differ."""
    facts = [(r.plan.scenario.task, r.plan.classes, r.plan.scenario.evaluation.threshold) for r in runs]
    for run, own in zip(runs, facts, strict=True):
        for what, mine, first in zip(("task", "list of classes", "evaluation.threshold"), own, facts[0], strict=True):
            if mine != first:
                raise UserError(f"one ensemble has one {what}: {runs[0].folder} has {first}, {run.folder} has {mine}")
    return facts[0]


def _views(
    network: nn.Module, run: Run, batch: Sequence[Frame], views: Sequence[tuple[int, ...]], device: torch.device
) -> Iterator[Tensor]:
    """For each view, logits of the batch, turned back: (B, K, S, S) or (B, K) float32 on the host."""
    size = run.plan.scenario.data.image_size
    small = np.stack([square(frame.pixels, size) for frame in batch])
    images = torch.from_numpy(small).to(device).permute(0, 3, 1, 2).float().div_(255)
    precision = precision_on(device.type, mixed=run.plan.precision == "bfloat16")
    for dims in views:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = network(images.flip(dims)).float().cpu()
        yield logits.flip(dims) if logits.ndim == 4 else logits


def _segment(
    frame: Frame, logits: Sequence[Tensor], classes: Sequence[str], threshold: float, out: Path, overlays: bool
) -> list[dict[str, Any]]:
    """Write the mask; one row a class."""
    mask, probabilities = fuse(logits, frame.pixels.shape[:2], threshold)
    png = cv2.imencode(".png", mask * 255 if len(classes) == 1 else mask)[1]
    write_atomic(out / f"{frame.place}.png", png.tobytes())
    if overlays:
        write_atomic(out / "overlays" / f"{frame.place}.jpg", _overlay(frame.pixels, mask, len(classes)))
    rows = []
    for number, name in enumerate(classes, start=1):
        found = mask == number
        score = float(probabilities[number - 1][found].mean()) if found.any() else math.nan
        area = {"area_px": int(found.sum()), "area_share": float(found.mean())}
        rows.append(frame.row | {"class": name, "mask": f"{frame.place}.png"} | area | {"score": score})
    return rows


def _classify(frame: Frame, logits: Sequence[Tensor], classes: Sequence[str]) -> list[dict[str, Any]]:
    probabilities = torch.stack([view.softmax(dim=0) for view in logits]).mean(dim=0)
    named = {PREFIX + name: value for name, value in zip(classes, probabilities.tolist(), strict=True)}
    return [frame.row | {"label": classes[int(probabilities.argmax())]} | named]


def _overlay(pixels: np.ndarray, mask: np.ndarray, classes: int) -> bytes:
    """JPEG of the picture with the outline of every class."""
    drawn, width = pixels.copy(), max(1, round(min(mask.shape) / 200))
    for number in range(1, classes + 1):
        outlines, _ = cv2.findContours((mask == number).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, OUTLINE, width, cv2.LINE_AA)
    # Colour at full resolution, or a line of one pixel would fade.
    options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), options)[1].tobytes()
