"""Members, labels and fusions; softmax with a background channel, seen from outside."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit, softmax

from fedkvasir.ensembles import members_of
from fedkvasir.errors import UserError
from fedkvasir.exchange import layout
from fedkvasir.models import build_model, check_model
from fedkvasir.models.ensemble import Ensemble, Learned, WeightedMean
from fedkvasir.models.network import log_odds
from fedkvasir.scenario import Model

LIGHT = "tu-lcnet_050"
WIDE = {"name": "manet", "decoder_channels": [64, 64, 32, 32, 16]}
LOGITS = st.floats(-30, 30, width=32)


def spec(**keys: object) -> Model:
    return Model.model_validate({"name": "ensemble", "encoder": LIGHT, "members": ["fpn", "pspnet"], **keys})


def build(task: str = "segmentation", classes: int = 1, **keys: object) -> Ensemble:
    ensemble = build_model(spec(**keys), task, classes, seed=0)
    assert isinstance(ensemble, Ensemble)
    return ensemble


def test_divergentnets_has_the_members_of_the_paper() -> None:
    members = members_of(Model(name="divergentnets", encoder="resnet18"), "segmentation")
    assert list(members) == ["unetplusplus", "fpn", "deeplabv3", "deeplabv3plus", "triunet"]
    assert {member.encoder for member in members.values()} == {"resnet18"}


def test_a_member_has_its_own_keys_and_for_the_rest_the_ensembles() -> None:
    members = members_of(
        spec(
            weights="package",
            activation="softmax",
            decoder_channels=[32, 16, 16, 8, 8],
            members=["unet", {"name": "unet", "encoder": "resnet18", "weights": None, "depth": 4}, "fpn", WIDE],
        ),
        "segmentation",
    )
    assert list(members) == ["unet", "unet-2", "fpn", "manet"]
    first, second, third, fourth = members.values()
    assert (first.encoder, first.weights, first.activation) == (LIGHT, "package", "softmax")
    assert first.parameters == {"decoder_channels": [32, 16, 16, 8, 8]}
    assert (second.encoder, second.weights, second.parameters["depth"]) == ("resnet18", None, 4)
    assert third.parameters == {} and fourth.parameters == {"decoder_channels": [64, 64, 32, 32, 16]}


def test_names_of_timm_models_become_names_of_modules_and_folders() -> None:
    members = members_of(Model(name="ensemble", members=["resnet50.a1_in1k", "ResNet50_x"]), "classification")  # type: ignore[call-arg]
    assert list(members) == ["resnet50-a1-in1k", "resnet50-x"]


@given(arrays(np.float32, (3, 2, 2, 4, 4), elements=LOGITS))
def test_the_mean_is_the_mean_of_probabilities_pixel_by_pixel(logits: np.ndarray) -> None:
    """DivergentNets: "averaging the pixels between each intermediate mask"."""
    fused = WeightedMean(3)([torch.from_numpy(part) for part in logits]).numpy()
    np.testing.assert_allclose(expit(fused), expit(logits.astype(np.float64)).mean(axis=0), atol=1e-6)


@given(arrays(np.float32, (3, 5, 4), elements=LOGITS))
def test_the_mean_of_classifiers_is_the_mean_of_their_probabilities(logits: np.ndarray) -> None:
    fused = WeightedMean(3)([torch.from_numpy(part) for part in logits]).numpy()
    np.testing.assert_allclose(np.exp(fused), softmax(logits.astype(np.float64), axis=-1).mean(axis=0), atol=1e-6)


def test_weights_weigh() -> None:
    fusion, logits = WeightedMean(2), torch.tensor([[[[0.3]]], [[[-1.2]]]])[:, None].unbind()
    fusion.weights.copy_(torch.tensor([0.75, 0.25]))
    assert fusion(logits).item() == pytest.approx(logit(0.75 * expit(0.3) + 0.25 * expit(-1.2)), abs=1e-6)


def test_members_however_sure_leave_a_finite_answer() -> None:
    """Bilinear resizing would turn an infinite logit into NaN."""
    sure = [torch.full((1, 1, 2, 2), value) for value in (-1e4, -1e4)]
    assert WeightedMean(2)(sure).isfinite().all()


@pytest.mark.parametrize(("task", "shape"), [("segmentation", (2, 3, 5, 5)), ("classification", (2, 3))])
def test_what_is_learned_begins_as_the_mean_of_the_logits(task: str, shape: tuple[int, ...]) -> None:
    logits = torch.randn(4, *shape)
    fused = Learned(4, 3, task)(list(logits))
    assert torch.allclose(fused, logits.mean(dim=0), atol=1e-6)


@given(arrays(np.float32, (2, 4, 3, 3), elements=LOGITS))
def test_the_sigmoid_of_log_odds_is_the_softmax_with_a_background(logits: np.ndarray) -> None:
    found = log_odds(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(expit(found), softmax(logits.astype(np.float64), axis=1)[:, 1:], atol=1e-6)


@pytest.mark.parametrize("name", ["unet", "triunet"])
def test_softmax_adds_a_background_channel_inside_and_none_outside(name: str) -> None:
    """Two classes (background, polyp) and softmax2d of the paper: the polyp's logit is the difference of the two."""
    model = Model(name=name, encoder=LIGHT, activation="softmax")
    network = build_model(model, "segmentation", 1, seed=0).eval()
    images, seen = torch.rand(2, 3, 64, 64), []
    network.body.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    logits = network(images)
    assert seen[0].shape == (2, 2, 64, 64) and logits.shape == (2, 1, 64, 64)
    assert torch.allclose(logits.sigmoid(), seen[0].softmax(dim=1)[:, 1:], atol=1e-6)


