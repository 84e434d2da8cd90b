"""The door of a real hospital: what may come in, and what may go out.

What comes in was written by a stranger: a message is taken only if every key, name, number and array in it is one that
the round loop sends. What goes out is weights, counts and means; errors leave their words at home, for a file's name
may stand in them. In a simulation nobody stands at the door.
"""

import hashlib
import hmac
import io
import json
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from clients.hospital import Hospital
from fedkvasir.data.store import cache_folder
from fedkvasir.ensembles import members_of
from fedkvasir.errors import UserError
from fedkvasir.evaluation.shared import anonymise, compare_here, share
from fedkvasir.exchange import State
from fedkvasir.files import write_atomic
from fedkvasir.names import spelled_out
from fedkvasir.packing import pack, unpack
from fedkvasir.plan import Plan, make_plan
from fedkvasir.scenario import Scenario, load, parse
from fedkvasir.sites.federation import SiteKit
from fedkvasir.sites.plan import facts_of, refuse_unfit, too_few

LOG = logging.getLogger("fedkvasir.site")
NODE = "site"
"""The key of a node's configuration that names the folder of its kit."""
APP = "app-sha256"
"""The key of a node's configuration under which the worker says which app a message belongs to."""
RUN = re.compile(r"[a-z0-9][a-z0-9-]{0,39}-[0-9a-f]{8}")
LABEL = re.compile(r"best|last|[0-9]{1,6}")
METHOD = re.compile(r"[0-9a-f+,]{1,20000}")
MEMBER = re.compile(r"|[a-z0-9][a-z0-9_+-]{0,80}")
SCENARIO_CHARACTERS = 100_000
ROOM_BYTES = 2 * 2**30
"""Of its disk that no scenario gets."""
LONGEST_S = 4 * 3600.0
"""What no run's deadline bounds, the first reading of a hospital's images above all, is given up after so long."""
KEYS: dict[str, dict[str, type]] = {
    "query.survey": {"scenario": str, "salt": str},
    "query.enrol": {"scenario": str, "run": str, "classes": list, "counts": list},
    "query.compare": {"first": str, "second": str},
    "train": {
        "run": str, "member": str, "server-round": int, "start-from": int, "keep": int, "attempt": int, "validate": str,
    },
    "evaluate": {"run": str, "member": str, "start-from": int, "split": str, "checkpoint": str, "gallery": bool},
}  # fmt: skip
"""Message type -> the keys of its configuration, every one of which must be there."""
FURTHER = {"train": {"proximal-mu": float}}
"""Keys that some strategies of Flower's add."""


class Refused(UserError):
    """A message is not one that this hospital answers; the sentence holds nothing of the hospital's own."""


