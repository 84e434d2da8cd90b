"""`fedkvasir view` over real HTTP: what the list says, reports of runs in progress, and nothing for anyone else."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urljoin

import pandas as pd
import pytest

from fedkvasir import view
from fedkvasir.errors import UserError
from fedkvasir.evaluation.protocol import summarise
from fedkvasir.plan import Plan
from fedkvasir.runs import Run
from fedkvasir.scenario import parse
from fedkvasir.view import Viewer
from tests.conftest import Command
from tests.report.crafted import HOLDOUT, QUESTION, TRAINING, Page, make_plan, make_run

FEDKVASIR = Path(sys.executable).with_name("fedkvasir")


def ask(port: int, target: str, *hosts: str, method: str = "GET") -> tuple[HTTPResponse, str]:
    """One request, its target and its Host headers exactly as given."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, target, skip_host=True)
    for host in hosts or (f"127.0.0.1:{port}",):
        connection.putheader("Host", host)
    connection.endheaders()
    reply = connection.getresponse()
    return reply, reply.read().decode()


Open = Callable[..., tuple[HTTPResponse, str]]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def browse(runs: Path) -> Iterator[Open]:
    """``browse(target)``: what a browser on this machine gets."""
    with Viewer(runs, 0) as viewer:
        thread = threading.Thread(target=viewer.serve_forever, args=(0.02,))
        thread.start()
        yield lambda target, *hosts, **how: ask(viewer.server_port, target, *hosts, **how)
        viewer.shutdown()
        thread.join()


def listed(browse: Open) -> Page:
    reply, text = browse("/")
    assert reply.status == 200
    return Page(text)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and the time of its last change."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


# ---- the list


def test_list_says_what_the_records_say(runs: Path, browse: Open) -> None:
    finished = make_run(runs / "finished", make_plan("segmentation"))
    make_run(runs / "stopped", make_plan("classification"), rounds=2, finish=False)
    shown = listed(browse)
    summary = summarise(finished.table(), "segmentation")
    seen, unseen = f"{summary.seen:.3f}", f"{summary.unseen:.3f}"
    assert shown.row("finished")[1:7] == ["finished", "4 of 4 rounds", "", seen, unseen, "Dice"]
    assert shown.row("stopped")[1:7] == ["stopped", "2 of 4 rounds", "", "", "", "Macro F1"]
    assert QUESTION in shown.text and "i" not in shown.tags


def test_list_marks_what_is_no_result(runs: Path, browse: Open) -> None:
    leak = ("LEAKAGE: 2 pictures lie on both sides",)
    make_run(runs / "leaking", make_plan("segmentation", warnings=leak, select="oracle"))
    assert "test and training data overlap; an upper bound, chosen by the holdout" in listed(browse).text


def test_list_says_what_tells_the_runs_of_a_study_apart(runs: Path, browse: Open) -> None:
    for name, train in (("together", "each"), ("alone", TRAINING[0]), ("pooled", "pooled")):
        keys = {"seed": 3, "federation": {"rounds": 4, "train": train}, "training": {"lr": 3e-4}}
        make_run(runs / name, make_plan("segmentation", keys=keys))
    shown, rest = listed(browse), f"without {HOLDOUT}, unet, lr 0.0003, seed 3"
    assert f"fedavg, {rest}" in shown.row("together")[0] and f"pooled, {rest}" in shown.row("pooled")[0]
    assert f"local, without {HOLDOUT}, at {TRAINING[0]}, unet" in shown.row("alone")[0]


def test_run_in_progress_is_followed_until_it_stops(tiny: Path, runs: Path, browse: Open) -> None:
    arguments = [FEDKVASIR, "run", tiny, "federation.rounds=100", "--engine", "local", "--quiet", "--out", runs]
    process = subprocess.Popen(arguments)
    try:
        row = wait_for_row(browse, lambda row: "of 100" in row[2] and bool(row[3]))
        assert row[1] == "running" and float(row[3]) >= 0 and row[4:7] == ["", "", "Dice"]
        (folder,) = runs.iterdir()
        reply, text = browse(f"/{folder.name}/report.html")
        assert "Not finished" in text and "Validation Dice" in text and reply.getheader("Refresh") == "5"
    finally:
        process.kill()
        process.wait()
    before = contents(runs)
    assert listed(browse).row("tiny")[1] == "stopped"
    last = Run(folder).latest()
    assert last is not None and f"{last.round} of 100 rounds so far" in browse(f"/{folder.name}/report.html")[1]
    score = last.scores[last.best]
    assert listed(browse).row("tiny")[2:4] == [f"{last.round} of 100 rounds", f"{score:.3f}"]
    assert contents(runs) == before


