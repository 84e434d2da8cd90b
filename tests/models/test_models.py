"""One logit a class, and a seed fixes the weights."""

import pytest
import torch

from fedkvasir.errors import UserError
from fedkvasir.exchange import read, sha256, write
from fedkvasir.models import build_model, check_model
from fedkvasir.scenario import Model

UNET = Model(name="unet", encoder="resnet18")
CLASSIFICATION = [Model(name="resnet50"), Model(name="lcnet_050")]


@pytest.mark.parametrize("spec", CLASSIFICATION, ids=lambda spec: spec.name)
def test_classification_gives_one_logit_a_class(spec: Model) -> None:
    assert build_model(spec, "classification", 8, seed=0).eval()(torch.rand(1, 3, 50, 64)).shape == (1, 8)


def test_a_classifier_of_one_size_takes_that_size_and_what_is_padded_to_it() -> None:
    for name, sizes in (("vit_small_patch14_dinov2", (517, 518)), ("vit_tiny_patch16_224", (200, 224))):
        for size in sizes:
            check_model(Model(name=name), "classification", size)
    assert build_model(Model(name="vit_tiny_patch16_224"), "classification", 1).stride == 32


def test_a_misspelt_classifier_is_told_the_nearest_of_timms() -> None:
    with pytest.raises(UserError, match=r"'efficientnet_b00' \(did you mean 'efficientnet_b0'\?\).*any timm model"):
        check_model(Model(name="efficientnet_b00"), "classification", 64)


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet50", 25_557_032), ("resnet152", 60_192_808), ("densenet161", 28_681_000)]
)
def test_the_baselines_of_hyperkvasir_are_of_the_published_size(name: str, parameters: int) -> None:
    """As torchvision, whose networks HyperKvasir's authors trained, publishes it for ImageNet's 1,000 classes."""
    with torch.device("meta"):
        network = build_model(Model(name=name), "classification", 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("spec", [UNET, CLASSIFICATION[1]], ids=lambda spec: spec.name)
def test_a_seed_fixes_the_weights_and_they_survive_the_exchange(spec: Model) -> None:
    task = "segmentation" if spec.encoder else "classification"
    first, again, other = (build_model(spec, task, 3, seed=seed) for seed in (1, 1, 2))
    states = [read(network, network.state_dict()) for network in (first, again, other)]
    assert sha256(states[0]) == sha256(states[1]) != sha256(states[2])
    write(other, states[0])
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(first.eval()(images), other.eval()(images))


def test_building_a_network_leaves_the_global_random_stream_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model(UNET, "segmentation", 1, seed=9)
    assert torch.equal(torch.rand(3), expected)
