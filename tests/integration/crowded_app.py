"""The real ClientApp on a device with room for one hospital at a time: of two at once both are told what torch says."""

import fcntl
import time
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.app import app as real


def crowd(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    place = Path(str(context.node_config["folder"]))
    with (place / "device").open("w") as device:
        try:
            fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (place / "second").touch()
            raise torch.OutOfMemoryError("CUDA out of memory.") from None
        time.sleep(1)
        if (place / "second").exists():
            (place / "second").unlink()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call_next(message, context)


app = ClientApp()
app.train(mods=[crowd])(real)
app.evaluate()(real)
app.query()(real)
