"""Augmentation behind a small interface: ``Augment(image, mask, seed) -> image, mask``."""

import os
import random
import threading
from collections.abc import Callable
from copy import deepcopy

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # a hospital's machine does not ask the internet for news

import albumentations as A
import cv2
import numpy as np


class Augment:
    """Random changes to a training image, a pure function of (image, mask, seed).

    The seed is set for every sample, so that results depend neither on the order nor on the number of workers. Threads
    may share it: each has transforms of its own, as these keep a random state.
    """

    def __init__(self, transforms: list[A.BasicTransform]) -> None:
        self._compose, self._of_thread = A.Compose(transforms), threading.local()

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """image: (S, S, 3) uint8; mask: (S, S) uint8, 0 or 1; both come back in the same shape and type."""
        if not hasattr(self._of_thread, "compose"):
            self._of_thread.compose = deepcopy(self._compose)
        compose = self._of_thread.compose
        # One stream for all: set_random_seed would give every transform its own, with the same draws in each.
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changed = compose(image=image, mask=mask)
        return changed["image"], changed["mask"]


def _none(size: int) -> list[A.BasicTransform]:
    return []


def _light(size: int) -> list[A.BasicTransform]:
    return [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, p=0.8),
    ]


def _divergentnets(size: int) -> list[A.BasicTransform]:
    """The thirteen of Thambawita et al., EndoCV 2021, section 3.2.

    Limits and probabilities are those of the authors' public code (data/prepare_data.py), which shifts and scales but
    does not rotate, and of the albumentations of its time: both sides scaled alike, faint grey noise.
    """
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(scale=(0.5, 1.5), translate_percent=(-0.1, 0.1), rotate=(0, 0), keep_ratio=True, p=1.0),
        A.Resize(size, size),
        A.GaussNoise(std_range=(0.01, 0.05), per_channel=False, p=0.2),
        A.Perspective(p=0.5),
        A.OneOf([A.CLAHE(), A.RandomBrightnessContrast(contrast_limit=0), A.RandomGamma()], p=0.9),
        A.OneOf([A.Sharpen(), A.Blur(blur_limit=3), A.MotionBlur(blur_limit=3)], p=0.9),
        A.OneOf([A.RandomBrightnessContrast(brightness_limit=0), A.HueSaturationValue()], p=0.9),
    ]


def _hyperkvasir(size: int) -> list[A.BasicTransform]:
    """Flips and any rotation to 90 degrees: Borgli et al., HyperKvasir, Scientific Data 2020, the authors' code."""
    return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.Rotate(limit=90, border_mode=cv2.BORDER_CONSTANT, p=1.0)]


AUGMENTS: dict[str, Callable[[int], list[A.BasicTransform]]] = {
    "none": _none,
    "light": _light,
    "divergentnets": _divergentnets,
    "hyperkvasir": _hyperkvasir,
}