def wait_for_row(browse: Open, wanted: Callable[[list[str]], bool]) -> list[str]:
    end = time.monotonic() + 120
    while not (found := [row for row in listed(browse).rows[1:] if wanted(row)]):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found[0]


def test_list_keeps_up_with_a_run_it_has_shown_before(runs: Path, browse: Open) -> None:
    make_run(runs / "run", make_plan("segmentation"), rounds=1, finish=False)
    assert listed(browse).row("run")[1:3] == ["stopped", "1 of 4 rounds"]
    with Run(runs / "run").writing():
        assert listed(browse).row("run")[1] == "running"
    make_run(runs / "run", make_plan("segmentation"))
    assert listed(browse).row("run")[1:3] == ["finished", "4 of 4 rounds"]
    shutil.rmtree(runs / "run")
    assert "No runs yet" in listed(browse).text


def test_looking_does_not_keep_a_run_from_starting(runs: Path, browse: Open) -> None:
    """Whether a lock is held is found out without holding it any longer than it takes to ask."""
    run = make_run(runs / "run", make_plan("segmentation"), rounds=1, finish=False)
    listed(browse)
    with run.writing():
        pass


def test_finished_report_is_served_as_it_lies_there_and_made_where_it_is_missing(runs: Path, browse: Open) -> None:
    finished = make_run(runs / "finished", make_plan("segmentation"))
    reply, text = browse("/finished/report.html")
    assert reply.getheader("Refresh") is None and "Rendered data" in text
    assert not (finished.folder / "report.html").exists()
    (finished.folder / "report.html").write_text("<p>as it lies there")
    assert browse("/finished/report.html")[1] == "<p>as it lies there"


