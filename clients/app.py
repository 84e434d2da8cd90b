"""The Flower ClientApp: messages in, messages out. All the work is in :mod:`clients.hospital`."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.faults import inject
from clients.hospital import Hospital, Weights, load_network
from fedkvasir.algorithms.base import arrays_of, from_record, to_record
from fedkvasir.plan import Plan
from fedkvasir.runs import Run, run_of_config

app = ClientApp()
WEIGHTS = ("arrays", "buffers", "local", "frozen")


@app.query()
def roll_call(message: Message, context: Context) -> Message:
    """Who is here: center, role, sample counts and data hash."""
    folder, center = _place(context)
    plan = _plan(folder)
    counts = {split: int(plan.centers.loc[center, split]) for split in ("train", "val", "test")}
    role = str(plan.centers.loc[center, "role"])
    facts = ConfigRecord({"center": center, "role": role, "data_sha256": plan.data_sha256, **counts})
    return Message(RecordDict({"hospital": facts}), reply_to=message)


def _faults(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    hospital = _hospital(context, _config(message))
    return inject(hospital.scenario, hospital.center, message, context, call_next)


@app.train(mods=[_faults])
def train(message: Message, context: Context) -> Message:
    config, records = _config(message), arrays_of(message.content)
    extra = {name: from_record(record) for name, record in records.items() if name not in WEIGHTS}
    update = _hospital(context, config).train(
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
    rows, cost = _hospital(context, config).evaluate(
        config["split"], config["start-from"], _weights(message), config["gallery"]
    )
    table = ConfigRecord({"parquet": rows.to_parquet(index=False)})
    return Message(RecordDict({"samples": table, "metrics": MetricRecord({**cost})}), reply_to=message)


def _config(message: Message) -> dict[str, Any]:
    return dict(message.content["config"])


def _weights(message: Message) -> Weights:
    records = arrays_of(message.content)
    return Weights(*(from_record(records[name]) for name in WEIGHTS))


def _hospital(context: Context, config: dict[str, Any]) -> Hospital:
    folder, center = _place(context)
    return _stage(folder, config["member"])(center)


def _place(context: Context) -> tuple[str, str]:
    """The run folder and the center that this node plays.

    Under `fedkvasir run` the node's configuration names both. Under Flower's own simulation the node is the n-th
    center by name, and the run follows from the run configuration.
    """
    node = context.node_config
    if "center" in node:
        return str(node["folder"]), str(node["center"])
    folder = _folder_of_config(*(str(context.run_config[key]) for key in ("scenario", "data", "out")))
    return folder, sorted(_plan(folder).centers.index)[int(node["partition-id"])]


def forget() -> None:
    """Let go of every hospital and of the network (and its GPU memory) that this process holds."""
    for cached in (_folder_of_config, _plan, _stage):
        cached.cache_clear()


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
