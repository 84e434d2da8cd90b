"""`fedkvasir site check`: what stands between a hospital and its server, each in a sentence that says what to do."""

import http.server
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from fedkvasir.doctor import Finding
from fedkvasir.names import spelled_out
from fedkvasir.scenario import load, parse
from fedkvasir.sites import check
from fedkvasir.sites.check import Knock, examine, knock
from fedkvasir.sites.federation import SiteKit
from tests.conftest import Command, Miniatures

NOW = datetime.now(UTC)


def site(kits: Path, **settings: object) -> SiteKit:
    """Oslo's kit with other settings."""
    path = kits / "oslo" / "site.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))
    return SiteKit.load(kits / "oslo")


def certified(kits: Path, host: str = "localhost", begins: datetime = NOW, days: int = 1) -> ssl.SSLContext:
    """A server's side of TLS, its certificate signed by the authority of the kits."""
    authority = x509.load_pem_x509_certificate((kits / "ca" / "ca.crt").read_bytes())
    signer = load_pem_private_key((kits / "ca" / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder(
            authority.subject,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]),
            key.public_key(),
            x509.random_serial_number(),
            begins - timedelta(hours=1),
            begins + timedelta(days=days),
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(signer, SHA256())  # type: ignore[arg-type]
    )
    path = kits / "tried.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@contextmanager
