"""The way to the server: what stands between a hospital and it, each in a sentence that says what to do."""

import re
import shutil
import socket
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fedkvasir.sites.knock import Knock, knock
from tests.sites.conftest import site
from tests.sites.impostors import NOW, answering, certified, certified_by_itself


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
