"""What would not work at a hospital, and how to mend it: on this machine, in the kit, on the way to the server.

Flower's SuperNode says only that it tries again; :func:`knock` says why.
"""

import socket
import ssl
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedkvasir.data.datasets import find_all
from fedkvasir.data.store import cache_folder
from fedkvasir.doctor import Finding, disk, gpu
from fedkvasir.errors import UserError
from fedkvasir.scenario import Scenario
from fedkvasir.sites.federation import SiteKit, split_address

TIMEOUT_S = 5.0
CLOCK_S = 10
"""The server takes what was signed up to 5 s ahead of its own clock, and up to 305 s behind it."""
SOON_DAYS = 30
FLOWER = "1.41."
REGISTERED, NOT_REGISTERED = 2003, 2004
"""Codes of Flower's: a heartbeat that is too fast, and a key that is no node's."""
EXPIRED, NOT_YET_VALID, OTHER_HOST, OTHER_IP = 10, 9, 62, 64
"""Codes of OpenSSL's, as in ``ssl.SSLCertVerificationError.verify_code``."""


@dataclass(frozen=True)
class Knock:
    """What the server said."""

    obstacle: str = ""
    """Why the hospital cannot take part, in one sentence; empty: it can."""
    ahead_s: float | None = None
    """This machine's clock less the server's, to about a second; None where no server answered."""


def knock(kit: SiteKit) -> Knock:
    """Ask the server whether it knows this hospital's key, as the SuperNode does, and change nothing there.

    The request is signed and asks for a heartbeat that no server grants: what it answers depends on the key alone.
    """
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    key = _private_key(kit)
    public = key.public_key()
    with FleetHttpClient(
        f"https://{kit.superlink}",
        interceptors=[RuntimeVersionHttpInterceptor(component_name="fedkvasir"), NodeAuthHttpInterceptor(key, public)],
        verify=trust_in(kit.ca_certificate),
        timeout=TIMEOUT_S,
    ) as client:
        try:
            client.ActivateNode(ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=0))
        except httpx.HTTPStatusError as error:
            return _answer(kit, error.response)
        except httpx.TransportError as error:
            return Knock(why_not(kit.superlink, error))
        except ValueError:  # an answer that is no message of Flower's
            pass
    return Knock(_stranger(kit, "200"))


def trust_in(authority: Path) -> ssl.SSLContext:
    """TLS that takes only a server whose certificate this authority has signed; as Flower's own clients do it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    return context


def why_not(address: str, error: Exception) -> str:
    """Why nobody could be talked to at ``address`` over TLS, in one sentence; error: as httpx raised it."""
    host, _ = split_address(address)
    cause = _first_cause(error)
    if isinstance(error, httpx.ProxyError):
        return f"the proxy of this machine does not let it through to {address}: {error}"
    if isinstance(error, httpx.TimeoutException):
        return f"{address} does not answer within {TIMEOUT_S:.0f} s: the server is down, or a firewall is in the way"
    if isinstance(cause, socket.gaierror):
        return f"{host} is a name that this machine cannot look up: mend the address, or the machine's DNS"
    if isinstance(cause, ConnectionRefusedError):
        return f"nobody listens at {address}: the server is not running, or the address is wrong"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _why_not_trusted(address, cause.verify_code)
    if isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
        return f"{address} breaks off the connection: the server is going down, or something on the way interferes"
    if isinstance(cause, (ssl.SSLError, ConnectionResetError)):
        return f"{address} does not speak TLS: it is not the federation's server, or something on the way interferes"
    return f"there is no way from this machine to {address}: {cause}"


def is_untrusted(error: Exception) -> bool:
    """Whether the server was there, and its certificate did not hold; error: as httpx raised it."""
    return isinstance(_first_cause(error), ssl.SSLCertVerificationError)


def clock_off(response: httpx.Response) -> str:
    """That this machine's clock may be why a server refused what was signed here, in one sentence; empty: it is not."""
    ahead_s = _ahead_s(response)
    if ahead_s is None or abs(ahead_s) <= 3:
        return ""
    clock = f"the clock of this machine is {_apart(ahead_s)} the server's"
    return f"{clock}, which refuses what is signed with it: have it set by NTP"


def examine(kit: SiteKit, scenario: Scenario | None = None) -> Iterator[Finding]:
    """Look at versions, room, the kit, the way to the server, the data; at a scenario as well, if one is given.

    Changes nothing but the store of prepared images, which a scenario needs.
    """
    yield from _versions()
    yield gpu()
    yield disk("state", kit.state, "free some space, or let `folder` in site.yaml name another disk")
    yield disk("prepared images", cache_folder(), "free some space, or set FEDKVASIR_CACHE to another disk")
    trust = [_key(kit), _authority(kit)]
    yield from (*trust, _secrets(kit), _expiry(kit), _port(kit))
    if all(finding.state == "ok" for finding in trust):
        yield from _server(kit)
    yield from _data(kit)
    if scenario:
        yield from _scenario(kit, scenario)