def answering(tls: ssl.SSLContext | None, status: int = 404, body: bytes = b"", clock_s: float = 0) -> Iterator[str]:
    """A server that is not Flower's and gives everybody the same answer: its address. clock_s: how far its clock is
    ahead."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response_only(status)
            there = datetime.now(UTC) + timedelta(seconds=clock_s)
            self.send_header("Date", format_datetime(there, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_CONNECT = do_POST

        def log_message(self, *words: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *words: object) -> None:
            pass

        def finish_request(self, request: socket.socket, client: tuple[str, int]) -> None:  # type: ignore[override]
            super().finish_request(tls.wrap_socket(request, server_side=True) if tls else request, client)

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_no_server_there(kits: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"localhost:{taken.getsockname()[1]}"
        assert knock(site(kits, superlink=address)) == Knock(
            f"nobody listens at {address}: the server is not running, or the address is wrong"
        )
    assert knock(site(kits, superlink="lab.invalid:8000")).obstacle == (
        "lab.invalid is a name that this machine cannot look up: mend the address, or the machine's DNS"
    )


def test_a_server_that_never_answers(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = knock(site(kits, superlink=f"localhost:{silent.getsockname()[1]}"))
    assert "does not answer within" in answer.obstacle and "firewall" in answer.obstacle


def test_a_server_without_tls(kits: Path) -> None:
    with answering(None) as address:
        assert f"{address} does not speak TLS" in knock(site(kits, superlink=address)).obstacle


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ({"begins": NOW - timedelta(days=9)}, "has expired: ask the coordinator to renew it"),
        ({"begins": NOW + timedelta(days=9)}, "is not valid yet: look at the clock of this machine"),
        ({"host": "other.example.org"}, "is for another host: keep to the address that the kit came with"),
    ],
)
def test_a_certificate_that_does_not_hold(kits: Path, certificate: dict[str, datetime], words: str) -> None:
    with answering(certified(kits, **certificate)) as address:  # type: ignore[arg-type]
        assert knock(site(kits, superlink=address)).obstacle == f"the certificate of {address} {words}" + (
            ", and of the server" if "valid yet" in words else ""
        )


def test_a_certificate_of_another_authority(kits: Path, written: Path, tmp_path: Path) -> None:
    tls = certified(kits)
    other = certified_by_itself(tmp_path / "ca.crt")
    shutil.copy(other, kits / "oslo" / "ca.crt")
    with answering(tls) as address:
        assert "is not signed by the authority in ca.crt" in knock(site(kits, superlink=address)).obstacle


def certified_by_itself(path: Path, days: int = 1) -> Path:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")])
    number, begins = x509.random_serial_number(), NOW - timedelta(days=9)
    made = x509.CertificateBuilder(name, name, key.public_key(), number, begins, NOW + timedelta(days=days))
    made = made.add_extension(x509.BasicConstraints(True, None), critical=True)
    path.write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("status", "body", "clock_s", "words"),
    [
        (404, b"", 0, "answers, but not as a server of Flower 1.41.x does (HTTP 404)"),
        (200, b"<html>", 0, "answers, but not as a server of Flower 1.41.x does (HTTP 200)"),
        (502, b"[]", 0, "answers, but not as a server of Flower 1.41.x does (HTTP 502)"),
        (412, b'{"code": 2004}', 0, "the key of oslo is not registered at"),
        (401, b'{"detail": ""}', 400, "the clock of this machine is [0-9]+ s behind the server's"),
        (401, b'{"detail": ""}', -60, "the clock of this machine is [0-9]+ s ahead of the server's"),
        (401, b'{"detail": ""}', 0, "refuses what the key of oslo signs: ask the coordinator"),
        (400, b'{"code": 2003}', 0, ""),
    ],
)
def test_what_a_server_answers(kits: Path, status: int, body: bytes, clock_s: int, words: str) -> None:
    with answering(certified(kits), status, body, clock_s) as address:
        answer = knock(site(kits, superlink=address))
    assert re.search(words.replace("(", r"\(").replace(")", r"\)"), answer.obstacle) if words else not answer.obstacle
    if body.startswith(b"{"):
        assert answer.ahead_s == pytest.approx(-clock_s, abs=2)


def test_a_proxy_that_lets_nobody_through(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(None, 403) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        monkeypatch.setenv("no_proxy", "")
        assert "the proxy of this machine does not let it through to lab.example.org:8000" in knock(site(kits)).obstacle


Mend = Callable[[SiteKit], list[Finding]]


@pytest.fixture
def to_mend(monkeypatch: pytest.MonkeyPatch) -> Mend:
    """What is to be mended, for a server that can be reached."""
    monkeypatch.setattr(check, "knock", lambda kit: Knock("", 0.0))
    return lambda kit: [finding for finding in examine(kit) if finding.state == "fail"]


def test_what_is_to_be_mended_in_the_kit(kits: Path, to_mend: Mend, miniatures: Miniatures) -> None:
    data = str(miniatures("cvc-clinicdb", 4))
    kit = site(kits, data=data)
    assert not to_mend(kit)
    kit.key.chmod(0o640)
    (seen,) = to_mend(kit)
    assert seen.mend == f"chmod 600 {kit.key}"
    kit.key.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as other:
        (taken,) = to_mend(site(kits, runtime_port=other.getsockname()[1]))
        assert "is taken" in taken.what
    (ended,) = to_mend(site(kits, expires=date(2020, 1, 1)))
    assert "has ended on 2020-01-01" in ended.what and "ask the coordinator to renew it" in ended.mend
    soon = site(kits, expires=datetime.now(UTC).date() + timedelta(days=3))
    assert not to_mend(soon) and any(f.state == "note" and "3 days" in f.what for f in examine(soon))
    certified_by_itself(kit.ca_certificate, days=-1)
    assert "ca.crt has expired" in to_mend(soon)[0].what
    kit.ca_certificate.write_text("nothing")
    assert "is not a certificate" in to_mend(soon)[0].what
    kit.key.write_text("nothing")
    assert "is not a hospital's key" in to_mend(soon)[0].what
    kit.key.unlink()
    assert "No such file" in to_mend(soon)[0].what


def test_a_clock_that_is_off(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ahead_s, state in ((3.0, "ok"), (-9.0, "ok"), (-11.0, "fail"), (200.0, "fail")):
        monkeypatch.setattr(check, "knock", lambda kit, ahead_s=ahead_s: Knock("", ahead_s))
        (clock,) = [finding for finding in examine(site(kits)) if "the clock of" in finding.what]
        assert clock.state == state, clock


def test_what_is_to_be_mended_in_the_data(kits: Path, to_mend: Mend, miniatures: Miniatures) -> None:
    kit = site(kits)
    assert "no dataset in" in to_mend(kit)[0].what
    assert "does not exist" in to_mend(site(kits, data="nowhere"))[0].what
    found = [finding.what for finding in examine(site(kits, data=str(miniatures("cvc-clinicdb", 4))))]
    assert any("cvc-clinicdb: 4 of 612 images in" in text for text in found), found
    assert any("counts differ from the published ones" in text for text in found), found


def test_a_scenario_that_the_hospital_will_refuse_as_it_scores_single_patients(
    kits: Path, miniatures: Miniatures
) -> None:
    raw = {"name": "few", "model": {"name": "unet"}, "data": {"image_size": 32}}
    raw["data"]["centers"] = {"oslo": {"dataset": "kvasir-seg", "val": 0.25, "test": 0.01}}
    shutil.copytree(miniatures("kvasir-seg"), kits / "oslo" / "data" / "Kvasir-SEG")
    words = "few: of its test images at oslo the scenario would have figures of fewer than 5 groups"
    for settings, told in (({"approve": None}, True), ({"share": "per-image"}, False), ({"approve": []}, False)):
        kit = site(kits, **{"share": "per-center", "approve": None} | settings)
        found = [finding for finding in examine(kit, parse(raw, "test")) if words in finding.what]
        assert [finding.state for finding in found] == ["fail"] * told


@pytest.mark.parametrize("override", ["federation.train=pooled", "protocol={kind: holdout, baselines: [pooled]}"])
def test_a_scenario_that_no_hospital_can_carry_out(kits: Path, tiny: Path, override: str) -> None:
    found = [finding for finding in examine(site(kits), load(tiny, (override,))) if finding.state == "fail"]
    assert "tiny: pooled: images of real hospitals stay where they are; take it out" in [own.what for own in found]


def test_of_a_study_every_run_that_there_can_be_is_named_by_its_hash(kits: Path, tiny: Path) -> None:
    study = load(
        tiny, ("protocol={kind: holdout, baselines: [local], seeds: [0, 1], tune: {training.lr: [0.01, 0.1]}}",)
    )
    named = [f.what for f in examine(site(kits, approve=[]), study) if f.what.startswith("scenario tiny, ")]
    assert len(set(named)) == (1 + 3) * 2 * 2
    run = spelled_out(load(tiny, ("federation.train=bergen", "training.lr=0.1", "seed=1")))
    assert f"scenario tiny, local, without edinburgh, at bergen, training.lr=0.1, seed 1: sha256 {run.sha256}" in named


def test_the_command_counts_what_is_to_be_mended(kits: Path, command: Command) -> None:
    done = command("site", "check", site(kits, superlink="lab.invalid:8000").root)
    assert done.returncode == 2
    assert "fail  lab.invalid is a name that this machine cannot look up" in done.stdout
    assert "fail  no dataset in" in done.stdout and done.stdout.rstrip().endswith("2 to mend")
    assert "site.yaml does not exist; give a hospital's kit" in command("site", "check", kits).stderr
    assert not list((kits / "oslo" / "state").iterdir()), "it changes nothing"