def test_a_run_that_comes_to_its_end_while_it_is_looked_at_is_shown(
    runs: Path, browse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two reads its records are put together."""
    run, describe, times = make_run(runs / "run", make_plan("segmentation"), finish=False), view.describe, []

    def end_it(looked_at: Run) -> dict[str, object]:
        times.append(looked_at)
        if len(times) == 1:
            raise UserError("records/rounds-0001.parquet is gone")
        return describe(looked_at)

    monkeypatch.setattr(view, "describe", end_it)
    reply, _ = browse(f"/{run.folder.name}/report.html")
    assert reply.status == 200 and reply.getheader("Refresh")


def test_stale_report_of_an_unfinished_run_is_made_anew(runs: Path, browse: Open) -> None:
    stopped = make_run(runs / "stopped", make_plan("segmentation"), rounds=2, finish=False)
    (stopped.folder / "report.html").write_text("<p>stale")
    assert "2 of 4 rounds so far" in browse("/stopped/report.html")[1]


def test_every_link_leads_to_a_page(runs: Path, browse: Open) -> None:
    """Names that need quoting, an ensemble's members, a study and its runs."""
    make_run(runs / "a run & 100% <b>", make_plan("segmentation"), rounds=1, finish=False)
    ensemble = make_plan("segmentation", keys={"model": {"name": "ensemble", "members": ["unet", "fpn"]}})
    for name, own in ensemble.members.items():
        make_run(runs / "both" / "members" / name, own)
    make_run(runs / "both", ensemble, rounds=1)
    make_study(runs / "tiny-study-00000000", '<a href="../both/report.html">both</a>')
    seen, waiting = set[str](), ["/"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        reply, text = browse(page)
        assert reply.status == 200, page
        links = [urljoin(page, link) for tag, link in Page(text).references if tag == "a"]
        waiting += [link for link in dict.fromkeys(links) if link.startswith("/") and link not in seen]
    assert {"/both/members/unet/report.html", "/both/members/fpn/report.html"} < seen
    assert {"/a%20run%20%26%20100%25%20%3Cb%3E/report.html", "/tiny-study-00000000/report.html"} < seen


def test_study_is_listed_with_its_runs_counted(runs: Path, browse: Open) -> None:
    make_study(runs / "tiny-study-00000000")
    shown = listed(browse)
    assert shown.row("tiny-study-00000000")[1:3] == ["stopped", "2 of 4 runs, 1 failed"]
    assert not shown.references  # it has no report yet
    with Run(runs / "tiny-study-00000000").writing():
        assert listed(browse).row("tiny-study-00000000")[1] == "running"


def test_a_sweep_that_gave_runs_up_is_finished(runs: Path, browse: Open) -> None:
    make_study(runs / "tiny-sweep-00000000", states=("finished", "stopped", "stopped"))
    assert listed(browse).row("tiny-sweep-00000000")[1:3] == ["finished", "1 of 3 runs, 2 given up early"]


def make_study(
    folder: Path, report: str = "", states: Sequence[str] = ("finished", "failed", "finished", "waiting")
) -> None:
    raw = make_plan("segmentation").scenario.model_dump(mode="json") | {"protocol": {"kind": "leave-one-center-out"}}
    folder.mkdir()
    (folder / "scenario.yaml").write_text(parse(raw, "crafted").dump())
    pd.DataFrame({"state": [*states]}).to_parquet(folder / "runs.parquet")
    if report:
        (folder / "report.html").write_text(report)


# ---- what is broken


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "plan.json").unlink(), "holds no plan.json"),
        (lambda folder: (folder / "plan.json").write_text("{"), "plan.json is cut short or broken"),
        (lambda folder: truncate(folder / "plan.parquet"), "plan.parquet is cut short or broken"),
        (lambda folder: truncate(folder / "samples.parquet"), "samples.parquet is cut short or broken"),
        (lambda folder: (folder / "scenario.yaml").write_text("task: <nonsense>"), "<nonsense>"),
    ],
)
def test_broken_run_is_listed_with_its_reason_beside_the_others(
    runs: Path, browse: Open, spoil: Callable[[Path], None], reason: str
) -> None:
    make_run(runs / "whole", make_plan("segmentation"))
    spoil(make_run(runs / "spoilt", make_plan("segmentation")).folder)
    shown = listed(browse)
    assert shown.row("whole")[1] == "finished"
    assert shown.row("spoilt")[1] == "broken" and reason in shown.row("spoilt")[0]
    assert browse("/spoilt/report.html")[0].status in (404, 500)


def test_checkpoint_cut_short_is_passed_over_and_left_where_it_is(runs: Path, browse: Open) -> None:
    stopped = make_run(runs / "stopped", make_plan("segmentation"), rounds=3, finish=False)
    truncate(stopped.folder / "checkpoints" / "0003.safetensors")
    before = contents(runs)
    assert listed(browse).row("stopped")[1:3] == ["stopped", "2 of 4 rounds"]
    assert "2 of 4 rounds so far" in browse("/stopped/report.html")[1]
    assert contents(runs) == before


# ---- who gets what


SECRET = "<p>secret"


@pytest.fixture
def tempting(runs: Path) -> Path:
    """Runs beside pages that are none of its business, links to them, and files that are no pages."""
    outside = runs.parent
    (outside / "secret.html").write_text(SECRET)
    make_run(outside / "elsewhere", named(make_plan("segmentation"), SECRET))
    inside = make_run(runs / "inside", make_plan("segmentation"), rounds=1, finish=False).folder
    (runs / "link.html").symlink_to(outside / "secret.html")
    (runs / "folder").symlink_to(outside)
    (runs / "linked").symlink_to(outside / "elsewhere")
    (runs / "round.html").symlink_to(runs / "round.html")
    (inside / "secret.json").write_text(SECRET)
    (inside / "disguised.html").symlink_to(inside / "secret.json")
    (runs / "folder.html").mkdir()
    return runs