def test_softmax_is_not_for_classifiers() -> None:
    with pytest.raises(UserError, match=r"model.activation is for segmentation"):
        check_model(Model(name="resnet50", activation="softmax"), "classification", 64)


def test_training_changes_the_fusion_and_nothing_of_the_members() -> None:
    ensemble = build(fusion="learned")
    before = {name: tensor.clone() for name, tensor in ensemble.state_dict().items()}
    optimizer = torch.optim.SGD(ensemble.parameters(), lr=0.1)
    ensemble.train()(torch.rand(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in ensemble.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"fusion.layers.0.weight", "fusion.layers.0.bias"}


def test_only_the_fusion_is_exchanged() -> None:
    learned, mean = layout(build(fusion="learned"), set(), "average"), layout(build(), set(), "average")
    assert (learned.shared, learned.buffers, learned.local) == (
        ("fusion.layers.0.bias", "fusion.layers.0.weight"),
        (),
        (),
    )
    assert (mean.shared, mean.buffers, mean.local) == ((), ("fusion.weights",), ())


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"members": ["unet", "unett"]}, r"model.name: unknown segmentation model 'unett' \(did you mean 'unet'\?\)"),
        ({"members": ["unet"]}, "model.members = .*at least 2"),
        ({"members": ["unet", "fpn"], "labels": ["a"]}, "labels: 2 members need as many different labels"),
        ({"members": ["unet", "fpn"], "labels": ["a", "b", "a"]}, "labels: 2 members need as many different labels"),
        ({"members": ["unet", "divergentnets"]}, "divergentnets is an ensemble itself; name its members instead"),
        ({"fusion": "median"}, "model.fusion.name = 'median'.*'mean', 'weighted' or 'learned'"),
        ({"fusion": {"name": "learned", "lrr": 1}}, r"unknown key model.fusion.lrr \(did you mean 'lr'\?\)"),
        ({"fusion": {"name": "learned", "lr": math.inf}}, "model.fusion.lr = inf: input should be a finite number"),
        ({"fusions": "mean"}, r"unknown key model.fusions \(did you mean 'fusion'\?\)"),
        ({"encoder": "resnet19"}, "unknown encoder 'resnet19'"),
    ],
)
def test_what_is_wrong_with_an_ensemble_is_one_sentence(keys: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refusal:
        check_model(spec(**keys), "segmentation", 64)
    assert "\n" not in str(refusal.value)


def test_a_member_may_be_called_as_a_method_of_modules_is() -> None:
    """As those of a baseline are, which are called as their hospitals."""
    ensemble = build(labels=["train", "double"])
    assert [*ensemble.members] == ["train", "double"] and not ensemble.train().members["train"].training
    assert ensemble(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)
    assert {name.split(".")[1] for name in ensemble.frozen} == {"train", "double"}


def test_an_ensemble_without_members_says_which_key() -> None:
    with pytest.raises(UserError, match=r"key model.members is missing"):
        check_model(Model(name="ensemble"), "classification", 64)
