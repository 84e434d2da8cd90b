"""The runs of a folder in a browser: a list, and the report of each, of one in progress as far as it has come.

Reports of real data contain patient images. So the server listens on this machine's loopback alone, answers only those
who call it by that name, hands out nothing but HTML from inside the folder, and lets no page read another.
"""

import fcntl
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fedkvasir.baselines import CENTER_WISE
from fedkvasir.errors import UserError, reason_of
from fedkvasir.evaluation.protocol import headline, summarise
from fedkvasir.plan import Plan
from fedkvasir.points import LOCAL, in_words
from fedkvasir.report import TEMPLATES
from fedkvasir.report.centers import TITLES
from fedkvasir.report.sections import describe
from fedkvasir.report.tables import three_decimals
from fedkvasir.runs import Run
from fedkvasir.scenario import WHOLE
from fedkvasir.study import Study

ADDRESS = "127.0.0.1"
HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?", re.IGNORECASE)
"""With any port: behind a tunnel it is another one. A page from elsewhere that points a name of its own here (DNS
rebinding) comes with that name."""
HEADERS = {
    # No page asks for anything, is framed, or shares an origin with another: a run folder may come from someone else.
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox allow-scripts allow-downloads",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
REFRESH_S = 5
MARKS = ("plan.json", "scenario.yaml", "result.json", "checkpoints")
"""Any of them makes a folder a run, if perhaps a broken one."""


@dataclass(frozen=True)
class Entry:
    """A line of the list."""

    name: str
    when: datetime
    """Of the last committed round, or of the end."""
    state: str = ""
    """running (its lock is held), stopped, finished, broken."""
    link: str = ""
    question: str = ""
    setting: str = ""
    """What tells a run from the others of its study, which ask the same."""
    members: tuple[str, ...] = ()
    done: str = ""
    metric: str = ""
    score: str = ""
    """The score that the best round so far was chosen by."""
    seen: str = ""
    unseen: str = ""
    reason: str = ""
    """Why it is broken, or no result."""


def entries(root: Path) -> list[Entry]:
    """The runs and studies in a folder, the latest first."""
    folders = [path for path in root.iterdir() if path.is_dir() and any((path / mark).exists() for mark in MARKS)]
    found = []
    for folder in folders:
        with suppress(FileNotFoundError):  # it was there a moment ago
            found.append(_entry(folder, root))
    return sorted(found, key=lambda entry: (entry.when, entry.name), reverse=True)


def _entry(folder: Path, root: Path) -> Entry:
    try:
        if not folder.resolve().is_relative_to(root):
            raise UserError(f"it is a link to {folder.resolve()}; view the folder that this is in")
        parts = (folder, *folder.glob("checkpoints"), *folder.glob("members/*"), *folder.glob("members/*/checkpoints"))
        stamp = tuple(part.stat().st_mtime_ns for part in parts)
        entry = _study_entry(folder, stamp) if Study.there(folder) else _run_entry(folder, stamp)
    except Exception as error:  # whatever is wrong with one folder, the others are shown
        entry = Entry(folder.name, _changed(folder), "broken", reason=reason_of(error))
    if entry.state in ("stopped", "broken") and _held(folder / "lock"):
        return replace(entry, state="running")
    return entry


@lru_cache(maxsize=4096)
def _run_entry(folder: Path, stamp: tuple[int, ...]) -> Entry:
    """stamp: what is remembered of the folder holds as long as no file in it is replaced."""
    run = Run(folder)
    plan, stages = run.plan, {**run.members, "": run}
    scenario = plan.scenario
    done = sum(last.round for stage in stages.values() if (last := stage.committed()))
    of = sum(plan.stage(name).scenario.federation.rounds for name in stages)
    current = next((stage for stage in stages.values() if not stage.finished), run)
    last = current.committed()
    entry = Entry(
        folder.name,
        _changed(folder / "result.json" if run.finished else current.folder / ("checkpoints" if last else "plan.json")),
        "finished" if run.finished else "stopped",
        f"{folder.name}/report.html",
        scenario.question,
        _setting(plan),
        tuple(run.members),
        f"{done} of {of} rounds" if done or not run.finished else "",
        TITLES[headline(scenario.task)],
        three_decimals(last.scores[last.best]) if last and last.best in last.scores else "",
    )
    if not run.finished or (table := run.table()).empty:
        return entry
    summary = summarise(table, scenario.task)
    alarms = ["test and training data overlap"] if plan.leaks else []
    alarms += ["an upper bound, chosen by the holdout"] if scenario.evaluation.select == "oracle" else []
    seen, unseen = three_decimals(summary.seen), three_decimals(summary.unseen)
    return replace(entry, seen=seen, unseen=unseen, reason="; ".join(alarms))


@lru_cache(maxsize=4096)
def _study_entry(folder: Path, stamp: tuple[int, ...]) -> Entry:
    study, page = Study(folder), folder / "report.html"
    states = study.index["state"].value_counts()
    done, failed, stopped = (int(states.get(state, 0)) for state in ("finished", "failed", "stopped"))
    return Entry(
        folder.name,
        _changed(folder / "runs.parquet"),
        "finished" if done + failed + stopped == states.sum() else "stopped",
        f"{folder.name}/{page.name}" if page.is_file() else "",
        study.scenario.question,
        done=f"{done} of {states.sum()} runs"
        + (f", {failed} failed" if failed else "")
        + (f", {stopped} given up early" if stopped else ""),
        metric=TITLES[headline(study.scenario.task)],
    )


def _setting(plan: Plan) -> str:
    scenario, trains = plan.scenario, plan.scenario.federation.train
    alone = "" if trains in WHOLE else trains
    method = LOCAL if alone else scenario.algorithm.name if trains == "each" else trains
    held_out = ", ".join(name for name, center in scenario.data.centers.items() if center.role == "holdout")
    rate = "" if method == CENTER_WISE else f", lr {scenario.training.lr:g}"
    return in_words(method, held_out, alone, scenario.model.name + rate, scenario.seed)


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime)


