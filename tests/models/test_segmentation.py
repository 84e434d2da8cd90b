"""The contract of every segmentation architecture, and what is TriUNet's own."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fedkvasir.errors import UserError
from fedkvasir.exchange import read, write
from fedkvasir.models import MODELS, build_model, find_model
from fedkvasir.models.ensemble import Ensemble
from fedkvasir.models.network import Network
from fedkvasir.scenario import Model

LIGHT, TRANSFORMER = "tu-lcnet_050", "tu-test_vit"
CHANNELS = [32, 16, 16, 8, 8]
SMALL = {
    "unet": {"decoder_channels": CHANNELS},
    "unetplusplus": {"decoder_channels": CHANNELS},
    "fpn": {"pyramid_channels": 32, "segmentation_channels": 64},
    "deeplabv3": {"decoder_channels": 32},
    "deeplabv3plus": {"decoder_channels": 32},
    "pspnet": {"pyramid_channels": 32},
    "manet": {"decoder_channels": CHANNELS, "attention_channels": 16},
    "upernet": {"decoder_channels": 32},
    "segformer": {"segmentation_channels": 32},
    "dpt": {"encoder": TRANSFORMER, "intermediate_channels": [8, 16, 32, 32], "fusion_channels": 16},
    "triunet": {"decoder_channels": CHANNELS},
    "divergentnets": {"decoder_channels": CHANNELS, "fusion": "learned"},
}
SPECS = {
    name: Model.model_validate({"name": name, "encoder": LIGHT} | SMALL.get(name, {}))
    for name in [*MODELS["segmentation"], "divergentnets"]
}
PARAMETERS = {
    "unet": 420_473,
    "unetplusplus": 708_025,
    "fpn": 471_665,
    "deeplabv3": 523_281,
    "deeplabv3plus": 330_657,
    "pspnet": 279_553,
    "manet": 2_225_207,
    "linknet": 392_221,
    "pan": 368_600,
    "upernet": 487_697,
    "segformer": 292_145,
    "dpt": 409_665,
    "triunet": 1_261_637,
    "divergentnets": 8_168_743,
}
"""How many numbers train, for one class."""
EXPORT_SIDE = {"pspnet": 96, "upernet": 192, "dpt": 160}
"""TorchScript's exporter wants pooling windows of one size, and position embeddings as they are; elsewhere 64."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Maps this small gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


architecture = pytest.mark.parametrize("name", SPECS)


def build(name: str, seed: int = 0, classes: int = 1) -> Network | Ensemble:
    return build_model(SPECS[name], "segmentation", classes, seed=seed)


@architecture
def test_forward_backward_and_the_number_of_parameters(name: str) -> None:
    network = build(name)
    logits = network.train()(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 1, 64, 64)
    logits.square().mean().backward()
    for key, parameter in network.named_parameters():
        if name == "pspnet" and parameter.grad is None:  # it reads three stages; timm keeps the deeper ones
            assert "encoder" in key
            continue
        if key.startswith("members."):  # each of DivergentNets' has trained on its own
            assert parameter.grad is None and not parameter.requires_grad
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@architecture
def test_odd_sizes_one_at_a_time_and_several_classes(name: str) -> None:
    network = build(name, classes=3).eval()
    for size in ((70, 45), (1, 1)):
        with torch.inference_mode():
            logits = network(torch.rand(1, 3, *size))
        assert logits.shape == (1, 3, *size) and logits.isfinite().all()


@architecture
def test_the_same_output_from_a_file_and_from_exchanged_arrays(name: str, tmp_path: Path) -> None:
    first, other = build(name, seed=1), build(name, seed=2)
    images = torch.rand(2, 3, 64, 64)
    first.train()(images)  # running statistics of their own
    path = tmp_path / "weights.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in first.state_dict().items()}, path)
    if name == "divergentnets":  # `weights` are those that each member begins with
        loaded: nn.Module = build(name, seed=3)
        loaded.load_state_dict(load_file(path))
    else:
        loaded = build_model(SPECS[name].model_copy(update={"weights": str(path)}), "segmentation", 1, seed=3)
    with torch.inference_mode():
        expected = first.eval()(images)
        assert not torch.equal(other.eval()(images), expected)
        write(other, read(first, first.state_dict()))
        assert torch.equal(other(images), expected)
        assert torch.equal(loaded.eval()(images), expected)


