"""All arrays of a message as one: what comes out is what went in, and what was not made so comes out as nothing."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedkvasir.algorithms.base import arrays_of, from_record, to_record
from fedkvasir.exchange import State
from fedkvasir.packing import DTYPES, LAYOUT, PACKED, pack, unpack

NAMES = st.text(min_size=1, max_size=20)
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays(np.dtype(dtype), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
STATES = st.dictionaries(NAMES, ARRAYS, max_size=4)


def bits(content: RecordDict) -> dict[str, dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Record -> array -> its dtype, shape and bytes, in order."""
    return {
        record: {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in from_record(own).items()}
        for record, own in arrays_of(content).items()
    }


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, STATES, max_size=4), st.booleans())
def test_what_is_unpacked_is_what_was_packed_to_the_last_bit(states: dict[str, State], fortran: bool) -> None:
    """Whatever the order in memory; zero-dimensional arrays, empty ones and empty records as well."""
    order = np.asfortranarray if fortran else np.asarray
    records = {name: to_record({key: order(a) for key, a in own.items()}) for name, own in states.items()}
    config = ConfigRecord({"round": 3})
    content = RecordDict({**records, "config\0": config})
    packed = pack(RecordDict({**content}))
    assert sum(len(record) for record in arrays_of(packed).values()) == bool(states)
    again = unpack(packed)
    assert bits(again) == bits(content) and list(bits(again)) == list(bits(content))
    assert dict(again) == dict(content) | {**arrays_of(again)} and again["config\0"] == config


def test_a_message_without_arrays_goes_as_it_is() -> None:
    content = RecordDict({"config": ConfigRecord({"round": 3})})
    assert pack(content) is content and unpack(content) is content


@pytest.mark.parametrize("dtype", ["complex64", ">f4", "uint16", "U3", "datetime64[s]"])
def test_a_dtype_that_no_network_has_is_said_with_the_arrays_name(dtype: str) -> None:
    with pytest.raises(ValueError, match="arrays/weight is of dtype"):
        pack(RecordDict({"arrays": to_record({"weight": np.zeros(2, dtype)})}))


# ---- what pack did not make


def packed() -> RecordDict:
    own = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(7)}
    return pack(RecordDict({"arrays": to_record(own), "local": ArrayRecord(), "config": ConfigRecord({"round": 3})}))


def with_bytes(content: RecordDict, data: bytes | None = None, **facts: object) -> RecordDict:
    """The packed array with other bytes as numpy wrote them, or with other facts about it."""
    own = content[PACKED][PACKED]  # type: ignore[index]
    told = {"dtype": own.dtype, "shape": own.shape, "stype": own.stype, "data": data or own.data} | facts
    return RecordDict({**content, PACKED: ArrayRecord({PACKED: Array(**told)})})


def with_array(content: RecordDict, change: Callable[[np.ndarray], np.ndarray]) -> RecordDict:
    whole = change(from_record(content[PACKED])[PACKED])  # type: ignore[arg-type]
    return RecordDict({**content, PACKED: to_record({PACKED: whole})})


def with_list(content: RecordDict, **keys: object) -> RecordDict:
    return RecordDict({**content, LAYOUT: ConfigRecord({**content[LAYOUT], **keys})})  # type: ignore[dict-item]


def without(content: RecordDict, name: str) -> RecordDict:
    return RecordDict({key: record for key, record in content.items() if key != name})


