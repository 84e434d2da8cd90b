"""One file for other programs: it says what the run says, or it is not written."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedkvasir.errors import RunFailed, UserError
from fedkvasir.export import SUFFIXES, check, export
from fedkvasir.runs import Run
from fedkvasir.simulation import run_scenario
from tests.conftest import TINY, Command

pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
SIDE = 40
"""A size that the network's stride does not divide."""
CLASSIFY = (
    "task=classification",
    "model={name: lcnet_050}",
    "training.loss=cross-entropy",
    "data.options.synthetic={task: classification, patients_per_center: 16, image_scale: 0.1}",
)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    changes = ("federation.rounds=1", f"data.image_size={SIDE}", "evaluation.threshold=0.4")
    return lambda *more: run_scenario(folder / "tiny.yaml", (*changes, *more), out=folder / "runs", engine="local")


@pytest.fixture(scope="module")
def run(train: Callable[..., Run]) -> Run:
    return train()


def opened(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, str]]:
    """The file and its metadata as somebody else would open them."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        return lambda images: session.run(["logits"], {"images": images})[0], metadata
    extra = {"fedkvasir.json": ""}
    module = torch.jit.load(path, _extra_files=extra)
    return lambda images: module(torch.from_numpy(images)).numpy(), json.loads(extra["fedkvasir.json"])


@pytest.mark.parametrize("format", [pytest.param("onnx", marks=pytest.mark.slow), "torchscript"])
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_the_file_says_what_the_run_says_and_what_it_is(command: Command, run: Run, format: str) -> None:
    done = command("export", run.folder, "--format", format)
    assert (done.returncode, done.stderr) == (0, "")
    path = run.folder / f"model{SUFFIXES[format]}"
    file, metadata = opened(path)
    assert metadata == {
        "task": "segmentation",
        "classes": '["polyp"]',
        "image_size": "40",
        "threshold": "0.4",
        "input": "(batch, 3, 40, 40) float32 RGB in 0..1",
        "output": "(batch, 1, 40, 40) float32 logits",
        "run": run.plan.name,
        "weights_sha256": run.result["best_sha256"],
    }
    for words in (str(path), metadata["input"], metadata["output"], "polyp", "threshold 0.4", "differ by at most"):
        assert words in done.stdout
    for batch in (1, 5):
        images = np.random.default_rng(batch).random((batch, 3, SIDE, SIDE), np.float32)
        with torch.inference_mode():
            expected = run.model()(torch.from_numpy(images)).numpy()
        assert expected.std() > 0
        np.testing.assert_allclose(file(images), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        "model={name: unet, encoder: tu-lcnet_050, decoder_channels: [16, 8, 8, 4, 4], activation: softmax}",
        "model={name: ensemble, encoder: tu-lcnet_050, members: [fpn, linknet]}",
    ],
)
def test_softmax_and_ensembles_are_one_file_like_any_other(
    train: Callable[..., Run], tmp_path: Path, model: str
) -> None:
    done = export(train(model), "onnx", tmp_path / "model.onnx")
    assert done.path.is_file() and done.difference < 1e-4


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_classifier_gives_a_logit_a_class_and_has_no_threshold(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train(*CLASSIFY)
    done = export(run, "torchscript", tmp_path / "deep" / "kvasir.pt")
    file, metadata = opened(tmp_path / "deep" / "kvasir.pt")
    assert metadata == done.metadata and "threshold" not in metadata
    assert json.loads(metadata["classes"]) == list(run.plan.classes)
    assert file(np.zeros((2, 3, SIDE, SIDE), np.float32)).shape == (2, len(run.plan.classes))


def small(seed: int, classes: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Conv2d(3, classes, 3, padding=1)


def script(network: torch.nn.Module, side: int = 32) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, torch.rand(1, 3, side, side)), file)
    return file.getvalue()


class Off(torch.nn.Module):
    """A network whose logits are off by so much."""

    def __init__(self, network: torch.nn.Module, by: float) -> None:
        super().__init__()
        self.network, self.by = network, by

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images) + self.by


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_says_something_else_is_refused() -> None:
    network = small(0)
    right = script(network)
    assert check(right, "torchscript", network, 32) < 1e-5
    assert check(script(Off(network, 2e-5)), "torchscript", network, 32) == pytest.approx(2e-5, rel=0.2)
    for content, sentence in (
        (script(small(1)), "differ by up to"),
        (script(Off(network, 1e-2)), "differ by up to 0.01, and is not written"),
        (script(Off(network, float("nan"))), "differ by up to nan"),
        (script(small(0, classes=2)), r"logits of shape \(1, 2, 32, 32\), not \(1, 1, 32, 32\)"),
        (right[: len(right) // 2], "the torchscript file does not run and is not written"),
    ):
        with pytest.raises(RunFailed, match=sentence):
            check(content, "torchscript", network, 32)
    with pytest.raises(RunFailed, match="the onnx file does not run and is not written"):
        check(b"not a graph", "onnx", network, 32)


def test_what_cannot_be_exported_leaves_an_older_file_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"older")
    with pytest.raises(UserError, match=r"m.onnx: --format torchscript makes a .pt; name the file or the format so"):
        export(run, "torchscript", tmp_path / "m.onnx")
    with pytest.raises(UserError, match="--format onxx: use onnx or torchscript"):
        export(run, "onxx", tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"--out .*model\.onnx cannot be written"):
        export(run, "onnx", tmp_path / "model.onnx" / "model.onnx")
    with pytest.raises(UserError, match=r"--out .*plan\.json is there and no model; name another file"):
        export(run, "onnx", run.folder / "plan.json")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install 'fedkvasir\[export\]'"):
        export(run, "onnx", tmp_path / "model.onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]
