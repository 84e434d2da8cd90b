"""Miniature of BKAI-IGH NeoPolyp-Small, as Kaggle's zip unpacks."""

from pathlib import Path

import numpy as np

from fedkvasir.data.miniatures.paint import frame, save, write

WIDTH, HEIGHT = 1280, 959
"""The size that public code which reads the dataset crops to."""


def name(number: int) -> str:
    """32 hex digits for picture ``number``."""
    return np.random.default_rng([66, number]).bytes(16).hex()


def painted(mask: np.ndarray, number: int) -> np.ndarray:
    """The mask in class colours: of four, two neoplastic (red), one not (green), one both.

    A picture of both kinds has two polyps in reality; here the left and the right half of what is there.
    """
    colours = np.zeros((*mask.shape, 3), np.uint8)
    columns = np.flatnonzero(mask.any(axis=0))
    middle = {2: 0, 3: int(columns.mean()) if len(columns) else 0}.get(number % 4, mask.shape[1])
    colours[:, :middle, 0] = mask[:, :middle]
    colours[:, middle:, 1] = mask[:, middle:]
    return colours


def render(out: Path, per_center: int) -> Path:
    """``bkai-igh-neopolyp`` with ``per_center`` training images and a fifth as many test images (at least one)."""
    root = out / "bkai-igh-neopolyp"
    for number in range(per_center + max(1, per_center // 5)):
        part = "train" if number < per_center else "test"
        picture, mask = frame(WIDTH, HEIGHT, patient=20000 + number, look="cadiz")
        save(picture, root / part / part / f"{name(number)}.jpeg")
        if part == "train":
            save(painted(mask, number), root / "train_gt" / "train_gt" / f"{name(number)}.jpeg")
    write(root / "sample_submission.csv", "Id,Expected\n")
    write(root / "train" / ".DS_Store", "")
    return root
