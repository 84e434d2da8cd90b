"""Kits: who can trust whom by them, who can read what, and that nothing is ever written over."""

import base64
import os
import shutil
import ssl
import stat
import subprocess
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve
from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

from fedkvasir.errors import UserError
from fedkvasir.sites import kit
from fedkvasir.sites.federation import ServerKit, SiteKit
from fedkvasir.sites.kit import renew, revoke, write_kits
from tests.sites.conftest import HOSPITALS, Coordinator

SECRETS = {"ca/ca.key", "server/server.key", "server/superexec.secret", *(f"{name}/key" for name in HOSPITALS)}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Path -> content of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def handshake(kits: Path, host: str, authority: Path | None = None) -> str:
    """TLS between the server's kit and a hospital that asks for ``host``; the version agreed on."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(kits / "server" / "server.pem", kits / "server" / "server.key")
    hospital_side = ssl.create_default_context(cafile=authority or kits / "oslo" / "ca.crt")
    hospital_side.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_hospital = ssl.MemoryBIO(), ssl.MemoryBIO()
    hospital = hospital_side.wrap_bio(to_hospital, to_server, server_hostname=host)
    server = server_side.wrap_bio(to_server, to_hospital, server_side=True)
    for _ in range(4):
        for side in (hospital, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return str(hospital.version())


@pytest.mark.parametrize("host", ["lab.example.org", "localhost", "127.0.0.1"])
def test_a_hospital_recognises_the_server(written: Path, host: str) -> None:
    assert handshake(written, host) == "TLSv1.3"


@pytest.mark.parametrize("host", ["lab.example.com", "example.org", "www.lab.example.org", "127.0.0.2"])
def test_a_hospital_refuses_another_host(written: Path, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(written, host)


def test_a_hospital_refuses_a_server_of_another_authority(
    written: Path, coordinator: Coordinator, tmp_path: Path
) -> None:
    """Same names, same address, other kits."""
    write_kits(coordinator(), tmp_path / "kits")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        handshake(written, "lab.example.org", tmp_path / "kits" / "oslo" / "ca.crt")


@pytest.mark.parametrize(("address", "host"), [("10.1.2.3:443", "10.1.2.3"), ("[2001:db8::1]:443", "2001:db8::1")])
def test_a_server_may_be_known_by_an_ip_address(
    coordinator: Coordinator, tmp_path: Path, address: str, host: str
) -> None:
    write_kits(coordinator(address=f"'{address}'", hospitals="[oslo]"), tmp_path / "kits")
    assert handshake(tmp_path / "kits", host) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "kits", "10.1.2.4")


def test_the_certificate_holds_before_another_verifier(written: Path) -> None:
    """The web's rules (CA/Browser Forum), as the cryptography package checks them."""
    authority, server = (
        x509.load_pem_x509_certificate((written / name).read_bytes()) for name in ("server/ca.crt", "server/server.pem")
    )
    policy = PolicyBuilder().store(Store([authority]))
    assert policy.build_server_verifier(x509.DNSName("lab.example.org")).verify(server, []) == [server, authority]
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("lab.example.com")).verify(server, [])


def test_openssl_verifies_it(written: Path) -> None:
    def verify(host: str) -> "subprocess.CompletedProcess[str]":
        server = ("-purpose", "sslserver", "-x509_strict", "-verify_hostname", host, "server/server.pem")
        command = ["openssl", "verify", "-CAfile", "oslo/ca.crt", *server]
        return subprocess.run(command, cwd=written, capture_output=True, text=True)

    try:
        good, bad = verify("lab.example.org"), verify("lab.example.com")
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert good.returncode == 0, good.stderr
    assert bad.returncode != 0 and "hostname mismatch" in bad.stderr


def test_the_servers_certificate_signs_nothing(written: Path) -> None:
    """Who holds the server's machine cannot make another server."""
    server = x509.load_pem_x509_certificate((written / "server" / "server.pem").read_bytes())
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_it_holds_as_long_as_the_kits_say(written: Path) -> None:
    server, site = ServerKit.load(written / "server"), SiteKit.load(written / "oslo")
    assert server.expires == site.expires == datetime.now(UTC).date() + timedelta(days=365)
    ends = x509.load_pem_x509_certificate(server.certificate.read_bytes()).not_valid_after_utc
    assert ends.date() == server.expires and ends.hour == 23
    for text in (written / "server" / "README.md", written / "oslo" / "README.md"):
        assert str(server.expires) in text.read_text()