WEIGHT, COUNT = ["arrays", "weight", "float32", [2, 3]], ["arrays", "count", "int64", []]
LISTS: dict[str, object] = {
    "another dtype": [["arrays", "weight", "float64", [2, 3]], COUNT],
    "no dtype of ours": [["arrays", "weight", "complex64", [1, 3]], COUNT],
    "python's objects": [["arrays", "weight", "O", [3]], COUNT],
    "a dtype that is a number": [["arrays", "weight", 4, [2, 3]], COUNT],
    "a larger shape": [["arrays", "weight", "float32", [3, 3]], COUNT],
    "a smaller shape": [["arrays", "weight", "float32", [1, 3]], COUNT],
    "a side below zero": [["arrays", "weight", "float32", [-2, -3]], COUNT],
    "a side that is found out": [["arrays", "weight", "float32", [-1, 3]], COUNT],
    "a side that is true": [["arrays", "weight", "float32", [6, True]], COUNT],
    "a side that is a fraction": [["arrays", "weight", "float32", [2.0, 3]], COUNT],
    "a huge side": [["arrays", "weight", "float32", [10**30]], COUNT],
    "a huge side of nothing": [WEIGHT, COUNT, ["arrays", "more", "float32", [0, 10**30]]],
    "more dimensions than numpy has": [["arrays", "weight", "float32", [2, 3] + [1] * 100], COUNT],
    "a shape that is text": [WEIGHT, COUNT, ["arrays", "more", "uint8", ""]],
    "a shape that is a table": [WEIGHT, COUNT, ["arrays", "more", "uint8", {}]],
    "no shape": [["arrays", "weight", "float32"], COUNT],
    "one thing too many": [[*WEIGHT, 1], COUNT],
    "an array less": [WEIGHT],
    "an array more": [WEIGHT, COUNT, ["arrays", "more", "uint8", [1]]],
    "an array twice": [WEIGHT, COUNT, ["arrays", "count", "int64", [0]]],
    "a record that is not listed": [["elsewhere", "weight", "float32", [2, 3]], COUNT],
    "a name that is a number": [["arrays", 1, "float32", [2, 3]], COUNT],
    "a name that is nothing": [["arrays", None, "float32", [2, 3]], COUNT],
    "a table": {"arrays": [WEIGHT, COUNT]},
    "an empty table": {},
    "a number": 24,
    "lines that are text": ["abcd", "efgh"],
}
CORRUPTIONS: dict[str, Callable[[RecordDict], RecordDict]] = {
    "no packed array": lambda c: without(c, PACKED),
    "no list": lambda c: without(c, LAYOUT),
    "a byte less": lambda c: with_array(c, lambda whole: whole[:-1]),
    "a byte more": lambda c: with_array(c, lambda whole: np.append(whole, np.uint8(0))),
    "no byte": lambda c: with_array(c, lambda whole: whole[:0]),
    "a table of bytes": lambda c: with_array(c, lambda whole: whole.reshape(2, -1)),
    "no dimension": lambda c: with_array(c, lambda whole: whole[0, ...]),
    "floats in place of bytes": lambda c: with_array(c, lambda whole: whole.astype(np.float32)),
    "signed bytes": lambda c: with_array(c, lambda whole: whole.view(np.int8)),
    "nothing that numpy wrote": lambda c: with_bytes(c, b"abc"),
    "a pickle": lambda c: with_bytes(c, b"\x80\x04N."),
    "an archive": lambda c: with_bytes(c, b"PK\x03\x04" + bytes(40)),
    "a file cut short": lambda c: with_bytes(c, c[PACKED][PACKED].data[:-1]),  # type: ignore[index]
    "another writer": lambda c: with_bytes(c, stype="torch"),
    "an array beside": lambda c: RecordDict(
        {**c, PACKED: ArrayRecord({**c[PACKED], "more": Array(np.zeros(1))})}  # type: ignore[dict-item]
    ),
    "a packed array of another name": lambda c: RecordDict({**c, PACKED: to_record({"x": np.zeros(1)})}),
    "the list in place of the array": lambda c: RecordDict({**c, PACKED: c[LAYOUT]}),
    "the array in place of the list": lambda c: RecordDict({**c, LAYOUT: c[PACKED]}),
    "a record listed that is there": lambda c: with_list(c, records=["arrays", "local", "config"]),
    "a record listed twice": lambda c: with_list(c, records=["arrays", "local", "local"]),
    "records that are text": lambda c: with_list(c, records="arrays"),
    "records that are numbers": lambda c: with_list(c, records=[1, 2]),
    "a list with another key": lambda c: with_list(c, more=1),
    "a list without records": lambda c: RecordDict({**c, LAYOUT: ConfigRecord({"arrays": c[LAYOUT]["arrays"]})}),  # type: ignore[index]
    "no JSON": lambda c: with_list(c, arrays="[["),
    "JSON that is deep": lambda c: with_list(c, arrays="[" * 100_000),
    "JSON as bytes": lambda c: with_list(c, arrays=json.dumps([WEIGHT, COUNT]).encode()),
    "a number in place of JSON": lambda c: with_list(c, arrays=3.5),
    **{name: lambda c, own=own: with_list(c, arrays=json.dumps(own)) for name, own in LISTS.items()},  # type: ignore[misc]
}


def test_the_list_is_as_it_is_changed_below() -> None:
    assert json.loads(str(packed()[LAYOUT]["arrays"])) == [WEIGHT, COUNT]  # type: ignore[index]
    assert packed()[LAYOUT]["records"] == ["arrays", "local"]  # type: ignore[index]


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_what_pack_did_not_make_is_refused(corrupt: Callable[[RecordDict], RecordDict]) -> None:
    with pytest.raises(ValueError):
        unpack(corrupt(packed()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WEIGHT + COUNT),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON, st.integers(0, 1), st.integers(0, 4))
def test_a_list_with_anything_in_any_place_fits_all_bytes_or_is_refused(
    anything: object, line: int, place: int
) -> None:
    """A line's record, name, dtype or shape, or the line itself, is something else."""
    lines: list[object] = [list(WEIGHT), list(COUNT)]
    if place == 4:
        lines[line] = anything
    else:
        lines[line][place] = anything  # type: ignore[index]
    try:
        content = unpack(with_list(packed(), arrays=json.dumps(lines)))
    except ValueError:
        return
    assert sum(len(data) for own in bits(content).values() for _, _, data in own.values()) == 6 * 4 + 8
    assert bits(unpack(pack(content))) == bits(content)
