"""A good message to a real hospital with something wrong in it, anywhere: an error comes back that names nothing of the
hospital's own, or the answer that the good message gets; nothing is written, and the next good message is answered.

The slow tests try a thousand messages, the others a hundred of the same kinds.
"""

import copy
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fedkvasir.packing import LAYOUT, PACKED
from fedkvasir.scenario import load
from tests.clients.door import Door, Listing, answered, leaked, listing, said
from tests.conftest import TINY

ERROR = re.compile(r"refused: .+|[A-Za-z]+( at alta; its own log says more|; the hospital's own log says more)", re.S)
GOOD = ("query.survey", "query.enrol", "query.compare", "train", "evaluate")
TYPES = (*GOOD, "query", "query.default", "train.default", "evaluate.default", "train.survey", "query.app", "system")


class Fuzzed(Door):
    """A hospital whose good answers are known."""

    def settled(self) -> "Fuzzed":
        self.enrolled()
        answered(self.ask("evaluate", split="test", checkpoint="best"))
        self.good = {kind: said(self.ask(kind)) for kind in GOOD}
        return self

    def written(self) -> tuple[Listing, Listing]:
        """What lies on the disk, but for what the hospital keeps of this run; and that."""
        every = listing(self.folder.parent)
        own = {path: facts for path, facts in every.items() if Path(path).is_relative_to(self.run)}
        return {path: facts for path, facts in every.items() if path not in own}, own


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "secret.safetensors").write_bytes(b"secret")
    with pytest.MonkeyPatch.context() as patch:
        # What it logs of a stranger's half characters cannot be carried from one process of the tests to another.
        patch.setattr(logging.getLogger("fedkvasir.site"), "propagate", False)
        yield Fuzzed(folder / "alta", load(folder / "tiny.yaml")).settled()


# ---- what can be wrong

PATHS = st.sampled_from(
    ["..", "/etc/passwd", "../elsewhere/secret.safetensors", "~", "tiny-01234567/../..", "a\0b", "a\nb", "C:\\a", "."]
)
TEXTS = (
    PATHS | st.text(max_size=30) | st.sampled_from(["", "\ud800", "\u202e", "x" * 50_000, "{}", "[1", "null", "NaN"])
)
INTEGERS = st.sampled_from([-(2**63), -1, 0, 10**6, 2**31, 2**63, 2**200])
FLOATS = st.sampled_from([float("nan"), float("inf"), -float("inf"), -1.0, 1e308])
SCALARS = TEXTS | INTEGERS | FLOATS | st.booleans() | st.binary(max_size=30)
VALUES = SCALARS | st.one_of(
    *(st.lists(kind, max_size=4) for kind in (TEXTS, INTEGERS, FLOATS, st.booleans(), st.binary(max_size=9)))
)
JSON = st.recursive(
    PATHS | FLOATS | st.sampled_from([-1, 2**200]) | st.just("x" * 5000),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(TEXTS, inner, min_size=1, max_size=3),
    max_leaves=6,
)
Mutation = Callable[[st.DataObject, Door, str], RecordDict]


def plain(door: Door, kind: str, packed: bool = True) -> RecordDict:
    return door.content(kind, packed=packed)


def other_key(data: st.DataObject, door: Door, kind: str) -> RecordDict:
    """A key of the configuration is gone, called otherwise, or one too many."""
    config = door.config(kind)
    key = data.draw(st.sampled_from(sorted(config)))
    value = config.pop(key)
    match data.draw(st.sampled_from(["gone", "renamed", "one more"])):
        case "renamed":
            config[data.draw(TEXTS | st.just(key.upper()))] = value
        case "one more":
            config |= {key: value, data.draw(TEXTS): data.draw(VALUES)}
    return RecordDict({**plain(door, kind), "config": ConfigRecord(config)})


def other_value(data: st.DataObject, door: Door, kind: str) -> RecordDict:
    config = door.config(kind)
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(VALUES)
    return RecordDict({**plain(door, kind), "config": ConfigRecord(config)})


def near_value(data: st.DataObject, door: Door, kind: str) -> RecordDict:
    """A text of the configuration with one more or other character, or in another folder."""
    config = door.config(kind)
    key = data.draw(st.sampled_from(sorted(key for key, value in config.items() if isinstance(value, str))))
    text, place = config[key], data.draw(st.integers(0, 60))
    signs = ["\0", "\n", "/", "../", "\\", "{", "\ud800", "é", "０"]
    config[key] = text[:place] + data.draw(st.sampled_from(signs)) + text[place + data.draw(st.integers(0, 1)) :]
    return RecordDict({**plain(door, kind), "config": ConfigRecord(config)})


