"""Flower's HTTP APIs, as far as real sites need them, which Flower keeps to itself.

A SuperLink and every SuperNode only carry messages (``--isolation process``). Who works on them is a process of ours:
it acquires the task with a secret, is given a token for it, and sends signs of life until it is done. Tests fail loudly
where a new Flower changes any of this.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SubStatus
from flwr.common.serde import fab_to_proto, metadata_from_proto, metadata_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest, UnregisterNodeRequest
from flwr.proto.message_pb2 import Metadata
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushTaskOutputRequest, SendTaskHeartbeatRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.runtime import RuntimeHttpClient

from fedkvasir.sites import superlink
from fedkvasir.sites.federation import ServerKit

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
HEARTBEAT_S = 10.0
PATIENCE_S = 20.0
"""A request is tried again for so long where nobody answers; after that somebody has to decide."""
APP = b"""
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "fedkvasir"
version = "%s"
description = "Nothing in here is executed: hospitals run the fedkvasir that they have installed"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedkvasir"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"

[tool.flwr.app.config]
"""


def runtime(address: str, ca: Path | None = None, secret: bytes = b"", token: str = "") -> RuntimeHttpClient:
    """A client of a SuperLink's or a SuperNode's Runtime API.

    ca: the certificate that the server's is checked against; null: plain text, for a SuperNode on this machine.
    secret: to acquire tasks with; token: of an acquired task, for everything else.
    """
    auth: Any = (
        RuntimeTokenHttpInterceptor(token)
        if token
        else SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=[ACQUIRE])
    )
    return RuntimeHttpClient.from_server_address(
        address,
        insecure=ca is None,
        root_certificates=ca.read_bytes() if ca else None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="fedkvasir"), auth],
        retry_invoker=patient(),
    )


def patient() -> RetryInvoker:
    """Tries again, for :data:`PATIENCE_S`, where nobody answers; what is answered with a refusal is not asked again."""

    def refused(error: Exception) -> bool:
        if isinstance(error, httpx.HTTPStatusError):
            return error.response.status_code not in (502, 503, 504)
        return any(word in str(error).lower() for word in ("certificate", "ssl", "tls"))

    def waits() -> Iterator[float]:
        while True:
            yield 0.5

    failures = (httpx.TransportError, httpx.HTTPStatusError)
    return RetryInvoker(waits, failures, None, PATIENCE_S, jitter=None, should_giveup=refused)  # type: ignore[arg-type]


def acquire(client: RuntimeHttpClient, kind: str) -> str | None:
    """The token of the oldest task of a kind (``flwr-serverapp``, ``flwr-clientapp``) that nobody works on yet."""
    found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
    return found.token or None


def remember(token: str, message: Message) -> bytes:
    """A task's token and its message, without what is in it, as JSON; see :func:`recall`."""
    return json.dumps(
        {"token": token, "metadata": metadata_to_proto(message.metadata).SerializeToString().hex()}
    ).encode()


def recall(text: bytes) -> tuple[str, Message]:
    """What :func:`remember` wrote."""
    known = json.loads(text)
    metadata = metadata_from_proto(Metadata.FromString(bytes.fromhex(known["metadata"])))
    return known["token"], make_message(metadata, content=RecordDict())


@contextmanager
def alive(client: RuntimeHttpClient, lost: Callable[[str], None]) -> Iterator[None]:
    """Give signs of life for a task; ``lost`` is told, once, when the other side does not know it any more."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.is_set():
            try:
                known = client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
            except httpx.HTTPError as error:
                lost(str(error))
                return
            if not known:
                lost("the task is not known there any more")
                return
            stop.wait(HEARTBEAT_S)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def finish(client: RuntimeHttpClient, failed: str = "") -> None:
    """Say that a task is done. failed: why it failed, if it did."""
    status = SubStatus.FAILED if failed else SubStatus.COMPLETED
    client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=failed))


def control(kit: ServerKit) -> ControlHttpClient:
    """A client of the SuperLink's Control API, on the SuperLink's own machine or from elsewhere."""
    return ControlHttpClient.from_server_address(
        kit.address,
        insecure=False,
        root_certificates=kit.ca_certificate.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="fedkvasir"), _Password(kit.secret.read_bytes())],
        retry_invoker=patient(),
    )


class _Password:
    """Says the word that the Control API of our SuperLinks asks for."""

    def __init__(self, secret: bytes) -> None:
        self._headers = {superlink.HEADER: superlink.password(secret)}

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers.update(self._headers)
        return call_next(context)


def submit(kit: ServerKit) -> None:
    """Begin a run, which is a mailbox and no more: what is run comes with the messages."""
    fab = Fab(app_sha256(), bundle(), {})
    with control(kit) as client:
        client.StartRun(StartRunRequest(fab=fab_to_proto(fab)))


def bundle() -> bytes:
    """The app as Flower wants it; the same bytes for the same version of fedkvasir."""
    return build_fab_from_files({"pyproject.toml": APP % version("fedkvasir").encode()})[0]


def app_sha256() -> str:
    """Of :func:`bundle`: what hospitals put on their list of apps that may run."""
    return hashlib.sha256(bundle()).hexdigest()


def nodes_of(kit: ServerKit) -> dict[bytes, NodeInfo]:
    """Public key -> node, of the SuperLink's list; those that were taken off stay in its memory, and are left out."""
    with control(kit) as client:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
    return {node.public_key: node for node in nodes if node.status != "unregistered"}


def enlist(kit: ServerKit) -> None:
    """Make the SuperLink's list of nodes that of the kit: hospitals are registered by their public keys, all others
    taken off."""
    there, wanted = nodes_of(kit), hospitals_by_key(kit)
    with control(kit) as client:
        for key in there.keys() - wanted.keys():
            client.UnregisterNode(UnregisterNodeRequest(node_id=there[key].node_id))
        for key in wanted.keys() - there.keys():
            client.RegisterNode(RegisterNodeRequest(public_key=key, name=wanted[key]))


def registered(kit: ServerKit) -> dict[str, int]:
    """Hospital -> node, of the kit's that the SuperLink has on its list, on line or not."""
    hospitals = hospitals_by_key(kit)
    return {hospitals[key]: node.node_id for key, node in nodes_of(kit).items() if key in hospitals}


def hospitals_by_key(kit: ServerKit) -> dict[bytes, str]:
    """Public key, as Flower writes it -> hospital, of those that may take part."""
    keys = {}
    for hospital in kit.hospitals:
        if hospital not in kit.revoked:
            key = serialization.load_ssh_public_key((kit.keys / f"{hospital}.pub").read_bytes())
            keys[public_key_to_bytes(cast(EllipticCurvePublicKey, key))] = hospital
    return keys
