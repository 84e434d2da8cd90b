"""Kits: the folders that a coordinator hands out, with an authority of the federation's own to vouch for its server.

A hospital trusts one certificate, the authority's; the server trusts one key a hospital. Nothing that exists is
overwritten, and what was cut off is finished by the same call: a public key in ``server/keys`` says that the hospital
has been given its kit, whether or not the kit is still here.
"""

import ipaddress
import math
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.files import atomic_folder, write_atomic
from fedkvasir.sites.federation import Federation, ServerKit, SiteKit, split_address

AUTHORITY_DAYS = 3650
"""How long an authority can renew: as long as its hospitals keep its certificate."""
SLOW_CLOCK = timedelta(days=1)
"""A certificate holds from this long before it is made, for machines whose clock is behind."""


def write_kits(federation: Federation, out: Path) -> tuple[str, ...]:
    """Write ``out/ca``, ``out/server`` and a folder a hospital, as far as they are not there; returns whose are new.

    Hospitals that are revoked get none. Raises UserError if ``out`` holds the kits of another federation.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give --out the folder that the kits go into")
    if not (out / "server").exists():
        if not (out / "ca").exists():
            _write_authority(federation, out / "ca")
        _write_server(federation, out)
    server = _server(federation, out)
    wanted = [name for name in federation.hospitals if name not in server.revoked]
    new = [name for name in wanted if not _public(server.keys, name).exists()]
    for name in new:
        _write_site(server, name, out / name)
        write_atomic(_public(server.keys, name), SiteKit.load(out / name).public_key.read_bytes())
    if admitted := [name for name in wanted if name not in server.hospitals]:
        _write_again(server, hospitals=(*server.hospitals, *admitted))
    return tuple(new)


def renew(federation: Federation, out: Path) -> ServerKit:
    """Certify the server's key anew for ``valid_days`` from today; the authority and everybody's keys stay.

    In hospitals' kits that are still here ``expires`` changes and nothing else: the other settings are the hospital's.
    Raises UserError if ``out`` holds no such kits, or not the authority's key.
    """
    server = _server(federation, out)
    authority = _Authority.load(out / "ca")
    if authority.certificate != _read_certificate(server.ca_certificate):
        raise UserError(f"{out / 'ca'} is not the authority that hospitals of {server.root} trust; bring that one back")
    sites = [SiteKit.load(out / name) for name in server.hospitals if (out / name).exists()]
    expires = authority.end(federation.valid_days)
    key = _read_certificate(server.certificate).public_key()
    write_atomic(server.certificate, authority.sign(key, server.address, expires))
    for site in sites:
        _renew_site(site, expires)
    return _write_again(server, expires=expires)


def revoke(out: Path, name: str) -> ServerKit:
    """Take a hospital off those that may take part; its public key moves to ``server/revoked``.

    A server that runs looks at its list again and again. Raises UserError if no such hospital takes part.
    """
    server = ServerKit.load(out / "server")
    if name not in (*server.hospitals, *server.revoked):
        known = list(server.hospitals)
        raise UserError(f"no hospital {name!r}{did_you_mean(name, known)}; in {out}: {', '.join(known) or 'none'}")
    if name in server.hospitals:
        others = tuple(other for other in server.hospitals if other != name)
        server = _write_again(server, hospitals=others, revoked=(*server.revoked, name))
    admitted, refused = _public(server.keys, name), _public(server.revoked_keys, name)
    if admitted.exists():
        write_atomic(refused, "".join(f"{key}\n" for key in [*_lines(refused), *_lines(admitted)]))
        admitted.unlink()
    return server


@dataclass(frozen=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def load(cls, folder: Path) -> "_Authority":
        try:
            key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
            certificate = _read_certificate(folder / "ca.crt")
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{folder} does not hold the authority's ca.key and ca.crt; bring them back") from error
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key, certificate)

    def end(self, valid_days: int) -> date:
        """The last day of a certificate signed today. Raises UserError if the authority's own has ended."""
        last = self.certificate.not_valid_after_utc.date()
        today = datetime.now(UTC).date()
        if last < today:
            raise UserError(
                f"the federation's authority ended on {last}; write new kits into another folder with --out"
            )
        return min(today + timedelta(days=valid_days), last)

    def sign(self, key: CertificatePublicKeyTypes, address: str, expires: date) -> bytes:
        """The server's certificate (PEM), for the address's host and for this machine's own name."""
        host, _ = split_address(address)
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        try:
            own: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            own = x509.DNSName(host)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            _certificate(f"fedkvasir server {host}"[:64], self.certificate.subject, key, expires, authority=False)
            .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys([own, *names]))), critical=False)
            .add_extension(usage, critical=False)
            .add_extension(issuer, critical=False)
            .sign(self.key, SHA384())
        )
        return certificate.public_bytes(Encoding.PEM)


