"""The one process behind a kit's start.sh: it starts Flower's programs, keeps them going, and ends what it started.

At the server, flower-superlink, whose list of nodes is kept to that of the kit. At a hospital, flower-supernode and the
worker that answers its messages; and one sentence in the hospital's log whenever there is a new reason why it cannot
take part.
"""

import ctypes
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Thread
from urllib.request import getproxies

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedkvasir.errors import RunFailed, UserError
from fedkvasir.files import lock, write_atomic
from fedkvasir.sites.check import is_free, readable_by_others, refuse_hopeless
from fedkvasir.sites.federation import ServerKit, SiteKit
from fedkvasir.sites.knock import TIMEOUT_S, knock, trust_in, why_not

LOG = logging.getLogger("fedkvasir.site")
LOG_BYTES, LOGS_KEPT = 5_000_000, 5
TICK_S, LOOK_S = 0.5, 5.0
"""How often a program that died is noticed; how often the other side is asked."""
FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S = 1.0, 15.0, 10.0
"""Before a program is started again; from the start, if the last one went on for STEADY_S."""
GRACE_S = 10.0
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HEAD = re.compile(r"^(\d{4}-\d\d-\d\d[ T][\d:.,]+Z?\s+)?(INFO\s*:?\s+)?")
"""Time and level as the programs write them; the log has its own."""
ROUTINE = re.compile(
    r"ListNodes|/control/list-nodes|ApiError:2003|/activate-node HTTP/1.1\" 400"
    r"|lifespan|application (start|shut)|experiment",
    re.IGNORECASE,
)
"""What this process and :func:`fedkvasir.sites.knock.knock` ask the server every few seconds, and no news."""


def start(folder: Path) -> None:
    """Run a kit until SIGINT or SIGTERM.

    Raises UserError for what a person has to mend first, RunFailed if the server's program cannot be started.
    """
    kit: ServerKit | SiteKit
    if (folder / "server.yaml").exists():
        kit = ServerKit.load(folder)
        _refuse_hopeless(kit)
    elif (folder / "site.yaml").exists():
        kit = SiteKit.load(folder)
        refuse_hopeless(kit)
    else:
        raise UserError(f"{folder} holds neither server.yaml nor site.yaml; give a folder that `site kit` wrote")
    os.umask(0o077)
    with lock(kit.state / "lock", wait=False):
        _log_to(kit.state / "log")
        if seen := readable_by_others(kit.secrets):
            LOG.warning("other accounts may read %s: chmod 600", ", ".join(map(str, seen)))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        # A hospital's proxy is for the way out, not for this machine.
        os.environ["no_proxy"] = ",".join(filter(None, (getproxies().get("no"), "localhost", "127.0.0.1")))
        try:
            if isinstance(kit, ServerKit):
                _serve(kit)
            else:
                _take_part(kit)
        except KeyboardInterrupt:
            LOG.info("stopped")


