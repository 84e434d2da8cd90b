"""Published models trained as their papers train them; a scenario's own keys come first."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from fedkvasir.data.augment import AUGMENTS, Augment
from fedkvasir.ensembles import members_of, parse
from fedkvasir.errors import UserError
from fedkvasir.names import check_names
from fedkvasir.scenario import RECIPES, Scenario, load
from fedkvasir.training import learning_rate

DATA = {"centers": {"alta": {"dataset": "synthetic", "center": "alta"}}}


def resolve(folder: Path, recipe: str, *overrides: str, **own: object) -> Scenario:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"recipe": recipe, "data": DATA, **own}))
    return load(path, overrides)


def test_divergentnets_is_trained_as_the_paper_says(tmp_path: Path) -> None:
    """Thambawita et al., EndoCV 2021, sections 2.2, 2.3 and 3.2."""
    scenario = resolve(tmp_path, "divergentnets")
    check_names(scenario)
    training = scenario.training
    epochs = scenario.federation.rounds * training.epochs
    assert (epochs, scenario.data.image_size, training.loss.name, training.optimizer) == (200, 256, "dice", "adam")
    assert [learning_rate(training, epoch, epochs) for epoch in (0, 49, 50, 199)] == pytest.approx(
        [1e-4, 1e-4, 1e-5, 1e-5]
    )
    members = members_of(scenario.model, "segmentation")
    assert list(members) == ["unetplusplus", "fpn", "deeplabv3", "deeplabv3plus", "triunet"]
    for member in members.values():
        assert (member.encoder, member.weights) == ("se_resnext50_32x4d", "imagenet")
        assert member.activation == "softmax"  # two classes, background and polyp
    parsed = parse(scenario.model, "segmentation")
    assert parsed is not None and parsed.fusion.name == "mean"


def test_the_thirteen_augmentations_of_the_paper() -> None:
    names = []
    for transform in AUGMENTS["divergentnets"](256):
        names += [one.__class__.__name__ for one in getattr(transform, "transforms", [transform])]
    assert names == [
        "HorizontalFlip", "Affine", "Resize", "GaussNoise", "Perspective",
        "CLAHE", "RandomBrightnessContrast", "RandomGamma",
        "Sharpen", "Blur", "MotionBlur",
        "RandomBrightnessContrast", "HueSaturationValue",
    ]  # fmt: skip


def test_the_papers_augmentations_scale_both_sides_alike_and_add_little_noise() -> None:
    """As albumentations 0.5 did, which the authors used: a polyp keeps its shape, noise has a deviation of 2.55 to
    12.75 of 255, the same in every channel."""
    _, affine, _, noise, *_ = AUGMENTS["divergentnets"](256)
    grey, disc = np.full((256, 256, 3), 128, np.uint8), np.zeros((256, 256), np.uint8)
    rows, columns = np.mgrid[:256, :256] - 127.5
    disc[rows**2 + columns**2 < 50**2] = 1
    noise.p = 1
    for seed in range(20):
        _, moved = Augment([affine])(grey, disc, seed)
        height, width = (np.ptp(places) + 1 for places in np.nonzero(moved))
        assert 48 <= height <= 152 and abs(height - width) <= 2
        noisy, _ = Augment([noise])(grey, disc, seed)
        assert 2 < noisy[..., 0].std() < 13 and np.ptp(noisy, axis=2).max() == 0


@pytest.mark.parametrize(
    ("recipe", "members"),
    [
        ("hyperkvasir-resnet50", []),
        ("hyperkvasir-resnet152", []),
        ("hyperkvasir-densenet161", []),
        ("hyperkvasir-average", ["resnet152-tv-in1k", "densenet161"]),
        ("hyperkvasir-mlp", ["resnet152-tv-in1k", "densenet161"]),
    ],
)
def test_the_five_baselines_of_hyperkvasir(recipe: str, members: list[str], tmp_path: Path) -> None:
    """Borgli et al., Scientific Data 2020: 224 x 224, batches of 32, ImageNet weights."""
    scenario = resolve(tmp_path, recipe)
    check_names(scenario.model_copy(update={"data": scenario.data.model_copy(update={"centers": {}})}))
    assert (scenario.data.image_size, scenario.training.batch_size) == (224, 32)
    assert scenario.model.weights == "imagenet" and scenario.task == "classification"
    assert list(members_of(scenario.model, "classification")) == members
    if not members:
        assert scenario.model.name.removesuffix(".tv_in1k") == recipe.removeprefix("hyperkvasir-")


def test_keys_of_the_scenario_and_of_the_command_line_come_before_the_recipes(tmp_path: Path) -> None:
    scenario = resolve(
        tmp_path,
        "divergentnets",
        "training.batch_size=4",
        model={"name": "unet"},
        training={"lr": 0.01, "schedule": None},
    )
    assert (scenario.model.name, scenario.model.encoder) == ("unet", "se_resnext50_32x4d")
    assert (scenario.training.lr, scenario.training.schedule, scenario.training.batch_size) == (0.01, None, 4)
    assert scenario.training.augment == "divergentnets"


def test_what_may_be_a_name_alone_is_taken_whole(tmp_path: Path) -> None:
    scenario = resolve(tmp_path, "divergentnets", training={"loss": {"name": "tversky", "alpha": 0.4}})
    assert scenario.training.loss.parameters == {"alpha": 0.4}


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "hyperkvasir"))
def test_a_resolved_recipe_reads_back_as_itself(recipe: str, tmp_path: Path) -> None:
    scenario = resolve(tmp_path, recipe)
    again = tmp_path / "again.yaml"
    again.write_text(scenario.dump())
    assert load(again) == scenario


def test_an_unknown_recipe_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipe = 'divergentnet' is not known \(did you mean 'divergentnets'\?\)"):
        resolve(tmp_path, "divergentnet")
