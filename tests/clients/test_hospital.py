"""One center: what it trains, keeps and records does not depend on batch sizes, processes or interruptions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clients.evaluate import evaluate
from clients.gallery import draw_gallery
from clients.hospital import Hospital, Weights, load_network
from clients.state import CenterState
from fedkvasir import exchange
from fedkvasir.data.augment import AUGMENTS, Augment
from fedkvasir.data.loader import batches_of, eval_batches, train_batches
from fedkvasir.metrics.segmentation import ratios
from fedkvasir.models import build_model
from fedkvasir.plan import Plan, make_plan
from fedkvasir.scenario import load
from fedkvasir.training import NonFiniteLoss


def plan_of(tiny: Path, *overrides: str) -> Plan:
    return make_plan(load(tiny, overrides))


def hospital_of(plan: Plan, folder: Path, center: str = "alta") -> tuple[Hospital, Weights]:
    """A hospital and initial weights for it."""
    scenario = plan.scenario
    torch.set_num_threads(1)
    network = build_model(scenario.model, scenario.task, len(plan.classes), seed=1)
    hospital = Hospital(plan, center, load_network(plan), folder)
    names = hospital.layout
    return hospital, Weights(*(exchange.read(network, group) for group in (names.shared, names.buffers, names.local)))


@pytest.mark.parametrize("batch_size", [4, 16])
def test_the_evaluation_batch_size_changes_nothing(tiny: Path, tmp_path: Path, batch_size: int) -> None:
    """Per-image counts of batches of 4 and 16 are those of single images: padding never counts."""
    plan = plan_of(tiny)
    hospital, weights = hospital_of(plan, tmp_path)
    exchange.write(hospital.network, weights.shared | weights.buffers)
    samples = plan.part("edinburgh", "test")
    network, device = hospital.network, torch.device("cpu")
    tables = []
    for size in (1, batch_size):
        training = plan.scenario.training.model_copy(update={"batch_size": size})
        scenario = plan.scenario.model_copy(update={"training": training})
        tables.append(evaluate(network, samples, scenario, plan.classes, device, "float32")[0])
    assert len(tables[1]) == len(samples)
    dice = [ratios(table)["dice"].fillna(-1) for table in tables]
    np.testing.assert_allclose(dice[0], dice[1], atol=1e-4)


def test_equal_batch_shapes_give_exactly_equal_logits_whatever_the_company(tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny)
    hospital, weights = hospital_of(plan, tmp_path)
    exchange.write(hospital.network, weights.shared | weights.buffers)
    network = hospital.network.eval()
    images = next(eval_batches(plan.part("edinburgh", "test"), 8))[1].images
    with torch.inference_mode():
        straight, turned = network(images), network(images.flip(0)).flip(0)
    torch.testing.assert_close(straight, turned, rtol=0, atol=0)


def test_two_epochs_augment_differently_and_two_runs_agree(tiny: Path) -> None:
    plan = plan_of(tiny)
    samples, augment = plan.part("alta", "train"), Augment(AUGMENTS["light"](32))
    first, again, second = (
        torch.cat([batch.images for batch in train_batches(samples, 4, augment, seed)]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize("preset", AUGMENTS)
def test_batches_made_ahead_in_threads_have_the_same_bits_and_order(tiny: Path, preset: str) -> None:
    samples, augment = plan_of(tiny).part("alta", "train"), Augment(AUGMENTS[preset](32))
    in_turn, ahead = (list(train_batches(samples, 2, augment, 7, threads=threads)) for threads in (0, 3))
    assert len(in_turn) == len(ahead) > 4
    for one, other in zip(in_turn, ahead, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)


def test_what_fails_in_a_thread_is_raised_where_the_batch_is_asked_for(tiny: Path) -> None:
    def fails(image: np.ndarray, mask: np.ndarray, seed: int) -> None:
        raise OSError("the disk is gone")

    batches = train_batches(plan_of(tiny).part("alta", "train"), 2, fails, 7, threads=1)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_all_images_are_seen_once_and_no_batch_is_of_one(tiny: Path) -> None:
    samples, augment = plan_of(tiny).part("alta", "train"), Augment(AUGMENTS["none"](32))
    for size in range(2, len(samples) + 2):
        batches = [len(batch.images) for batch in train_batches(samples, size, augment, 0)]
        assert sum(batches) == len(samples) and min(batches) > 1
        assert len(batches) == batches_of(len(samples), size)


def test_the_divergentnets_preset_keeps_shape_type_and_binary_masks() -> None:
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), rng.integers(0, 2, (64, 64), dtype=np.uint8)
    for preset in AUGMENTS.values():
        for seed in range(20):
            changed, moved = Augment(preset(64))(image, mask, seed)
            assert changed.shape == image.shape and changed.dtype == np.uint8
            assert moved.shape == mask.shape and set(np.unique(moved)) <= {0, 1}


def test_training_again_from_the_same_round_gives_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    """A hospital killed after training and before the commit trains again from the state the message names."""
    plan = plan_of(tiny, "algorithm=scaffold")
    hospital, weights = hospital_of(plan, tmp_path)
    first = hospital.train(1, 0, 0, weights, {})
    second = hospital.train(2, 1, 0, weights, {})
    fresh, _ = hospital_of(plan, tmp_path)
    again = fresh.train(2, 1, 0, weights, {})
    assert exchange.sha256(second.weights.shared) == exchange.sha256(again.weights.shared)
    assert exchange.sha256(second.extra["control"]) == exchange.sha256(again.extra["control"])
    assert exchange.sha256(first.weights.shared) != exchange.sha256(second.weights.shared)


def test_fedbn_keeps_its_layers_and_uses_them_again(tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny, "algorithm=fedbn")
    hospital, weights = hospital_of(plan, tmp_path)
    update = hospital.train(1, 0, 0, weights, {})
    assert set(update.weights.local) == exchange.normalisation(hospital.network)
    kept = hospital.state.load(1)["local"]
    assert exchange.sha256(kept) == exchange.sha256(update.weights.local)
    own, _ = hospital.evaluate("test", 1, weights, gallery=False)
    given, _ = hospital.evaluate("test", 0, weights, gallery=False)
    assert (own["tp"] != given["tp"]).any() or (own["fp"] != given["fp"]).any()


def test_optimiser_state_can_be_kept(tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny, "training.optimizer=adam", "training.optimizer_state=keep")
    hospital, weights = hospital_of(plan, tmp_path)
    hospital.train(1, 0, 0, weights, {})
    assert hospital.state.load(1)["optimizer"]
    warm = hospital.train(2, 1, 0, weights, {}).weights.shared
    cold = hospital.train(2, 0, 0, weights, {}).weights.shared
    assert exchange.sha256(warm) != exchange.sha256(cold)


@pytest.mark.parametrize("optimizer", ["optimizer: sgd, momentum: 0.9, lr: 0.01", "optimizer: adam, lr: 0.001"])
def test_two_rounds_with_a_kept_optimiser_are_one_of_two_epochs(tiny: Path, tmp_path: Path, optimizer: str) -> None:
    chosen = f"training={{{optimizer}, batch_size: 4}}"
    once, weights = hospital_of(plan_of(tiny, chosen, "training.epochs=2"), tmp_path / "once")
    together = once.train(1, 0, 0, weights, {}).weights.shared
    twice, _ = hospital_of(plan_of(tiny, chosen, "training.optimizer_state=keep"), tmp_path / "twice")
    half_way = twice.train(1, 0, 0, weights, {}).weights
    after = twice.train(2, 1, 0, half_way, {}).weights.shared
    for name, array in after.items():
        np.testing.assert_allclose(array, together[name], rtol=0, atol=1e-6, err_msg=name)


def test_a_loss_that_is_no_number_is_said(tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny)
    hospital, weights = hospital_of(plan, tmp_path)
    name = next(iter(weights.shared))
    weights.shared[name][:] = np.nan
    with pytest.raises(NonFiniteLoss, match="no longer a number"):
        hospital.train(1, 0, 0, weights, {})


def test_weights_that_the_last_step_ruined_are_said(tiny: Path, tmp_path: Path) -> None:
    """No loss is taken after the last step: without a look at the weights the other hospitals would get them."""
    plan = plan_of(tiny, "training.lr=1e38", "training.weight_decay=1000", "training.batch_size=64")
    hospital, weights = hospital_of(plan, tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"a weight is no longer a number after 1 step"):
        hospital.train(1, 0, 0, weights, {})


def test_the_gallery_shows_best_median_and_worst(tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny)
    hospital, weights = hospital_of(plan, tmp_path)
    rows, _ = hospital.evaluate("test", 0, weights, gallery=True)
    cases = pd.read_json(tmp_path / "gallery" / "alta.json")
    assert list(cases["rank"]) == ["best", "median", "worst"]
    assert list(cases["score"]) == sorted(cases["score"], reverse=True)
    assert all((tmp_path / "gallery" / file).stat().st_size > 500 for file in cases["file"])
    assert set(cases["sample"]) <= set(rows["sample"])


def gallery_of(plan: Plan, folder: Path, found: list[int], shown: list[int]) -> list[tuple[str, int]]:
    """(rank, number of the image) of a gallery; found, shown: pixels of each polyp that were found, and all of them."""
    hospital, weights = hospital_of(plan, folder, "edinburgh")
    exchange.write(hospital.network, weights.shared | weights.buffers)
    samples = plan.part("edinburgh", "test")
    rows, _ = evaluate(hospital.network, samples, plan.scenario, plan.classes, torch.device("cpu"), "float32")
    rows = rows.head(len(found)).assign(center="edinburgh", tp=found, fp=1, fn=np.subtract(shown, found))
    draw_gallery(hospital.network, samples, rows, plan.scenario, torch.device("cpu"), "float32", folder)
    cases = json.loads((folder / "edinburgh.json").read_text())
    assert all((folder / case["file"]).is_file() for case in cases)
    numbers = {sample: number for number, sample in enumerate(rows["sample"])}
    return [(case["rank"], numbers[case["sample"]]) for case in cases]


def test_the_gallery_shows_the_two_largest_missed_polyps(tiny: Path, tmp_path: Path) -> None:
    """The first image of Dice 0 is a false alarm: worst, and nothing was missed there."""
    cases = gallery_of(plan_of(tiny), tmp_path, [9, 0, 8, 7, 6, 5, 0, 0, 0], [9, 0, 9, 9, 9, 9, 20, 40, 30])
    assert cases == [("best", 0), ("median", 5), ("worst", 1), ("missed", 7), ("missed", 8)]


def test_a_picture_that_is_worst_and_missed_stands_once(tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny)
    assert gallery_of(plan, tmp_path, [9, 8, 0], [9, 9, 9]) == [("best", 0), ("median", 1), ("worst, missed", 2)]
    cases = gallery_of(plan, tmp_path, [9, 8, 7, 0, 0], [9, 9, 9, 5, 6])
    assert cases == [("best", 0), ("median", 2), ("worst, missed", 3), ("missed", 4)]


def test_center_state_keeps_what_the_server_may_ask_for_and_forgets_the_rest(tmp_path: Path) -> None:
    """What the best model needs, what the round began with, and what the one before that began with."""
    state = CenterState(tmp_path)
    for number in (1, 2, 3, 4, 5, 6):
        state.save(number, {"control": {"w": np.full(2, number, np.float32)}}, start_from=number - 1, keep=2)
    assert [path.stem for path in sorted(tmp_path.glob("*.safetensors"))] == ["0002", "0004", "0005", "0006"]
    assert state.load(4)["control"]["w"][0] == 4 and state.load(0) == {}
    with pytest.raises(FileNotFoundError):
        state.load(1)
