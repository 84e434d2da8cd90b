"""`fedkvasir site start`: real servers and hospitals on this machine, over TLS, with Flower's own programs."""

import inspect
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest, UnregisterNodeRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, RegisterNodeFleetRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode import node_auth_http_interceptor, start_client_internal
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedkvasir import wire
from fedkvasir.sites.federation import ServerKit, SiteKit
from fedkvasir.sites.kit import revoke, write_kits
from fedkvasir.sites.knock import knock, private_key
from fedkvasir.sites.supernode import end_with_the_run
from tests.conftest import Command, Miniatures
from tests.sites.conftest import Coordinator
from tests.sites.impostors import answering, certified

PATIENCE_S = 120


class Started:
    """`fedkvasir site start FOLDER` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "state" / "log"
        self.log.unlink(missing_ok=True)
        command = [str(Path(sys.executable).with_name("fedkvasir")), "site", "start", str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, words: str) -> None:
        """Until the log holds the words (a regular expression)."""
        wait_until(lambda: re.search(words, self.said()), lambda: f"{words}\nis not in\n{self.said()}")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, word: str) -> psutil.Process:
        """The one whose command has the word in it."""
        found: list[psutil.Process] = []

        def there() -> bool:
            found[:] = [process for process in self.children() if word in " ".join(process.cmdline())]
            return bool(found)

        wait_until(there, lambda: f"{word} was not started\n{self.said()}")
        return found[0]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code; nothing it started is left."""
        below = self.children() if self.process.poll() is None else []
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert not psutil.wait_procs(below, timeout=10)[1], "it left a program behind"
        return code


