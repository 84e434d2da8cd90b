"""The real ClientApp on a device with room for one hospital at a time: of two at once both are told what torch says.
What a process took there it holds until it ends."""

import fcntl
import os
import time
from pathlib import Path

import psutil
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.app import app as real


def crowd(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    place = Path(str(context.node_config["folder"]))
    others = {int(file.suffix[1:]) for file in place.glob("told.*")} - {os.getpid()}
    if any(map(psutil.pid_exists, others)):
        raise RuntimeError("who found no room has not ended yet")
    with (place / "device").open("w") as device:
        try:
            fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (place / "second").touch()
            (place / f"told.{os.getpid()}").touch()
            raise torch.OutOfMemoryError("CUDA out of memory.") from None
        time.sleep(1)
        if (place / "second").exists():
            (place / "second").unlink()
            (place / f"told.{os.getpid()}").touch()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call_next(message, context)


app = ClientApp()
app.train(mods=[crowd])(real)
app.evaluate()(real)
app.query()(real)
