"""The local loop: options that save memory or time change the numbers by no more than is said here."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.utils import counters

from clients.hospital import Hospital, Weights, load_network
from fedkvasir import exchange
from fedkvasir.data.augment import AUGMENTS, Augment
from fedkvasir.data.loader import Batch, Samples, train_batches
from fedkvasir.errors import UserError
from fedkvasir.estimate import estimate
from fedkvasir.losses import dice_bce_loss
from fedkvasir.models import MODELS, build_model
from fedkvasir.plan import Plan, make_plan
from fedkvasir.scenario import Model, Training, load
from fedkvasir.training import Trained, make_optimizer, train_epochs

CPU = torch.device("cpu")


def plan_of(tiny: Path, *overrides: str) -> Plan:
    return make_plan(load(tiny, overrides))


# ---- gradient accumulation


def without_batch_norm() -> nn.Module:
    """It sees 29 x 29 pixels around each, and has no statistics over a batch."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels, dilation in ((3, 1), (8, 2), (8, 4)):
        layers += [
            nn.Conv2d(channels, 8, 5, padding=2 * dilation, dilation=dilation),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(8, 1, 1))


def train(samples: Samples, batch_size: int, accumulate: int) -> tuple[Trained, Tensor]:
    """What came of two epochs, and all parameters after them."""
    torch.set_num_threads(1)
    network, augment = without_batch_norm(), Augment(AUGMENTS["none"](32))
    optimizer = make_optimizer(network, Training(optimizer="sgd", lr=0.1, momentum=0.9))
    trained = train_epochs(
        network,
        lambda epoch: train_batches(samples, batch_size, augment, epoch),
        dice_bce_loss, optimizer, {0: 0.1, 1: 0.05}, CPU, "float32", repeat(accumulate),
    )  # fmt: skip
    return trained, torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.fixture(scope="module")