def _held(lock: Path) -> bool:
    """Whether a living process writes in the lock's folder."""
    with suppress(OSError), lock.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _render(template: str, **facts: Any) -> bytes:
    return TEMPLATES.get_template(template).render(facts).encode()


class Viewer(ThreadingHTTPServer):
    """A web server of the runs in a folder, on this machine only. Raises OSError where the port cannot be had.

    port: 0 takes any that is free.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.root = folder.resolve()
        super().__init__((ADDRESS, port), Handler)

    @cached_property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def page(self, target: str) -> tuple[bytes, bool] | None:
        """The page a request asks for, and whether there will be more to see in a moment.

        None for anything but the list and HTML inside the folder.
        """
        path = unquote(urlsplit(target).path)
        if path == "/":
            return _render("runs.html", entries=entries(self.root), folder=self.root), True
        try:
            file = (self.root / path.lstrip("/")).resolve()
            there = file.is_file()
        except (OSError, RuntimeError, ValueError):  # too long, a circle of links, a zero byte
            return None
        if not file.is_relative_to(self.root) or file.suffix != ".html":
            return None
        run = Run(file.parent)
        if file.name == "report.html" and (run.folder / "plan.json").is_file() and not (there and run.finished):
            try:
                facts = describe(run)
            except UserError:  # it may have come to its end meanwhile, and its records be elsewhere
                facts = describe(Run(run.folder))
            return _render("report.html", **facts), not run.finished
        return (file.read_bytes(), False) if there else None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that does not wait for its answer is no error."""


class Handler(BaseHTTPRequestHandler):
    server: Viewer
    server_version, sys_version = "fedkvasir", ""
    timeout = 30

    def do_GET(self) -> None:
        names = self.headers.get_all("Host", [])
        if len(names) != 1 or not HOST.fullmatch(names[0]):
            self.send_error(HTTPStatus.FORBIDDEN, explain=f"This is {self.server.url} and goes by no other name.")
            return
        try:
            found = self.server.page(self.path)
        except Exception as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=reason_of(error))
            return
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND, explain="There is no such page; the list of runs is at /.")
            return
        body, more = found
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if more:
            self.send_header("Refresh", str(REFRESH_S))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def serve(folder: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve the runs in ``folder`` until Ctrl-C. Raises UserError if there is no such folder or the port is taken."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the one that `fedkvasir run --out` writes into")
    if (folder / "plan.json").is_file():
        raise UserError(f"{folder} is a run; give the folder that it lies in, {folder.resolve().parent}")
    try:
        viewer = Viewer(folder, port)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; choose another, or 0 for any that is free") from error
    with viewer, suppress(KeyboardInterrupt):
        say(f"{viewer.url} shows the runs in {folder} to this machine; Ctrl-C ends it")
        viewer.serve_forever()
