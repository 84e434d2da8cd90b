"""Real sites over loopback: a SuperLink and SuperNodes of Flower's, TLS and authentication on, a warm worker each."""

import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedkvasir import wire
from fedkvasir.deployment import run_on, study_on
from fedkvasir.errors import RunFailed
from fedkvasir.methods import of_study
from fedkvasir.names import spelled_out
from fedkvasir.plan import make_plan
from fedkvasir.report.findings import find
from fedkvasir.runs import Run
from fedkvasir.scenario import load
from fedkvasir.simulation import Simulation, run_scenario
from fedkvasir.sites.federation import ServerKit
from fedkvasir.sites.kit import revoke
from server.lab import LabGrid, connected
from tests.conftest import TINY, Command

HOSPITALS = ("alta", "bergen", "cadiz", "edinburgh")
COMMAND = str(Path(sys.executable).with_name("fedkvasir"))
DEADLINE = "federation.deadline_s=60"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Lab:
    """A federation on this machine: its kits, and a process a kit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kits = folder, folder / "kits"
        self.scenario = folder / "tiny.yaml"
        self.scenario.write_text(TINY)
        self.port = free_port()
        facts = {"name": "lab", "address": f"127.0.0.1:{self.port}", "listen": "127.0.0.1", "hospitals": [*HOSPITALS]}
        (folder / "federation.yaml").write_text(yaml.safe_dump(facts))
        made = [COMMAND, "site", "kit", str(folder / "federation.yaml"), "--out", str(self.kits)]
        subprocess.run(made, check=True, capture_output=True)
        self.server = ServerKit.load(self.kits / "server")
        for hospital in HOSPITALS:
            self.settle(hospital, runtime_port=free_port())
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def settle(self, hospital: str, **keys: Any) -> None:
        """What a hospital writes into its own site.yaml."""
        path = self.kits / hospital / "site.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))

    def start(self, *names: str) -> None:
        for name in names:
            log = (self.folder / f"{name}.log").open("a")
            command = [COMMAND, "site", "start", str(self.kits / name)]
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        """It and all that it started, without a word."""
        process = psutil.Process(self.processes.pop(name).pid)
        for own in (process, *process.children(recursive=True)):
            own.kill()
        process.wait()

    def start_anew(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGTERM)
        self.processes[name].wait(30)
        self.wait_until(lambda: name not in self.online())
        self.start(name)
        self.wait_until(lambda: name in self.online())

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(30)

    def online(self) -> set[str]:
        try:
            client = wire.control(self.server)
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
        except httpx.HTTPError:
            return set()
        return {node.name for node in nodes if node.status == "online"}

    def wait_until(self, happened: Callable[[], object], timeout_s: float = 120) -> None:
        end = time.monotonic() + timeout_s
        while not happened():
            assert time.monotonic() < end, "\n".join(f"{name}:\n{self.log(name)[-3000:]}" for name in self.processes)
            time.sleep(0.2)

    def run(self, out: Path, *overrides: str) -> Run:
        return run_on(load(self.scenario, (DEADLINE, *overrides)), str(self.kits / "server"), out)

    def simulated(self, out: Path, *overrides: str) -> Run:
        return run_scenario(self.scenario, (DEADLINE, *overrides), out=out, engine="local")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    lab.start("server", *HOSPITALS)
    try:
        lab.wait_until(lambda: lab.online() == set(HOSPITALS))
        yield lab
    finally:
        lab.stop()


class Recorder:
    """All that comes out of sites: every object of every reply, as it was pulled from the SuperLink."""

    def __init__(self) -> None:
        self.replies: list[Message] = []
        self.bytes: list[bytes] = []

    def take(self, reply: Message) -> None:
        self.replies.append(reply)
        self.bytes += [part.deflate() for part in get_all_nested_objects(reply).values()]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder, pull = Recorder(), LabGrid.pull_messages

    def recorded(self: LabGrid, numbers: list[str]) -> list[Message]:
        replies = [*pull(self, numbers)]
        for reply in replies:
            recorder.take(reply)
        return replies

    monkeypatch.setattr(LabGrid, "pull_messages", recorded)
    return recorder


def names_of(scenario: Path) -> set[str]:
    """What may never leave: samples, groups (patients), file names, without what a center is called by itself."""
    samples = make_plan(load(scenario)).samples
    whole = {*samples["sample"], *samples["group"]}
    parts = {part for name in whole for part in name.split("/")}
    return {name for name in whole | parts if name not in (*HOSPITALS, "synthetic") and len(name) > 3}


def test_sites_end_in_the_weights_of_a_simulation_and_no_image_leaves_them(
    lab: Lab, tmp_path: Path, recorder: Recorder
) -> None:
    run = lab.run(tmp_path / "sites")
    alone = lab.simulated(tmp_path / "simulated")
    assert run.folder.name == alone.folder.name
    for key in ("initial_sha256", "weights_sha256", "best_sha256", "best_round"):
        assert run.result[key] == alone.result[key]
    key = ["round", "phase", "center", "metric"]
    values = [own.rounds.dropna(subset="center").set_index(key)["value"].sort_index() for own in (run, alone)]
    values = [own[own.index.get_level_values("metric") != "wall_s"] for own in values]
    pd.testing.assert_series_equal(*values)

    # The holdout was surveyed, told of the run, and tested; it was never sent a train message.
    held_out = [r for r in recorder.replies if r.metadata.src_node_id == _node_of(lab, "edinburgh")]
    assert {r.metadata.message_type for r in held_out} == {"query.survey", "query.enrol", "evaluate"}

    said = [*recorder.bytes, *(bytes(path.read_bytes()) for path in (lab.kits / "server" / "state").glob("*.db*"))]
    tables = [
        pd.read_parquet(io.BytesIO(bytes(record["parquet"]))).to_csv().encode()
        for reply in recorder.replies
        if not reply.has_error()
        for name, record in reply.content.items()
        if name in ("samples", "shared")
    ]
    assert len(tables) == 8 and not any("samples" in reply.content for reply in recorder.replies)
    plan = make_plan(load(lab.scenario))
    pixels = [plan.part(center, "test").images([0])[0].tobytes() for center in plan.centers.index]
    for forbidden in [name.encode() for name in names_of(lab.scenario)] + [row[:64] for row in pixels]:
        assert not any(forbidden in text for text in (*said, *tables)), forbidden
    assert not (run.folder / "gallery").exists()
    page = (run.folder / "report.html").read_text()
    assert "evaluation.share" in page and "near-duplicates at different hospitals were not looked for" in page


def _node_of(lab: Lab, hospital: str) -> int:
    nodes = wire.control(lab.server).ListNodes(ListNodesRequest()).nodes_info
    return next(int(node.node_id) for node in nodes if node.name == hospital)


@pytest.mark.slow
def test_two_runs_at_once_do_not_mix(lab: Lab, tmp_path: Path) -> None:
    command = [COMMAND, "run", str(lab.scenario), DEADLINE, "--on", str(lab.kits / "server"), "--quiet"]
    both = [
        subprocess.Popen([*command, f"seed={seed}", "--out", str(tmp_path / str(seed))], stderr=subprocess.PIPE)
        for seed in (1, 2)
    ]
    for seed, process in zip((1, 2), both, strict=True):
        _, said = process.communicate(timeout=280)
        assert process.returncode == 0, said.decode()
        (folder,) = (tmp_path / str(seed)).iterdir()
        alone = lab.simulated(tmp_path / f"alone-{seed}", f"seed={seed}")
        assert Run(folder).result["weights_sha256"] == alone.result["weights_sha256"]


@pytest.mark.slow
def test_hospitals_compare_two_methods_on_records_that_stay_with_them(
    lab: Lab, tmp_path: Path, command: Command
) -> None:
    arms = ("algorithm=fedavg", "algorithm={name: fedprox, mu: 1.0}")
    runs, alone = (
        [where(tmp_path / name, arm) for arm in arms] for name, where in (("a", lab.run), ("b", lab.simulated))
    )
    words = ("--scope", "unseen", "--format", "csv")
    told = command("compare", *(run.folder for run in runs), *words, "--on", lab.kits / "server").stdout
    whole = command("compare", *(run.folder for run in alone), *words).stdout
    told, whole = (pd.read_csv(io.StringIO(text)).query("quantity == 'difference'") for text in (told, whole))
    assert len(told) == 1
    for column in ("value", "wins", "losses", "p"):
        assert told[column].item() == whole[column].item()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("protocol", "rounds"),
    [
        ("{kind: holdout, baselines: [local, ensemble-of-locals, cyclic], seeds: [0]}", 2),
        ("{kind: leave-one-center-out, algorithms: [fedavg, {name: fedprox, mu: 1.0}], seeds: [0]}", 1),
    ],
    ids=["holdout", "leave-one-center-out"],
)
def test_a_study_over_sites_is_that_of_the_simulation(lab: Lab, tmp_path: Path, protocol: str, rounds: int) -> None:
    asked = load(lab.scenario, (DEADLINE, f"federation.rounds={rounds}", f"protocol={protocol}"))
    study = study_on(asked, str(lab.kits / "server"), tmp_path / "sites")
    with Simulation(out=tmp_path / "simulated", engine="local") as simulation:
        alone = simulation.study(asked)
    kept = ["method", "holdout", "hospital", "state", "run", "hash"]
    pd.testing.assert_frame_equal(study.index[kept], alone.index[kept])
    for column in ("validation", "seen", "unseen"):
        np.testing.assert_allclose(study.index[column], alone.index[column], atol=1e-6)
    for name in study.index["run"]:
        assert study.run(name).result["best_sha256"] == alone.run(name).result["best_sha256"]
    ours, theirs = (find(of_study(own)) for own in (study, alone))
    assert len(ours.pairs) == len(theirs.pairs) > 0
    for made, known in zip(ours.pairs, theirs.pairs, strict=True):
        for key in ("first", "second", "scope", "wins", "losses"):
            assert getattr(made, key) == getattr(known, key)
        assert made.difference == pytest.approx(known.difference, abs=1e-9)
    assert not any("have compared these runs" in text for text in ours.missing)


@pytest.mark.slow
def test_an_ensemble_over_sites_is_that_of_the_simulation(lab: Lab, tmp_path: Path) -> None:
    members = "[{name: unet, encoder: tu-lcnet_050, weights: null, decoder_channels: [16, 8, 8, 4, 4]}, "
    members += "{name: fpn, encoder: tu-lcnet_050, weights: null}]"
    overrides = (f"model={{name: ensemble, members: {members}, fusion: weighted}}", "federation.rounds=2")
    run, alone = lab.run(tmp_path / "sites", *overrides), lab.simulated(tmp_path / "simulated", *overrides)
    for ours, theirs in zip((run, *run.members.values()), (alone, *alone.members.values()), strict=True):
        for key in ("weights_sha256", "best_sha256", "best_round"):
            assert ours.result[key] == theirs.result[key]
    assert (run.folder / "members" / "fpn" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_faults_strike_real_sites_as_they_do_in_the_simulation(lab: Lab, tmp_path: Path) -> None:
    overrides = (
        "federation.rounds=6",
        "federation.quorum=0.6",
        "federation.deadline_s=25",
        "faults=[{kind: crash, center: bergen, rounds: [2]}, {kind: hang, center: cadiz, rounds: [3]}, "
        "{kind: corrupt, how: nan, center: alta, rounds: [4]}, {kind: dropout, center: bergen, rounds: [5]}]",
    )
    with pytest.raises(RunFailed, match="for a hospital that has the scenario on its list"):
        lab.run(tmp_path / "sites", *overrides)
    approved = [spelled_out(load(lab.scenario, (DEADLINE, *overrides))).sha256, wire.app_sha256()]
    for hospital in HOSPITALS:
        lab.settle(hospital, approve=approved)
        lab.start_anew(hospital)
    run = lab.run(tmp_path / "sites", *overrides)
    alone = run_scenario(lab.scenario, (DEADLINE, *overrides), out=tmp_path / "simulated", workers=2)
    struck = [(2, "bergen"), (3, "cadiz"), (4, "alta"), (5, "bergen")]
    for own in (run, alone):
        assert [(failure["round"], failure["center"]) for failure in own.result["failures"]] == struck
    for key in ("weights_sha256", "best_sha256", "best_round"):
        assert run.result[key] == alone.result[key]
    for hospital in HOSPITALS:
        lab.settle(hospital, approve=None)
        lab.start_anew(hospital)


@pytest.mark.slow
def test_ten_bad_messages_over_the_wire_are_refused_and_the_next_one_is_answered(lab: Lab) -> None:
    told = {"scenario": json.dumps(load(lab.scenario).for_hospitals()), "salt": "0" * 32}
    place = {"run": "../../../etc/passwd", "member": "", "start-from": 0}
    train = {**place, "server-round": 1, "keep": 0, "attempt": 1, "validate": ""}
    test = {**place, "split": "test", "checkpoint": "best", "gallery": False}
    arrays = ArrayRecord({"a": Array(np.full(3, np.nan, np.float32))})
    bad: list[tuple[str, dict[str, Any]]] = [
        ("query.nonsense", {"config": ConfigRecord(told)}),
        ("query.survey", {}),
        ("query.survey", {"config": ConfigRecord({**told, "scenario": "[" * 5000})}),
        ("query.survey", {"config": ConfigRecord({**told, "salt": "x"})}),
        ("query.survey", {"config": arrays}),
        ("train", {"config": ConfigRecord(train), "arrays": arrays}),
        ("train", {"config": ConfigRecord({**train, "run": "tiny-00000000"}), "arrays": arrays}),
        ("evaluate", {"config": ConfigRecord(test), "arrays": arrays}),
        ("evaluate", {"config": ConfigRecord({**test, "gallery": True, "run": "tiny-00000000"})}),
        ("query.compare", {"config": ConfigRecord({"first": "{}", "second": "{}"})}),
    ]
    with connected(lab.server) as grid:
        (node,) = grid.nodes_of(["alta"], 60).values()
        replies = grid.send_and_receive([Message(RecordDict(c), node, kind) for kind, c in bad], timeout=200)
        assert len(replies) == len(bad) and all(reply.has_error() for reply in replies)
        reasons = sorted(reply.error.reason for reply in replies)
        # What the app has no function for is refused by Flower itself.
        assert reasons[0] == "ValueError; the hospital's own log says more"
        assert all(reason.startswith("refused: ") for reason in reasons[1:]), reasons
        good = Message(RecordDict({"config": ConfigRecord(told)}), node, "query.survey")
        (answer,) = grid.send_and_receive([good], timeout=60)
        assert "hospital" in answer.content
    assert not (lab.kits / "alta" / "state" / "runs" / "tiny-00000000").exists()


def test_a_hospital_that_cannot_write_says_so_and_answers_the_next_message(lab: Lab) -> None:
    """As with a full disk; here a folder is where it notes down what it has in hand."""
    told = {"scenario": json.dumps(load(lab.scenario).for_hospitals()), "salt": "0" * 32}
    in_the_way = lab.kits / "bergen" / "state" / "in-hand.json"
    with connected(lab.server) as grid:
        (node,) = grid.nodes_of(["bergen"], 60).values()
        for can_write in (False, True):
            in_the_way.rmdir() if can_write else in_the_way.mkdir()
            message = Message(RecordDict({"config": ConfigRecord(told)}), node, "query.survey")
            (answer,) = grid.send_and_receive([message], timeout=60)
            assert answer.has_error() is not can_write
            assert can_write or "it cannot write into its folder" in answer.error.reason


@pytest.mark.slow
def test_per_image_rows_where_a_hospital_allows_them_have_numbers_for_names(lab: Lab, tmp_path: Path) -> None:
    lab.settle("alta", share="per-image")
    lab.start_anew("alta")
    run = lab.run(tmp_path, "evaluation.share=per-image", "seed=5")
    assert set(run.samples["center"]) == {"alta"} and run.samples["sample"].str.fullmatch("[0-9a-f]{32}").all()
    assert set(run.shared["center"]) == set(HOSPITALS)


@pytest.mark.slow
def test_a_hospital_that_is_killed_misses_rounds_and_comes_back_with_its_state(lab: Lab, tmp_path: Path) -> None:
    overrides = ("algorithm=scaffold", "federation.rounds=6", "federation.quorum=0.6", "federation.deadline_s=20")
    done: dict[str, Run] = {}
    thread = threading.Thread(target=lambda: done.update(run=lab.run(tmp_path, *overrides)))
    thread.start()
    lab.wait_until(lambda: any(tmp_path.glob("*/checkpoints/0001.safetensors")))
    lab.kill("cadiz")
    lab.wait_until(lambda: any(tmp_path.glob("*/checkpoints/0002.safetensors")))
    lab.start("cadiz")
    thread.join(280)
    run = done["run"]
    missed = {failure["round"] for failure in run.result["failures"] if failure["center"] == "cadiz"}
    assert missed and {failure["center"] for failure in run.result["failures"]} == {"cadiz"}
    trained = run.rounds.query("phase == 'train' and center == 'cadiz'")["round"]
    assert 1 in set(trained) and 6 in set(trained), "it was back before the end"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_a_superlink_that_is_killed_comes_back_and_the_run_goes_on_by_itself(
    lab: Lab, tmp_path: Path, algorithm: str
) -> None:
    """Hospitals that keep state keep that of the last committed round too."""
    overrides = (f"algorithm={algorithm}", "federation.rounds=6", "seed=7")
    done: dict[str, Run] = {}
    thread = threading.Thread(target=lambda: done.update(run=lab.run(tmp_path / "sites", *overrides)))
    thread.start()
    lab.wait_until(lambda: any((tmp_path / "sites").glob("*/checkpoints/0002.safetensors")))
    lab.kill("server")
    time.sleep(25)
    lab.start("server")
    thread.join(280)
    assert done["run"].result["weights_sha256"] == lab.simulated(tmp_path, *overrides).result["weights_sha256"]
    assert not done["run"].result["failures"]


class Cable:
    """A TCP relay that can be cut: what stands between a hospital and the server."""

    def __init__(self, port: int) -> None:
        self.port, self._to, self.cut = free_port(), port, False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if self.cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source, sink:  # it is cut
            while data := source.recv(65536):
                sink.sendall(data)

    def sever(self) -> None:
        self.cut = True
        for end in self._sockets:
            with suppress(OSError):  # closed already
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()


@pytest.mark.slow
def test_hospitals_answer_the_next_run_though_the_coordinator_was_stopped_over_their_answers(
    lab: Lab, tmp_path: Path
) -> None:
    """What is left of the run in Flower's SuperNode would make its later answers late by a message, or lost."""
    expected = lab.simulated(tmp_path / "simulated", "federation.rounds=6").result["weights_sha256"]
    words = [str(lab.scenario), DEADLINE, "federation.rounds=6", "--on", str(lab.kits / "server"), "--quiet"]
    first = subprocess.Popen([COMMAND, "run", *words, "--out", str(tmp_path / "sites")], stderr=subprocess.DEVNULL)
    lab.wait_until(lambda: any(tmp_path.glob("sites/*/checkpoints/0001.safetensors")))
    below = psutil.Process(lab.processes["cadiz"].pid).children(recursive=True)
    (worker,) = (process for process in below if "clients.worker" in " ".join(process.cmdline()))
    worker.suspend()
    time.sleep(8)  # longer than it takes until there is a message for it
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 1
    worker.resume()
    lab.wait_until(lambda: "the run was ended over one of its messages" in lab.log("cadiz"))
    assert lab.run(tmp_path / "sites", "federation.rounds=6").result["weights_sha256"] == expected


