"""What a federation is compared with: all images in one place, every hospital alone, their mean, a model that goes
round. Each takes as many steps as the federation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedkvasir.data.augment import AUGMENTS, Augment
from fedkvasir.data.loader import train_batches
from fedkvasir.errors import UserError
from fedkvasir.plan import Plan, make_plan
from fedkvasir.runs import Run
from fedkvasir.scenario import load
from fedkvasir.simulation import run_scenario

HOSPITALS = ["alta", "bergen", "cadiz"]
UNEVEN = "data.centers.cadiz={dataset: synthetic, center: cadiz, val: 0.2, test: 0.5}"


def run(scenario: Path, out: Path, *overrides: str) -> Run:
    return run_scenario(scenario, ("federation.rounds=2", *overrides), out=out, engine="local")


def plan(scenario: Path, *overrides: str) -> Plan:
    return make_plan(load(scenario, overrides))


def steps(run: Run) -> dict[str, float]:
    """Center -> optimiser steps of the whole run."""
    rounds = run.rounds[run.rounds["phase"] == "train"]
    return rounds.groupby("center")["steps"].sum().to_dict()


@pytest.fixture(scope="module")
def federated(scenario: Path, out: Path) -> Run:
    return run(scenario, out, UNEVEN)


@pytest.fixture(scope="module")
def alone(scenario: Path, out: Path) -> dict[str, Run]:
    return {hospital: run(scenario, out, UNEVEN, f"federation.train={hospital}") for hospital in HOSPITALS}


@pytest.mark.parametrize(
    ("accumulate", "batches"), [pytest.param(1, [1] * 8, marks=pytest.mark.slow), (2, [2, 1, 2, 1, 2])]
)
def test_pooled_training_takes_the_steps_of_all_hospitals_together(
    accumulate: int, batches: list[int], scenario: Path, out: Path
) -> None:
    """With two batches a step as well: of the third batch of an epoch a hospital makes a step of its own."""
    of = f"training.accumulate={accumulate}"
    federated, pooled = run(scenario, out, UNEVEN, of), run(scenario, out, UNEVEN, of, "federation.train=pooled")
    assert steps(pooled) == {"pooled": sum(steps(federated).values())}
    assert pooled.plan.batches_of_steps("pooled") == batches
    assert pooled.plan.steps_per_round("pooled") * 2 == steps(pooled)["pooled"]
    seen, together = (one.table().set_index("center")["images"] for one in (federated, pooled))
    assert together.to_dict() == seen.to_dict()  # tested on the same images
    validated = pooled.samples[pooled.samples["split"] == "val"]
    assert sorted(validated["center"].unique()) == HOSPITALS


def test_a_pooled_epoch_shows_every_image_once_in_batches_of_equal_size(scenario: Path) -> None:
    own = plan(scenario, UNEVEN, "federation.train=pooled")
    images, batches = int(own.centers.loc["pooled", "train"]), sum(own.batches_of_steps("pooled"))
    assert images == own.holdings["train"].sum() == len(own.part("pooled", "train"))
    sizes = [
        len(batch.images)
        for batch in train_batches(own.part("pooled", "train"), 4, Augment(AUGMENTS["none"](32)), 0, batches)
    ]
    assert len(sizes) == batches and sum(sizes) == images and max(sizes) - min(sizes) <= 1


def test_a_hospital_alone_is_the_run_without_the_others(alone: dict[str, Run], scenario: Path, out: Path) -> None:
    without = [f"data.centers.{name}.role=holdout" for name in ("bergen", "cadiz")]
    same = run(scenario, out, *without)
    assert alone["alta"].result["weights_sha256"] == same.result["weights_sha256"]
    assert steps(alone["alta"]) == steps(same)


def test_a_hospital_alone_takes_its_own_steps_and_sees_the_others_as_holdouts(
    alone: dict[str, Run], federated: Run
) -> None:
    for hospital, own in alone.items():
        assert steps(own) == {hospital: steps(federated)[hospital]}
        table = own.table().set_index("center")
        assert table["role"].to_dict() == {name: "train" if name == hospital else "holdout" for name in table.index}
        assert table["images"].to_dict() == federated.table().set_index("center")["images"].to_dict()
        selected = own.samples[own.samples["split"] == "val"]
        assert set(selected["center"]) == {hospital}  # the others' validation images had no say


def test_an_ensemble_of_locals_is_the_mean_of_the_hospitals_own_models(
    alone: dict[str, Run], scenario: Path, out: Path
) -> None:
    began = {hospital: own.result["wall_s"] for hospital, own in alone.items()}
    ensemble = run(scenario, out, UNEVEN, "federation.train=ensemble-of-locals")
    assert list(ensemble.members) == HOSPITALS
    for hospital, member in ensemble.members.items():
        assert member.result["best_sha256"] == alone[hospital].result["best_sha256"]
        assert member.result["wall_s"] == began[hospital]  # it was there, and was not trained again
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = ensemble.model()(pixels).sigmoid()
        apart = torch.stack([own.model()(pixels).sigmoid() for own in alone.values()]).mean(dim=0)
    np.testing.assert_allclose(together, apart, atol=1e-6)
    assert ensemble.result["best_round"] == 0 and set(ensemble.samples["role"]) == {"train", "holdout"}


def test_a_model_that_goes_round_is_trained_by_one_hospital_after_the_other(
    alone: dict[str, Run], federated: Run, scenario: Path, out: Path
) -> None:
    first = run(scenario, out, UNEVEN, "algorithm=cyclic", "federation.rounds=1")
    shared = run(scenario, out, UNEVEN, "federation.train=alta", "federation.rounds=1")
    assert first.result["weights_sha256"] == shared.result["weights_sha256"]
    cycles = run(scenario, out, UNEVEN, "algorithm=cyclic", "federation.rounds=6", "evaluation.every=3")
    rounds = cycles.rounds[cycles.rounds["phase"] == "train"]
    assert list(rounds["center"]) == HOSPITALS * 2
    assert steps(cycles) == steps(federated)
    assert sorted(cycles.rounds.loc[cycles.rounds["phase"] == "val", "round"].unique()) == [3, 6]


def test_a_hospital_of_a_partition_is_at_home_where_its_center_tests(scenario: Path) -> None:
    cut = "data.centers.alta={dataset: synthetic, center: alta, partition: {kind: iid, parts: 2}}"
    own = plan(scenario, cut, "federation.train=alta-1")
    assert own.training_centers == ["alta-1"]
    roles = own.centers["role"].to_dict()
    assert roles["alta"] == "train" and roles["bergen"] == roles["edinburgh"] == "holdout" and "alta-2" not in roles


def test_images_of_several_datasets_are_pooled_as_they_are(miniatures, scenario: Path) -> None:  # type: ignore[no-untyped-def]
    roots = {name: miniatures(name, 12) for name in ("kvasir-seg", "cvc-clinicdb")}
    centers = [
        f"data.centers.{center}={{dataset: {name}}}" for center, name in (("a", "kvasir-seg"), ("b", "cvc-clinicdb"))
    ]
    own = [f"data.roots.{name}={root}" for name, root in roots.items()]
    gone = "data.centers={edinburgh: {dataset: synthetic, center: edinburgh, role: holdout}}"
    pooled, each = (plan(scenario, gone, *centers, *own, f"federation.train={how}") for how in ("pooled", "each"))
    together = pooled.part("pooled", "train")
    assert together.table["store"].nunique() == 2
    apart = [each.part(center, "train") for center in ("a", "b")]
    images = np.concatenate([part.images(range(len(part))) for part in apart])
    masks = np.concatenate([part.masks(range(len(part))) for part in apart])
    mixed = np.random.default_rng(0).permutation(len(together))
    np.testing.assert_array_equal(together.images(mixed), images[mixed])
    np.testing.assert_array_equal(together.masks(mixed), masks[mixed])
    np.testing.assert_array_equal(together.native_mask(len(together) - 1), apart[1].native_mask(len(apart[1]) - 1))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["federation.train=altaa"], "no hospital that trains (did you mean 'alta'?)"),
        (["federation.train=edinburgh"], "no hospital that trains"),
        (["federation.train=ensemble-of-locals", "algorithm=fedbn"], "cannot be formed into an ensemble"),
        (
            [
                "federation.train=ensemble-of-locals",
                "model={name: ensemble, members: [unet, fpn], encoder: tu-lcnet_050}",
            ],
            "takes one network",
        ),
        (["data.centers.pooled={dataset: synthetic, center: dresden}"], "rename the center"),
    ],
)
def test_what_cannot_be_trained_so_is_refused(scenario: Path, overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as refused:
        plan(scenario, *overrides)
    assert says in str(refused.value)


def test_the_same_plan_has_the_same_name_whoever_asks_for_it(scenario: Path) -> None:
    whole = plan(scenario, "federation.train=ensemble-of-locals")
    alone = plan(scenario, "federation.train=alta")
    assert whole.members["alta"].hash == alone.hash != plan(scenario).hash
