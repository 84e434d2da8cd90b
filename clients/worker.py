"""The warm worker of a real site: one process that answers every message, where Flower would start one a message.

What it runs is the fedkvasir that the hospital has installed. The app that came with a run is never unpacked; its hash
is shown, and must be on the hospital's list where it keeps one.
"""

import hashlib
import logging
import sys
import time
from pathlib import Path
from threading import Event

import httpx
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from clients import site
from clients.app import app
from fedkvasir import wire
from fedkvasir.sites.federation import SiteKit

LOG = logging.getLogger("fedkvasir.site")
POLL_S = 0.1


def serve(kit: SiteKit, secret: bytes, stop: Event, client_app: ClientApp = app) -> None:
    """Answer the messages that the SuperNode on this machine receives, one after another, until ``stop`` is set."""
    address = f"127.0.0.1:{kit.runtime_port}"
    waiting = wire.runtime(address, secret=secret)
    while not stop.is_set():
        try:
            token = wire.acquire(waiting, "flwr-clientapp")
        except httpx.HTTPError as error:
            LOG.warning("the SuperNode on this machine does not answer: %s", error)
            token = None
        if not token:
            time.sleep(POLL_S)
            continue
        try:
            _answer(address, token, client_app)
        except Exception:  # a message that cannot even be read must not end who answers the next one
            LOG.exception("a message was left without an answer")


def _answer(address: str, token: str, client_app: ClientApp) -> None:
    client = wire.runtime(address, token=token)
    failed = "the message could not be read or answered"
    try:
        with wire.alive(client, lambda why: LOG.warning("the SuperNode no longer waits for this answer: %s", why)):
            message, context, _, fab = pull_task_input(client)
            context.node_config[site.APP] = hashlib.sha256(fab.content).hexdigest()
            push_message(client, reply(client_app, message, context), context)
            failed = ""
    finally:
        wire.finish(client, failed)
        client.close()


def reply(client_app: ClientApp, message: Message, context: Context) -> Message:
    """The app's answer; what it raises stays in the hospital's log."""
    try:
        return client_app(message, context)
    except Exception as error:  # a message of a type that the app does not know, say
        LOG.exception("could not answer %s", message.metadata.message_type)
        reason = f"{type(error).__name__}; the hospital's own log says more"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def main() -> None:
    """`python -m clients.worker FOLDER`; `fedkvasir site start` keeps it going."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    kit = SiteKit.load(Path(sys.argv[1]))
    serve(kit, (kit.state / "superexec.secret").read_bytes(), Event())


if __name__ == "__main__":
    main()
