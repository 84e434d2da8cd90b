"""Servers that are not the federation's, and certificates that do not hold."""

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

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


def certified_by_itself(path: Path, days: int = 1) -> Path:
    """The certificate of another authority, which holds for so many days more."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")])
    number, now = x509.random_serial_number(), datetime.now(UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), number, now - timedelta(days=9), now + timedelta(days=days)
    )
    made = made.add_extension(x509.BasicConstraints(True, None), critical=True)
    path.write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return path