class Program:
    """A program that is started again when it dies; what it prints goes to the log."""

    def __init__(self, name: str, command: list[str], state: Path) -> None:
        """state: the folder that Flower may write into."""
        self._name, self._command, self._state = name, command, state
        self._process: subprocess.Popen[str] | None = None
        self._began_s = self._due_s = 0.0
        self._wait_s = FIRST_WAIT_S
        self.was_steady = True
        """Had it gone on for STEADY_S when it ended last?"""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def keep(self) -> None:
        """Start it unless it runs, or has ended too short a time ago. From the main thread only: it dies with that."""
        if self._process is not None or time.monotonic() < self._due_s:
            return
        # A session of its own: Ctrl-C is for this process, which ends the others in order.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | _environment(self._state),
            cwd=self._state,
            start_new_session=True,
            preexec_fn=partial(_die_with, os.getpid()),
        )
        self._began_s = time.monotonic()
        Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def has_ended(self) -> bool:
        """Whether it has ended by itself since the last time of asking; the log says how."""
        if self._process is None or (code := self._process.poll()) is None:
            return False
        self.was_steady = time.monotonic() - self._began_s > STEADY_S
        self._wait_s = FIRST_WAIT_S if self.was_steady else min(2 * self._wait_s, LONGEST_WAIT_S)
        self._process, self._due_s = None, time.monotonic() + self._wait_s
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        LOG.warning("the %s has ended by itself (%s), it is started again after %.0f s", self._name, how, self._wait_s)
        return True

    def end(self) -> None:
        """Ask it to end, and make it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        for line in process.stdout:
            text = HEAD.sub("", COLOUR.sub("", line)).rstrip()
            if text and not ROUTINE.search(text):
                LOG.info("%s: %s", self._name, text)


def _take_part(kit: SiteKit) -> None:
    secret = kit.state / "superexec.secret"
    if not secret.exists():
        write_atomic(secret, secrets.token_hex(32), 0o600)
    options = {
        "--isolation": "process",
        "--superexec-auth-secret-file": secret,
        "--root-certificates": kit.ca_certificate,
        "--superlink": kit.superlink,
        "--auth-supernode-private-key": kit.key,
        "--node-config": f"site='{kit.root}' center='{kit.hospital}'",
        "--host": "127.0.0.1",
        "--port": kit.runtime_port,
    }
    python = [sys.executable, "-P"]
    node = Program("SuperNode", [*python, "-m", "fedkvasir.sites.supernode", *_words(options)], kit.state)
    worker = Program("worker", [*python, "-m", "clients.worker", str(kit.root)], kit.state)
    LOG.info("%s of the federation %s, by way of %s", kit.hospital, kit.federation, kit.superlink)
    said, obstacle, due_s = None, "", 0.0
    with _ended(worker, node):
        while True:
            worker.has_ended()
            if ended := node.has_ended():
                worker.end()  # what it works on was for the one before
            if ended or time.monotonic() >= due_s:
                obstacle = knock(kit).obstacle
                due_s = time.monotonic() + LOOK_S
                if ended and not obstacle and not node.was_steady:
                    LOG.info(
                        "the server lets no other in while it takes the one before for on line, up to a minute; if it "
                        "stays so, another program uses this hospital's key: if it is not yours, have the key revoked"
                    )
                if obstacle != said:
                    known = f"{kit.superlink} can be reached and knows the key of {kit.hospital}"
                    LOG.log(logging.WARNING if obstacle else logging.INFO, obstacle or known)
                said = obstacle
            if obstacle and not node.running:
                worker.end()
            else:
                node.keep()
                worker.keep()
            time.sleep(TICK_S)


def _serve(kit: ServerKit) -> None:
    options = {
        "--isolation": "process",
        "--superexec-auth-secret-file": kit.secret,
        "--enable-supernode-auth": "",
        "--ssl-ca-certfile": kit.ca_certificate,
        "--ssl-certfile": kit.certificate,
        "--ssl-keyfile": kit.certificate_key,
        "--host": kit.listen,
        "--port": kit.port,
        "--database": kit.state / "superlink.db",
        "--disable-runtime-dependency-installation": "",
    }
    command = [sys.executable, "-P", "-m", "fedkvasir.sites.superlink", *_words(options)]
    server = Program("SuperLink", command, kit.state)
    LOG.info("the server of the federation %s, for %s", kit.name, ", ".join(kit.hospitals) or "nobody")
    with _ended(server):
        server.keep()
        while is_free(kit.listen, kit.port):
            if server.has_ended():
                raise RunFailed(f"the SuperLink cannot be started; {kit.state / 'log'} has its last words")
            time.sleep(TICK_S)
        _look_from_outside(kit)
        said, problem, due_s, online = "", "", 0.0, None
        while True:
            server.has_ended()
            server.keep()
            if time.monotonic() >= due_s and not is_free(kit.listen, kit.port):
                due_s = time.monotonic() + LOOK_S
                try:
                    kit = ServerKit.load(kit.root)
                    online, problem = _look_after(kit, online), ""
                except (UserError, OSError, ValueError, httpx.HTTPError) as error:
                    problem = f"the list of hospitals is as it was: {_in_words(error)}"
                if problem and problem != said:
                    LOG.warning(problem)
                said = problem
            time.sleep(TICK_S)


def _look_after(kit: ServerKit, before: "frozenset[str] | None") -> "frozenset[str]":
    """Keep the server's list of nodes to that of the kit, and say who is on line if others were before."""
    from fedkvasir import wire

    here = _from_here(kit)
    nodes, wanted = wire.nodes_of(here), wire.hospitals_by_key(kit)
    if nodes.keys() != wanted.keys():
        wire.enlist(here)
        for key in nodes.keys() - wanted.keys():
            name = nodes[key].name
            LOG.warning("taken off: %s", name if name in kit.revoked else "a key that is no hospital's")
        if new := sorted(wanted[key] for key in wanted.keys() - nodes.keys()):
            LOG.info("may take part now: %s", ", ".join(new))
    online = frozenset(wanted[key] for key, node in nodes.items() if key in wanted and node.status == "online")
    if online != before:
        away = sorted(set(wanted.values()) - online)
        LOG.info("on line: %s; off line: %s", ", ".join(sorted(online)) or "nobody", ", ".join(away) or "nobody")
    return online