def _certificate(
    name: str, issuer: x509.Name | None, key: CertificatePublicKeyTypes, expires: date, authority: bool
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder(issuer or subject, subject, key, x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - SLOW_CLOCK)
        .not_valid_after(datetime.combine(expires, time(23, 59, 59), UTC))
        .add_extension(x509.BasicConstraints(authority, 0 if authority else None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _write_authority(federation: Federation, folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    end = datetime.now(UTC).date() + timedelta(days=AUTHORITY_DAYS)
    certificate = _certificate(
        f"fedkvasir authority {federation.name}"[:64], None, key.public_key(), end, authority=True
    )
    with atomic_folder(folder) as new:
        write_atomic(new / "ca.key", _pem(key), 0o600)
        write_atomic(new / "ca.crt", certificate.sign(key, SHA384()).public_bytes(Encoding.PEM))


def _write_server(federation: Federation, out: Path) -> None:
    authority = _Authority.load(out / "ca")
    expires = authority.end(federation.valid_days)
    raw = federation.model_dump(include={"name", "address", "listen"}) | {"hospitals": (), "expires": expires}
    key = ec.generate_private_key(ec.SECP384R1())
    with atomic_folder(out / "server") as new:
        kit = ServerKit.model_validate(raw, context=new)
        write_atomic(new / "server.yaml", _render("server.yaml", kit=kit))
        write_atomic(kit.ca_certificate, (out / "ca" / "ca.crt").read_bytes())
        write_atomic(kit.certificate, authority.sign(key.public_key(), federation.address, expires))
        write_atomic(kit.certificate_key, _pem(key), 0o600)
        write_atomic(kit.secret, secrets.token_hex(32), 0o600)
        kit.keys.mkdir()
        kit.revoked_keys.mkdir()
        write_atomic(new / "README.md", _render("server.md", kit=kit))
        _write_ways_to_start(new, "server", f"the server of the federation {federation.name}", kit.port)


def _write_site(server: ServerKit, name: str, folder: Path) -> None:
    if folder.exists():
        if _lines(folder / "ca.crt") != _lines(server.ca_certificate):
            raise UserError(f"{folder} is no kit of this federation; move it away, or write elsewhere with --out")
        if set(_lines(folder / "key.pub")) & set(_lines(_public(server.revoked_keys, name))):
            raise UserError(f"{folder} holds the key of {name} that is revoked; move it away, a new one is written")
        return
    raw = {"federation": server.name, "hospital": name, "superlink": server.address, "expires": server.expires}
    key = ec.generate_private_key(ec.SECP384R1())
    with atomic_folder(folder) as new:
        kit = SiteKit.model_validate(raw, context=new)
        write_atomic(new / "site.yaml", _render("site.yaml", kit=kit))
        write_atomic(kit.ca_certificate, server.ca_certificate.read_bytes())
        write_atomic(kit.key, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), 0o600)
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        write_atomic(kit.public_key, public + b"\n")
        kit.data.mkdir()
        write_atomic(new / "README.md", _render("site.md", kit=kit))
        _write_ways_to_start(new, name, f"{name} in the federation {server.name}", None)


def _write_ways_to_start(folder: Path, who: str, role: str, port: int | None) -> None:
    facts = {"who": who, "role": role, "port": port}
    (folder / "state").mkdir(mode=0o700)
    write_atomic(folder / "start.sh", _render("start.sh", **facts), 0o777)
    write_atomic(folder / f"fedkvasir-{who}.service", _render("unit.service", **facts))
    write_atomic(folder / "compose.yaml", _render("compose.yaml", **facts))
    write_atomic(folder / "Dockerfile", _render("Dockerfile"))
    write_atomic(folder / ".dockerignore", _render("dockerignore"))


def _server(federation: Federation, out: Path) -> ServerKit:
    server = ServerKit.load(out / "server")
    for key in ("name", "address", "listen"):
        asked, written = getattr(federation, key), getattr(server, key)
        if asked != written:
            raise UserError(
                f"the federation's file says {key}: {asked}, and {out / 'server' / 'server.yaml'} {key}: {written}; "
                "make them agree, or write other kits elsewhere with --out"
            )
    return server


def _write_again(server: ServerKit, **changes: Any) -> ServerKit:
    changed = server.model_copy(update=changes)
    write_atomic(server.root / "README.md", _render("server.md", kit=changed))
    write_atomic(server.root / "server.yaml", _render("server.yaml", kit=changed))
    return changed


def _renew_site(site: SiteKit, expires: date) -> None:
    path, line = site.root / "site.yaml", re.compile(rb"^expires:[^\r\n]*", re.MULTILINE)
    write_atomic(site.root / "README.md", _render("site.md", kit=site.model_copy(update={"expires": expires})))
    write_atomic(path, line.sub(f"expires: {expires}".encode(), path.read_bytes()))


def _render(template: str, **facts: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = _flow
    return environment.get_template(template).render(version=version("fedkvasir"), **facts)


def _flow(value: Any) -> str:
    """As YAML on one line, quoted where it must be: a hospital may be called ``no``."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _public(folder: Path, name: str) -> Path:
    return folder / f"{name}.pub"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
