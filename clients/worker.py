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
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from clients import site
from clients.app import app
from fedkvasir import wire
from fedkvasir.files import write_atomic
from fedkvasir.gpu import is_lost
from fedkvasir.sites.federation import SiteKit

LOG = logging.getLogger("fedkvasir.site")
POLL_S = 0.1


def serve(kit: SiteKit, secret: bytes, stop: Event) -> None:
    """Answer the messages that the SuperNode on this machine receives, one after another, until ``stop`` is set."""
    address, in_hand = f"127.0.0.1:{kit.runtime_port}", kit.state / "in-hand.json"
    _give_up(address, in_hand)
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
            _answer(address, token, in_hand)
        except Exception:  # a message that cannot even be read must not end who answers the next one
            LOG.exception("a message was left without an answer")
            _give_up(address, in_hand)
        if is_lost():
            LOG.error("the GPU answers this process no more; it ends, and is begun anew")
            return


def _answer(address: str, token: str, in_hand: Path) -> None:
    """in_hand: where is kept what is being answered, so that it can be given up by another worker.

    A task of which no message can be had is not finished: its SuperNode gives it up itself, after a minute.
    """
    client = wire.runtime(address, token=token)
    try:
        with wire.alive(client, lambda why: LOG.warning("the SuperNode no longer waits for this answer: %s", why)):
            message, context, _, fab = pull_task_input(client)
            context.node_config[site.APP] = hashlib.sha256(fab.content).hexdigest()
            try:
                write_atomic(in_hand, wire.remember(token, message), 0o600)
                answer = reply(message, context)
            except OSError as error:
                LOG.error("cannot write into %s: %s", in_hand.parent, error.strerror)
                reason = f"{type(error).__name__}: it cannot write into its folder; its own log says more"
                answer = Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message)
            push_message(client, answer, context)
            wire.finish(client)
            in_hand.unlink(missing_ok=True)
    finally:
        client.close()


def _give_up(address: str, in_hand: Path) -> None:
    """Answer with an error what a worker left unanswered, be it this one or one that died over it: its SuperNode hands
    out no other message before."""
    if not in_hand.is_file():
        return
    token, message = wire.recall(in_hand.read_bytes())
    client = wire.runtime(address, token=token)
    error = Error(ErrorCode.CLIENT_APP_CRASHED, "the hospital's worker died over it, or was not done by the deadline")
    to = message.metadata
    context = Context(to.run_id, to.dst_node_id, {}, RecordDict(), {})
    try:
        push_message(client, Message(error, reply_to=message), context)
        wire.finish(client)
    except httpx.HTTPError as why:
        LOG.info("nobody waits any more for an answer to the message that was left: %s", why)
    client.close()
    in_hand.unlink()


def reply(message: Message, context: Context) -> Message:
    """The app's answer; what it raises stays in the hospital's log."""
    try:
        return app(message, context)
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
