"""A run's best network as one file for other programs: ONNX or TorchScript, checked before it is written."""

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedkvasir import exchange
from fedkvasir.data.store import square
from fedkvasir.data.synthetic import render
from fedkvasir.data.synthetic.looks import LOOKS
from fedkvasir.errors import RunFailed, UserError
from fedkvasir.files import refuse_unwritable_file, write_atomic
from fedkvasir.runs import Run

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt"}
TOLERANCE = 1e-4
"""By which a logit may differ from the original's; above 1 its share of the logit."""
NOTE = "fedkvasir.json"
"""Where a TorchScript file keeps its metadata, among its extra files."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the original."""

    path: Path
    metadata: dict[str, str]
    """task, classes (JSON), image_size, threshold (segmentation), input, output, run, weights_sha256."""
    difference: float
    """The largest between any two logits."""


def export(run: Run, format: str, out: Path | None = None) -> Exported:
    """Write a run's best network, normalisation included: (B, 3, S, S) float32 RGB in 0..1 -> logits, for any B.

    format: ``onnx`` or ``torchscript``; out: by default ``model.onnx`` or ``model.pt`` in the run folder.
    The metadata stand in the file: as metadata_props (ONNX), as the extra file ``fedkvasir.json`` (TorchScript).
    Raises UserError for an unknown format, an unfinished run and where the extra [export] is missing, RunFailed where
    the file does not give the original's logits; nothing is written then.
    """
    if format not in SUFFIXES:
        raise UserError(f"--format {format}: use {' or '.join(SUFFIXES)}")
    run.refuse_unfinished()
    path = out or run.folder / f"model{SUFFIXES[format]}"
    refuse_unwritable_file(path, "--out")
    if path.suffix in SUFFIXES.values() and path.suffix != SUFFIXES[format]:
        raise UserError(f"--out {path}: --format {format} makes a {SUFFIXES[format]}; name the file or the format so")
    if path.exists() and path.suffix not in SUFFIXES.values():
        raise UserError(f"--out {path} is there and no model; name another file")
    network, scenario = run.model().requires_grad_(False), run.plan.scenario
    size, classes = scenario.data.image_size, run.plan.classes
    metadata = {"task": scenario.task, "classes": json.dumps(classes), "image_size": str(size)}
    shape = f"(batch, {len(classes)})"
    if scenario.task == "segmentation":
        metadata["threshold"] = str(scenario.evaluation.threshold)
        shape = f"(batch, {len(classes)}, {size}, {size})"
    metadata |= {
        "input": f"(batch, 3, {size}, {size}) float32 RGB in 0..1",
        "output": f"{shape} float32 logits",
        "run": run.plan.name,
        "weights_sha256": exchange.sha256(exchange.read(network, network.state_dict())),
    }
    write = _onnx if format == "onnx" else _torchscript
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of sizes that become constants: meant so; of TorchScript's old age
        try:
            content = write(network, torch.rand(2, 3, size, size), metadata)
        except UserError:
            raise
        except Exception as error:  # exporters refuse operators each in their own ways
            raise RunFailed(f"{run.folder} cannot be written as {format}: {_first_line(error)}") from error
        difference = check(content, format, network, size)
    write_atomic(path, content)
    return Exported(path, metadata, difference)


@torch.no_grad()
def check(content: bytes, format: str, network: nn.Module, size: int) -> float:
    """Load an exported file and compare its logits with the network's: random and rendered images, one and three.

    Returns the largest difference. Raises RunFailed where it is above :data:`TOLERANCE`, and for a file that does not
    open or run.
    """
    largest, batches = 0.0, _images(size)
    try:
        reloaded = _load(content, format)
        answers = [reloaded(images) for images in batches]
    except Exception as error:  # each runtime has errors of its own
        raise RunFailed(f"the {format} file does not run and is not written: {_first_line(error)}") from error
    for images, found in zip(batches, answers, strict=True):
        expected = network(images)
        if found.shape != expected.shape:
            shapes = f"{tuple(found.shape)}, not {tuple(expected.shape)}"
            raise RunFailed(f"the {format} file gives logits of shape {shapes}, and is not written")
        difference = float((found - expected).abs().max())
        if not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise RunFailed(f"the {format} file gives logits that differ by up to {difference:.2g}, and is not written")
        largest = max(largest, difference)
    return largest


def _images(size: int) -> list[Tensor]:
    """Noise, and what a network was made for."""
    noise = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    pictures = [render(LOOKS["alta"], "polyps", 0, patient, scale=0.25)[0] for patient in range(3)]
    small = np.stack([square(pixels, size) for pixels in pictures])
    rendered = torch.from_numpy(small).permute(0, 3, 1, 2).float().div_(255)
    return [noise[:1], noise, rendered[:1], rendered]


def _onnx(network: nn.Module, images: Tensor, metadata: dict[str, str]) -> bytes:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (checks what is written)
        import onnxscript  # noqa: F401  (the exporter's own need)
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install 'fedkvasir[export]'") from error
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, metadata)
    return model.SerializeToString()


def _torchscript(network: nn.Module, images: Tensor, metadata: dict[str, str]) -> bytes:
    file = io.BytesIO()
    traced = torch.jit.trace(network, images, check_trace=False)
    torch.jit.save(traced, file, _extra_files={NOTE: json.dumps(metadata)})
    return file.getvalue()


def _load(content: bytes, format: str) -> Callable[[Tensor], Tensor]:
    """The file as another program would open it."""
    if format == "torchscript":
        return torch.jit.load(io.BytesIO(content))
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
