"""State as bytes: round trips, determinism, and refusal of everything that is not a packed value."""

import contextlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ganglion.core.errors import DataError
from ganglion.core.packing import pack, unpack
from tests.core.wire_cases import same_array

dtypes = st.sampled_from(["<f4", "<f8", "<i2", "<i4", "<i8", "|b1", "|u1", "<U3", "|S2"])
arrays = dtypes.flatmap(
    lambda d: hnp.arrays(np.dtype(d), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=6)
)
values = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return same_array(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or repr(a) == repr(b) == "nan")


@given(values)
@example(np.zeros((0, 3), np.float32))
@example({"k": np.array(2**62), "nan": np.array([0x7FC01234], np.uint32).view(np.float32)})
def test_values_come_back_with_their_dtypes_shapes_and_bits(value):
    packed = pack(value)
    assert same(value, unpack(packed))
    assert pack(unpack(packed)) == packed


def test_numpy_scalars_become_plain_numbers_and_order_is_kept():
    packed = pack({"b": np.float32(0.5), "a": np.int64(3), "c": np.bool_(True), "d": (1, 2)})
    assert unpack(packed) == {"b": 0.5, "a": 3, "c": True, "d": [1, 2]}
    assert list(unpack(packed)) == ["b", "a", "c", "d"]


def test_foreign_byte_order_and_strides_are_normalised():
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    again = unpack(pack(array))
    assert again.dtype == np.dtype("<i4")
    assert again.tolist() == array.tolist()


def test_an_unpacked_array_is_our_own_and_can_be_written():
    again = unpack(pack(np.zeros(3)))
    again[0] = 1
    assert again[0] == 1


@given(values, st.data())
def test_a_cut_value_is_refused(value, data):
    packed = pack(value)
    with pytest.raises(DataError) as caught:
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])
    assert caught.value.code == "packing.corrupt"
    assert caught.value.next_step


@given(values, st.binary(min_size=1, max_size=4))
def test_bytes_too_many_are_refused(value, tail):
    with pytest.raises(DataError):
        unpack(pack(value) + tail)


@given(st.binary(max_size=80))
@example(b"\x9b" + b"\x0f" * 8)
@example(b"\x81" * 100_000)
@example(b"\xd9\x0f\xc8\x83\x63|O8\x81\x01\x48" + b"\0" * 8)
@example(b"\xd9\x0f\xc8\x83\x63<f4\x81\x20\x44" + b"\0" * 4)
@example(b"\xd9\x0f\xc8\x05")
def test_foreign_bytes_are_a_value_or_a_data_error(content):
    # Anything else that is raised fails the test.
    with contextlib.suppress(DataError):
        unpack(content)


@pytest.mark.parametrize("value", [object(), np.array([None]), np.zeros(2, "i4,f4"), lambda: 0])
def test_what_has_no_bytes_is_a_bug(value):
    with pytest.raises(AssertionError):
        pack(value)
