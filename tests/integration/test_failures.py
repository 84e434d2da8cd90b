"""What goes wrong in one place is said in one sentence, and nothing finished is lost."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from fedkvasir import simulation
from fedkvasir.errors import RunFailed, UserError
from fedkvasir.runs import Run
from fedkvasir.simulation import run_scenario
from tests.conftest import Command, Miniatures
from tests.integration.hungry_app import TAKEN_BYTES


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hospitals whose training at bergen ends in NaN."""
    monkeypatch.setattr(simulation, "CLIENT_APP", "tests.integration.faulty_app:app")


@pytest.mark.usefixtures("poisoned")
def test_nan_at_one_hospital_stops_the_run_below_quorum_and_names_it(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"round 1: 2 of 3 hospitals answered, .*asks for 3 \(bergen: NonFiniteLoss"):
        run_scenario(tiny, out=tmp_path, engine="local")


@pytest.mark.usefixtures("poisoned")
def test_nan_at_one_hospital_is_gone_without_where_the_quorum_allows_and_is_said(tiny: Path, tmp_path: Path) -> None:
    run = run_scenario(tiny, ("federation.quorum=0.6", "federation.rounds=1"), out=tmp_path, engine="local")
    (failure,) = run.result["failures"]
    assert (failure["round"], failure["center"]) == (1, "bergen") and "no longer a number" in failure["reason"]
    assert set(run.rounds.query("phase == 'train'")["center"]) == {"alta", "cadiz"}
    assert run.table()["dice"].notna().all()


Struck = Callable[[str], Run]


@pytest.fixture
def struck(scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Struck:
    """Two rounds in two workers of an app in which something happens; they end as if nothing had."""

    def run(app: str) -> Run:
        short = ("federation.rounds=2",)
        expected = run_scenario(scenario, short, out=tmp_path / "alone", engine="local")
        monkeypatch.setattr(simulation, "CLIENT_APP", f"tests.integration.{app}:app")
        found = run_scenario(scenario, short, out=tmp_path / "struck", workers=2)
        assert found.result["weights_sha256"] == expected.result["weights_sha256"] and not found.result["failures"]
        return found

    return run


def notes(run: Run) -> list[str]:
    return json.loads((run.folder / "environment.json").read_text())["notes"]


@pytest.mark.slow
def test_a_full_gpu_is_shared_by_fewer_and_the_bits_stay(struck: Struck) -> None:
    """Nobody is averaged without: hospitals that found no room are asked again, in a worker that has the device."""
    (note,) = notes(struck("crowded_app"))
    assert "out of GPU memory; goes on with 1 worker(s)" in note


@pytest.mark.slow
def test_a_worker_that_has_lost_its_gpu_is_replaced(struck: Struck) -> None:
    run = struck("lost_app")
    assert (run.folder / "lost").exists() and not notes(run)


@pytest.mark.slow
def test_a_host_short_of_memory_works_for_fewer_at_a_time_and_the_bits_stay(
    struck: Struck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray kills workers before the machine's memory is gone: here, 2 GiB after what is in use now."""
    memory = psutil.virtual_memory()
    if memory.available < 2 * TAKEN_BYTES:
        pytest.skip("too little memory is free here to take some")
    used = memory.total - memory.available
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(used + 2 * TAKEN_BYTES / 3) / memory.total:.3f}")
    (note,) = notes(struck("hungry_app"))
    assert "out of memory; goes on with 1 worker(s)" in note


def test_changed_images_are_not_resumed_over(tmp_path: Path, tiny: Path) -> None:
    short = ("federation.rounds=1",)
    run = run_scenario(tiny, short, out=tmp_path, engine="local")
    facts = json.loads((run.folder / "plan.json").read_text())
    (run.folder / "plan.json").write_text(json.dumps(facts | {"pixels": facts["pixels"] | {"alta": "other"}}))
    with pytest.raises(UserError, match=r"images or masks of alta have changed since .* --fresh"):
        run_scenario(tiny, short, out=tmp_path, engine="local")


def test_changed_masks_are_not_resumed_over_and_no_finished_run_is_taken_for_one_of_them(
    tmp_path: Path, miniatures: Miniatures
) -> None:
    root, scenario = tmp_path / "kvasir-seg", tmp_path / "masks.yaml"
    shutil.copytree(miniatures("kvasir-seg"), root)
    centers = "{a: {dataset: kvasir-seg, val: 0.2, test: 0.2}}"
    model = "{name: unet, encoder: tu-lcnet_050, weights: null, decoder_channels: [16, 8, 8, 4, 4]}"
    scenario.write_text(
        f"task: segmentation\ndata: {{image_size: 64, centers: {centers}}}\nmodel: {model}\n"
        "training: {loss: dice+bce, optimizer: sgd, lr: 0.05, batch_size: 4}\nfederation: {rounds: 1}\n"
    )
    words = (f"data.roots.kvasir-seg={root}",)
    run_scenario(scenario, words, out=tmp_path / "runs", engine="local")
    for path in (root / "masks").iterdir():
        mask = Image.open(path)
        mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    with pytest.raises(UserError, match=r"masks of a have changed since .* --fresh"):
        run_scenario(scenario, words, out=tmp_path / "runs", engine="local")


def test_a_checkpoint_cut_short_is_passed_over_for_the_one_before(tmp_path: Path, tiny: Path) -> None:
    run = run_scenario(tiny, ("federation.rounds=2",), out=tmp_path, engine="local")
    last = run.folder / "checkpoints" / "0002.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    looked_at, latest = run.committed(), run.latest()
    assert looked_at is not None and latest is not None and looked_at.round == latest.round == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, far too small for a run."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (it takes root)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_no_half_written_file(
    command: Command, tiny: Path, small_disk: Path
) -> None:
    done = command("run", tiny, "--engine", "local", "--out", small_disk, cwd=tiny.parent)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "the same command goes on" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not [path for path in small_disk.rglob("*") if path.name.endswith(".tmp")]


