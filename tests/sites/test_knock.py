"""The way to the server: what stands between a hospital and it, each in a sentence that says what to do."""

import http.server
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from fedkvasir.sites.knock import Knock, knock
from tests.sites.conftest import certified_by_itself, site

NOW = datetime.now(UTC)


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
    monkeypatch.setattr("fedkvasir.sites.knock.TIMEOUT_S", 0.3)
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
