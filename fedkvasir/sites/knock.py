"""The way from a hospital to its server: whether the server knows the hospital's key, or why it cannot be asked.

Flower's SuperNode says only that it tries again; :func:`knock` says why.
"""

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedkvasir.sites.federation import SiteKit, split_address

TIMEOUT_S = 5.0
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

    key = private_key(kit)
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
    clock = f"the clock of this machine is {apart(ahead_s)} the server's"
    return f"{clock}, which refuses what is signed with it: have it set by NTP"


def private_key(kit: SiteKit) -> ec.EllipticCurvePrivateKey:
    """Raises OSError, ValueError, TypeError or UnsupportedAlgorithm where the file is not a hospital's key."""
    key = load_ssh_private_key(kit.key.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("another kind of key")
    return key


def apart(ahead_s: float) -> str:
    """How far this machine's clock is off, as in "the clock of this machine is ... the server's"."""
    return f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"


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