def exported(network: Network, images: torch.Tensor, dynamo: bool) -> torch.Tensor:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
    file = io.BytesIO()
    torch.onnx.export(network, (images,), file, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(logits)


@architecture
@pytest.mark.filterwarnings("ignore")
def test_onnx_says_the_same(name: str) -> None:
    network, side = build(name).eval(), EXPORT_SIDE.get(name, 64)
    images = torch.rand(1, 3, side, side)
    assert torch.allclose(exported(network, images, dynamo=False), network(images), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORT_SIDE)
@pytest.mark.filterwarnings("ignore")
def test_onnx_of_any_size_through_the_slower_exporter(name: str) -> None:
    pytest.importorskip("onnxscript", reason="the extra [export] is not installed")
    network, images = build(name).eval(), torch.rand(1, 3, 64, 64)
    assert torch.allclose(exported(network, images, dynamo=True), network(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "encoder", "sentence"),
    [
        ("unet", "tu-lcnet_055", r"unknown encoder 'tu-lcnet_055' \(did you mean 'tu-lcnet_0"),
        ("unet", "tu-vit_tiny_patch16_224", "unet cannot be built with .*downsampling pattern"),
        ("unet", "tu-swin_tiny_patch4_window7_224", "takes images of 224 x 224 pixels only"),
        ("deeplabv3", "densenet121", "deeplabv3 cannot be built with .*dilated"),
        ("pan", "tu-pvt_v2_b0", "pan cannot be built with .*output_stride"),
        ("linknet", "mit_b0", "linknet cannot be built with .*not supported"),
        ("dpt", "resnet18", "dpt cannot be built with .*tu-"),
        ("dpt", "tu-resnet18", "no vision transformer that takes images of any size"),
        ("dpt", "tu-vit_small_patch14_dinov2", "patches of .* are 14 pixels, which do not divide 32"),
    ],
)
def test_an_encoder_that_an_architecture_refuses_is_one_sentence(name: str, encoder: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refusal:
        build_model(Model(name=name, encoder=encoder), "segmentation", 1)
    assert "\n" not in str(refusal.value)


def test_input_channels_are_not_for_scenarios() -> None:
    with pytest.raises(UserError, match=r"model.in_channels: unet does not take it.*takes encoder, decoder_channels"):
        find_model(Model.model_validate({"name": "unet", "in_channels": 6}), "segmentation")


def tri(**parameters: object) -> Model:
    return Model.model_validate({"name": "triunet", "encoder": LIGHT, **parameters})


def test_branches_of_triunet_start_from_different_weights_and_both_learn() -> None:
    network = build("triunet")
    one, two = network.body.branches
    for (key, left), right in zip(one.named_parameters(), two.parameters(), strict=True):
        drawn = left.numel() > 1 and left.std() > 0
        assert not drawn or not torch.equal(left, right), key
    before = [branch.encoder.model.conv_stem.weight.clone() for branch in (one, two)]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network.train()(torch.rand(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    for branch, old in zip((one, two), before, strict=True):
        assert not torch.equal(branch.encoder.model.conv_stem.weight, old)


def test_the_head_of_triunet_sees_both_softmax_maps() -> None:
    network = build_model(tri(branch_channels=3), "segmentation", 1, seed=0).eval()
    pixels, seen = torch.rand(1, 3, 64, 64), []
    network.body.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network.body(pixels)
        maps = [torch.softmax(branch(pixels), 1) for branch in network.body.branches]
    assert seen[0].shape == (1, 6, 64, 64) and torch.equal(seen[0], torch.cat(maps, 1))


@pytest.mark.parametrize(("classes", "channels"), [(1, 4), (2, 4), (3, 6)])
def test_a_branch_of_triunet_gives_a_map_a_class_background_included(classes: int, channels: int) -> None:
    assert build("triunet", classes=classes).body.head.encoder.out_channels[0] == channels


@pytest.mark.parametrize("nodes", [["unetplusplus"] * 3, ["unet", "fpn", "deeplabv3"], ["pan", "linknet", "manet"]])
def test_triunet_of_other_nodes(nodes: list[str]) -> None:
    spec = tri(nodes=nodes, decoder_channels=[64, 32, 16, 16, 8]) if "pan" not in nodes else tri(nodes=nodes)
    network = build_model(spec, "segmentation", 1, seed=0).eval()
    parts = [*network.body.branches, network.body.head]
    assert [type(part).__name__.lower() for part in parts] == nodes
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 70, 45)).shape == (1, 1, 70, 45)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"nodes": ["unet", "unett", "unet"]}, r"unknown node 'unett' \(did you mean 'unet'\?\)"),
        ({"nodes": ["unet", "triunet", "unet"]}, "unknown node 'triunet'"),
        ({"nodes": ["unet", "unet"]}, "give three names"),
        ({"branch_channels": 1}, "needs at least 2"),
    ],
)
def test_triunet_refuses_in_one_sentence(parameters: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_model(tri(**parameters), "segmentation", 1)


@pytest.mark.parametrize(
    ("name", "channels", "sentence"),
    [
        (
            "deeplabv3plus",
            [64, 32, 16, 8, 8],
            r"decoder_channels = \[64, .*\]: deeplabv3plus takes a number, by default 256",
        ),
        ("unet", 64, r"decoder_channels = 64: unet takes a list, by default \(256, 128, 64, 32, 16\)"),
        ("fpn", [64, 32], "fpn does not take it .*leave it out, on the command line with 'model={name: fpn, ...}'"),
    ],
)
def test_channels_of_another_architecture_are_refused_with_what_this_one_takes(
    name: str, channels: object, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        build_model(Model(name=name, decoder_channels=channels), "segmentation", 1)