def refuse_hopeless(kit: SiteKit) -> None:
    """Raises UserError at the first thing that the hospital cannot be started without."""
    if "'" in str(kit.root):
        raise UserError(f"{kit.root} has a quote in its name, which Flower does not take; move the folder")
    for finding in (_key(kit), _authority(kit), _port(kit)):
        if finding.state == "fail":
            raise UserError(f"{finding.what}; {finding.mend}")


def readable_by_others(files: Iterable[Path]) -> list[Path]:
    """Those of them that accounts other than this one may read."""
    return [path for path in files if path.exists() and path.stat().st_mode & 0o077]


def is_free(host: str, port: int) -> bool:
    """Whether a program of this machine can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _versions() -> Iterator[Finding]:
    number = ".".join(map(str, sys.version_info[:3]))
    right = sys.version_info[:2] in ((3, 11), (3, 12))
    yield Finding("ok" if right else "fail", f"python {number}", "" if right else "install Python 3.11 or 3.12")
    yield from (Finding("ok", f"{name} {version(name)}") for name in ("fedkvasir", "torch"))
    flower = version("flwr")
    right = flower.startswith(FLOWER)
    yield Finding("ok" if right else "fail", f"flwr {flower}", "" if right else f"pip install 'flwr=={FLOWER}*'")


def _private_key(kit: SiteKit) -> ec.EllipticCurvePrivateKey:
    key = load_ssh_private_key(kit.key.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("another kind of key")
    return key


def _key(kit: SiteKit) -> Finding:
    try:
        _private_key(kit)
    except OSError as error:
        return Finding("fail", f"{kit.key}: {error.strerror}", "put the folder here as the coordinator sent it")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Finding("fail", f"{kit.key} is not a hospital's key", "put the file here that the coordinator sent")
    return Finding("ok", f"the key of {kit.hospital}")


def _authority(kit: SiteKit) -> Finding:
    path = kit.ca_certificate
    try:
        end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except OSError as error:
        return Finding("fail", f"{path}: {error.strerror}", "put the folder here as the coordinator sent it")
    except ValueError:
        return Finding("fail", f"{path} is not a certificate", "put the file here that the coordinator sent")
    if end < datetime.now(UTC):
        return Finding("fail", f"{path} has expired on {end:%Y-%m-%d}", "ask the coordinator for a new kit")
    return Finding("ok", f"the authority of {kit.federation}, until {end:%Y-%m-%d}")


def _secrets(kit: SiteKit) -> Finding:
    if seen := [str(path) for path in readable_by_others(kit.secrets)]:
        return Finding("fail", f"other accounts may read {', '.join(seen)}", f"chmod 600 {' '.join(seen)}")
    return Finding("ok", "keys can be read by this account alone")


def _expiry(kit: SiteKit) -> Finding:
    left = (kit.expires - datetime.now(UTC).date()).days
    renew = "ask the coordinator to renew it, then set `expires` in site.yaml to the new day"
    if left < 0:
        return Finding("fail", f"the server's certificate has ended on {kit.expires}, by site.yaml", renew)
    text = f"the server's certificate holds until {kit.expires}, {left} days"
    return Finding("note", text, renew) if left < SOON_DAYS else Finding("ok", text)


def _port(kit: SiteKit) -> Finding:
    text = f"port {kit.runtime_port} of this machine (runtime_port) is"
    if is_free("127.0.0.1", kit.runtime_port):
        return Finding("ok", f"{text} free")
    return Finding(
        "fail", f"{text} taken", "by this hospital if it is started already; else choose another in site.yaml"
    )


def _server(kit: SiteKit) -> Iterator[Finding]:
    answer = knock(kit)
    if answer.obstacle:
        yield Finding("fail", answer.obstacle)
    else:
        yield Finding("ok", f"{kit.superlink} can be reached over TLS and knows the key of {kit.hospital}")
    if answer.ahead_s is not None:
        text = f"the clock of this machine is {_apart(answer.ahead_s)} the server's"
        if abs(answer.ahead_s) > CLOCK_S:
            yield Finding("fail", text, "have it set by NTP, or the server refuses what is signed here")
        else:
            yield Finding("ok", text)


def _data(kit: SiteKit) -> Iterator[Finding]:
    where = "set `data` in site.yaml to the folder that your datasets' folders are in"
    try:
        found = find_all(kit.data)
    except UserError as error:
        yield Finding("fail", str(error), where)
        return
    if not found:
        yield Finding("fail", f"no dataset in {kit.data}", f"{where}; `fedkvasir data card NAME` says how each looks")
    for dataset, root in found:
        try:
            catalog = dataset.read(root)
        except UserError as error:
            yield Finding("fail", str(error))
            continue
        of = f" of {dataset.card.count}" if dataset.card.count else ""
        yield Finding("ok", f"{dataset.name}: {len(catalog.table)}{of} images in {catalog.root}")
        for warning in [*catalog.warnings, *(dataset.verify(catalog.root) if dataset.verify else ())]:
            yield Finding("note", f"{dataset.name}: {warning}")


def _scenario(kit: SiteKit, scenario: Scenario) -> Iterator[Finding]:
    from fedkvasir import wire
    from fedkvasir.plan import make_plan
    from fedkvasir.points import cells
    from fedkvasir.sites.plan import refuse_unfit, too_few

    try:
        for run in [point.scenario for point in cells(scenario)] if scenario.protocol else [scenario]:
            refuse_unfit(run)
        plan = make_plan(scenario, kit.data, only=kit.hospital)
    except UserError as error:
        yield Finding("fail", f"{scenario.name}: {error}")
    else:
        held = plan.samples.groupby("split").agg(images=("sample", "size"), groups=("group", "nunique"))
        counts = ", ".join(f"{split} {row.images} ({row.groups} groups)" for split, row in held.iterrows())
        yield Finding("ok", f"{scenario.name}: images at {kit.hospital}: {counts}")
        yield from (Finding("note", f"{scenario.name}: {warning}") for warning in plan.warnings)
        if why := too_few(plan, kit):
            yield Finding("fail", f"{scenario.name}: {why}")
    for what, sha256 in (*_hashes(scenario), ("app of this fedkvasir", wire.app_sha256())):
        if kit.approve is None or sha256 in kit.approve:
            yield Finding("ok", f"{what}: sha256 {sha256}")
        else:
            yield Finding("fail", f"{what}: sha256 {sha256}", "add it to `approve` in site.yaml, if it may run here")


def _hashes(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What it is, and its sha256, of all that a hospital is asked to run: of a study every run that there can be."""
    from fedkvasir.names import spelled_out
    from fedkvasir.points import in_words
    from fedkvasir.sweep import tried

    if scenario.protocol is None:
        yield f"scenario {scenario.name}", spelled_out(scenario).sha256
        return
    for _, points in tried(scenario.model_copy(update={"sweep": None})):
        for point in (point.seeded(seed) for point in points for seed in scenario.protocol.seeds):
            what = in_words(point.method, point.holdout, point.hospital, point.setting, point.seed)
            yield f"scenario {scenario.name}, {what}", point.scenario.sha256