def other_record(data: st.DataObject, door: Door, kind: str) -> RecordDict:
    """A record of the message is gone, called otherwise, of another sort, or one too many."""
    content = dict(plain(door, kind, packed=data.draw(st.booleans())))
    name = data.draw(st.sampled_from(sorted(content)))
    others = st.sampled_from(
        [ConfigRecord(), ConfigRecord({"x": "../.."}), MetricRecord({"x": 1}), ArrayRecord(), content[name]]
    )
    match data.draw(st.sampled_from(["gone", "renamed", "another", "one more"])):
        case "gone":
            del content[name]
        case "renamed":
            content[data.draw(TEXTS)] = content.pop(name)
        case "another":
            content[name] = data.draw(others)
        case "one more":
            content[data.draw(TEXTS | st.sampled_from(["samples", "control", PACKED, LAYOUT]))] = data.draw(others)
    return RecordDict(cast(Any, content))


def other_scenario(data: st.DataObject, door: Door, kind: str) -> RecordDict:
    """Something in the scenario is another thing, or there is something more; but for a reader's own numbers."""
    raw = json.loads(door.config(kind)["scenario"])
    node, steps = raw, 0
    while True:
        inner = [key for key, value in node.items() if isinstance(value, dict) and value]
        if not inner or (steps and data.draw(st.booleans())):
            break
        node, steps = node[data.draw(st.sampled_from(inner))], steps + 1
    key = data.draw(st.sampled_from(sorted(node)) | TEXTS)
    value = data.draw(PATHS if key in raw["data"]["options"]["synthetic"] else JSON)
    if key not in ("split_seed", "image_size"):
        node[key] = value
    return RecordDict({"config": ConfigRecord(door.config(kind, scenario=json.dumps(raw)))})


def other_text(data: st.DataObject, door: Door, kind: str) -> RecordDict:
    """The scenario's own text is cut, doubled, or has something in it that is not JSON."""
    text = door.config(kind)["scenario"]
    place = data.draw(st.integers(0, len(text) - 1))
    more = data.draw(st.sampled_from(["", "[" * 9000, "\\ud800", "NaN", "9" * 5000, "\0", '"', "}", text]))
    return RecordDict({"config": ConfigRecord(door.config(kind, scenario=text[:place] + more))})


def other_array(data: st.DataObject, door: Door, kind: str) -> RecordDict:
    """One array of the weights is gone, called otherwise, elsewhere, or of other numbers."""
    states = {name: dict(state) for name, state in door.states.items()}
    record = data.draw(st.sampled_from(["arrays", "buffers"]))
    name = data.draw(st.sampled_from(sorted(states[record])))
    array = states[record].pop(name).copy()
    match data.draw(st.sampled_from(["gone", "renamed", "elsewhere", "twice", "NaN", "shape", "dtype", "huge"])):
        case "renamed":
            states[record][data.draw(st.text(min_size=1, max_size=20) | PATHS)] = array
        case "elsewhere":
            states[data.draw(st.sampled_from(["local", "frozen", "control", "more"]))] = {name: array}
        case "twice":
            states[record][name] = array
            other = data.draw(st.sampled_from(sorted({*states} - {record})))
            states[other] = states[other] | {name: array}
        case "NaN":
            wrong = array.astype(np.float32) if array.dtype.kind == "i" else array
            wrong.reshape(-1)[data.draw(st.integers(0, wrong.size - 1))] = data.draw(
                st.sampled_from([np.nan, np.inf, -np.inf])
            )
            states[record][name] = wrong
        case "shape":
            shapes = [(0,), (array.size, 1, 1), (*array.shape, 1), (1, *array.shape), (array.size + 1,)]
            states[record][name] = np.resize(array, data.draw(st.sampled_from(shapes)))
        case "dtype":
            dtypes = [np.float64, np.float16, np.int32, np.uint8, np.bool_]
            states[record][name] = array.astype(data.draw(st.sampled_from(dtypes)))
        case "huge":
            states[record][name] = np.zeros((*array.shape, 512), array.dtype)
    return door.content(kind, states, packed=data.draw(st.booleans()))