@pytest.mark.parametrize("name", HOSPITALS)
def test_flower_takes_a_hospitals_key(written: Path, name: str) -> None:
    """By the functions that `flower-supernode` and `flwr supernode register` read keys with."""
    key = written / name / "key"
    arguments = Namespace(auth_supernode_private_key=str(key), auth_supernode_public_key=None)
    pair = _try_setup_client_authentication(arguments)
    assert pair is not None and uses_nist_ec_curve(pair[1])
    assert try_load_public_key(written / "server" / "keys" / f"{name}.pub")
    private = load_ssh_private_key(key.read_bytes(), None)
    public = load_ssh_public_key((written / "server" / "keys" / f"{name}.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP384R1)
    assert private.public_key() == public and (written / name / "key.pub").read_bytes().count(b"\n") == 1


def test_ssh_keygen_reads_a_hospitals_key(kits: Path) -> None:
    try:
        done = subprocess.run(["ssh-keygen", "-y", "-f", kits / "oslo" / "key"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    assert done.returncode == 0 and done.stdout.split()[:2] == (kits / "oslo" / "key.pub").read_text().split()


def test_every_hospital_has_a_key_of_its_own(written: Path) -> None:
    assert len({(written / name / "key.pub").read_bytes() for name in HOSPITALS}) == len(HOSPITALS)


def test_only_the_owner_reads_secrets(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment they are on the disk, under any umask: looked at when each file is flushed, and at the end."""
    flush, seen = os.fsync, dict[str, int]()

    def look(descriptor: int) -> None:
        seen[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = stat.S_IMODE(os.fstat(descriptor).st_mode)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        write_kits(coordinator(), tmp_path / "kits")
        renew(coordinator(valid_days=30), tmp_path / "kits")
    finally:
        os.umask(before)
    end = {path: stat.S_IMODE((tmp_path / "kits" / path).stat().st_mode) for path in snapshot(tmp_path / "kits")}
    assert {path for path, mode in end.items() if mode == 0o600} == SECRETS
    names = tuple(f"/.{Path(path).name}.{os.getpid()}.tmp" for path in SECRETS)
    flushed = [mode for path, mode in seen.items() if path.endswith(names)]
    assert len(flushed) == len(SECRETS) and set(flushed) == {0o600}
    assert stat.S_IMODE((tmp_path / "kits" / "oslo" / "state").stat().st_mode) == 0o700


def test_a_secret_stands_in_one_file(written: Path) -> None:
    """Neither its text nor, of a key, its number in hexadecimal or base64, anywhere else in the kits."""
    files = snapshot(written)
    for secret in SECRETS:
        forms = [files[secret], files[secret].hex().encode(), base64.b64encode(files[secret])]
        if secret != "server/superexec.secret":
            load = load_ssh_private_key if secret.endswith("/key") else load_pem_private_key
            key = load(files[secret], None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            number = key.private_numbers().private_value.to_bytes(48, "big")
            in_base64 = [base64.b64encode(bytes(shift) + number)[4:-4] for shift in range(3)]
            assert any(form in files[secret].replace(b"\n", b"") for form in in_base64)
            forms += [number, number.hex().encode(), *in_base64]
        for path in files.keys() - {secret}:
            assert not any(form in files[path].replace(b"\n", b"") for form in forms), (secret, path)


def test_a_second_call_changes_nothing(kits: Path, coordinator: Coordinator) -> None:
    before = snapshot(kits)
    assert write_kits(coordinator(), kits) == ()
    assert snapshot(kits) == before


def test_a_new_hospital_is_added_under_the_same_authority(kits: Path, coordinator: Coordinator) -> None:
    before = snapshot(kits)
    (kits / "oslo" / "site.yaml").write_text(before["oslo/site.yaml"].decode().replace("data: data", "data: /srv"))
    assert write_kits(coordinator(hospitals="[oslo, bergen, tromso]"), kits) == ("tromso",)
    after = snapshot(kits)
    assert {path for path in before if after[path] != before[path]} == {
        "oslo/site.yaml", "server/server.yaml", "server/README.md",
    }  # fmt: skip
    assert SiteKit.load(kits / "oslo").data == Path("/srv")
    assert after["tromso/ca.crt"] == before["oslo/ca.crt"]
    assert after["server/keys/tromso.pub"] == after["tromso/key.pub"]
    assert ServerKit.load(kits / "server").hospitals == ("oslo", "bergen", "tromso")


def test_a_kit_that_was_handed_over_and_deleted_is_not_made_again(kits: Path, coordinator: Coordinator) -> None:
    kit_of_oslo = kits / "oslo"
    kit_of_oslo.rename(kits.parent / "handed-over")
    (kits / "ca").rename(kits.parent / "locked-away")
    assert write_kits(coordinator(hospitals="[oslo, bergen, tromso]"), kits) == ("tromso",)
    assert not kit_of_oslo.exists() and not (kits / "ca").exists()


def test_cut_off_anywhere_no_half_kit_appears_and_the_same_call_finishes(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before every single write of a file, in turn."""

    def tree(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*")}

    def kits_in(out: Path) -> dict[str, set[Path]]:
        """What is in each; public keys come to the server's one by one."""
        return {folder.name: {path for path in tree(folder) if path.parts[0] != "keys"} for folder in out.iterdir()}

    federation, left, write = coordinator(hospitals="[oslo]"), 0, kit.write_atomic

    def write_or_stop(*arguments: Any) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        write(*arguments)

    write_kits(federation, tmp_path / "whole")
    whole = kits_in(tmp_path / "whole")
    for writes in range(len(snapshot(tmp_path / "whole")) + 2):  # server.yaml and its README.md are written twice
        out, left = tmp_path / str(writes), writes
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(kit, "write_atomic", write_or_stop)
            write_kits(federation, out)
        assert kits_in(out).items() <= whole.items()
        if (out / "server").exists():
            server = ServerKit.load(out / "server")
            assert all((server.keys / f"{name}.pub").exists() for name in server.hospitals)
        write_kits(federation, out)
        assert tree(out) == tree(tmp_path / "whole") and ServerKit.load(out / "server").hospitals == ("oslo",)
        assert (out / "server" / "keys" / "oslo.pub").read_bytes() == (out / "oslo" / "key.pub").read_bytes()


def test_kits_of_another_federation_are_left_alone(kits: Path, coordinator: Coordinator, tmp_path: Path) -> None:
    before = snapshot(kits)
    for key, value in (("name", "other"), ("address", "lab.example.org:8001"), ("listen", "127.0.0.1")):
        for call in (write_kits, renew):
            with pytest.raises(UserError, match=f"says {key}: {value}, and .*server.yaml {key}: .*; make them agree"):
                call(coordinator(**{key: value}), kits)
    assert snapshot(kits) == before
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; give --out the folder"):
        write_kits(coordinator(), tmp_path / "file")
    (tmp_path / "mine" / "oslo").mkdir(parents=True)
    for out in (tmp_path / "mine", kits):  # something else, and a kit whose server and authority are lost
        for lost in kits / "server", kits / "ca":
            shutil.rmtree(lost, ignore_errors=True)
        with pytest.raises(UserError, match="oslo is no kit of this federation; move it away"):
            write_kits(coordinator(), out)


def test_renewal_certifies_the_same_key_longer_and_hospitals_notice_nothing(
    kits: Path, coordinator: Coordinator
) -> None:
    before = snapshot(kits)
    own = before["oslo/site.yaml"].replace(b"share: per-center", b"share: per-image  # agreed in May\r")
    (kits / "oslo" / "site.yaml").write_bytes(own)
    renewed, ends = renew(coordinator(valid_days=500), kits), datetime.now(UTC).date() + timedelta(days=500)
    after = snapshot(kits)
    assert {path for path in before if after[path] != before[path]} == {
        "server/server.pem", "server/server.yaml", "server/README.md",
        *(f"{name}/{file}" for name in HOSPITALS for file in ("site.yaml", "README.md")),
    }  # fmt: skip
    assert renewed.expires == ServerKit.load(kits / "server").expires == SiteKit.load(kits / "bergen").expires == ends
    old = str(datetime.now(UTC).date() + timedelta(days=365)).encode()
    assert after["oslo/site.yaml"] == own.replace(old, str(ends).encode())
    assert handshake(kits, "lab.example.org") == "TLSv1.3"
    certificate = x509.load_pem_x509_certificate(after["server/server.pem"])
    assert certificate.not_valid_after_utc.date() == ends
    assert certificate.serial_number != x509.load_pem_x509_certificate(before["server/server.pem"]).serial_number


def test_a_server_that_moves_is_certified_for_its_new_address(kits: Path, coordinator: Coordinator) -> None:
    text = (kits / "server" / "server.yaml").read_text()
    (kits / "server" / "server.yaml").write_text(text.replace("lab.example.org:8000", "new.example.org:443"))
    renew(coordinator(address="new.example.org:443"), kits)
    assert handshake(kits, "new.example.org") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(kits, "lab.example.org")


def test_renewal_needs_the_authority_that_hospitals_trust(kits: Path, coordinator: Coordinator, tmp_path: Path) -> None:
    before = snapshot(kits / "server")
    (kits / "ca").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"does not hold the authority's ca.key and ca.crt; bring them back"):
        renew(coordinator(), kits)
    write_kits(coordinator(), tmp_path / "others")
    (tmp_path / "others" / "ca").rename(kits / "ca")
    with pytest.raises(UserError, match=r"is not the authority that hospitals of .* trust"):
        renew(coordinator(), kits)
    (kits / "ca" / "ca.key").write_text("torn")
    with pytest.raises(UserError, match="bring them back"):
        renew(coordinator(), kits)
    with pytest.raises(UserError, match=r"server.yaml does not exist; give the server's kit"):
        renew(coordinator(), tmp_path / "nothing")
    assert snapshot(kits / "server") == before


def test_an_authority_vouches_for_no_day_after_its_own_last(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit, "AUTHORITY_DAYS", 20)
    write_kits(coordinator(), tmp_path / "short")
    assert ServerKit.load(tmp_path / "short" / "server").expires == datetime.now(UTC).date() + timedelta(days=20)
    monkeypatch.setattr(kit, "AUTHORITY_DAYS", -1)
    monkeypatch.setattr(kit, "SLOW_CLOCK", timedelta(days=5))
    with pytest.raises(UserError, match=r"authority ended on .*; write new kits into another folder with --out"):
        write_kits(coordinator(), tmp_path / "ended")


def test_a_revoked_hospital_is_off_the_list_and_its_key_is_put_aside(kits: Path, coordinator: Coordinator) -> None:
    before = snapshot(kits)
    server = revoke(kits, "oslo")
    assert server == ServerKit.load(kits / "server")
    assert (server.hospitals, server.revoked) == (("bergen",), ("oslo",))
    after = snapshot(kits)
    assert after["server/revoked/oslo.pub"] == before["oslo/key.pub"] and "server/keys/oslo.pub" not in after
    assert revoke(kits, "oslo") == server and snapshot(kits) == after
    assert write_kits(coordinator(), kits) == () and snapshot(kits) == after
    with pytest.raises(UserError, match=r"no hospital 'bergem' \(did you mean 'bergen'\?\); in .*: bergen"):
        revoke(kits, "bergem")


def test_a_revocation_that_was_cut_off_is_finished_by_the_same_call(
    kits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is written before the key moves: cut off between them, the hospital is already off the list."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kit, "_lines", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        revoke(kits, "oslo")
    assert ServerKit.load(kits / "server").revoked == ("oslo",)
    revoke(kits, "oslo")
    assert not (kits / "server" / "keys" / "oslo.pub").exists()
    assert (kits / "server" / "revoked" / "oslo.pub").read_bytes() == (kits / "oslo" / "key.pub").read_bytes()


def test_a_revoked_hospital_comes_back_only_with_a_new_key(kits: Path, coordinator: Coordinator) -> None:
    first = (kits / "oslo" / "key.pub").read_text()
    revoke(kits, "oslo")
    text = (kits / "server" / "server.yaml").read_text()
    (kits / "server" / "server.yaml").write_text(text.replace("revoked: [oslo]", "revoked: []"))
    with pytest.raises(UserError, match="holds the key of oslo that is revoked; move it away"):
        write_kits(coordinator(), kits)
    (kits / "oslo").rename(kits.parent / "old-oslo")
    assert write_kits(coordinator(), kits) == ("oslo",)
    second = (kits / "server" / "keys" / "oslo.pub").read_text()
    assert second != first and ServerKit.load(kits / "server").hospitals == ("bergen", "oslo")
    revoke(kits, "oslo")
    assert (kits / "server" / "revoked" / "oslo.pub").read_text() == first + second