def _from_here(kit: ServerKit) -> ServerKit:
    """The kit with an address that leads to the server from its own machine, whatever network hospitals come from."""
    inside = kit.listen in ("0.0.0.0", "::", "127.0.0.1", "::1", "localhost")
    return kit.model_copy(update={"address": f"localhost:{kit.port}"}) if inside else kit


def _look_from_outside(kit: ServerKit) -> None:
    """Say so if this machine does not reach its own server where hospitals do."""
    try:
        httpx.get(f"https://{kit.address}/", verify=trust_in(kit.ca_certificate), timeout=TIMEOUT_S)
    except httpx.TransportError as error:
        run = f"`fedkvasir run --on {kit.name}` has to be started on a machine that reaches it"
        LOG.warning("from this machine itself, %s; %s", why_not(kit.address, error), run)


def _refuse_hopeless(kit: ServerKit) -> None:
    keys = [kit.keys / f"{name}.pub" for name in kit.hospitals]
    for path in (kit.ca_certificate, kit.certificate, kit.certificate_key, kit.secret, *keys):
        if not path.is_file():
            raise UserError(f"{path} does not exist; put the folder here as `fedkvasir site kit` wrote it")
    renew = "`fedkvasir site kit federation.yaml --out kits --renew` writes a new one"
    try:
        authority, own = (
            x509.load_pem_x509_certificate(path.read_bytes()) for path in (kit.ca_certificate, kit.certificate)
        )
        own.verify_directly_issued_by(authority)
        fits = own.public_key() == load_pem_private_key(kit.certificate_key.read_bytes(), None).public_key()
    except (ValueError, TypeError, InvalidSignature) as error:
        raise UserError(f"{kit.certificate} is not a certificate that {kit.ca_certificate} vouches for") from error
    if not fits:
        raise UserError(f"{kit.certificate} is not for the key in {kit.certificate_key}; {renew}")
    if own.not_valid_after_utc < datetime.now(UTC):
        raise UserError(f"{kit.certificate} has expired on {own.not_valid_after_utc:%Y-%m-%d}; {renew}")
    if not is_free(kit.listen, kit.port):
        raise UserError(
            f"this account cannot listen at {kit.listen}:{kit.port}; another program does, or it is not allowed to"
        )


def _in_words(error: Exception) -> str:
    if not isinstance(error, httpx.HTTPStatusError):
        return str(error)
    if error.response.status_code == httpx.codes.PRECONDITION_FAILED:
        return "a key in keys/ was taken off once, and Flower takes no key twice; give that hospital a new kit"
    return f"the SuperLink answers HTTP {error.response.status_code}"


def _words(options: dict[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (name, str(value)) if word]


def _environment(state: Path) -> dict[str, str]:
    own = {"FLWR_HOME": str(state / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    return own | {"PYTHONUNBUFFERED": "1"}


def _die_with(parent: int) -> None:
    """In the new process: let the kernel end it when its parent dies, however it dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def _ended(*programs: Program) -> Iterator[None]:
    """End these programs after the block; a second Ctrl-C does not keep that from happening."""
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for program in programs:
            program.end()


def _log_to(path: Path) -> None:
    # A line with half a character of a stranger's would not be written, else.
    file = RotatingFileHandler(path, "a", LOG_BYTES, LOGS_KEPT, encoding="utf-8", errors="backslashreplace")
    handlers: list[logging.Handler] = [logging.StreamHandler(), file]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
