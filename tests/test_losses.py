"""Losses against the papers' arithmetic in numpy, and their gradients against finite differences."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from fedkvasir.losses import LOSSES, SMOOTH, bce_loss, cross_entropy_loss, dice_bce_loss, dice_loss


def test_dice_is_one_minus_equation_1_of_divergentnets_on_hard_masks() -> None:
    a, b = torch.rand(3, 1, 9, 7) > 0.5, torch.rand(3, 1, 9, 7) > 0.5
    first, second = a.numpy().astype(bool), b.numpy().astype(bool)
    axes = (1, 2, 3)
    overlap, only_a, only_b = (pixels.sum(axes) for pixels in (first & second, first & ~second, second & ~first))
    coefficient = (2 * overlap + SMOOTH) / (2 * overlap + only_b + only_a + SMOOTH)
    logits = torch.where(a, 40.0, -40.0)
    assert float(dice_loss(logits, b.float())) == pytest.approx(np.mean(1 - coefficient), abs=1e-6)


def test_dice_of_an_empty_image_predicted_empty_costs_nothing() -> None:
    assert float(dice_loss(torch.full((2, 1, 4, 4), -40.0), torch.zeros(2, 1, 4, 4))) == pytest.approx(0, abs=1e-6)


def test_bce_is_scikit_learns_log_loss() -> None:
    logits, target = torch.randn(2, 1, 5, 5), (torch.rand(2, 1, 5, 5) > 0.5).float()
    expected = log_loss(target.numpy().ravel(), logits.sigmoid().double().numpy().ravel())
    assert float(bce_loss(logits, target)) == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_is_scikit_learns_log_loss() -> None:
    logits, target = torch.randn(20, 4), torch.arange(20) % 4
    expected = log_loss(target.numpy(), logits.double().softmax(1).numpy(), labels=np.arange(4))
    assert float(cross_entropy_loss(logits, target)) == pytest.approx(expected, abs=1e-6)


def test_dice_bce_is_their_sum() -> None:
    logits, target = torch.randn(2, 1, 5, 5), (torch.rand(2, 1, 5, 5) > 0.5).float()
    assert dice_bce_loss(logits, target) == dice_loss(logits, target) + bce_loss(logits, target)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    if LOSSES[name].task == "segmentation":
        logits, target = torch.randn(2, 1, 4, 4), (torch.rand(2, 1, 4, 4) > 0.5).float()
    else:
        logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    # The losses compute in float32, so the step is large and the tolerance wide.
    logits.requires_grad_()
    loss = LOSSES[name].function
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    step = torch.randn_like(logits)
    numeric = (loss(logits + 1e-2 * step, target) - loss(logits - 1e-2 * step, target)) / 2e-2
    assert float((gradient * step).sum().detach()) == pytest.approx(float(numeric.detach()), abs=2e-3)