@pytest.mark.slow
def test_a_cut_of_a_minute_is_sat_out(lab: Lab, tmp_path: Path) -> None:
    cable = Cable(lab.port)
    lab.settle("bergen", superlink=f"localhost:{cable.port}")
    lab.start_anew("bergen")
    overrides = ("federation.rounds=4", "seed=9", "federation.deadline_s=200")
    done: dict[str, Run] = {}
    thread = threading.Thread(target=lambda: done.update(run=lab.run(tmp_path / "sites", *overrides)))
    thread.start()
    lab.wait_until(lambda: any((tmp_path / "sites").glob("*/checkpoints/0001.safetensors")))
    cable.sever()
    time.sleep(60)
    cable.cut = False
    thread.join(280)
    assert done["run"].result["weights_sha256"] == lab.simulated(tmp_path, *overrides).result["weights_sha256"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_who_is_revoked_is_not_waited_for_and_runs_are_finished_without_it(lab: Lab, tmp_path: Path) -> None:
    """A run that goes on at that moment, and one that was stopped before. The last test: bergen does not come back."""
    overrides = ("federation.rounds=5", "federation.quorum=0.6", "federation.deadline_s=100", "evaluation.select=last")
    words = [*overrides, "seed=12", "--on", str(lab.kits / "server"), "--out", str(tmp_path / "stopped"), "--quiet"]
    stopped = subprocess.Popen([COMMAND, "run", str(lab.scenario), DEADLINE, *words])
    lab.wait_until(lambda: any((tmp_path / "stopped").glob("*/checkpoints/0001.safetensors")))
    stopped.kill()
    stopped.wait()

    done: dict[str, Run] = {}
    thread = threading.Thread(target=lambda: done.update(run=lab.run(tmp_path / "going", *overrides, "seed=11")))
    thread.start()
    lab.wait_until(lambda: any((tmp_path / "going").glob("*/checkpoints/0001.safetensors")))
    revoke(lab.kits, "bergen")
    began = time.monotonic()
    thread.join(280)
    done["resumed"] = lab.run(tmp_path / "stopped", *overrides, "seed=12")
    assert time.monotonic() - began < 200, "one round may have been under way, no other waited for its deadline"
    for run in done.values():
        assert {failure["center"] for failure in run.result["failures"]} == {"bergen"}
        last = run.result["failures"][-1]
        assert (last["round"], last["reason"]) == (5, "no hospital of lab, or revoked; not tested")
        assert [*run.table()["center"]] == ["alta", "cadiz", "edinburgh"]
        assert "bergen: no hospital of lab, or revoked; not tested" in (run.folder / "report.html").read_text()
    again = lab.run(tmp_path / "stopped", *overrides, "seed=12")
    assert again.finished and again.folder == done["resumed"].folder