def wait_until(happened: Callable[[], object], otherwise: Callable[[], str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def lab(coordinator: Coordinator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A federation whose server runs: the folder of its kits."""
    kits = tmp_path_factory.mktemp("lab") / "kits"
    address = f"localhost:{free_port()}"
    write_kits(coordinator(address=address, listen="127.0.0.1", hospitals=["oslo", "bergen", "cadiz"]), kits)
    server = Started(kits / "server")
    try:
        server.wait_for("on line: nobody; off line: bergen, cadiz, oslo")
        yield kits
    finally:
        assert server.end() == 0
    secrets = [(kits / "server" / name).read_text() for name in ("superexec.secret", "server.key")]
    assert not any(line in server.said() for secret in secrets for line in secret.splitlines())


@pytest.fixture
def site(lab: Path, tmp_path: Path) -> Callable[..., SiteKit]:
    """``site("oslo", data="/srv/data")`` is a copy of that hospital's kit, with a port of its own."""

    def copy(hospital: str, **settings: object) -> SiteKit:
        folder = Path(shutil.copytree(lab / hospital, tmp_path / hospital))
        raw = yaml.safe_load((folder / "site.yaml").read_text())
        (folder / "site.yaml").write_text(yaml.safe_dump(raw | {"runtime_port": free_port()} | settings))
        return SiteKit.load(folder)

    return copy


@pytest.fixture
def started() -> Iterator[Callable[[Path], Started]]:
    running: list[Started] = []

    def start(folder: Path) -> Started:
        running.append(Started(folder))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.end()


def log_of(kits: Path) -> str:
    return (kits / "server" / "state" / "log").read_text()


def replace_key(kit: SiteKit) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    kit.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def test_a_hospital_joins_and_is_shut_out_when_it_is_revoked(
    lab: Path, site: Callable[..., SiteKit], started: Callable[[Path], Started]
) -> None:
    kit = site("oslo")
    oslo = started(kit.root)
    oslo.wait_for("can be reached and knows the key of oslo")
    wait_until(lambda: "on line: oslo; off line: bergen, cadiz" in log_of(lab), oslo.said)
    secret = kit.state / "superexec.secret"
    assert secret.stat().st_mode & 0o777 == 0o600 and secret.read_text() not in oslo.said()
    assert "clients.worker" in " ".join(oslo.child("clients.worker").cmdline())
    revoke(lab, "oslo")
    oslo.wait_for("the key of oslo is not registered at localhost:[0-9]+, or was revoked there: ask the coordinator")
    wait_until(lambda: "taken off: oslo" in log_of(lab), oslo.said)
    wait_until(lambda: not oslo.children(), oslo.said)
    assert oslo.end(signal.SIGINT) == 0 and oslo.said().rstrip().endswith("stopped")
    assert oslo.said().count("is not registered") == 1, "a reason is said once"


def test_what_the_server_refuses(
    lab: Path, site: Callable[..., SiteKit], coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kit, server = site("bergen"), ServerKit.load(lab / "server")
    answer = knock(kit)
    assert not answer.obstacle and answer.ahead_s is not None and abs(answer.ahead_s) < 5
    own = public_key_to_bytes(private_key(kit).public_key())

    def nodes() -> dict[str, str]:
        with wire.control(server) as client:
            return {node.name: node.status for node in client.ListNodes(ListNodesRequest()).nodes_info}

    assert nodes()["bergen"] == "registered", "to knock changes nothing at the server"

    # A key of one's own, and the certificate of another federation's authority.
    stranger = site("cadiz")
    replace_key(stranger)
    assert "the key of cadiz is not registered" in knock(stranger).obstacle
    write_kits(coordinator(address=server.address), tmp_path / "others")
    shutil.copy(tmp_path / "others" / "ca" / "ca.crt", stranger.ca_certificate)
    assert "is not signed by the authority in ca.crt" in knock(stranger).obstacle

    # The same key a second time; and a registration from a hospital's side.
    with wire.control(server) as client, pytest.raises(httpx.HTTPStatusError) as twice:
        client.RegisterNode(RegisterNodeRequest(public_key=own, name="another"))
    assert twice.value.response.status_code == 412 and twice.value.response.json()["code"] == 23
    with fleet(kit) as client, pytest.raises(httpx.HTTPStatusError) as alone:
        client.RegisterNode(RegisterNodeFleetRequest(public_key=own))
    assert alone.value.response.status_code == 412 and alone.value.response.json()["code"] == 2001

    # What was signed, and is sent again more than five minutes later; or by a clock that is ahead.
    for seconds in (-310, 10):
        with monkeypatch.context() as patch:
            now = node_auth_http_interceptor.now
            patch.setattr(node_auth_http_interceptor, "now", lambda now=now, by=seconds: now() + timedelta(seconds=by))
            with fleet(kit) as client, pytest.raises(httpx.HTTPStatusError) as late:
                client.ActivateNode(ActivateNodeRequest(public_key=own, heartbeat_interval=30))
            assert late.value.response.status_code == 401

    # No TLS.
    plain = FleetHttpClient(f"http://{kit.superlink}", interceptors=signature(kit), timeout=5)
    with plain as client, pytest.raises(httpx.RemoteProtocolError, match="Server disconnected"):
        client.ActivateNode(ActivateNodeRequest(public_key=own, heartbeat_interval=30))
    assert nodes()["bergen"] == "registered" and len(nodes()) == 3, "nobody came on line or in"

    # What was recorded on its way, and is sent again at once: the first one is taken, the second is not.
    sent: list[httpx.Request] = []
    with fleet(kit) as client:
        client._client.event_hooks = {"request": [sent.append]}
        node_id = client.ActivateNode(ActivateNodeRequest(public_key=own, heartbeat_interval=30)).node_id
        client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
        assert nodes()["bergen"] == "offline" and client._client.send(sent[0]).status_code == 401
        assert nodes()["bergen"] == "offline"


def test_the_control_api_answers_only_who_has_the_servers_secret(lab: Path) -> None:
    kit = ServerKit.load(lab / "server")
    stranger = ControlHttpClient.from_server_address(
        f"localhost:{kit.port}",
        insecure=False,
        root_certificates=kit.ca_certificate.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    key = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    for ask in (
        lambda: stranger.ListNodes(ListNodesRequest()),
        lambda: stranger.RegisterNode(RegisterNodeRequest(public_key=key, name="stranger")),
        lambda: stranger.UnregisterNode(UnregisterNodeRequest(node_id=1)),
        lambda: stranger.StartRun(StartRunRequest()),
    ):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            ask()
        assert refused.value.response.status_code == httpx.codes.UNAUTHORIZED


def test_a_stranger_that_registers_itself_is_taken_off(lab: Path) -> None:
    key = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    with wire.control(ServerKit.load(lab / "server")) as client:
        client.RegisterNode(RegisterNodeRequest(public_key=key, name="stranger"))
    wait_until(lambda: "taken off: a key that is no hospital's" in log_of(lab), lambda: log_of(lab))


def signature(kit: SiteKit) -> list[node_auth_http_interceptor.NodeAuthHttpInterceptor]:
    key = private_key(kit)
    return [node_auth_http_interceptor.NodeAuthHttpInterceptor(key, key.public_key())]


def fleet(kit: SiteKit) -> FleetHttpClient:
    return FleetHttpClient.from_server_address(
        kit.superlink, False, kit.ca_certificate.read_bytes(), interceptors=signature(kit)
    )


def test_check_finds_nothing_to_mend_before_joining(
    lab: Path, site: Callable[..., SiteKit], command: Command, miniatures: Miniatures, tiny: Path
) -> None:
    kit = site("bergen", data=str(miniatures("cvc-clinicdb", 4)))
    done = command("site", "check", kit.root, "--scenario", tiny)
    assert done.returncode == 0, done.stdout
    for words in (
        "flwr 1.41.",
        "can be reached over TLS and knows the key of bergen",
        "the clock of this machine is ",
        "cvc-clinicdb: ",
        "tiny: images at bergen: test ",
        "scenario tiny: sha256 ",
        "nothing to mend",
    ):
        assert words in done.stdout, done.stdout
    sha256 = re.search("scenario tiny: sha256 ([0-9a-f]{64})", done.stdout)[1]  # type: ignore[index]
    chosen = yaml.safe_load((kit.root / "site.yaml").read_text()) | {"approve": [sha256]}
    (kit.root / "site.yaml").write_text(yaml.safe_dump(chosen))
    done = command("site", "check", kit.root, "--scenario", tiny)
    assert done.returncode == 2 and "1 to mend" in done.stdout
    assert re.search("fail  app of this fedkvasir: sha256 .*add it to `approve`", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("cause", ["unregistered", "wrong CA", "no server"])
def test_the_hospitals_own_log_says_why(
    cause: str, site: Callable[..., SiteKit], started: Callable[[Path], Started], written: Path
) -> None:
    kit = site("bergen", **{"superlink": f"localhost:{free_port()}"} if cause == "no server" else {})
    if cause == "unregistered":
        replace_key(kit)
    if cause == "wrong CA":
        shutil.copy(written / "ca" / "ca.crt", kit.ca_certificate)
    bergen = started(kit.root)
    bergen.wait_for(
        {
            "unregistered": "the key of bergen is not registered at .*, or was revoked there: ask the coordinator",
            "wrong CA": "is not signed by the authority in ca.crt: that is not this federation's server",
            "no server": "nobody listens at .*: the server is not running, or the address is wrong",
        }[cause]
    )
    time.sleep(12)
    assert not bergen.children(), "what cannot connect is not started"
    assert len(bergen.said().splitlines()) == 2, "who it is, and why; once"


@pytest.mark.slow
def test_programs_are_started_again_and_never_outlive_the_start(
    lab: Path, site: Callable[..., SiteKit], started: Callable[[Path], Started]
) -> None:
    cadiz = started(site("cadiz").root)
    cadiz.wait_for("SuperNode ID: ")
    for word, name in (("clients.worker", "worker"), ("sites.supernode", "SuperNode")):
        killed = cadiz.child(word)
        killed.kill()
        cadiz.wait_for(rf"the {name} has ended by itself \(SIGKILL\), it is started again after [0-9]+ s")
        wait_until(lambda word=word, gone=killed: cadiz.child(word).pid != gone.pid, cadiz.said)
    # The server takes the one that was killed for on line, up to a minute.
    wait_until(lambda: cadiz.said().count("SuperNode ID: ") == 2, cadiz.said)
    below = cadiz.children()
    assert len(below) == 2
    cadiz.process.kill()
    assert not psutil.wait_procs(below, timeout=10)[1]


class Road:
    """What lies between a hospital and its server: leads to a port, to another one, or nowhere."""

    def __init__(self, port: int | None) -> None:
        self.port, self.open = port, set[socket.socket]()
        self.entry = socket.create_server(("127.0.0.1", 0))
        self.address = f"localhost:{self.entry.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def lead(self, port: int | None) -> None:
        self.port = port
        for end in [*self.open]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            here, _ = self.entry.accept()
            if self.port is None:
                here.close()
                continue
            with suppress(OSError):
                there = socket.create_connection(("127.0.0.1", self.port))
                self.open |= {here, there}
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_a_hospital_that_met_a_stranger_on_the_way_comes_back(
    lab: Path, written: Path, site: Callable[..., SiteKit], started: Callable[[Path], Started]
) -> None:
    port = ServerKit.load(lab / "server").port
    road = Road(port)
    bergen = started(site("bergen", superlink=road.address).root)
    bergen.wait_for("SuperNode ID: ")
    with answering(certified(written)) as stranger:
        road.lead(int(stranger.rpartition(":")[2]))
        bergen.wait_for("is not signed by the authority in ca.crt")
        wait_until(lambda: not bergen.children(), bergen.said)
    road.lead(port)
    wait_until(lambda: bergen.said().count("SuperNode ID: ") == 2, bergen.said)


@pytest.mark.slow
def test_a_server_that_was_killed_comes_back_with_its_hospitals(
    lab: Path, site: Callable[..., SiteKit], started: Callable[[Path], Started]
) -> None:
    """It is killed until the hospital, which looks every five seconds, has found nobody there."""
    kit = site("bergen")
    bergen = started(kit.root)
    bergen.wait_for("SuperNode ID: ")

    def missed() -> bool:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has just ended
                if "fedkvasir.sites.superlink" in " ".join(child.cmdline()):
                    child.kill()
        return "nobody listens at" in bergen.said()

    wait_until(missed, bergen.said)
    wait_until(lambda: bergen.said().count("can be reached and knows the key of bergen") == 2, bergen.said)
    wait_until(lambda: "Connection successful" in bergen.said(), bergen.said)
    assert "the SuperLink has ended by itself (SIGKILL)" in log_of(lab)


@pytest.mark.slow
def test_a_supernode_without_tls_is_refused(lab: Path, site: Callable[..., SiteKit]) -> None:
    kit = site("bergen")
    command = [str(Path(sys.executable).with_name("flower-supernode")), "--insecure", "--superlink", kit.superlink]
    command += ["--isolation", "process"]
    port = ["--port", str(kit.runtime_port)]
    with_key = subprocess.run(
        [*command, *port, "--auth-supernode-private-key", kit.key], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert with_key.returncode and "requires a secure TLS connection" in " ".join(
        (with_key.stdout + with_key.stderr).split()
    )
    without = subprocess.run(
        [*command, *port, "--max-retries", "1"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert without.returncode and "Failed to initialize the connection" in without.stdout + without.stderr


def test_what_has_to_be_mended_first_is_one_sentence(kits: Path, command: Command) -> None:
    oslo, server = kits / "oslo", kits / "server"
    bergen = shutil.copytree(kits / "bergen", kits / "it's bergen")
    (oslo / "key").rename(oslo / "old")
    ServerKit.load(server).secret.rename(server / "old")
    for folder, words in (
        (bergen, "has a quote in its name"),
        (kits, "holds neither server.yaml nor site.yaml"),
        (oslo, "key: No such file or directory; put the folder here as the coordinator sent it"),
        (server, "superexec.secret does not exist; put the folder here as `fedkvasir site kit` wrote it"),
    ):
        done = command("site", "start", folder)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_supernode_ends_where_flower_gives_a_message_up_with_its_run() -> None:
    """If the first part fails, a new Flower says it otherwise."""
    said = re.findall(r'"(Run ID [^"]+)"', inspect.getsource(start_client_internal))
    assert sorted(text.partition("Ignoring")[2] for text in said) == [" message %s.", " reply message %s."]
    logger = logging.Logger("flwr")
    logger.addFilter(end_with_the_run)
    logger.info("Received successfully")
    for text in said:
        with pytest.raises(SystemExit):
            logger.info(text, 1, "a1b2")


def test_half_a_character_of_a_strangers_is_a_line_of_the_log_like_any_other(tmp_path: Path) -> None:
    """In a process of its own: what is logged goes elsewhere from then on."""
    script = (
        "import logging, pathlib, sys\n"
        "from fedkvasir.sites.start import _log_to\n"
        "_log_to(pathlib.Path(sys.argv[1]))\n"
        "logging.warning(chr(0xD800) + ' refused')\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "log"], check=True, capture_output=True)
    assert (tmp_path / "log").read_text().endswith(" \\ud800 refused\n")
