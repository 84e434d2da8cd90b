"""Losses against the papers' arithmetic in numpy, and their gradients against finite differences."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from fedkvasir.errors import UserError
from fedkvasir.losses import (
    LOSSES,
    SMOOTH,
    LossFunction,
    balanced_weights,
    bce_loss,
    build_loss,
    cross_entropy_loss,
    dice_bce_loss,
    dice_loss,
    focal_cross_entropy_loss,
    focal_loss,
    lovasz_loss,
    tversky_loss,
)
from fedkvasir.plan import make_plan
from fedkvasir.scenario import Loss, load
from fedkvasir.simulation import run_scenario

SEGMENTATION = {
    **LOSSES["segmentation"],
    "tversky-other": partial(tversky_loss, alpha=1.5, beta=0.2),
    "focal-half": partial(focal_loss, gamma=0.5, alpha=None),
}
CLASSIFICATION = {
    **LOSSES["classification"],
    "weighted": partial(cross_entropy_loss, class_weights=[0.5, 2.0, 3.0], label_smoothing=0.1),
    "focal-half": partial(focal_cross_entropy_loss, gamma=0.5, class_weights=[0.5, 2.0, 3.0]),
}
BOTH = [*SEGMENTATION.items(), *CLASSIFICATION.items()]
NAMES = [name for name, _ in BOTH]


def example(loss: LossFunction, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits and targets of the loss's task, always the same."""
    random = torch.Generator().manual_seed(0)
    if loss in SEGMENTATION.values():
        logits = torch.randn(2, 2, 4, 3, generator=random, dtype=torch.float64)
        return logits.to(dtype), (torch.rand(2, 2, 4, 3, generator=random) > 0.5).to(dtype)
    return torch.randn(5, 3, generator=random, dtype=torch.float64).to(dtype), torch.tensor([0, 1, 2, 1, 1])


def sigmoid(logits: Tensor) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.double().numpy()))


def softmax(logits: Tensor) -> np.ndarray:
    powers = np.exp(logits.double().numpy())
    return powers / powers.sum(1, keepdims=True)


def test_dice_is_one_minus_equation_1_of_divergentnets_on_hard_masks() -> None:
    a, b = torch.rand(3, 1, 9, 7) > 0.5, torch.rand(3, 1, 9, 7) > 0.5
    first, second = a.numpy().astype(bool), b.numpy().astype(bool)
    axes = (1, 2, 3)
    overlap, only_a, only_b = (pixels.sum(axes) for pixels in (first & second, first & ~second, second & ~first))
    coefficient = (2 * overlap + SMOOTH) / (2 * overlap + only_b + only_a + SMOOTH)
    logits = torch.where(a, 40.0, -40.0)
    assert float(dice_loss(logits, b.float())) == pytest.approx(np.mean(1 - coefficient), abs=1e-6)


def test_dice_of_several_classes_is_the_mean_of_each_alone() -> None:
    logits, target = example(dice_loss, torch.float32)
    alone = [float(dice_loss(logits[:, k : k + 1], target[:, k : k + 1])) for k in range(2)]
    assert float(dice_loss(logits, target)) == pytest.approx(np.mean(alone), abs=1e-6)


def test_bce_is_scikit_learns_log_loss() -> None:
    logits, target = torch.randn(2, 1, 5, 5), (torch.rand(2, 1, 5, 5) > 0.5).float()
    expected = log_loss(target.numpy().ravel(), sigmoid(logits).ravel())
    assert float(bce_loss(logits, target)) == pytest.approx(expected, abs=1e-6)


def test_dice_bce_is_their_sum() -> None:
    logits, target = torch.randn(2, 1, 5, 5), (torch.rand(2, 1, 5, 5) > 0.5).float()
    assert dice_bce_loss(logits, target) == dice_loss(logits, target) + bce_loss(logits, target)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.9), (0.0, 0.5), (3.0, None)])
def test_focal_is_equation_5_of_lin_et_al(gamma: float, alpha: float | None) -> None:
    logits, target = example(focal_loss, torch.float32)
    truth, p = target.numpy() == 1, sigmoid(logits)
    p_t = np.where(truth, p, 1 - p)
    alpha_t = 1 if alpha is None else np.where(truth, alpha, 1 - alpha)
    expected = np.mean(-alpha_t * (1 - p_t) ** gamma * np.log(p_t))
    assert float(focal_loss(logits, target, gamma, alpha)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (1.0, 1.0), (0.1, 2.0)])