def _answer(kit: SiteKit, response: httpx.Response) -> Knock:
    ahead_s = _ahead_s(response)
    try:
        code = response.json()["code"]
    except (ValueError, KeyError, TypeError):  # an answer that is not Flower's
        code = None
    if code == REGISTERED:
        return Knock("", ahead_s)
    if code == NOT_REGISTERED:
        where = f"the key of {kit.hospital} is not registered at {kit.superlink}, or was revoked there"
        return Knock(f"{where}: ask the coordinator", ahead_s)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        if clock := clock_off(response):
            return Knock(clock, ahead_s)
        return Knock(f"{kit.superlink} refuses what the key of {kit.hospital} signs: ask the coordinator", ahead_s)
    return Knock(_stranger(kit, str(response.status_code)), ahead_s)


def _ahead_s(response: httpx.Response) -> float | None:
    try:
        there = parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError):
        return None
    # The header is cut to whole seconds.
    return (datetime.now(UTC) - there).total_seconds() - 0.5


def _apart(ahead_s: float) -> str:
    return f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"


def _stranger(kit: SiteKit, status: str) -> str:
    what = f"{kit.superlink} answers, but not as a server of Flower {FLOWER}x does (HTTP {status})"
    return f"{what}: look at `superlink` in site.yaml, or ask the coordinator"


def _first_cause(error: BaseException) -> BaseException:
    while before := error.__cause__ or error.__context__:
        error = before
    return error


def _why_not_trusted(address: str, code: int) -> str:
    if code == EXPIRED:
        return f"the certificate of {address} has expired: ask the coordinator to renew it"
    if code == NOT_YET_VALID:
        return f"the certificate of {address} is not valid yet: look at the clock of this machine, and of the server"
    if code in (OTHER_HOST, OTHER_IP):
        return f"the certificate of {address} is for another host: keep to the address that the kit came with"
    where = f"the certificate of {address} is not signed by the authority in ca.crt"
    return f"{where}: that is not this federation's server, or this kit is another federation's"
