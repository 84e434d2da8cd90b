"""Losses by name. All take logits, so that they are stable in half precision."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTH = 1.0
"""Added to both sides of the Dice quotient (pixels): an empty mask predicted empty costs nothing."""


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the single-channel Dice coefficient, mean over the images of the batch and over classes.

    logits, target: (B, K, H, W) float32, one channel a class (a polyp: K = 1); target 0 or 1.
    Thambawita et al., DivergentNets, EndoCV 2021, Eq. 1 (which prints the coefficient under the name of the loss),
    with probabilities for the predicted set: |A∩B| = sum(p t), 2|A∩B| + |A\\B| + |B\\A| = sum(p) + sum(t).
    Per image, as it is scored: summed over a batch, large polyps would hide small ones.
    """
    probability, axes = logits.float().sigmoid(), (2, 3)
    overlap, sizes = (probability * target).sum(axes), probability.sum(axes) + target.sum(axes)
    return (1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean()


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over pixels; shapes as :func:`dice_loss`."""
    return F.binary_cross_entropy_with_logits(logits.float(), target)


def dice_bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice plus binary cross-entropy, weighted equally; shapes as :func:`dice_loss`."""
    return dice_loss(logits, target) + bce_loss(logits, target)


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy. logits: (B, K) float32; target: (B,) int64."""
    return F.cross_entropy(logits.float(), target)


@dataclass(frozen=True)
class Loss:
    task: str
    function: Callable[[Tensor, Tensor], torch.Tensor]


LOSSES = {
    "dice": Loss("segmentation", dice_loss),
    "bce": Loss("segmentation", bce_loss),
    "dice+bce": Loss("segmentation", dice_bce_loss),
    "cross-entropy": Loss("classification", cross_entropy_loss),
}