@dataclass(frozen=True)
class Site:
    """One hospital's side."""

    kit: SiteKit

    def answer(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Let a message in, let its answer out; whatever goes wrong becomes an error that says nothing of patients."""
        kind, began = message.metadata.message_type, time.perf_counter()
        try:
            message.content = _unpacked(message.content)
            config = admit(message)
            self._approved("the app", str(context.node_config.get(APP, "unknown")))
            deadline_s = LONGEST_S
            if not kind.startswith("query"):
                scenario = load(self.folder(config["run"]) / "scenario.yaml")
                self._approved("the scenario", scenario.sha256)  # the list may have changed since the run was begun
                rounds = scenario.federation.rounds
                if any(config.get(key, 0) > rounds for key in ("server-round", "start-from", "keep")):
                    raise Refused(f"the run has {rounds} rounds")
                deadline_s = scenario.federation.deadline_s or LONGEST_S
            with _cut_after(deadline_s):
                reply = call_next(message, context)
            sent = self._released(config, reply)
            if not reply.has_error():
                reply.content = pack(reply.content)
        except Refused as refusal:
            LOG.warning("refused %s: %s", kind, refusal)
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"refused: {refusal}"), reply_to=message)
        except Exception as error:  # the door: a name of a file or a patient may stand in any of them
            LOG.exception("could not answer %s", kind)
            reason = f"{type(error).__name__} at {self.kit.hospital}; its own log says more"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        LOG.info(
            "answered %s %s in %.1f s, sent %s",
            kind,
            " ".join(f"{key}={config[key]}" for key in ("run", "server-round", "validate", "split") if key in config),
            time.perf_counter() - began,
            sent,
        )
        return reply

    def survey(self, text: str, salt: str) -> dict[str, Any]:
        """What this hospital holds for a scenario; of it nothing is kept but the store of prepared images."""
        scenario = self._scenario(text)
        plan = self._plan(scenario)
        for warning in plan.warnings:
            LOG.warning("%s", warning)
        return {"center": self.kit.hospital} | facts_of(plan, salt)

    def enrol(self, text: str, run: str, classes: list[str], counts: list[int]) -> None:
        """Make this hospital's folder of a run. classes, counts: of all hospitals together."""
        scenario = self._scenario(text)
        folder = self.folder(run, there=False)
        if run.rpartition("-")[0] != scenario.name:
            raise Refused("the run's name is not its scenario's")
        counted = dict(zip(classes, counts, strict=False))
        if not len(classes) == len(counts) == len(counted) or not all(type(n) is int and n >= 0 for n in counts):
            raise Refused("classes and their counts do not fit together")
        own = self._plan(scenario).as_trained()
        alike = [*own.classes] == classes if scenario.task == "segmentation" else {*own.classes} <= {*classes}
        if not alike or any(counted[name] < count for name, count in own.class_counts.items()):
            raise Refused("classes and their counts are not those of all hospitals, this one among them")
        plan = own.joined(tuple(classes), counted)
        if (folder / "plan.json").is_file():
            begun = Plan.load(folder)
            if begun.scenario.sha256 != scenario.sha256:
                raise Refused("another scenario was begun here under the run's name")
            if begun.pixels != plan.pixels:
                raise Refused(
                    f"images or masks of {self.kit.hospital} have changed since the run was begun; "
                    f"it can be begun anew once the hospital has removed runs/{run} from what it keeps"
                )
        plan.save(folder)
        LOG.info("takes part in %s", run)

    def compare(self, first: str, second: str) -> pd.DataFrame:
        """One method against another on this hospital's test images, out of the records that it kept of their runs.

        first, second: JSON with ``key`` and ``runs``, a list of runs a seed. Columns of
        :func:`~fedkvasir.evaluation.shared.compare_here`, and ``first`` and ``second``, the keys.
        """
        methods = dict(map(self._method, (first, second)))
        if len(methods) < 2:
            raise Refused("a method cannot be compared with itself")
        left, right = methods
        seed = self._seed(*(table.to_parquet(index=False) for tables in methods.values() for table in tables))
        return compare_here(methods, seed).assign(first=left, second=right)

    def _method(self, text: str) -> tuple[str, list[pd.DataFrame]]:
        try:
            told = json.loads(text) if len(text) <= SCENARIO_CHARACTERS else {}
            key, seeds = str(told["key"]), [[str(run) for run in runs] for runs in told["runs"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refused("that is no method") from error
        tables = []
        for runs in seeds:
            folders = [self.folder(run) for run in runs]
            for folder in folders:
                self._approved("the scenario", load(folder / "scenario.yaml").sha256)
            paths = [folder / "records" / "best.parquet" for folder in folders]
            if not paths or not all(path.is_file() for path in paths):
                raise Refused("this hospital keeps no test records of one of the runs")
            # Several networks may be tested on an image, and are told apart by their runs.
            records = [pd.read_parquet(path).assign(run=run) for path, run in zip(paths, runs, strict=True)]
            tables.append(pd.concat(records, ignore_index=True))
        if not tables or not METHOD.fullmatch(key):
            raise Refused("that is no method")
        return key, tables

    def folder(self, run: str, there: bool = True) -> Path:
        """Where this hospital keeps what belongs to a run. Raises Refused for what is no run's name, or not begun."""
        if not RUN.fullmatch(run):
            raise Refused("that is no name of a run")
        folder = self.kit.state / "runs" / run
        if there and not (folder / "plan.json").is_file():
            raise Refused("this hospital has not been asked to take part in that run")
        return folder

    def _scenario(self, text: str) -> Scenario:
        if len(text) > SCENARIO_CHARACTERS:
            raise Refused(f"the scenario is longer than {SCENARIO_CHARACTERS} characters")
        try:
            raw = json.loads(text)
            scenario = parse(raw if isinstance(raw, dict) else {}, "the scenario")
            _refuse_elsewhere(scenario)
            refuse_unfit(scenario)
            scenario = spelled_out(scenario)
        except (ValueError, RecursionError) as error:
            raise Refused("the scenario is not valid JSON") from error
        except UserError as error:
            # A stranger's words, on one line of the log.
            raise Refused(str(error).encode("unicode_escape").decode()) from error
        LOG.info("asked about scenario %s, sha256 %s", scenario.name, scenario.sha256)
        self._approved("the scenario", scenario.sha256)
        if scenario.faults and self.kit.approve is None:
            raise Refused("faults, which may kill its worker, are for a hospital that has the scenario on its list")
        return scenario

    def _plan(self, scenario: Scenario) -> Plan:
        """Of this hospital's own images. Raises Refused where a part has too few groups, and where the disk of prepared
        images, which whoever asks about other sizes fills, has little room left."""
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(cache).free) < ROOM_BYTES:
            raise Refused(f"only {free / 2**30:.1f} GiB are free at {self.kit.hospital} where prepared images lie")
        plan = make_plan(scenario, self.kit.data, only=self.kit.hospital)
        if why := too_few(plan, self.kit):
            raise Refused(why)
        return plan

    def _approved(self, what: str, sha256: str) -> None:
        if self.kit.approve is not None and sha256 not in self.kit.approve:
            raise Refused(f"{what} with sha256 {sha256} is not on this hospital's list of what it runs")

    def _released(self, config: Mapping[str, Any], reply: Message) -> str:
        """Leave in the answer what may go out; what that is, in words."""
        if reply.has_error():
            return f"an error: {reply.error.reason}"
        content = reply.content
        if "samples" in content:
            rows = pd.read_parquet(io.BytesIO(cast(bytes, content["samples"]["parquet"])))
            del content["samples"]
            if config.get("split") == "test" and config["checkpoint"] in ("best", "last"):
                self._release_test(config, rows, content)
        for name, record in content.items():
            if not isinstance(record, (ArrayRecord, MetricRecord)) and name not in OUT:
                raise ValueError(f"an answer would hold a record {name}, which is not to leave")
        return ", ".join(content) or "nothing"

    def _release_test(self, config: Mapping[str, Any], rows: pd.DataFrame, content: RecordDict) -> None:
        folder, label = self.folder(config["run"]), config["checkpoint"]
        rows.insert(0, "checkpoint", label)
        stem = f"{config['member']}-{label}" if config["member"] else label
        path, records = folder / "records" / f"{stem}.parquet", rows.to_parquet(index=False)
        if path.is_file() and path.read_bytes() != records:
            LOG.warning("%s is tested again, under other weights: its %s records here are new ones", folder.name, stem)
        write_atomic(path, records)
        allowed = (self.kit.share, Plan.load(folder).scenario.evaluation.share)
        if allowed == ("per-image", "per-image"):
            name, table = "samples", anonymise(rows, self._key())
        else:
            name, table = "shared", share(rows, self._seed(records))
        table = table.drop(columns="checkpoint")
        content[name] = ConfigRecord({"parquet": table.to_parquet(index=False)})

    def _seed(self, *records: bytes) -> int:
        """Of this hospital's bootstrap of these records: who knew it could solve the draws for the groups' own means;
        so could who had draws of as many other records as there are groups, all resampled alike."""
        digests = b"".join(hashlib.sha256(one).digest() for one in records)
        return int.from_bytes(hmac.digest(self._key(), b"draws" + digests, "sha256")[:16])

    def _key(self) -> bytes:
        """The hospital's own key, under which names become numbers; made here and never sent."""
        path = self.kit.state / "hmac.key"
        if not path.is_file():
            write_atomic(path, secrets.token_bytes(32), 0o600)
        return path.read_bytes()


OUT = ("hospital", "samples", "shared", "paired", "scores", "cost")
"""Configuration records that may leave."""


@contextmanager
def _cut_after(deadline_s: float) -> Iterator[None]:
    """End this process where it takes longer: nobody waits for the answer, and the next message waits for a worker.

    `fedkvasir site start` starts another one.
    """

    def end() -> None:
        LOG.warning("no answer within %g s: given up, with the process", deadline_s)
        os._exit(1)

    timer = threading.Timer(deadline_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def guard(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A Flower mod: at a real site, :meth:`Site.answer`; in a simulation, nothing."""
    return (
        at(context).answer(message, context, call_next) if NODE in context.node_config else call_next(message, context)
    )


def at(context: Context) -> Site:
    """The site whose node this is, as its site.yaml is now: a hospital may take back what it has allowed.

    Raises Refused in a simulation, which has none.
    """
    if NODE not in context.node_config:
        raise Refused("this node is no real site")
    return Site(SiteKit.load(Path(str(context.node_config[NODE]))))


def admit(message: Message) -> dict[str, Any]:
    """A message's configuration. Raises Refused unless the message is made as the round loop makes them."""
    kind, content = message.metadata.message_type, message.content
    if kind not in KEYS:
        raise Refused("messages of this type are not answered here")
    config = content.get("config")
    if not isinstance(config, ConfigRecord):
        raise Refused("the message has no configuration")
    needed, further = KEYS[kind], FURTHER.get(kind, {})
    if not needed.keys() <= config.keys() <= needed.keys() | further.keys():
        raise Refused("the configuration has other keys than those of its kind")
    for key, value in config.items():
        # A bool is an int to Python.
        if type(value) is not (needed | further)[key]:
            raise Refused(f"{key} is of another type")
    for name, record in content.items():
        if name != "config" and (not isinstance(record, ArrayRecord) or kind.startswith("query")):
            raise Refused("there is a record in the message that does not belong there")
    values: dict[str, Any] = {**config}
    rules: dict[str, Callable[[Any], object]] = {
        "run": RUN.fullmatch,
        "member": MEMBER.fullmatch,
        "checkpoint": LABEL.fullmatch,
        "split": ("val", "test").__contains__,
        "validate": ("", "val", "test").__contains__,
        "server-round": lambda number: 1 <= number < 1_000_000,
        "start-from": lambda number: 0 <= number < 1_000_000,
        "keep": lambda number: 0 <= number < 1_000_000,
        "attempt": lambda number: 1 <= number < 100,
        "gallery": lambda wanted: not wanted,  # pictures stay here
        "salt": re.compile(r"[0-9a-f]{16,128}").fullmatch,
        "proximal-mu": np.isfinite,
    }
    for key, value in values.items():
        if key in rules and not rules[key](value):
            raise Refused(f"{key} has a value that cannot be right")
    return values


def check_visit(hospital: Hospital, kind: str, states: Mapping[str, State]) -> None:
    """Raises Refused unless arrays have the names, shapes and types of the hospital's own network, and are numbers; and
    where a holdout is asked to train. states: records of a message by name; beside the weights, what an algorithm adds.
    """
    if kind == "train" and hospital.role == "holdout":
        raise Refused("this hospital is held out: it is only tested")
    own = {name: tensor.detach().cpu().numpy() for name, tensor in hospital.network.state_dict().items()}
    layout = hospital.layout
    weights = {"arrays": layout.shared, "buffers": layout.buffers, "local": layout.local}
    weights["frozen"] = tuple(getattr(hospital.network, "frozen", ()))
    if not states.keys() >= weights.keys():
        raise Refused("the message lacks weights")
    if any(set(states[record]) != set(names) for record, names in weights.items()):
        raise Refused("the arrays are not those of the run's network")
    if len(states) > len(weights) + 4:
        raise Refused("there are more arrays than any algorithm sends")
    for state in states.values():
        for name, array in state.items():
            if name not in own or array.shape != own[name].shape or array.dtype != own[name].dtype:
                raise Refused("an array has another name, shape or type than in the run's network")
            if not np.isfinite(array).all():
                raise Refused("an array holds values that are not numbers")


def _unpacked(content: RecordDict) -> RecordDict:
    try:
        return unpack(content)
    except ValueError as error:
        raise Refused(f"the arrays are not packed as they should be: {error}") from error


def _refuse_elsewhere(scenario: Scenario) -> None:
    """Nobody outside says where on this machine to read. Raises UserError."""
    data = scenario.data
    texts = [str(value) for options in data.options.values() for value in options.values()]
    roots = data.roots or any(center.root for center in data.centers.values())
    if roots or data.split_file or any(sign in text for text in texts for sign in ("/", "\\", "..", "~")):
        raise Refused("the scenario names files or folders; where a hospital's images lie is its own affair")
    models = (scenario.model, *members_of(scenario.model, scenario.task).values())
    if any(model.weights not in (None, "imagenet", "package") for model in models):
        raise Refused("the scenario names a file of weights; weights come with the messages")
