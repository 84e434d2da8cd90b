"""What a real federation's files say: federation.yaml, and server.yaml and site.yaml in the kits made from it.

Unknown keys and impossible values are refused with the file, the key's path and what is allowed, as a scenario's are.
"""

import re
from datetime import date
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, ValidationInfo

from fedkvasir.errors import UserError
from fedkvasir.files import read_yaml
from fedkvasir.scenario import WHOLE, CenterName, Frozen, sentence

NOT_HOSPITALS = ("ca", "server")
"""Folders beside the hospitals' kits."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
SHA256 = re.compile(r"[0-9a-f]{64}")
DNS_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.I)


def _host(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:
        if not DNS_NAME.fullmatch(host) or host.rsplit(".", 1)[-1].isdigit():
            raise ValueError(f"{host!r} is neither a host's name nor an IP address") from None
    return host


def split_address(address: str) -> tuple[str, int]:
    """``lab.example.org:8000`` or ``[2001:db8::1]:8000`` -> host, port. Raises ValueError."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.netloc != address or "@" in address:
        raise ValueError(f"{address!r} is not of the form host:port, e.g. lab.example.org:8000")
    return _host(host), port


def _reachable(address: str) -> str:
    host, _ = split_address(address)
    if host in ("0.0.0.0", "::"):
        raise ValueError(f"nobody can connect to {host}: name the host that hospitals reach, e.g. lab.example.org:8000")
    return address


def _not_taken(name: str) -> str:
    if name in NOT_HOSPITALS:
        raise ValueError(f"{name!r} is a folder beside the hospitals' kits; choose another name for the hospital")
    if name in WHOLE:
        raise ValueError(f"{name!r} is what federation.train says of all hospitals; choose another name")
    return name


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} stands there twice")
    return names


def _in_the_kit(path: Path, info: ValidationInfo) -> Path:
    kit: Path = info.context or Path()
    return kit / path.expanduser()


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of 1 to 63 lower-case letters, digits and hyphens, e.g. oslo")
    return name


def _sha256(text: str) -> str:
    if not SHA256.fullmatch(text):
        raise ValueError(f"{text!r} is not a sha256, 64 hexadecimal digits")
    return text


Name = Annotated[str, AfterValidator(_named)]
Hospital = Annotated[CenterName, AfterValidator(_not_taken)]
Hospitals = Annotated[tuple[Hospital, ...], AfterValidator(_once)]
Address = Annotated[str, AfterValidator(_reachable)]
Host = Annotated[str, AfterValidator(_host)]
PathInKit = Annotated[Path, AfterValidator(_in_the_kit)]
Sha256 = Annotated[str, AfterValidator(_sha256)]


Model = TypeVar("Model", bound=Frozen)


class Federation(Frozen):
    """federation.yaml: what a coordinator decides before any kit is made."""

    name: Name
    """What `fedkvasir run --on NAME` calls it."""
    address: Address
    """host:port where hospitals reach the server."""
    listen: Host = "0.0.0.0"
    """The address of this machine that the server binds."""
    valid_days: Annotated[int, Field(ge=1, le=3650)] = 365
    """How long the server's certificate holds."""
    hospitals: Annotated[Hospitals, Field(min_length=1)]
    """As the centers of a scenario are called."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises UserError with the key's path, what is allowed and the nearest spelling."""
        return _validated(cls, path, "a federation's file", None)


class _Kit(Frozen):
    _root: Path = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._root = context

    @property
    def root(self) -> Path:
        """The kit's own folder, absolute."""
        return self._root

    @property
    def ca_certificate(self) -> Path:
        return self._root / "ca.crt"


class ServerKit(_Kit):
    """server.yaml: the machine that carries the messages."""

    name: Name
    """The federation's."""
    address: Address
    """host:port where hospitals reach the server."""
    listen: Host = "0.0.0.0"
    """The address of this machine that the server binds."""
    hospitals: Hospitals
    """Those that may take part."""
    revoked: Hospitals = ()
    """Those that no longer may."""
    expires: date
    """The last day (UTC) on which the server's certificate holds."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises UserError if ``folder`` holds no valid server.yaml."""
        return _validated(cls, folder / "server.yaml", "the server's kit, as `fedkvasir site kit` writes it", folder)

    @property
    def port(self) -> int:
        return split_address(self.address)[1]

    @property
    def certificate(self) -> Path:
        return self.root / "server.pem"

    @property
    def certificate_key(self) -> Path:
        return self.root / "server.key"

    @property
    def secret(self) -> Path:
        """With it the coordinator's own process takes up the runs it has submitted."""
        return self.root / "superexec.secret"

    @property
    def secrets(self) -> tuple[Path, ...]:
        """For the server's account alone."""
        return self.certificate_key, self.secret

    @property
    def keys(self) -> Path:
        """Folder of the hospitals' public keys, NAME.pub, of those that may take part."""
        return self.root / "keys"

    @property
    def revoked_keys(self) -> Path:
        """Folder of public keys that are refused: NAME.pub, one key a line."""
        return self.root / "revoked"

    @property
    def state(self) -> Path:
        """Folder of all that the server writes."""
        return self.root / "state"


class SiteKit(_Kit):
    """site.yaml: one hospital's side, and its own decisions."""

    federation: Name
    hospital: Hospital
    superlink: Address
    """host:port of the federation's server."""
    data: PathInKit = Field(default=Path("data"), validate_default=True)
    """Folder of dataset roots; a relative path is relative to the kit."""
    state: PathInKit = Field(default=Path("state"), alias="folder", validate_default=True)
    """What the hospital keeps: its state between rounds, its log, keys that it makes itself."""
    share: Literal["per-center", "per-image"] = "per-center"
    """The most that may leave: means of the hospital, or rows of single images as well."""
    approve: tuple[Sha256, ...] | None = None
    """Only scenarios and apps with these hashes run here; null: any."""
    runtime_port: Annotated[int, Field(ge=1, le=65535)] = 9094
    """On this machine alone, between the SuperNode and its worker."""
    expires: date
    """The last day (UTC) on which the server's certificate holds."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises UserError if ``folder`` holds no valid site.yaml."""
        return _validated(cls, folder / "site.yaml", "a hospital's kit, as `fedkvasir site kit` writes it", folder)

    @property
    def key(self) -> Path:
        """The hospital's private key."""
        return self.root / "key"

    @property
    def secrets(self) -> tuple[Path, ...]:
        """For this hospital's account alone; the last two are made here."""
        return self.key, self.state / "superexec.secret", self.state / "hmac.key"

    @property
    def public_key(self) -> Path:
        return self.root / "key.pub"


def _validated(kind: type[Model], path: Path, what: str, folder: Path | None) -> Model:
    raw = read_yaml(path, str(path), f"give {what}", f"give {what}", f"{next(iter(kind.model_fields))}: lab")
    try:
        return kind.model_validate(raw, context=folder and folder.absolute())
    except ValidationError as error:
        raise UserError(f"{path}: {sentence(error, kind)}") from error