def alta(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Training images of one rendered hospital."""
    from tests.conftest import TINY

    path = tmp_path_factory.mktemp("alta") / "tiny.yaml"
    path.write_text(TINY)
    return plan_of(path).part("alta", "train")


@settings(max_examples=15)
@given(count=st.integers(2, 12), batch_size=st.integers(2, 6), accumulate=st.integers(2, 5))
def test_small_batches_together_are_one_large_batch(
    alta: Samples, count: int, batch_size: int, accumulate: int
) -> None:
    """Whatever is left for the last group and the last batch: the same steps, weights to 1e-5."""
    some = replace(alta, table=alta.table.head(count))
    (small, one), (large, other) = train(some, batch_size, accumulate), train(some, batch_size * accumulate, 1)
    assert (small.steps, small.lr_sum) == (large.steps, pytest.approx(large.lr_sum))
    assert small.loss == pytest.approx(large.loss, abs=1e-5)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_four_batches_of_three_are_one_of_twelve_and_not_one_of_three(alta: Samples) -> None:
    some = replace(alta, table=alta.table.head(12))
    (_, together), (_, large), (_, small) = train(some, 3, 4), train(some, 12, 1), train(some, 3, 1)
    torch.testing.assert_close(together, large, rtol=0, atol=1e-5)
    assert (small - large).abs().max() > 1e-3


def test_the_penalty_counts_once_a_step_and_the_correction_sees_the_whole_gradient() -> None:
    layer = nn.Linear(1, 1, bias=False)
    seen: list[float] = []

    def correct() -> None:
        assert layer.weight.grad is not None
        seen.append(layer.weight.grad.item())

    def batches(epoch: int) -> Iterator[Batch]:
        for images in (torch.full((2, 1), 1.0), torch.full((1, 1), 4.0), torch.full((1, 1), 8.0)):
            yield Batch(images, images)

    optimizer = make_optimizer(layer, Training(optimizer="sgd"))
    rates = {0: 0.5, 1: 0.25}
    trained = train_epochs(
        layer, batches, lambda logits, _: logits.mean(), optimizer, rates, CPU, "float32", repeat(2),
        lambda: 3 * layer.weight.sum(), correct,
    )  # fmt: skip
    assert seen == [2 + 3, 8 + 3] * 2  # the mean over three images is 2, the last batch is alone
    assert (trained.steps, trained.lr_sum) == (4, 2 * 0.5 + 2 * 0.25)


def hospital_of(plan: Plan, folder: Path) -> tuple[Hospital, Weights]:
    """A hospital and initial weights for it."""
    torch.set_num_threads(1)
    network = build_model(plan.scenario.model, plan.scenario.task, len(plan.classes), seed=1)
    hospital = Hospital(plan, "alta", load_network(plan), folder)
    names = hospital.layout
    return hospital, Weights(*(exchange.read(network, group) for group in (names.shared, names.buffers, names.local)))


def test_a_hospital_counts_optimiser_steps_and_its_batch_normalisation_batches(tiny: Path, tmp_path: Path) -> None:
    """SCAFFOLD divides by steps times learning rate: with too many steps its variates would be too small."""
    plan = plan_of(tiny, "training.accumulate=3", "training.batch_size=2", "training.epochs=2", "algorithm=scaffold")
    hospital, weights = hospital_of(plan, tmp_path)
    update = hospital.train(1, 0, 0, weights, {})
    single = plan_of(tiny, "training.batch_size=2", "training.epochs=2").steps_per_round("alta")
    steps = plan.steps_per_round("alta")
    assert update.metrics["steps"] == steps < single
    seen = [value for name, value in update.weights.buffers.items() if name.endswith("num_batches_tracked")]
    assert {int(value) for value in seen} == {single}
    for name, change in update.extra["control"].items():
        expected = (weights.shared[name] - update.weights.shared[name]) / (steps * plan.scenario.training.lr)
        np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-6)


def test_the_estimate_measures_whole_steps(tiny: Path) -> None:
    words = ("training.batch_size=2", "data.options.synthetic.patients_per_center=20")  # of 8 batches and more
    one, eight = (estimate(plan_of(tiny, *words, f"training.accumulate={number}"), 1) for number in (1, 8))
    assert eight.step_s > 3 * one.step_s


# ---- memory format, precision, compilation

CHANNELS: dict[str, object] = {"decoder_channels": [32, 16, 16, 8, 8]}
SMALL = dict.fromkeys(("unet", "unetplusplus", "manet", "triunet"), CHANNELS)
SMALL["dpt"] = {"encoder": "tu-test_vit"}


@pytest.mark.parametrize("name", MODELS["segmentation"])
def test_channels_last_gives_the_logits_of_contiguous_tensors(name: str) -> None:
    """To 1e-4."""
    spec = Model.model_validate({"name": name, "encoder": "tu-lcnet_050"} | SMALL.get(name, {}))
    network, images = build_model(spec, "segmentation", 1, seed=0).eval(), torch.rand(2, 3, 64, 64)
    assert any(p.is_contiguous(memory_format=torch.channels_last) for p in network.parameters() if p.ndim == 4)
    with torch.inference_mode():
        last = network(images.to(memory_format=torch.channels_last))
        contiguous = network.to(memory_format=torch.contiguous_format)(images)
    torch.testing.assert_close(last, contiguous, rtol=0, atol=1e-4)


def learn(samples: Samples, network: nn.Module, precision: str = "float32") -> tuple[float, float]:
    """The mean loss over 15 epochs, and Dice on what was learnt."""
    torch.set_num_threads(1)
    optimizer, augment = make_optimizer(network, Training(lr=0.01)), Augment(AUGMENTS["none"](32))
    rates = dict.fromkeys(range(15), 0.01)
    trained = train_epochs(
        network,
        lambda epoch: train_batches(samples, 4, augment, epoch),
        dice_bce_loss, optimizer, rates, CPU, precision,
    )  # fmt: skip
    batch = next(train_batches(samples, len(samples), augment, 0))
    with torch.inference_mode():
        found = network.eval()(batch.images) > 0
    both = (found & (batch.targets > 0)).sum(dim=(1, 2, 3))
    return trained.loss, float((2 * both / (found.sum(dim=(1, 2, 3)) + batch.targets.sum(dim=(1, 2, 3)))).mean())


def test_mixed_precision_learns_as_well(alta: Samples) -> None:
    """bfloat16 autocast, here on a processor: the mean loss within 0.02, Dice within 0.05."""
    loss, dice = learn(alta, without_batch_norm())
    mixed_loss, mixed_dice = learn(alta, without_batch_norm(), "bfloat16")
    assert dice > 0.4
    assert 0 < abs(mixed_loss - loss) < 0.02 and abs(mixed_dice - dice) < 0.05


def test_a_compiled_network_keeps_the_names_of_its_tensors(tiny: Path) -> None:
    plain, compiled = (load_network(plan_of(tiny, f"training.compile={on}")) for on in ("false", "true"))
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_compilation_without_a_compiler_is_refused_before_data_are_read(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and no-such-compiler is not on this machine"):
        plan_of(tiny, "training.compile=true", "data.roots.synthetic=/nowhere")
    plan_of(tiny)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compilation_gives_the_same_network_and_learns_as_well(tiny: Path, alta: Samples) -> None:
    """Logits to 1e-4, the mean loss within 0.01, Dice within 0.01."""
    torch.set_num_threads(1)
    plain, compiled = (plan_of(tiny, f"training.compile={on}") for on in ("false", "true"))
    assert plain.hash != compiled.hash
    networks = [load_network(plan).eval() for plan in (plain, compiled)]
    exchange.write(networks[1], exchange.read(networks[0], networks[0].state_dict()))
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        expected, logits = networks[0](images), networks[1](images)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1  # compiled kernels really ran
    loss, dice = learn(alta, without_batch_norm())
    network = without_batch_norm()
    network.compile()
    compiled_loss, compiled_dice = learn(alta, network)
    assert 0 < abs(compiled_loss - loss) < 0.01 and abs(compiled_dice - dice) < 0.01


def test_adamw_without_weight_decay_is_adam() -> None:
    """To the bit: the documentation says so, that nobody compares the two."""
    networks = []
    for kind in ("adam", "adamw"):
        torch.manual_seed(0)
        networks.append(nn.Linear(4, 3))
        optimizer = make_optimizer(networks[-1], Training(optimizer=kind))
        for _ in range(3):
            optimizer.zero_grad()
            networks[-1](torch.rand(8, 4)).square().mean().backward()
            optimizer.step()
    assert all(map(torch.equal, *(network.parameters() for network in networks)))
