"""What a scenario's ``faults:`` do at a hospital: to its answers to train messages, and to its training labels.

Every draw is derived from the run's seed, the fault's place in the list, the center and the occasion, so that a run
that is repeated, or goes on after a stop, meets the same faults.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from fedkvasir.algorithms.base import arrays_of, from_record, to_record
from fedkvasir.data.loader import Samples
from fedkvasir.exchange import State
from fedkvasir.randomness import derive_seed
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
        if _stream(scenario, index, center, *occasion).random() < fault.probability:
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


def mislabel(samples: Samples, scenario: Scenario) -> Samples:
    """Training images with the scenario's wrong labels, the same in every round and for every method.

    A wrong mask is that of another training image of the same hospital, a wrong label another class.
    """
    table, wrong = samples.table, list(_wrong(samples.table, scenario))
    if not wrong:
        return samples
    if samples.task == "segmentation":
        mask_of = np.arange(len(table))
        for place, others, rng in wrong:
            mask_of[place] = rng.choice(others)
        return _Swapped(table, samples.task, samples.classes, mask_of=mask_of)
    targets = table["target"].to_numpy(copy=True)
    for place, _, rng in wrong:
        targets[place] = (targets[place] + rng.integers(1, max(samples.classes, 2))) % samples.classes
    return replace(samples, table=table.assign(target=targets))


@dataclass(frozen=True)
class _Swapped(Samples):
    """Samples of which some come with another's mask."""

    mask_of: np.ndarray = field(kw_only=True)
    """Position -> position of the mask that it comes with."""

    def masks(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        return super().masks(self.mask_of[np.asarray(positions)])


def _wrong(table: pd.DataFrame, scenario: Scenario) -> Iterator[tuple[int, np.ndarray, np.random.Generator]]:
    """(position of a mislabelled image, positions of its hospital's others, stream to draw from)."""
    for index, fault in enumerate(scenario.faults):
        if fault.kind != "wrong-labels":
            continue
        for center, own in table.groupby("center").indices.items():  # several where all images are in one place
            if fault.center in (None, center) and len(own) > 1:
                streams = [_stream(scenario, index, str(center), sample) for sample in table["sample"].iloc[own]]
                order = np.argsort([stream.random() for stream in streams])
                for place in order[: round((fault.share or 0) * len(own))]:
                    yield own[place], np.delete(own, place), streams[place]


def _stream(scenario: Scenario, index: int, center: str, *occasion: str | int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(scenario.seed, "fault", index, center, *occasion))