def other_bytes(data: st.DataObject, door: Door, kind: str) -> RecordDict:
    """An array's own bytes, or what it says of itself, are others; not the numbers: of them nobody knows better."""
    packed = data.draw(st.booleans())
    content = plain(door, kind, packed)
    record = cast(ArrayRecord, content[PACKED if packed else "arrays"])
    name = data.draw(st.sampled_from(sorted(record)))
    array = record[name]
    told: dict[str, Any] = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data}
    match data.draw(st.sampled_from(["header", "cut", "other", "stype", "longer"])):
        case "header":
            raw = bytearray(array.data)
            raw[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
            told["data"] = bytes(raw)
        case "cut":
            told["data"] = array.data[: data.draw(st.integers(0, len(array.data) - 1))]
        case "longer":
            told["data"] = array.data + b"\0"
        case "other":
            told["data"] = data.draw(st.binary(max_size=200) | st.sampled_from([b"PK\3\4" + b"\0" * 40, b"\x80\4N."]))
        case "stype":
            told["stype"] = data.draw(TEXTS)
    return RecordDict({**content, PACKED if packed else "arrays": ArrayRecord({**record, name: Array(**told)})})


def other_layout(data: st.DataObject, door: Door, kind: str) -> RecordDict:
    """The list of what is packed says otherwise."""
    content = plain(door, kind)
    listed = {**cast(ConfigRecord, content[LAYOUT])}
    lines = json.loads(str(listed["arrays"]))
    line = data.draw(st.integers(0, len(lines) - 1))
    part = data.draw(st.sampled_from(["gone", "twice", "record", "name", "dtype", "shape", "line", "records", "text"]))
    match part:
        case "gone":
            del lines[line]
        case "twice":
            lines.insert(data.draw(st.integers(0, len(lines))), lines[line])
        case "line":
            lines[line] = data.draw(JSON)
        case "records":
            listed["records"] = data.draw(VALUES)
        case "text":
            listed["arrays"] = data.draw(VALUES)
        case _:
            strange = st.sampled_from(["int64", "O", "V8", [1], [-1], [2**70], [0, 2**70], [True], [], None, {}, 3])
            lines[line][["record", "name", "dtype", "shape"].index(part)] = data.draw(strange | JSON)
    if part != "text":
        listed["arrays"] = json.dumps(lines)
    return RecordDict({**content, LAYOUT: ConfigRecord(cast(Any, listed))})


EVERYWHERE: tuple[Mutation, ...] = (other_key, other_value, near_value, other_record)
MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "query.survey": (*EVERYWHERE, other_scenario, other_text),
    "query.enrol": (*EVERYWHERE, other_scenario, other_text),
    "query.compare": EVERYWHERE,
    "train": (*EVERYWHERE, other_array, other_bytes, other_layout),
    "evaluate": (*EVERYWHERE, other_array, other_bytes, other_layout),
}


def stands(door: Fuzzed, kind: str, data: st.DataObject) -> None:
    sent = kind
    if data.draw(st.integers(0, 15)) == 0:
        sent, content = data.draw(st.sampled_from(TYPES)), plain(door, kind)
    else:
        mutate = data.draw(st.sampled_from(MUTATIONS[kind]))
        content = mutate(data, door, kind)
        event(f"{kind}: {mutate.__name__}")
    before = door.written()
    reply = door.send(kind, copy.copy(content), sent)
    after = door.written()
    assert after[0] == before[0]
    if reply.has_error():
        reason = str(reply.error.reason)
        event(f"{kind}: {'refused' if reason.startswith('refused') else reason}")
        assert ERROR.fullmatch(reason), reason
        assert after[1] == before[1]
        assert not leaked(reply, door.secrets)
    else:
        event(f"{kind}: answered")
        assert said(reply) == door.good[sent]
    assert said(door.ask("evaluate")) == door.good["evaluate"], "the next good message"


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


@pytest.mark.parametrize("kind", GOOD)
@fuzz(10)
@given(st.data())
def test_a_hospital_stands_fifty_messages(door: Fuzzed, kind: str, data: st.DataObject) -> None:
    stands(door, kind, data)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", GOOD)
@fuzz(200)
@given(st.data())
def test_a_hospital_stands_a_thousand_messages(door: Fuzzed, kind: str, data: st.DataObject) -> None:
    stands(door, kind, data)