def test_tversky_is_one_minus_equation_3_of_salehi_et_al(alpha: float, beta: float) -> None:
    logits, target = example(tversky_loss, torch.float32)
    p0, g0, axes = sigmoid(logits), target.double().numpy(), (2, 3)
    p1, g1 = 1 - p0, 1 - g0
    both = (p0 * g0).sum(axes) + SMOOTH / 2
    index = both / (both + alpha * (p0 * g1).sum(axes) + beta * (p1 * g0).sum(axes))
    assert float(tversky_loss(logits, target, alpha, beta)) == pytest.approx(np.mean(1 - index), abs=1e-6)


def test_tversky_of_halves_is_dice() -> None:
    logits, target = example(tversky_loss, torch.float64)
    assert float(tversky_loss(logits, target, 0.5, 0.5)) == pytest.approx(float(dice_loss(logits, target)), abs=1e-12)


def jaccard_loss(wrong: set[int], truth: set[int]) -> float:
    """Berman et al., Eq. 6: one minus the Jaccard index of a prediction that is wrong in these pixels."""
    return len(wrong) / len(truth | wrong) if wrong else 0.0


def test_lovasz_is_the_lovasz_extension_of_the_jaccard_loss() -> None:
    """Berman et al., Definition 1 and Eq. 12: sum of errors, largest first, times what each pixel adds."""
    logits, target = example(lovasz_loss, torch.float32)
    values = []
    for scores, mask in zip(logits.flatten(0, 1).numpy(), target.flatten(0, 1).numpy(), strict=True):
        errors = np.maximum(1 - scores.ravel() * np.where(mask.ravel() == 1, 1, -1), 0)
        truth, wrong, value = set(np.flatnonzero(mask).tolist()), set[int](), 0.0
        for pixel in np.argsort(-errors).tolist():
            value += errors[pixel] * (jaccard_loss(wrong | {pixel}, truth) - jaccard_loss(wrong, truth))
            wrong.add(pixel)
        values.append(value)
    assert float(lovasz_loss(logits, target)) == pytest.approx(np.mean(values), abs=1e-6)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_lovasz_of_hard_errors_is_the_jaccard_loss(pixels: list[tuple[bool, bool]]) -> None:
    """What an extension is: on the corners (an error of one, or none) it is the loss itself."""
    truth = {index for index, (inside, _) in enumerate(pixels) if inside}
    wrong = {index for index, (_, missed) in enumerate(pixels) if missed}
    logits = torch.tensor([0.0 if missed else (1.0 if inside else -1.0) for inside, missed in pixels])
    target = torch.tensor([float(inside) for inside, _ in pixels])
    loss = lovasz_loss(logits[None, None, None], target[None, None, None])
    assert float(loss) == pytest.approx(jaccard_loss(wrong, truth), abs=1e-6)


def test_cross_entropy_is_scikit_learns_log_loss() -> None:
    logits, target = torch.randn(20, 4), torch.arange(20) % 4
    expected = log_loss(target.numpy(), softmax(logits), labels=np.arange(4))
    assert float(cross_entropy_loss(logits, target)) == pytest.approx(expected, abs=1e-6)


def test_class_weights_weigh_the_samples() -> None:
    logits, target, weights = torch.randn(20, 4), torch.arange(20) % 4, [0.5, 1.0, 2.0, 4.0]
    own = np.array(weights)[target.numpy()]
    expected = log_loss(target.numpy(), softmax(logits), labels=np.arange(4), sample_weight=own)
    assert float(cross_entropy_loss(logits, target, weights)) == pytest.approx(expected, abs=1e-6)


def test_label_smoothing_is_section_7_of_szegedy_et_al() -> None:
    logits, target = torch.randn(20, 4), torch.arange(20) % 4
    q = 0.8 * np.eye(4)[target.numpy()] + 0.2 / 4
    expected = np.mean(-(q * np.log(softmax(logits))).sum(1))
    assert float(cross_entropy_loss(logits, target, label_smoothing=0.2)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 4.0]])
def test_focal_of_several_classes_is_equation_5_with_softmax(gamma: float, weights: list[float] | None) -> None:
    logits, target = torch.randn(20, 4), torch.arange(20) % 4
    p_t = softmax(logits)[np.arange(20), target.numpy()]
    own = np.ones(20) if weights is None else np.array(weights)[target.numpy()]
    expected = np.average(-((1 - p_t) ** gamma) * np.log(p_t), weights=own)
    assert float(focal_cross_entropy_loss(logits, target, gamma, weights)) == pytest.approx(expected, abs=1e-6)


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, target = torch.randn(20, 4), torch.arange(20) % 4
    for weights in (None, [0.5, 1.0, 2.0, 4.0]):
        expected = float(cross_entropy_loss(logits, target, weights))
        assert float(focal_cross_entropy_loss(logits, target, 0.0, weights)) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=8))
