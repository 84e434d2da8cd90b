"""The Flower ClientApp: messages in, messages out. All the work is in :mod:`clients.hospital`.

The same app answers in a simulation and at a real site; there :mod:`clients.site` stands at the door.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients import site
from clients.faults import inject
from clients.hospital import Hospital, Weights, load_network
from fedkvasir.algorithms.base import arrays_of, from_record, to_record
from fedkvasir.evaluation.protocol import metric_names, scores_by_center
from fedkvasir.exchange import State
from fedkvasir.plan import Plan
from fedkvasir.runs import Run, run_of_config

app = ClientApp(mods=[site.guard])
WEIGHTS = ("arrays", "buffers", "local", "frozen")


@app.query()
def roll_call(message: Message, context: Context) -> Message:
    """Who is here: center, role, sample counts and data hash."""
    folder, center = _place(context, {})
    plan = _plan(folder)
    counts = {split: int(plan.centers.loc[center, split]) for split in ("train", "val", "test")}
    role = str(plan.centers.loc[center, "role"])
    facts = ConfigRecord({"center": center, "role": role, "data_sha256": plan.data_sha256, **counts})
    return Message(RecordDict({"hospital": facts}), reply_to=message)


@app.query("survey")
def survey(message: Message, context: Context) -> Message:
    """A real site's roll call: what it holds for a scenario that it has not seen before."""
    config = _config(message)
    facts = site.at(context).survey(config["scenario"], config["salt"])
    return Message(RecordDict({"hospital": ConfigRecord({"json": json.dumps(facts)})}), reply_to=message)


@app.query("enrol")
def enrol(message: Message, context: Context) -> Message:
    """A real site takes part in a run: it is told what follows from all sites together."""
    config = _config(message)
    site.at(context).enrol(config["scenario"], config["run"], config["classes"], config["counts"])
    forget()
    return Message(RecordDict(), reply_to=message)


@app.query("compare")
def compare(message: Message, context: Context) -> Message:
    """A real site compares two methods on the records that it kept."""
    config = _config(message)
    rows = site.at(context).compare(config["first"], config["second"])
    return Message(RecordDict({"paired": _table(rows)}), reply_to=message)


def _faults(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    hospital = _hospital(context, _config(message))
    return inject(hospital.scenario, hospital.center, message, context, call_next)


@app.train(mods=[_faults])
def train(message: Message, context: Context) -> Message:
    """A round of training; before it, where ``validate`` names a split, an evaluation of the weights that came."""
    config, hospital, content = _config(message), _hospital(context, _config(message)), RecordDict()
    weights, extra = _arrays(message, context, hospital)
    if split := config["validate"]:
        content = _evaluated(hospital, config, split, weights, gallery=False)
    update = hospital.train(config["server-round"], config["start-from"], config["keep"], weights, extra)
    weights = update.weights
    states = {"arrays": weights.shared, "buffers": weights.buffers, "local": weights.local, **update.extra}
    for name, state in states.items():
        content[name] = to_record(state)
    content["metrics"] = MetricRecord({**update.metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    config = _config(message)
    hospital = _hospital(context, config)
    weights, _ = _arrays(message, context, hospital)
    return Message(_evaluated(hospital, config, config["split"], weights, config["gallery"]), reply_to=message)


def _evaluated(hospital: Hospital, config: dict[str, Any], split: str, weights: Weights, gallery: bool) -> RecordDict:
    """``samples``: per-image records; ``scores``: the center's metrics; ``cost``: images, seconds, memory."""
    rows, cost = hospital.evaluate(split, config["start-from"], weights, gallery)
    (scores,) = scores_by_center(rows).values()
    named = {name: float(scores[name]) for name in metric_names(hospital.scenario.task)}
    return RecordDict({"samples": _table(rows), "scores": ConfigRecord({**named}), "cost": ConfigRecord({**cost})})


def _table(rows: pd.DataFrame) -> ConfigRecord:
    return ConfigRecord({"parquet": rows.to_parquet(index=False)})


def _config(message: Message) -> dict[str, Any]:
    return dict(message.content["config"])


def _arrays(message: Message, context: Context, hospital: Hospital) -> tuple[Weights, dict[str, State]]:
    """The weights that came, and what else an algorithm sends. A real site looks at every one of them."""
    states = {name: from_record(record) for name, record in arrays_of(message.content).items()}
    if site.NODE in context.node_config:
        site.check_visit(hospital, message.metadata.message_type, states)
    return Weights(*(states.pop(name) for name in WEIGHTS)), states


def _hospital(context: Context, config: dict[str, Any]) -> Hospital:
    folder, center = _place(context, config)
    return _stage(folder, config["member"])(center)


def _place(context: Context, config: dict[str, Any]) -> tuple[str, str]:
    """The run folder and the center that this node plays.

    Under `fedkvasir run` the node's configuration names both, at a real site its kit and the message. Under Flower's
    own simulation the node is the n-th center by name, and the run follows from the run configuration.
    """
    node = context.node_config
    if site.NODE in node:
        here = site.at(context)
        return str(here.folder(config["run"])), here.kit.hospital
    if "center" in node:
        return str(node["folder"]), str(node["center"])
    folder = _folder_of_config(*(str(context.run_config[key]) for key in ("scenario", "data", "out")))
    return folder, sorted(_plan(folder).centers.index)[int(node["partition-id"])]


def forget() -> None:
    """Let go of every hospital and of the network (and its GPU memory) that this process holds."""
    for cached in (_folder_of_config, _plan, _stage):
        cached.cache_clear()
    torch.cuda.empty_cache()  # torch keeps what is freed, else; nothing is done where CUDA was never used


@lru_cache(maxsize=1)
def _folder_of_config(scenario: str, data: str, out: str) -> str:
    return str(run_of_config(scenario, data, out)[0].folder)


@lru_cache(maxsize=1)
def _plan(folder: str) -> Plan:
    return Run(folder).plan


@lru_cache(maxsize=1)
def _stage(folder: str, member: str) -> Callable[[str], Hospital]:
    """The hospitals of one member of an ensemble, or of the run itself; the stage before is let go of.

    One network serves every hospital of a process, in turn; a hospital itself is there only while it answers, so that
    what a process holds does not grow with the hospitals it serves.
    """
    plan, place = _plan(folder).stage(member), Run(folder).stage(member).folder
    network = load_network(plan)
    return lambda center: Hospital(plan, center, network, place)
