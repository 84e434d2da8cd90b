"""The command line that scripts rely on."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import fedkvasir
from fedkvasir import cli
from fedkvasir.errors import UserError
from fedkvasir.scenario import json_schema, load
from tests.conftest import REPOSITORY, TINY, Command
from tests.data.test_hospitals import pictures
from tests.report.crafted import make_plan, make_run


def test_help_answers_in_under_half_a_second(tmp_path: Path) -> None:
    """Of a processor, whatever else this machine is at."""
    command, seconds = [str(Path(sys.executable).with_name("fedkvasir")), "--help"], []
    for _ in range(5):
        before = os.times()
        assert subprocess.run(command, capture_output=True).returncode == 0
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5


def test_commands_that_compute_nothing_do_not_wait_for_what_trains(tmp_path: Path, tiny: Path) -> None:
    run = make_run(tmp_path / "runs" / "crafted", make_plan("segmentation")).folder
    looked = (
        "import sys\n"
        "from contextlib import suppress\n"
        "from pathlib import Path\n"
        "from fedkvasir import cli, errors, view\n"
        "run, scenario = sys.argv[1:]\n"
        "for words in (['algorithms'], ['data', 'list'], ['report', run]):\n"
        "    cli.app(words, standalone_mode=False)\n"
        "with suppress(errors.UserError):\n"
        "    cli.app(['run', scenario, 'seeed=1'], standalone_mode=False)\n"
        "assert view.entries(Path(run).parent)\n"
        "slow = {'torch', 'torchvision', 'timm', 'segmentation_models_pytorch', 'albumentations', 'scipy.stats', 'ray',"
        " 'matplotlib', 'sklearn'}\n"
        "assert not (found := slow & sys.modules.keys()), found\n"
    )
    command = [sys.executable, "-c", looked, str(run), str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-300:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("algorithms",), ["fedavg", "fedprox", "fedbn", "fedadam", "scaffold", "ICML 2020"]),
        (("models",), ["unet", "unetplusplus", "fpn", "deeplabv3", "deeplabv3plus", "resnet50", "resnet18"]),
        (("data", "list"), ["kvasir-seg", "cvc-clinicdb", "folder", "synthetic"]),
        (("doctor",), ["torch", "core(s)", "GiB free", "no data folder given"]),
    ],
)
def test_lists_name_everything(command: Command, tmp_path: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    done = command(*arguments, cwd=tmp_path, COLUMNS="200", FEDKVASIR_DATA="")
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout


def test_doctor_fails_once_for_a_data_folder_that_is_not_there(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data.zip").touch()
    for place, why in (("nowhere", "does not exist"), ("data.zip", "is a file, not a folder")):
        done = command("doctor", "--data", tmp_path / place)
        assert done.returncode == 1, done.stderr
        assert [line for line in done.stdout.splitlines() if place in line] == [
            f"fail  {tmp_path / place} {why}  ->  name the folder of the datasets: --data DIR or FEDKVASIR_DATA"
        ]


def test_doctor_fails_where_runs_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command("doctor", "--out", tmp_path / "file")
    assert done.returncode == 1 and "fail  run folders: " in done.stdout and "cannot be written" in done.stdout


def test_dry_run_prints_the_plan_and_writes_no_run(command: Command, tiny: Path) -> None:
    done = command("run", tiny, "--dry-run", cwd=tiny.parent)
    assert done.returncode == 0, done.stderr
    for word in ("alta", "holdout", "steps a round", "M parameters", "MiB a worker", "s a step"):
        assert word in done.stdout
    assert not (tiny.parent / "runs").exists()


def test_a_dry_run_of_pooled_training_has_a_line_of_what_is_pooled(command: Command, tiny: Path) -> None:
    done = command("run", tiny, "--dry-run", "federation.train=pooled", cwd=tiny.parent)
    assert done.returncode == 0, done.stderr
    (line,) = (line.split() for line in done.stdout.splitlines() if line.startswith("pooled"))
    assert line[:3] == ["pooled", "train", "36"] and line[5] == "18"  # patients, of two pictures each


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("select", ["train-val", "oracle"])
def test_where_nothing_is_to_be_found_nothing_is_chosen(
    command: Command, tmp_path: Path, shown: bool, select: str
) -> None:
    """shown: the holdout shows something."""
    names, own = [f"{n:02d}" for n in range(24)], yaml.safe_load(TINY)
    folder = pictures(tmp_path / "ours", names)
    for name in names[: 12 if shown else None]:
        Image.new("L", (64, 48)).save(folder / "masks" / f"{name}.jpg")
    rows = [f"images/{name}.jpg,masks/{name}.jpg,{'ab'[int(name) // 12]}" for name in names]
    (folder / "samples.csv").write_text("\n".join(["image,mask,center", *rows]))
    centers = {name: {"dataset": "folder", "root": str(folder), "center": name} for name in "ab"}
    centers["b"]["role"] = "holdout"
    own["data"] |= {"options": {}, "centers": centers}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    words = "federation.rounds=2", f"evaluation.select={select}", "--engine", "local"
    done = command("run", tmp_path / "own.yaml", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = next((tmp_path / "runs").glob("*/report.html")).read_text()
    for said in (done.stdout, page):
        assert "a: its 1 validation image(s) show nothing to be found" in said
        assert ("b: its 12 test image(s) show nothing" in said) != shown
        assert ("no round could be chosen, it is the last" in said) == (select == "train-val" or not shown)
    blank = "no test image of a holdout shows" if select == "oracle" else "no validation image shows"
    assert "nan" not in done.stdout
    if select == "train-val" or not shown:
        assert blank in done.stdout and "best so far" not in done.stdout
        assert "round 2 of 2, the last round, no selection" in done.stdout
        assert "Selection by <code>last</code>: the last round, whatever its scores" in page
    assert ("Dice: unseen" in done.stdout) == shown
    assert ("no score, as no test image shows anything to be found" in done.stdout) != shown


def test_a_full_gpu_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Met where a step is measured or pictures are predicted; in a run, hospitals go on with fewer workers."""

    def app(**options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(sys, "argv", ["fedkvasir", "predict", "run", "pictures"])
    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "the GPU's memory does not suffice" in said and "bug" not in said
    assert said.endswith("; OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.\n")


def test_help_says_what_an_argument_is(command: Command) -> None:
    """click 8.5 and the typer that Flower allows lose it between them."""
    assert "A scenario file (YAML)." in command("sweep", "--help").stdout


LATIN = "iso-8859-1"


def test_letters_that_a_terminal_lacks_end_nothing(tmp_path: Path) -> None:
    root = pictures(tmp_path / "Łódź", ["1"])
    (root / "samples.csv").write_text("image,mask\nimages/1.jpg,masks/1.jpg\n")
    words = [Path(sys.executable).with_name("fedkvasir"), "data", "check", "folder", root]
    done = subprocess.run(words, env={**os.environ, "PYTHONIOENCODING": LATIN}, capture_output=True, encoding=LATIN)
    assert done.returncode == 0 and "?ód?" in done.stdout, done.stderr


def test_what_an_account_may_not_is_its_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(**options: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/samples.csv")

    monkeypatch.setattr(sys, "argv", ["fedkvasir", "run", "x"])
    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "/data/samples.csv may not be read or written by this account; ask for the right" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "goes_on"), [("run", True), ("predict", False), ("export", False)])