def named(plan: Plan, question: str) -> Plan:
    return replace(plan, scenario=plan.scenario.model_copy(update={"question": question}))


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.html",
        "/inside/../../secret.html",
        "/%2e%2e/secret.html",
        "/..%2fsecret.html",
        "/%252e%252e/secret.html",
        "/..\\secret.html",
        "/inside/%2e%2e%2f%2e%2e/secret.html",
        "{outside}/secret.html",
        "/{outside}/secret.html",
        "//{outside}/secret.html",
        "/%2f{outside}/secret.html",
        "file://{outside}/secret.html",
        "http://127.0.0.1{outside}/secret.html",
        "/link.html",
        "/folder/secret.html",
        "/folder/elsewhere/report.html",
        "/linked/report.html",
        "/round.html",
        "/folder.html",
        "/inside/secret.json",
        "/inside/disguised.html",
        "/inside/plan.json",
        "/inside/checkpoints/0001.safetensors",
        "/inside/",
        "/inside",
        "/secret.html%00.html",
        "/report.html",
        "/" + 5000 * "a" + ".html",
        "*",
    ],
)
def test_nothing_but_pages_inside_the_folder_is_served(tempting: Path, browse: Open, target: str) -> None:
    reply, text = browse(target.format(outside=tempting.parent))
    assert reply.status in (400, 404), target
    assert "secret" not in text and "root:" not in text


def test_run_behind_a_link_out_of_the_folder_is_only_named(tempting: Path, browse: Open) -> None:
    row = listed(browse).row("linked")
    assert row[1] == "broken" and "it is a link to" in row[0] and "secret" not in row[0]


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (("127.0.0.1",), 200),
        (("localhost:8000",), 200),
        (("LOCALHOST",), 200),
        (("reports.example.com",), 403),
        (("127.0.0.1.example.com",), 403),
        (("localhost.example.com:8000",), 403),
        (("someone@localhost",), 403),
        (("localhost", "reports.example.com"), 403),
        (("",), 403),
    ],
)
def test_only_who_calls_it_by_this_machines_name_is_answered(
    runs: Path, browse: Open, hosts: tuple[str, ...], status: int
) -> None:
    """A page from elsewhere may have its own name point here, and would then read reports."""
    make_run(runs / "run", make_plan("segmentation"), rounds=1, finish=False)
    for target in ("/", "/run/report.html"):
        reply, text = browse(target, *hosts)
        assert reply.status == status and (QUESTION[:4] in text) == (status == 200)


def test_request_without_a_host_is_refused(runs: Path) -> None:
    with Viewer(runs, 0) as viewer:
        threading.Thread(target=viewer.handle_request).start()
        with socket.create_connection(viewer.server_address[:2], timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b" 403 " in connection.recv(100)


def test_it_listens_on_this_machine_only_and_pages_are_kept_apart(runs: Path, browse: Open) -> None:
    with Viewer(runs, 0) as viewer:
        assert viewer.server_address[0] == "127.0.0.1"
    reply, _ = browse("/")
    policy = reply.getheader("Content-Security-Policy", "")
    assert "default-src 'none'" in policy and "sandbox allow-scripts allow-downloads" in policy
    assert "frame-ancestors 'none'" in policy and reply.getheader("Cache-Control") == "no-store"


def test_it_can_only_be_looked_at(runs: Path, browse: Open) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert browse("/", method=method)[0].status == 501
    reply, text = browse("/", method="HEAD")
    assert reply.status == 200 and not text and int(reply.getheader("Content-Length", "0")) > 1000


# ---- the command


def test_ctrl_c_ends_it_quietly(runs: Path) -> None:
    command = [FEDKVASIR, "view", runs, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    said = process.stdout.readline()
    port = int(said.split("http://127.0.0.1:")[1].split("/")[0])
    assert ask(port, "/")[0].status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert not process.stdout.read() and not process.stderr.read()


def test_what_cannot_be_served_is_said_in_a_sentence(runs: Path, command: Command) -> None:
    with Viewer(runs, 0) as viewer:
        taken = command("view", runs, "--port", viewer.server_port)
    assert taken.returncode == 2 and "Address already in use; choose another, or 0" in taken.stderr
    assert command("view", runs / "nowhere").returncode == 2
    run = make_run(runs / "run", make_plan("segmentation"), rounds=1, finish=False)
    inner = command("view", run.folder)
    assert inner.returncode == 2 and f"give the folder that it lies in, {runs}" in inner.stderr
