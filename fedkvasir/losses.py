"""Losses by name, with their parameters. All take logits, so that they are stable in half precision."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fedkvasir import scenario
from fedkvasir.errors import UserError, did_you_mean

SMOOTH = 1.0
"""Added to both sides of the Dice quotient (pixels): an empty mask predicted empty costs nothing."""

LossFunction = Callable[[Tensor, Tensor], Tensor]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Gamma = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ClassWeights = Literal["balanced"] | list[Positive] | None
"""One number a class, in class order. :func:`build_loss` puts numbers in the place of ``balanced``."""


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the single-channel Dice coefficient, mean over the images of the batch and over classes.

    logits, target: (B, K, H, W) float32, one channel a class (a polyp: K = 1); target 0 or 1. The multi-class Dice is
    this mean over classes, each a sigmoid channel of its own: there is no background channel to take a softmax with.
    Thambawita et al., DivergentNets, EndoCV 2021, Eq. 1 (which prints the coefficient under the name of the loss),
    with probabilities for the predicted set: |A∩B| = sum(p t), 2|A∩B| + |A\\B| + |B\\A| = sum(p) + sum(t).
    Per image, as it is scored: summed over a batch, large polyps would hide small ones.
    """
    probability, axes = _widen(logits).sigmoid(), (2, 3)
    overlap, sizes = (probability * target).sum(axes), probability.sum(axes) + target.sum(axes)
    return (1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean()


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over pixels; shapes as :func:`dice_loss`."""
    return F.binary_cross_entropy_with_logits(_widen(logits), target)


def dice_bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice plus binary cross-entropy, weighted equally; shapes as :func:`dice_loss`."""
    return dice_loss(logits, target) + bce_loss(logits, target)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: Gamma = 2.0,
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = 0.25,
) -> Tensor:
    """Binary cross-entropy that looks away from easy pixels: -alpha_t (1 - p_t)^gamma log(p_t), mean over pixels.

    Shapes as :func:`dice_loss`. alpha: weight of the inside of masks, 1 - alpha of the outside; null: no weights.
    Lin et al., Focal loss for dense object detection, ICCV 2017, Eq. 5 (which divides by the number of objects).
    """
    signed = _widen(logits) * (2 * target - 1)
    # exp(gamma log(1 - p_t)): the power itself has no finite gradient at p_t = 1 for gamma < 1.
    loss = -(gamma * F.logsigmoid(-signed)).exp() * F.logsigmoid(signed)
    if alpha is not None:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss.mean()


def tversky_loss(logits: Tensor, target: Tensor, alpha: Positive = 0.3, beta: Positive = 0.7) -> Tensor:
    """One minus the Tversky index, mean over images and classes; shapes as :func:`dice_loss`.

    alpha weighs false positives, beta false negatives; 0.5 and 0.5 is :func:`dice_loss`.
    Salehi et al., Tversky loss function for image segmentation, MLMI 2017, Eq. 3 (defaults: its best for lesions).
    """
    probability, axes = _widen(logits).sigmoid(), (2, 3)
    overlap = (probability * target).sum(axes) + SMOOTH / 2
    false_positive, false_negative = (probability * (1 - target)).sum(axes), ((1 - probability) * target).sum(axes)
    return (1 - overlap / (overlap + alpha * false_positive + beta * false_negative)).mean()


