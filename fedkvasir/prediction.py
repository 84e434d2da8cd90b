"""From logits to masks at native size, and predictions for pictures outside any scenario."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from fedkvasir.data import formats
from fedkvasir.data.catalog import list_images
from fedkvasir.errors import UserError
from fedkvasir.files import write_atomic
from fedkvasir.metrics.classification import PREFIX
from fedkvasir.runs import Run


def native_mask(logits: Tensor, shape: tuple[int, ...], threshold: float) -> np.ndarray:
    """(K, S, S) logits -> uint8 of ``shape`` (H, W): back to the native size bilinearly, then the threshold.

    0 is background; a pixel that passes for several classes belongs to the likeliest, 1 to K.
    """
    native = F.interpolate(logits[None].float(), shape, mode="bilinear", align_corners=False)[0].numpy()
    return np.where(native.max(axis=0) > math.log(threshold / (1 - threshold)), native.argmax(axis=0) + 1, 0).astype(
        np.uint8
    )


@torch.inference_mode()
def predict_images(
    run: Run, images: Sequence[Path], out: Path, progress: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """Apply a run's best model to pictures; write masks and ``predictions.csv``.

    Masks are PNG of native size and same stem: 0 and 255, or the number of the class where there are several.

    Returns the table: image, and mask and area_share (segmentation) or label and probabilities (classification).
    Raises UserError for a picture that cannot be read, before anything is written for it.
    """
    scenario, classes, network = run.plan.scenario, run.plan.classes, run.model("best")
    size, rows = scenario.data.image_size, []
    for done, path in enumerate(_expand(images), start=1):
        try:
            pixels = next(formats.pictures(path, [None]))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path} cannot be read as a picture: {error}") from error
        small = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
        logits = network(torch.from_numpy(small).permute(2, 0, 1)[None].float().div(255))[0]
        if scenario.task == "segmentation":
            mask = native_mask(logits, pixels.shape[:2], scenario.evaluation.threshold)
            encoded = cv2.imencode(".png", mask * 255 if len(classes) == 1 else mask)[1]
            write_atomic(out / f"{path.stem}.png", encoded.tobytes())
            rows.append({"image": str(path), "mask": f"{path.stem}.png", "area_share": float((mask > 0).mean())})
        else:
            probabilities = logits.softmax(0).tolist()
            label = classes[int(logits.argmax())]
            named = {PREFIX + name: value for name, value in zip(classes, probabilities, strict=True)}
            rows.append({"image": str(path), "label": label, **named})
        if progress:
            progress(done, len(images))
    table = pd.DataFrame(rows)
    write_atomic(out / "predictions.csv", table.to_csv(index=False))
    return table


def _expand(images: Sequence[Path]) -> list[Path]:
    """Files as given, folders by the pictures in them. Raises UserError for none, and for two of one stem."""
    paths: list[Path] = []
    for path in images:
        if path.is_dir():
            paths += list_images(path).values()
        elif path.is_file():
            paths.append(path)
        else:
            raise UserError(f"{path} does not exist")
    stems: dict[str, Path] = {}
    for path in paths:
        if path.stem in stems:
            raise UserError(f"{path} and {stems[path.stem]} would write the same mask; predict them into two folders")
        stems[path.stem] = path
    if not paths:
        raise UserError(f"no picture in {', '.join(map(str, images))}")
    return paths