@pytest.mark.parametrize(
    ("end", "says"),
    [
        (OSError(28, "No space left on device", "masks"), "No space left on device (masks)"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_a_full_disk_and_ctrl_c_promise_to_go_on_only_of_what_does(
    end: BaseException,
    says: str,
    word: str,
    goes_on: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """predict begins again from the first picture."""

    def app(**options: object) -> int:
        if isinstance(end, KeyboardInterrupt):
            return cli.INTERRUPTED  # as typer does
        raise end

    monkeypatch.setattr(sys, "argv", ["fedkvasir", word, "x"])
    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and f"fedkvasir: {says}" in said and ("goes on from there" in said) == goes_on
    monkeypatch.setattr(sys, "argv", ["fedkvasir", word, "x", "--fresh"])
    with pytest.raises(SystemExit):
        cli.main()
    assert ("the same command without --fresh goes on from there" in capsys.readouterr().err) == goes_on


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("protocol={kind: holdout}", "data.centers.oslo.dataset=kvasir-seg"),
            "kvasir-seg: say where it lies with --data",
        ),
        (
            ("data.centers={alta: {dataset: synthetic, center: alta, test: 0}}",),
            "a run needs test images: set test: 0.2 at the training centers, or role: holdout at another",
        ),
        (("faults=[{kind: crash}]", "--engine", "local"), "crash takes a process of its own"),
        (
            ("protocol={kind: holdout}", "faults=[{kind: crash}]", "--engine", "local"),
            "crash takes a process of its own",
        ),
    ],
)
def test_dry_run_refuses_what_the_run_would_refuse(
    command: Command, tiny: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = command("run", tiny, "--dry-run", *words, cwd=tiny.parent, FEDKVASIR_DATA="")
    assert done.returncode == 2 and sentence in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("data.centers.oslo.dataset=kvasir-seg",), "kvasir-seg: say where it lies"),
        (
            ("data.centers={alta: {dataset: synthetic, center: alta, val: 0}}", "evaluation.select=last"),
            "fedavg: validation images decide between its 2 settings, and there are none: set val: 0.15 at the",
        ),
        (
            ("data.centers.alta.val=0", "evaluation.select=last", "protocol={kind: holdout, baselines: [local]}"),
            "local at alta: validation images decide between its 2 settings",
        ),
    ],
)
def test_a_dry_sweep_refuses_what_its_data_lack(
    command: Command, tiny: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = command("sweep", tiny, "--dry-run", "training.lr=0.1,0.2", *words, cwd=tiny.parent, FEDKVASIR_DATA="")
    assert done.returncode == 2 and sentence in done.stderr and "runs, " in done.stdout


def test_a_block_that_does_not_apply_is_told(command: Command, tiny: Path) -> None:
    swept = command("run", tiny, "sweep={grid: {training.lr: [0.1]}}", "--dry-run", cwd=tiny.parent)
    assert swept.returncode == 0 and "sweep: is left out; `fedkvasir sweep` carries it out" in swept.stdout
    for words, sentence in (
        (["protocol={kind: holdout}"], "has a protocol:, which `fedkvasir run` carries out"),
        (["--labels-out", "x.csv"], "there is nothing to be labelled; name pictures with --unlabeled"),
    ):
        done = command("baseline", tiny, "random", *words, cwd=tiny.parent)
        assert done.returncode == 2 and sentence in done.stderr


@pytest.mark.parametrize("words", [("run",), ("sweep", "training.lr=0.1,0.2"), ("baseline", "random")])
def test_where_nothing_can_be_written_is_told_before_anything_is_done(
    command: Command, tiny: Path, words: tuple[str, ...]
) -> None:
    (tiny.parent / "file").write_text("")
    done = command(words[0], tiny, *words[1:], "--out", "file/runs", cwd=tiny.parent)
    assert done.returncode == 2 and done.stdout == ""
    assert "--out file/runs cannot be written (Not a directory); name another folder" in done.stderr


def test_quiet_prints_only_the_result(command: Command, tiny: Path) -> None:
    done = command("run", tiny, "federation.rounds=1", "--engine", "local", "--quiet", cwd=tiny.parent)
    assert done.returncode == 0 and "round 1/1" not in done.stdout
    for word in ("unseen", "gap", "worst", "sha256", "run folder", "report.html"):
        assert word in done.stdout
    folder = next((tiny.parent / "runs").iterdir())
    (folder / "report.html").unlink()
    assert command("report", folder, cwd=tiny.parent).returncode == 0
    assert (folder / "report.html").is_file()


def test_init_writes_a_scenario_that_is_valid_and_a_schema(command: Command, tmp_path: Path) -> None:
    assert command("init", "mine", cwd=tmp_path).returncode == 0
    assert set(yaml.safe_load((tmp_path / "mine.yaml").read_text())) <= set(json_schema()["properties"])
    assert (tmp_path / "scenario.schema.json").is_file()
    again = command("init", "mine", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    assert (
        "wrote trials/ours.yaml and trials/scenario.schema.json"
        in command("init", "trials/ours.yaml", cwd=tmp_path).stdout
    )
    assert (tmp_path / "trials" / "scenario.schema.json").is_file()  # where the scenario's first line looks for it


@pytest.mark.slow
@pytest.mark.real
def test_data_check_and_audit_on_the_real_sets(command: Command, real_data: Path, tmp_path: Path) -> None:
    for name, words in (("kvasir-seg", ["1000 images", "train 880, val 120"]), ("cvc-clinicdb", ["29 named groups"])):
        done = command("data", "check", name, real_data, cwd=tmp_path)
        assert done.returncode == 0 and all(word in done.stdout for word in words), done.stdout
        assert "warning" not in done.stdout
    scenario = Path(__file__).parents[1] / "scenarios" / "kvasir-cvc.yaml"
    done = command("data", "audit", scenario, "--data", real_data, cwd=tmp_path)
    assert done.returncode == 0 and "no picture and no group on both sides" in done.stdout


def test_a_notebook_gets_data_frames_a_table_and_a_torch_module(tiny: Path, tmp_path: Path) -> None:
    run = fedkvasir.run(tiny, out=tmp_path, engine="local", seed=1, **{"federation.rounds": 1})
    assert {"sample", "tp", "fn", "checkpoint"} <= set(run.samples.columns)
    assert {"round", "phase", "metric", "value"} <= set(run.rounds.columns)
    assert list(run.table()["center"])[-1] == "edinburgh"
    assert not run.model("best").training
    with pytest.raises(UserError, match="has a protocol:, which `fedkvasir run` carries out"):
        fedkvasir.run(tiny, out=tmp_path, protocol="{kind: holdout}")


def test_from_python_none_is_none_and_a_tuple_a_list(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(tiny.read_text() + "protocol: {kind: holdout}\n")
    monkeypatch.setattr("fedkvasir.simulation.run_scenario", lambda source, texts, **where: load(source, texts))
    own = {"federation.deadline_s": None, "model.decoder_channels": (16, 8, 8, 8, 8), "training.lr": 1e-5}
    scenario: Any = fedkvasir.run(study, protocol=None, **own)
    assert scenario.protocol is None and scenario.federation.deadline_s is None
    assert scenario.model.parameters["decoder_channels"] == [16, 8, 8, 8, 8] and scenario.training.lr == 1e-5


@pytest.mark.slow
def test_nothing_asks_the_internet_for_news() -> None:
    # albumentations looks for updates when it is imported, unless it is told not to.
    watched = (
        "import socket, sys\n"
        "def refuse(*a, **k): sys.exit(f'asked for {a}')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "import fedkvasir.simulation, clients.app, server.rounds, fedkvasir.data.augment\n"
    )
    done = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-300:]
