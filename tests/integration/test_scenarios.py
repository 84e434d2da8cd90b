"""Every scenario of the repository on published data, from end to end on the miniatures of its datasets."""

from pathlib import Path

import pytest
import torch

from fedkvasir.scenario import load
from fedkvasir.simulation import run_scenario
from tests.conftest import REPOSITORY, Miniatures

EVERY = sorted((REPOSITORY / "scenarios").glob("*.yaml"))
SCENARIOS = [path for path in EVERY if "dataset: synthetic" not in path.read_text()]
"""Those on rendered pictures have no miniatures; they are small themselves."""
ALWAYS = ("kvasir-cvc", "polypgen-loco", "hyperkvasir-classification", "pcam-two-centers")
"""Run with every `make test`, the others with `make test-all`."""
SMALL = (
    "data.image_size=32",
    "training.batch_size=4",
    "federation.rounds=1",
    "model.encoder=tu-lcnet_050",
    "model.weights=null",
)


def prepared(path: Path, miniatures: Miniatures) -> tuple[str, ...]:
    """Overrides: a network in miniature, and the roots of the datasets' miniatures."""
    scenario = load(path)
    roots = [f"data.roots.{name}={miniatures(name)}" for name in {c.dataset for c in scenario.data.centers.values()}]
    small = SMALL if scenario.task == "segmentation" else (*SMALL[:3], "model={name: lcnet_050}")
    few: tuple[str, ...] = ()
    if path.stem == "hyperkvasir-classification":
        few = ("data.centers.baerum.partition.minimum=2",)
    elif path.stem == "endocv2021-divergentnets":  # two of the five members, in place of three more minutes
        few = ("model.members=[fpn, triunet]", "model.decoder_channels=[16, 8, 8, 4, 4]")
    return (*small, *roots, *few)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in ALWAYS else pytest.mark.slow, id=path.stem) for path in SCENARIOS],
)
def test_a_scenario_runs_on_miniatures(path: Path, miniatures: Miniatures, tmp_path: Path) -> None:
    run = run_scenario(path, prepared(path, miniatures), out=tmp_path, engine="local")
    assert run.finished and run.plan.rendered and run.plan.scenario.question and len(run.plan.training_centers) >= 2
    assert len(run.table()) >= 1 and (run.folder / "report.html").is_file()


def test_vertebrae_are_scored_label_by_label(miniatures: Miniatures, tmp_path: Path) -> None:
    """Twenty-eight classes: one channel each, one row an image and class, one score an image."""
    path = REPOSITORY / "scenarios" / "verse-scanners.yaml"
    labels = ("data.options.verse.labels=vertebrae", "data.options.verse.every=16")
    run = run_scenario(path, (*prepared(path, miniatures), *labels), out=tmp_path, engine="local")
    assert run.plan.classes[19] == "L1" and len(run.plan.classes) == 28
    rows = run.samples[run.samples["checkpoint"] == "best"]
    assert (rows.groupby("sample")["class"].nunique() == 28).all()
    seen = set(rows["class"][rows["tp"] + rows["fn"] > 0])
    assert seen and seen <= {"T11", "T12", "L1", "L2", "L3", "L4", "L5"}
    table = run.table().set_index("center")
    assert table.loc["ge", "images"] == (rows["center"] == "ge").sum() / 28
    assert run.model("best")(torch.zeros(1, 3, 32, 32)).shape == (1, 28, 32, 32)