def test_balanced_weights_are_scikit_learns(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    assert balanced_weights(counts) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("name", LOSSES["classification"])
def test_a_class_without_images_weighs_one_and_changes_nothing_until_labels_are_wrong(name: str) -> None:
    """A batch of nothing but such labels has no mean otherwise, and the fault wrong-labels can make one."""
    assert balanced_weights([6, 0, 2]) == pytest.approx([8 / 18, 1, 8 / 6])
    counts, logits = {"a": 6, "b": 0, "c": 2}, torch.randn(8, 3)
    balanced = build_loss(Loss(name=name, class_weights="balanced"), "classification", counts)
    of_nothing = build_loss(Loss(name=name, class_weights=[8 / 18, 1e-9, 8 / 6]), "classification", counts)
    shown = torch.tensor([0, 2, 0, 0, 0, 2, 0, 0])
    assert torch.equal(balanced(logits, shown), of_nothing(logits, shown))
    assert balanced(logits, torch.ones(8, dtype=torch.long)).isfinite()


def test_label_smoothing_gives_nothing_to_a_class_without_images() -> None:
    counts, logits, shown = {"a": 6, "b": 0}, torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    spec = Loss(name="cross-entropy", class_weights="balanced", label_smoothing=0.2)
    loss = build_loss(spec, "classification", counts)
    expected = 0.9 * nn.functional.cross_entropy(
        logits, shown
    )  # 0.8 and half of 0.2; the other half is of the other class
    assert loss(logits, shown) == pytest.approx(float(expected), rel=1e-6)
    logits.requires_grad_()
    wrong = loss(logits, torch.ones(4, dtype=torch.long))  # as a fault has it
    wrong.backward()
    assert wrong.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize(("name", "loss"), BOTH, ids=NAMES)
def test_gradients_agree_with_finite_differences(name: str, loss: LossFunction) -> None:
    logits, target = example(loss, torch.float64)
    assert torch.autograd.gradcheck(lambda logits: loss(logits, target), logits.requires_grad_())


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize(("name", "loss"), BOTH, ids=NAMES)
def test_bfloat16_is_computed_in_float32_and_stays_finite(name: str, loss: LossFunction, scale: float) -> None:
    logits, target = example(loss, torch.float32)
    half = (logits * scale).bfloat16().requires_grad_()
    value = loss(half, target)
    value.backward()
    assert value.dtype == torch.float32 and value == loss(half.detach().float(), target)
    assert value.isfinite() and half.grad is not None and bool(half.grad.isfinite().all())


@pytest.mark.parametrize("inside", [0.0, 1.0])
@pytest.mark.parametrize(("name", "loss"), SEGMENTATION.items(), ids=list(SEGMENTATION))
def test_an_empty_or_full_mask_costs_nothing_if_right_and_something_if_wrong(
    name: str, loss: Callable[..., Tensor], inside: float
) -> None:
    target = torch.full((2, 1, 4, 4), inside)
    right = (40 * (2 * target - 1)).requires_grad_()
    value = loss(right, target)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert right.grad is not None and bool(right.grad.isfinite().all())
    assert float(loss(-right.detach(), target)) > 0.5


@pytest.mark.parametrize("name", LOSSES["segmentation"])
def test_a_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    logits, target = example(LOSSES["segmentation"][name], torch.float32)
    loss = build_loss(Loss(name=name), "segmentation", {"polyp": 0})
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), target), logits)
    assert loss(logits - 0.1 * gradient, target) < loss(logits, target)


CLASSES = (
    "task=classification",
    "data.options.synthetic.task=classification",
    "model={name: lcnet_050}",
    "federation.rounds=1",
)


def test_a_hospital_trains_with_weights_balanced_over_all_hospitals(tiny: Path, tmp_path: Path) -> None:
    loss = "training.loss={name: focal, gamma: 1, class_weights: balanced}"
    run = run_scenario(tiny, (*CLASSES, loss), out=tmp_path, engine="local")
    labels = run.plan.samples.loc[run.plan.samples["split"] == "train", "label"]
    counts = [int((labels == name).sum()) for name in run.plan.classes]
    built = run.plan.loss()
    assert isinstance(built, partial) and built.func is focal_cross_entropy_loss and sum(counts) == len(labels)
    assert built.keywords == {"gamma": 1, "class_weights": balanced_weights(counts)}
    assert run.finished


def test_class_weights_that_do_not_fit_the_classes_are_refused(tiny: Path) -> None:
    loss = "training.loss={name: cross-entropy, class_weights: [1, 2]}"
    with pytest.raises(UserError, match=r"class_weights holds 2 number\(s\) for \d classes, in this order: "):
        make_plan(load(tiny, (*CLASSES, loss)))
