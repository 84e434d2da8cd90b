"""All arrays of a message as one.

Flower sends every array as an object of its own, in a request of its own; a network has hundreds. Over real sites a
message therefore carries one array of bytes, and a list of what is in it.
"""

import json
import math
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedkvasir.algorithms.base import arrays_of

PACKED, LAYOUT = "packed", "layout"
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")


def pack(content: RecordDict) -> RecordDict:
    """A message's content with one array in the place of all; without any, as it is. Raises ValueError for a dtype that
    no network has."""
    records = arrays_of(content)
    if not records:
        return content
    layout, parts = [], []
    for record, arrays in records.items():
        for name, array in arrays.items():
            values = array.numpy()
            if str(values.dtype) not in DTYPES:
                raise ValueError(f"{record}/{name} is of dtype {values.dtype}")
            layout.append([record, name, str(values.dtype), [*values.shape]])
            parts.append(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    whole = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    others = {name: record for name, record in content.items() if name not in records}
    listed = ConfigRecord({"arrays": json.dumps(layout), "records": [*records]})
    return RecordDict({**others, PACKED: ArrayRecord({PACKED: Array(whole)}), LAYOUT: listed})


def unpack(content: RecordDict) -> RecordDict:
    """What :func:`pack` was given. Raises ValueError for anything that it did not make."""
    if not content.keys() & {PACKED, LAYOUT}:
        return content
    packed, listed = content.get(PACKED), content.get(LAYOUT)
    if not isinstance(packed, ArrayRecord) or not isinstance(listed, ConfigRecord):
        raise ValueError("what is packed, or its list, is missing or of another kind")
    if packed.keys() != {PACKED} or listed.keys() != {"arrays", "records"}:
        raise ValueError("there is more or less than what is packed and its list")
    records = listed["records"]
    if not isinstance(records, list) or not all(isinstance(name, str) for name in records):
        raise ValueError("the list of records is not one")
    others = {name: record for name, record in content.items() if name not in (PACKED, LAYOUT)}
    if len({*records, *others}) < len(records) + len(others):
        raise ValueError("a record is there twice")
    try:
        states = _split(packed[PACKED].numpy(), json.loads(str(listed["arrays"])), cast(list[str], records))
    except Exception as error:  # numpy's and JSON's readers have many
        raise ValueError("what is packed does not fit its list") from error
    return RecordDict({**others, **{name: ArrayRecord(state) for name, state in states.items()}})


def _split(whole: np.ndarray, layout: list[Any], records: list[str]) -> dict[str, dict[str, Array]]:
    if not isinstance(layout, list) or whole.dtype != np.uint8 or whole.ndim != 1:
        raise ValueError("no list, or no row of bytes")
    states: dict[str, dict[str, Array]] = {name: {} for name in records}
    place = 0
    for record, name, dtype, shape in layout:
        sides = isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)
        if not sides or dtype not in DTYPES or type(name) is not str or name in states[record]:
            raise ValueError("a line of the list is not one")
        end = place + np.dtype(dtype).itemsize * math.prod(shape)
        if end > len(whole):
            raise ValueError("the list is longer")
        states[record][name] = Array(whole[place:end].view(dtype).reshape(shape))
        place = end
    if place != len(whole):
        raise ValueError("the list is shorter")
    return states