def test_a_full_disk_under_the_store_says_what_it_needs(command: Command, tiny: Path, small_disk: Path) -> None:
    size = "data.image_size=64"
    done = command("run", tiny, size, "--engine", "local", cwd=tiny.parent, FEDKVASIR_CACHE=str(small_disk))
    assert done.returncode == 1 and "No space left on device" in done.stderr


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """``read_only("ro")`` makes the folder ``runs`` one that cannot be written, even by root; ``"rw"`` undoes it."""
    place = tmp_path / "runs"
    place.mkdir()

    def mount(*words: str) -> None:
        if subprocess.run(["mount", *words], capture_output=True).returncode:
            pytest.skip("a file system cannot be mounted here (it takes root)")

    mount("-t", "tmpfs", "-o", "size=200m", "tmpfs", str(place))
    yield lambda how: mount("-o", f"remount,{how}", str(place))
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_run_folder_that_cannot_be_written_is_one_sentence_and_can_be_read(
    command: Command, tiny: Path, tmp_path: Path, read_only: Callable[[str], None]
) -> None:
    words = ("run", tiny, "--engine", "local", "--out", tmp_path / "runs")
    assert command(*words, "federation.rounds=1", cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "runs").iterdir()
    read_only("ro")
    for more in ((), ("federation.rounds=1",), ("federation.rounds=1", "--fresh")):
        done = command(*words, *more, cwd=tmp_path)
        assert done.returncode == 2 and "Read-only file system" in done.stderr and done.stderr.count("\n") == 1
    assert "edinburgh" in command("report", folder, "--format", "markdown", cwd=tmp_path).stdout
    read_only("rw")
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0 and len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"again": {"dataset": "synthetic", "center": "alta", "role": "holdout"}},
            "alta (train) and again (holdout) hold the same 20",
        ),
        ({"ghost": {"dataset": "synthetic", "center": "zermatt"}}, "synthetic has no center 'zermatt'"),
        ({"ours": {"dataset": "folder", "root": "nowhere"}}, "folder: nowhere does not exist"),
        ({"seg": {"dataset": "kvasir-seg"}}, "Download kvasir-seg.zip"),
        (
            {"alta": {"dataset": "synthetic", "center": "alta", "partition": {"kind": "iid", "parts": 99}}},
            "99 parts cannot be cut from",
        ),
    ],
)
def test_centers_that_cannot_be_are_refused(command: Command, tiny: Path, change: dict, sentence: str) -> None:
    raw = yaml.safe_load(tiny.read_text())
    raw["data"]["centers"] |= change
    tiny.write_text(yaml.safe_dump(raw, sort_keys=False))
    done = command("run", tiny, "--engine", "local", cwd=tiny.parent, FEDKVASIR_DATA="")
    assert done.returncode == 2 and sentence in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not (tiny.parent / "runs").exists()


def test_debug_shows_the_traceback_as_well(command: Command, tiny: Path) -> None:
    done = command("run", tiny, "model.name=none", "--debug", cwd=tiny.parent)
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_predicted_masks_have_the_native_size_and_the_names_of_their_images(
    command: Command, tiny: Path, tmp_path: Path
) -> None:
    from PIL import Image

    run = run_scenario(tiny, ("federation.rounds=1",), out=tmp_path / "runs", engine="local")
    for name, size in (("one.jpg", (90, 61)), ("two.PNG", (33, 200))):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", size, "brown").save(tmp_path / "pictures" / name)
    done = command("predict", run.folder, tmp_path / "pictures", "--out", tmp_path / "masks", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "masks" / "one.png").size == (90, 61)
    assert Image.open(tmp_path / "masks" / "two.png").size == (33, 200)
    assert (tmp_path / "masks" / "predictions.csv").read_text().startswith("image,frame,class,mask,area_px")
    (tmp_path / "pictures" / "three.jpg").write_text("no picture")
    done = command("predict", run.folder, tmp_path / "pictures" / "three.jpg", "--out", tmp_path / "m", cwd=tmp_path)
    assert done.returncode == 2 and "three.jpg (cannot identify image file" in done.stderr
    assert Run(run.folder).finished and (run.folder / "report.html").is_file()
