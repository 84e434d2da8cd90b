"""What many tests share: a private cache, the real data where it is, tiny scenarios that run in seconds."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import hypothesis
import pytest

from fedkvasir import cli
from fedkvasir.data.miniatures import miniature
from fedkvasir.scenario import Scenario, load

REPOSITORY = Path(__file__).resolve().parents[1]
# Started in the background of a shell, or by some CI, this process ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A run flushes three dozen files to outlive a power cut, which no test makes, and waits a third of a second for that.
os.fsync = lambda descriptor: None
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that two processes end together."""
    longest = (
        "test_kill.py",
        "test_sites.py",
        "test_engines.py",
        "test_trackers.py",
        "test_sweep.py",
        "test_study.py",
        "test_scenarios.py",
    )
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores and rendered images of the tests; shared by their subprocesses, never the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["FEDKVASIR_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets; the test is skipped, and says so, where there is none."""
    folder = Path(os.environ.get("FEDKVASIR_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "Kvasir-SEG").is_dir():
        pytest.skip("real data not found: set FEDKVASIR_DATA to a folder with Kvasir-SEG and CVC-ClinicDB")
    return folder


Miniatures = Callable[..., Path]


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Miniatures:
    """``miniatures("polypgen", 4)`` is the root of that dataset's miniature, rendered once a session."""
    folder, roots = tmp_path_factory.mktemp("miniatures"), dict[tuple[str, int], Path]()

    def render(name: str, per_center: int = 12) -> Path:
        if (name, per_center) not in roots:
            roots[name, per_center] = miniature(name, folder / str(per_center), per_center)
        return roots[name, per_center]

    return render


Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``command("data", "check", name, root, cwd=..., VARIABLE=...)``: the command line, called in this process."""

    def call(*arguments: object, cwd: Path | None = None, **environment: str) -> CompletedProcess[str]:
        words = ["fedkvasir", *map(str, arguments)]
        capsys.readouterr()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(sys, "argv", words)
            if cwd:
                patch.chdir(cwd)
            for name, value in environment.items():
                patch.setenv(name, value)
            cli.main()
        said = capsys.readouterr()
        return CompletedProcess(words, int(stopped.value.code or 0), said.out, said.err)

    return call


TINY = """
question: Does it run?
task: segmentation
data:
  image_size: 32
  centers:
    alta: {dataset: synthetic, center: alta, val: 0.2, test: 0.2}
    bergen: {dataset: synthetic, center: bergen, val: 0.2, test: 0.2}
    cadiz: {dataset: synthetic, center: cadiz, val: 0.2, test: 0.2}
    edinburgh: {dataset: synthetic, center: edinburgh, role: holdout}
  options:
    synthetic: {patients_per_center: 10, image_scale: 0.2}
model: {name: unet, encoder: tu-lcnet_050, weights: null, decoder_channels: [16, 8, 8, 4, 4]}
training: {loss: dice+bce, optimizer: sgd, lr: 0.05, batch_size: 4, epochs: 1, augment: light}
algorithm: fedavg
federation: {rounds: 3}
evaluation: {every: 1, select: train-val}
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Scenario]:
    """``faulty("{kind: dropout}", "seed=1")``: the scenario of :func:`tiny` with one fault."""
    path = tmp_path_factory.mktemp("faults") / "tiny.yaml"
    path.write_text(TINY)
    return lambda fault, *overrides: load(path, (f"faults=[{fault}]", *overrides))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A scenario of three rendered hospitals and a holdout, with a very small network."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path
