"""Arrays in and out of Flower's records."""

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedkvasir.algorithms.base import from_record, to_record

DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "uint8", "bool", ">f4"])


@given(st.data())
def test_an_array_comes_out_as_numpy_reads_it(data: st.DataObject) -> None:
    array = data.draw(
        arrays(data.draw(DTYPES), data.draw(array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
    )
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    (record,) = to_record({"w": array}).values()
    found, expected = from_record({"w": record})["w"], record.numpy()
    assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    assert found.flags.writeable and found.flags.f_contiguous == expected.flags.f_contiguous


@given(st.data())
def test_what_numpy_does_not_read_is_refused_and_nothing_else(data: st.DataObject) -> None:
    """Bytes cut off, and any one of them changed: headers that say more than there is, other versions, other types."""
    (whole,) = to_record({"w": np.arange(12, dtype=np.float32).reshape(3, 4)}).values()
    raw = bytearray(whole.data[: data.draw(st.integers(0, len(whole.data)))])
    if raw:
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    array = Array(dtype="float32", shape=(3, 4), stype="numpy.ndarray", data=bytes(raw))
    try:
        expected = array.numpy()
    except Exception:
        with pytest.raises(Exception):  # noqa: B017
            from_record({"w": array})
    else:
        found = from_record({"w": array})["w"]
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def test_objects_are_never_unpacked() -> None:
    (record,) = to_record({"w": np.zeros(2, np.int64)}).values()
    array = Array(dtype="object", shape=(2,), stype=record.stype, data=record.data.replace(b"'<i8'", b"'|O' "))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        from_record({"w": array})
