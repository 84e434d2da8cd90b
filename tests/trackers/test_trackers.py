"""Trackers are told what the records say, once, and cannot hurt a run; each is read with its own reader."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkvasir.console import Screen
from fedkvasir.plan import Plan
from fedkvasir.runs import Event, Run
from fedkvasir.simulation import run_scenario
from fedkvasir.trackers import TRACKERS, find_trackers, followed
from tests.conftest import TINY, Command
from tests.report.crafted import make_plan, make_run

BIN = Path(sys.executable).parent
Curves = dict[str, list[tuple[int, float]]]
"""Metric -> (round, value) as often as it was written."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make an empty one, so most tests begin with a copy."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(params=TRACKERS)
def tracker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each tracker whose package is here, without what this machine's owner has set up for it."""
    pytest.importorskip(request.param)
    if request.param == "mlflow":
        shutil.copy(request.getfixturevalue("database"), tmp_path)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_")) and name != "WANDB_MODE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return str(request.param)


# ---- readers


def curves(tracker: str, run: Run) -> Curves:
    return {"mlflow": of_mlflow, "tensorboard": of_tensorboard, "wandb": of_wandb}[tracker](run)


def of_mlflow(run: Run) -> Curves:
    client, page = mlflow_page(run)
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(page.info.run_id, name))
        for name in page.data.metrics
    }


def mlflow_page(run: Run) -> tuple[Any, Any]:
    """The only MLflow run there is."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run.folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedkvasir")
    (page,) = client.search_runs([experiment.experiment_id])
    return client, page


def of_tensorboard(run: Run) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = (run.folder / "tensorboard").iterdir()
    events = EventAccumulator(str(log))
    events.Reload()
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def of_wandb(run: Run) -> Curves:
    """What `wandb sync` would send: rounds, and the summary as round 0."""
    found: Curves = defaultdict(list)
    records = wandb_records(run)
    for record in records:
        if "history" in record:
            row = record["history"]["item"]
            for name in row.keys() - {"round"}:
                found[name].append((row["round"], row[name]))
        if "summary" in record and "seen" in record["summary"]["update"]:
            for name, value in record["summary"]["update"].items():
                found[name].append((0, value))
    return {name: points for name, points in found.items() if not name.startswith("_")}


def wandb_records(run: Run) -> list[dict[str, Any]]:
    """Of the only log there is; skipped where W&B's own reader is older than `wandb leet inspect`."""
    (log,) = (run.folder.parent / "wandb").glob("offline-run-*")
    read = subprocess.run([BIN / "wandb", "leet", "inspect", "--json", log], capture_output=True, text=True)
    if "No such command" in read.stderr:
        pytest.skip("this version of wandb cannot read its own log")
    return [json.loads(line) for line in read.stdout.splitlines()]


def expected(run: Run) -> Curves:
    """Out of the records, by hand, for FedAvg under train-val."""
    found: Curves = defaultdict(list)
    metric = "dice" if run.plan.scenario.task == "segmentation" else "macro_f1"
    for number, rows in run.rounds.groupby("round"):
        loss = rows[rows["phase"] == "train"]
        found["loss"].append((number, (loss["value"] * loss["samples"]).sum() / loss["samples"].sum()))
        found["wall_s"].append((number, rows.loc[rows["metric"] == "wall_s", "value"].item()))
        scores = rows[(rows["phase"] == "val") & (rows["metric"] == metric)]
        found["selection_score"].append((number, scores["value"].mean()))
        for row in scores.itertuples():
            found[f"val_{metric}/{row.center}"].append((number, row.value))
    table = run.table().set_index("role")[metric]
    seen, unseen = table["train"].mean(), np.mean(table["holdout"])
    for name, value in (("seen", seen), ("unseen", unseen), ("gap", seen - unseen), ("worst", table.min())):
        found[name].append((0, value))
    return found


