"""A hospital's node in this process: its kit, and messages to it as a coordinator sends them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from clients import site
from clients.worker import reply
from fedkvasir import exchange
from fedkvasir.algorithms.base import arrays_of, from_record, to_record
from fedkvasir.exchange import State
from fedkvasir.models import build_model
from fedkvasir.packing import pack, unpack
from fedkvasir.plan import Plan, make_plan
from fedkvasir.scenario import Scenario
from fedkvasir.sites.plan import plan_of_sites
from server.grid import _address, _identify

NODE = 7
SALT = "0123456789abcdef"
APP = "a" * 64
"""sha256 of the app that messages are said to belong to."""
Listing = dict[str, tuple[int, int]]


@dataclass
class Door:
    """One hospital, and a scenario that it is asked about; ``folder`` is its kit's."""

    folder: Path
    scenario: Scenario
    kit: dict[str, Any] = field(default_factory=dict)
    """Keys of its site.yaml beside those that it must have."""

    def __post_init__(self) -> None:
        facts = {"federation": "lab", "superlink": "lab.example.org:8000", "expires": "2099-01-01"}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "site.yaml").write_text(yaml.safe_dump(facts | {"hospital": "alta"} | self.kit))

    @property
    def hospital(self) -> str:
        return str(self.kit.get("hospital", "alta"))

    @cached_property
    def plan(self) -> Plan:
        """Of all hospitals, as a coordinator with all images would make it."""
        return make_plan(self.scenario, self.folder / "data")

    @cached_property
    def states(self) -> dict[str, State]:
        """The weights that round 1 begins with, by record."""
        model, task = self.scenario.model, self.scenario.task
        torch.set_num_threads(1)
        network = build_model(model, task, len(self.plan.classes), seed=1)
        names = exchange.layout(network, self.local(network), "average")
        kinds = {"arrays": names.shared, "buffers": names.buffers, "local": names.local}
        return {name: exchange.read(network, own) for name, own in kinds.items()} | {"frozen": {}}

    def local(self, network: torch.nn.Module) -> set[str]:
        return exchange.normalisation(network) if self.scenario.algorithm.name == "fedbn" else set()

    # ---- messages

    def config(self, kind: str, **keys: Any) -> dict[str, Any]:
        """What a good message of this kind says."""
        visit = {"run": self.plan.name, "member": "", "start-from": 0}
        counts = self.plan.class_counts
        told = {"scenario": json.dumps(self.scenario.for_hospitals())}
        return {
            "query.survey": told | {"salt": SALT},
            "query.compare": {
                name: json.dumps({"key": key, "runs": [[self.plan.name]]})
                for name, key in (("first", "aa"), ("second", "bb"))
            },
            "query.enrol": told | {"run": self.plan.name, "classes": [*counts], "counts": [*counts.values()]},
            "train": visit | {"server-round": 1, "keep": 0, "attempt": 1, "validate": ""},
            "evaluate": visit | {"split": "val", "checkpoint": "1", "gallery": False},
        }[kind] | keys

    def content(
        self, kind: str, states: Mapping[str, State] | None = None, packed: bool = True, **keys: Any
    ) -> RecordDict:
        """A good message's content; states: other weights than those that round 1 begins with."""
        config = RecordDict({"config": ConfigRecord(self.config(kind, **keys))})
        if kind.startswith("query"):
            return config
        if packed and states is None:
            return RecordDict({**self._packed, **config})
        records = RecordDict({name: to_record(state) for name, state in (states or self.states).items()})
        return RecordDict({**(pack(records) if packed else records), **config})

    @cached_property
    def _packed(self) -> RecordDict:
        return pack(RecordDict({name: to_record(state) for name, state in self.states.items()}))

    def ask(self, kind: str, states: Mapping[str, State] | None = None, **keys: Any) -> Message:
        return self.send(kind, self.content(kind, states, **keys))

    def send(self, kind: str, content: RecordDict, sent: str | None = None) -> Message:
        """The reply as it leaves the hospital. sent: the message's type on the wire, if not its kind."""
        _identify()
        message = _address(Message(content, NODE, kind))
        message.metadata.__dict__["_message_type"] = sent or kind
        node = {site.NODE: str(self.folder), site.APP: APP}
        return reply(message, Context(1, NODE, node, RecordDict(), {}))

    def enrolled(self) -> "Door":
        answered(self.ask("query.enrol"))
        return self

    def surveyed(self) -> dict[str, Any]:
        return json.loads(str(answered(self.ask("query.survey"))["hospital"]["json"]))  # type: ignore[index]

    def plan_of_all(self, *others: "Door") -> Plan:
        """The coordinator's plan of the hospitals' answers."""
        return plan_of_sites(self.scenario, {door.hospital: door.surveyed() for door in (self, *others)})

    # ---- what must not leave, and what must not change

    @property
    def run(self) -> Path:
        """What the hospital keeps of the run."""
        return self.folder / "state" / "runs" / self.plan.name

    @cached_property
    def own(self) -> pd.DataFrame:
        """The hospital's samples."""
        return make_plan(self.scenario, self.folder / "data", only=self.hospital).samples

    @cached_property
    def secrets(self) -> set[bytes]:
        """Names of samples, groups, files and folders, hashes of pixels, and rows of pixels as the store has them."""
        samples = self.own
        names = {*samples["sample"], *samples["group"], *samples["store"], *samples["pixels_sha256"], str(self.folder)}
        names |= {Path(sample).name for sample in samples["sample"]}
        rows = set()
        for split in ("train", "val", "test"):
            part = self.plan.part(self.hospital, split)
            for image in part.images(np.arange(len(part))):
                rows |= {row.tobytes() for row in np.asarray(image)[:: max(len(image) // 4, 1)] if row.std() > 5}
        assert len(rows) > len(samples)
        return {name.encode() for name in names} | rows


def answered(message: Message) -> RecordDict:
    """The content of a good answer, its arrays as they were before they were packed."""
    assert not message.has_error(), message.error.reason
    return unpack(message.content)


def refusal(message: Message) -> str:
    assert message.has_error(), "it was answered"
    return str(message.error.reason)


def arrays(message: Message) -> dict[str, State]:
    return {name: from_record(record) for name, record in arrays_of(answered(message)).items()}


def table(message: Message, name: str) -> pd.DataFrame:
    return pd.read_parquet(BytesIO(answered(message)[name]["parquet"]))  # type: ignore[index,arg-type]


def said(message: Message) -> dict[str, Any]:
    """A good answer to compare: everything but times and memory."""
    facts: dict[str, Any] = {}
    for name, record in answered(message).items():
        if isinstance(record, ArrayRecord):
            facts[name] = exchange.sha256(from_record(record))
        elif name != "cost":
            facts[name] = {key: value for key, value in record.items() if key not in ("seconds", "peak_mib")}
    return facts


def bytes_of(message: Message) -> Iterator[bytes]:
    """Every object that goes over the wire, and the tables in it as text: Parquet is compressed."""
    for inflatable in get_all_nested_objects(message).values():
        yield inflatable.deflate()
    if message.has_error():
        yield str(message.error.reason).encode()
    else:
        for name in message.content:
            if name in ("samples", "shared", "paired"):
                yield table(message, name).to_csv().encode()


def leaked(message: Message, secrets: set[bytes]) -> list[bytes]:
    everything = b"\0".join(bytes_of(message))
    return [secret for secret in secrets if secret in everything]


def listing(folder: Path) -> Listing:
    """Path -> size and time of the last change, of everything below."""
    every = (folder, *sorted(folder.rglob("*")))
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in every}
