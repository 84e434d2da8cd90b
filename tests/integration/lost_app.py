"""The real ClientApp on a GPU that one process loses: from then on every call to CUDA fails there."""

from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.app import app as real


def lose(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    mark = Path(str(context.node_config["folder"]), "lost")
    if context.node_config["center"] == "bergen" and not mark.exists():
        mark.touch()
        torch.cuda.is_initialized = lambda: True
        torch.cuda.synchronize = fail
        fail()
    return call_next(message, context)


def fail(device: object = None) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


app = ClientApp()
app.train(mods=[lose])(real)
app.evaluate()(real)
app.query()(real)