def check(tracker: str, run: Run, redone: bool = False) -> None:
    """redone: a round was trained twice, and took another time."""
    told, wanted = curves(tracker, run), expected(run)
    assert set(told) - {"report"} == set(wanted)
    for name, points in wanted.items():
        assert [number for number, _ in told[name]] == [number for number, _ in points], name
        if name == "wall_s" and redone:
            continue
        np.testing.assert_allclose([v for _, v in told[name]], [v for _, v in points], rtol=1e-6, err_msg=name)


# ---- a run


class Stop(Screen):
    """Ctrl-C when a round is over: its commit is done, no tracker has heard of it."""

    def __init__(self, after: int, member: str = "") -> None:
        super().__init__(quiet=True)
        self.after, self.member, self.current = after, member, ""

    def event(self, plan: Plan, event: Event) -> None:
        if event.kind == "member":
            self.current = event.facts["member"]
        if event.kind == "round" and event.round == self.after and self.current == self.member:
            raise KeyboardInterrupt


class StopAtTest(Screen):
    """Ctrl-C when all rounds are done."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def event(self, plan: Plan, event: Event) -> None:
        if event.kind == "test":
            raise KeyboardInterrupt


def run(scenario: Path, out: Path, *track: str, screen: Screen | None = None, keys: tuple[str, ...] = ()) -> Run:
    return run_scenario(scenario, keys, out=out, engine="local", track=track, screen=screen)


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("untracked")
    (folder / "tiny.yaml").write_text(TINY)
    return run(folder / "tiny.yaml", folder / "runs")


def test_stopped_run_goes_on_where_it_was_told_of_and_no_number_changes(
    tracker: str, tiny: Path, tmp_path: Path, untracked: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    """Round 2 is committed but the tracker was not told; then the checkpoint of round 3 is lost and it is redone."""
    out = tmp_path / "runs"
    with pytest.raises(KeyboardInterrupt):
        run(tiny, out, tracker, screen=Stop(2))
    with pytest.raises(KeyboardInterrupt):
        run(tiny, out, tracker, screen=StopAtTest())
    (folder,) = out.glob("tiny-*")
    if tracker == "mlflow":
        assert mlflow_page(Run(folder))[1].info.status == "KILLED"
    (folder / "checkpoints" / "0003.safetensors").write_bytes(b"cut short")
    finished = run(tiny, out, tracker)
    check(tracker, finished, redone=True)
    if tracker == "mlflow":
        assert mlflow_page(finished)[1].info.status == "FINISHED"
    assert finished.result["weights_sha256"] == untracked.result["weights_sha256"]
    said = capfd.readouterr()
    assert not said.out and not said.err  # --quiet is quiet


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["mlflow"], indirect=True)
def test_members_of_an_ensemble_have_curves_of_their_own(tracker: str, tiny: Path, tmp_path: Path) -> None:
    out, members = tmp_path / "runs", "[{name: unet, decoder_channels: [16, 8, 8, 4, 4]}, fpn]"
    keys = (f"model={{name: ensemble, encoder: tu-lcnet_050, members: {members}}}", "federation.rounds=2")
    with pytest.raises(KeyboardInterrupt):
        run(tiny, out, tracker, screen=Stop(1, "fpn"), keys=keys)
    finished = run(tiny, out, tracker, keys=keys)
    told = curves(tracker, finished)
    for name, member in finished.members.items():
        wanted = expected(member)["loss"]
        assert [number for number, _ in told[f"{name}/loss"]] == [1, 2]
        np.testing.assert_allclose([v for _, v in told[f"{name}/loss"]], [v for _, v in wanted], rtol=1e-6)
    assert "seen" in told and "loss" not in told


@pytest.mark.parametrize("tracker", ["wandb"], indirect=True)
def test_ctrl_c_reaches_every_process_and_the_tracker_closes_its_book(tracker: str, tiny: Path, tmp_path: Path) -> None:
    """W&B writes in a process of its own."""
    out, log = tmp_path / "runs", tmp_path / "log"
    command = [BIN / "fedkvasir", "run", tiny, "federation.rounds=50", "--engine", "local", "--track", tracker]
    with log.open("w") as said:
        process = subprocess.Popen([*command, "--out", out], stdout=said, stderr=said, start_new_session=True)
    wait_for(lambda: any(out.glob("*/checkpoints/0002.safetensors")) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 1, log.read_text()
    assert "the same command goes on" in log.read_text()
    assert "Traceback" not in log.read_text() and "warning" not in log.read_text()
    (folder,) = out.glob("tiny-*")
    done = [number for number, _ in curves(tracker, Run(folder))["loss"]]
    assert done and done == list(range(1, len(done) + 1))
    assert wandb_records(Run(folder))[-1]["exit"]["exit_code"] == 1


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- a finished run, without a network


@pytest.mark.parametrize(
    ("task", "dataset"), [("segmentation", "synthetic"), ("classification", "hyperkvasir-labeled")]
)
def test_finished_run_is_filled_in_but_patient_images_stay(
    tracker: str, tmp_path: Path, task: str, dataset: str
) -> None:
    crafted = make_run(tmp_path / "crafted", make_plan(task, dataset))
    (crafted.folder / "report.html").write_text("<p>pictures")
    for _ in range(2):
        with followed(crafted, find_trackers([tracker]), pytest.fail):
            pass
    check(tracker, crafted)
    check_scenario(tracker, crafted)
    copies = [path for path in tmp_path.rglob("*.html") if path.is_file() and "<p>pictures" in path.read_text()]
    copies.remove(crafted.folder / "report.html")
    logs = {path.resolve() for path in copies}
    assert len(logs) == (dataset == "synthetic" and tracker != "tensorboard")


def check_scenario(tracker: str, crafted: Run) -> None:
    """It stands beside the curves, all defaults written out."""
    if tracker == "mlflow":
        params = mlflow_page(crafted)[1].data.params
        assert params["training.batch_size"] == "16" and params["algorithm.name"] == "fedavg"
        assert params["data.centers.dijon.role"] == "holdout" and params["federation.deadline_s"] == "null"
    elif tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(crafted.folder / "tensorboard"))
        events.Reload()
        text = events.Tensors("scenario/text_summary")[0].tensor_proto.string_val[0].decode()
        assert crafted.plan.scenario.dump() in text
    else:
        (config,) = (record["run"]["config"]["update"] for record in wandb_records(crafted) if "run" in record)
        assert crafted.plan.scenario.model_dump(mode="json").items() <= config.items()


# ---- what goes wrong


def test_unknown_tracker_is_refused_with_the_nearest_name(command: Command, tiny: Path, tmp_path: Path) -> None:
    done = command("run", tiny, "--track", "tensorbord", "--out", tmp_path / "runs")
    assert done.returncode == 2 and "tensorboard" in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists()


def test_missing_package_is_named_before_anything_starts(
    tracker: str, command: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == tracker or name.endswith(f".{tracker}")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, tracker, None)
    done = command("run", tiny, "--track", tracker, "--out", tmp_path / "runs")
    assert done.returncode == 2 and f"pip install 'fedkvasir[{tracker}]'" in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists()


def test_tracker_that_cannot_write_is_left_out_with_one_sentence(
    tracker: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    crafted, warnings = make_run(tmp_path / "crafted", make_plan("segmentation")), list[str]()
    in_the_way = {
        "mlflow": tmp_path / "mlflow.lock" / "a folder",
        "tensorboard": crafted.folder / "tensorboard",
        "wandb": crafted.folder / "tracker-wandb.txt" / "a folder",
    }[tracker]
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.write_text("in the way")
    with followed(crafted, find_trackers([tracker]), warnings.append):
        pass
    assert len(warnings) == 1 and warnings[0].startswith(f"{tracker} has failed and is left out"), warnings


def test_run_whose_tracker_has_failed_ends_well(tiny: Path, tmp_path: Path, command: Command) -> None:
    pytest.importorskip("mlflow")
    arguments = ("run", tiny, "federation.rounds=1", "--engine", "local", "--track", "mlflow", "--quiet")
    done = command(*arguments, cwd=tmp_path, COLUMNS="1000", MLFLOW_TRACKING_URI="elsewhere://server")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mlflow has failed and is left out") == 1 and "weights sha256" in done.stdout
