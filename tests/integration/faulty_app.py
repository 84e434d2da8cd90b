"""The real ClientApp behind a fault: bergen's weights turn into NaN on their way in."""

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.app import app as real
from fedkvasir.algorithms.base import from_record, to_record


def poison(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    if context.node_config["center"] == "bergen":
        state = from_record(message.content["arrays"])
        message.content["arrays"] = to_record({name: np.full_like(array, np.nan) for name, array in state.items()})
    return call_next(message, context)


app = ClientApp()
app.train(mods=[poison])(real)
app.evaluate()(real)
app.query()(real)
