"""The real ClientApp on a host with memory for one hospital at a time: a second one takes far more than there is."""

import fcntl
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.app import app as real

TAKEN_BYTES = 3 * 2**30


def eat(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    with Path(str(context.node_config["folder"]), "host").open("w") as host:
        try:
            fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken = bytearray(b"1") * TAKEN_BYTES
            time.sleep(60)
            del taken
        time.sleep(1)
        return call_next(message, context)


app = ClientApp()
app.train(mods=[eat])(real)
app.evaluate()(real)
app.query()(real)