def lovasz_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Lovász hinge: the convex surrogate of one minus the Jaccard index, mean over images and classes.

    Shapes as :func:`dice_loss`; every class of every image is a binary problem of its own.
    Berman et al., The Lovász-softmax loss, CVPR 2018, Eq. 8, 9 and 12, Algorithm 1.
    """
    truth = target.flatten(2).flatten(0, 1)
    margins = 1 - _widen(logits).flatten(2).flatten(0, 1) * (2 * truth - 1)
    # Stable: half precision makes many ties, and their order decides the gradient.
    errors, order = margins.sort(dim=1, descending=True, stable=True)
    inside = truth.gather(1, order).long()
    total = inside.sum(1, keepdim=True)
    # In float64: the steps between neighbours are differences of numbers that nearly agree.
    jaccard = 1 - (total - inside.cumsum(1)).double() / (total + (1 - inside).cumsum(1))
    steps = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(jaccard), 1)).to(errors.dtype)
    return (errors.relu() * steps).sum(1).mean()


def cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    class_weights: ClassWeights = None,
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Tensor:
    """Mean cross-entropy. logits: (B, K) float32; target: (B,) int64.

    With class weights a mean weighted by those of the targets. Label smoothing moves this share of the target evenly
    to all classes (Szegedy et al., Rethinking the Inception architecture, CVPR 2016, section 7).
    """
    logits = _widen(logits)
    weights = None if class_weights is None else logits.new_tensor(class_weights)
    if weights is None or not label_smoothing:
        return F.cross_entropy(logits, target, weights, label_smoothing=label_smoothing)
    # Of a batch of classes that weigh nothing, as wrong labels may be, the smoothing is left.
    total = weights[target].sum()
    loss = F.cross_entropy(logits, target, weights, reduction="sum", label_smoothing=label_smoothing)
    return loss / torch.where(total > 0, total, len(target))


def focal_cross_entropy_loss(
    logits: Tensor, target: Tensor, gamma: Gamma = 2.0, class_weights: ClassWeights = None
) -> Tensor:
    """Cross-entropy times (1 - p_t)^gamma; shapes and class weights (the paper's alpha) as :func:`cross_entropy_loss`.

    Lin et al., ICCV 2017, Eq. 5, with softmax; gamma 0 is :func:`cross_entropy_loss`.
    """
    logits, one = _widen(logits), target[:, None]
    total = logits.logsumexp(1)
    # log(1 - p_t) from the other classes: stable as in `focal_loss`.
    others = logits.scatter(1, one, -torch.inf).logsumexp(1) - total
    losses = (gamma * others).exp() * (total - logits.gather(1, one)[:, 0])
    if class_weights is None:
        return losses.mean()
    weights = logits.new_tensor(class_weights)[target]
    return (weights * losses).sum() / weights.sum()


LOSSES: dict[str, dict[str, Callable[..., Tensor]]] = {
    "segmentation": {
        "dice": dice_loss,
        "bce": bce_loss,
        "dice+bce": dice_bce_loss,
        "focal": focal_loss,
        "tversky": tversky_loss,
        "lovasz": lovasz_loss,
    },
    "classification": {"cross-entropy": cross_entropy_loss, "focal": focal_cross_entropy_loss},
}


def find_loss(spec: scenario.Loss, task: str) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The function of a loss and its parameters, defaults among them. Raises UserError for a name or parameter that is
    not known, with the nearest spelling, and for a value that the parameter cannot have."""
    known = LOSSES[task]
    if spec.name not in known:
        near = did_you_mean(spec.name, list(known))
        raise UserError(f"training.loss = {spec.name!r} is not known for {task}{near}; known: {', '.join(known)}")
    # The first two are logits and target; the annotations of the others say what is possible.
    allowed = dict(list(inspect.signature(known[spec.name]).parameters.items())[2:])
    defaults = {key: parameter.default for key, parameter in allowed.items()}
    types = {key: parameter.annotation for key, parameter in allowed.items()}
    return known[spec.name], defaults | spec.checked(types, "training.loss")


def build_loss(spec: scenario.Loss, task: str, counts: Mapping[str, int]) -> LossFunction:
    """The loss of a scenario, a function of logits and target.

    counts: training images of each class, over all hospitals, in class order.
    Raises UserError where class weights do not fit the classes.
    """
    function, parameters = find_loss(spec, task)
    weights = parameters.get("class_weights")
    if weights == "balanced":
        # Smoothing gives part of every target to every class: to one that no image shows nothing, as it weighs nothing.
        unseen = 0.0 if parameters.get("label_smoothing") else 1.0
        parameters["class_weights"] = balanced_weights(list(counts.values()), unseen)
    elif weights is not None and len(weights) != len(counts):
        raise UserError(
            f"training.loss.class_weights holds {len(weights)} number(s) for {len(counts)} classes, "
            f"in this order: {', '.join(counts)}"
        )
    return partial(function, **parameters)


def balanced_weights(counts: list[int], unseen: float = 1.0) -> list[float]:
    """n / (K n_k) for each of K classes, n_k of n images; ``unseen`` for a class that no image shows: only wrong labels
    name it, and a batch of nothing else has a mean as well."""
    return [sum(counts) / (len(counts) * count) if count else unseen for count in counts]


def _widen(logits: Tensor) -> Tensor:
    """Half precision to float32; float64 stays."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
