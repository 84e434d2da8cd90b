"""The real ClientApp on a device with room for one hospital at a time: a second one is told what torch would say."""

import fcntl
import time
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.app import app as real


def crowd(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    with Path(str(context.node_config["folder"]), "device").open("w") as device:
        try:
            fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise torch.OutOfMemoryError("CUDA out of memory.") from None
        time.sleep(0.5)
        return call_next(message, context)


app = ClientApp()
app.train(mods=[crowd])(real)
app.evaluate()(real)
app.query()(real)
