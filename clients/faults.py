"""What a scenario's ``faults:`` do at a hospital to its answers to train messages."""

import os
import signal
import time
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from fedkvasir.algorithms.base import arrays_of, from_record, to_record
from fedkvasir.exchange import State
from fedkvasir.faults import stream
from fedkvasir.scenario import Fault, Scenario


def inject(
    scenario: Scenario, center: str, message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    """Answer a train message as the scenario's faults want it; a Flower mod for one hospital of one scenario."""
    config: dict[str, Any] = dict(message.content["config"])
    delivery = int(context.node_config.get("delivery", 1))
    struck = striking(scenario, center, config["server-round"], config["attempt"], delivery)
    for fault in struck:
        match fault.kind:
            case "dropout":
                # Not NODE_UNAVAILABLE: who is off line is written to again until the deadline.
                reason = "dropped out, as the scenario's faults say"
                return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                while True:
                    time.sleep(3600)
    began = time.monotonic()
    reply = call_next(message, context)
    took_s = time.monotonic() - began
    for fault in struck:
        match fault.kind:
            case "corrupt":
                sent, trained = (from_record(arrays_of(each.content)["arrays"]) for each in (message, reply))
                reply.content["arrays"] = to_record(corrupt(fault, sent, trained))
            case "slow":
                time.sleep((fault.seconds or 0) + took_s * ((fault.factor or 1) - 1))
            case "late":
                time.sleep(max((scenario.federation.deadline_s or 0) + (fault.seconds or 0) - took_s, 0))
    return reply


def striking(scenario: Scenario, center: str, number: int, attempt: int, delivery: int = 1) -> list[Fault]:
    """The faults that strike a train message, in the scenario's order.

    number: the round; attempt: how often the server has asked in this round; delivery: how often the message was handed
    to a worker. Only a crash is drawn anew for another delivery: a worker that is lost by accident changes nothing.
    """
    struck = []
    for index, fault in enumerate(scenario.faults):
        here = fault.center in (None, center) and (fault.rounds is None or number in fault.rounds)
        if fault.kind == "wrong-labels" or not here:
            continue
        occasion = (number, attempt, delivery) if fault.kind == "crash" else (number, attempt)
        if stream(scenario, index, center, *occasion).random() < fault.probability:
            struck.append(fault)
    return struck


def corrupt(fault: Fault, sent: State, trained: State) -> State:
    """What is answered in place of the trained weights; ``scaled``: what was sent, plus the update times the factor."""
    match fault.how:
        case "nan":
            return {name: np.full_like(array, np.nan) for name, array in trained.items()}
        case "wrong-shape":
            return {name: np.append(array, array.dtype.type(0)) for name, array in trained.items()}
        case _:
            return {
                name: sent[name] + array.dtype.type(fault.factor) * (array - sent[name])
                for name, array in trained.items()
            }
