"""The Flower ClientApp: messages in, messages out. All the work is in :mod:`clients.hospital`."""

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients.hospital import Hospital, Weights, load_network
from fedkvasir.algorithms.base import from_record, to_record
from fedkvasir.models.network import Network
from fedkvasir.plan import Plan
from fedkvasir.runs import Run, run_of_config

app = ClientApp()
WEIGHTS = ("arrays", "buffers", "local")


@app.query()
def roll_call(message: Message, context: Context) -> Message:
    """Who is here: center, role, sample counts and data hash."""
    hospital = _hospital(context)
    counts = {split: int(hospital.plan.centers.loc[hospital.center, split]) for split in ("train", "val", "test")}
    facts = ConfigRecord(
        {"center": hospital.center, "role": hospital.role, "data_sha256": hospital.plan.data_sha256, **counts}
    )
    return Message(RecordDict({"hospital": facts}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    config, records = _config(message), message.content.array_records
    extra = {name: from_record(record) for name, record in records.items() if name not in WEIGHTS}
    update = _hospital(context).train(
        config["server-round"], config["start-from"], config["keep"], _weights(message), extra
    )
    weights = update.weights
    states = {"arrays": weights.shared, "buffers": weights.buffers, "local": weights.local, **update.extra}
    content = RecordDict({name: to_record(state) for name, state in states.items()})
    content["metrics"] = MetricRecord({**update.metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    config = _config(message)
    rows, cost = _hospital(context).evaluate(
        config["split"], config["start-from"], _weights(message), config["gallery"]
    )
    table = ConfigRecord({"parquet": rows.to_parquet(index=False)})
    return Message(RecordDict({"samples": table, "metrics": MetricRecord({**cost})}), reply_to=message)


def _config(message: Message) -> dict[str, Any]:
    return dict(message.content.config_records["config"])


def _weights(message: Message) -> Weights:
    return Weights(*(from_record(message.content.array_records[name]) for name in WEIGHTS))


def _hospital(context: Context) -> Hospital:
    """The hospital this node plays.

    Under `fedkvasir run` the node's configuration names its center and the run folder. Under Flower's own simulation
    the node is the n-th center by name, and the run follows from the run configuration.
    """
    node = context.node_config
    if "center" in node:
        return _open(str(node["folder"]), str(node["center"]))
    folder = _folder_of_config(*(str(context.run_config[key]) for key in ("scenario", "data", "out")))
    return _open(folder, sorted(_plan(folder).centers.index)[int(node["partition-id"])])


def forget() -> None:
    """Let go of every hospital and of the network (and its GPU memory) that this process holds."""
    for cached in (_folder_of_config, _open, _plan, _network):
        cached.cache_clear()


@lru_cache(maxsize=1)
def _folder_of_config(scenario: str, data: str, out: str) -> str:
    return str(run_of_config(scenario, data, out)[0].folder)


@cache
def _open(folder: str, center: str) -> Hospital:
    return Hospital(_plan(folder), center, _network(folder), Path(folder))


@lru_cache(maxsize=1)
def _plan(folder: str) -> Plan:
    return Run(folder).plan


@lru_cache(maxsize=1)
def _network(folder: str) -> Network:
    """One network serves every hospital of a process, in turn."""
    return load_network(_plan(folder))
