"""Types, fields and schemas: sizes, JSON, narrowing, scale, and every way to get them wrong."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import FlowError
from ganglion.core.schema import ELEMENTS_MAX, FIELDS_MAX, Field, Schema, TensorType, f32, f64, i16, i32

DTYPES = ["f32", "f64", "i16", "i32", "i64", "bool"]
types = st.builds(TensorType, st.sampled_from(DTYPES), st.lists(st.integers(1, 6), max_size=4).map(tuple))
names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
scales = st.floats(allow_nan=False, allow_infinity=False).filter(bool)
fields = st.builds(Field, names, types, st.text(max_size=4), st.lists(scales, max_size=1).map(tuple))
schemas = st.lists(fields, min_size=1, max_size=5, unique_by=lambda f: f.name).map(lambda f: Schema(tuple(f)))


@given(types)
def test_a_type_has_the_size_numpy_gives_it(tensor):
    zero = np.zeros(tensor.shape, tensor.numpy)
    assert (tensor.size_bytes, tensor.elements) == (zero.nbytes, zero.size)


@given(types)
def test_the_type_of_a_value_of_a_type_is_that_type_narrowed(tensor):
    narrowed = {"f64": "f32", "i64": "i32"}.get(tensor.dtype, tensor.dtype)
    assert TensorType.of(np.zeros(tensor.shape, tensor.numpy)) == TensorType(narrowed, tensor.shape)


def test_types_are_written_like_arrays():
    assert f32[3, 64] == TensorType("f32", (3, 64))
    assert str(f32[3, 64]) == "f32[3, 64]"
    assert str(i32) == "i32"
    assert f32[4] == TensorType("f32", (4,))
    assert len({f32[4], f32[4], f64[4]}) == 2


@pytest.mark.parametrize(
    "value, expected",
    [
        (True, "bool"),
        (1, "i32"),
        (1.5, "f32"),
        (np.int16(3), "i16"),
        (np.uint8(3), "i32"),
        ([1.0, 2.0], "f32[2]"),
        (np.zeros((2, 3), np.float16), "f32[2, 3]"),
    ],
)
def test_types_of_plain_values(value, expected):
    assert str(TensorType.of(value)) == expected


@pytest.mark.parametrize("value", ["text", None, 1j, [[1], [1, 2]], object(), b"x", {"a": 1}, 2**80])
def test_what_is_no_number_has_no_type(value):
    with pytest.raises(FlowError) as caught:
        TensorType.of(value)
    assert caught.value.code == "schema.dtype"


@pytest.mark.parametrize("dtype", ["f16", "float32", "", "complex"])
def test_unknown_dtypes(dtype):
    with pytest.raises(FlowError) as caught:
        TensorType(dtype)
    assert caught.value.code == "schema.dtype"


@pytest.mark.parametrize(
    "shape",
    [(0,), (-1,), (2.0,), ("3",), (True,), (None,), (ELEMENTS_MAX + 1,), (1 << 60, 1 << 60), (1,) * 9, "ab"],
)
def test_shapes_are_static_whole_and_bounded(shape):
    with pytest.raises(FlowError) as caught:
        f32[shape]
    assert caught.value.code == "schema.shape"
    assert caught.value.next_step


def test_the_largest_frame_is_allowed():
    assert f32[ELEMENTS_MAX].elements == ELEMENTS_MAX


@given(schemas)
def test_a_schema_survives_json_text(schema):
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


@given(schemas)
def test_a_row_has_the_bytes_of_its_fields_and_names_find_them(schema):
    assert schema.row_bytes == sum(schema[n].type.size_bytes for n in schema.names)
    assert all(n in schema for n in schema.names)
    assert "no such" not in schema


def test_a_schema_of_an_example_row():
    schema = Schema.of({"rms": 1.0, "trip": np.bool_(True), "v": np.zeros(3)}, {"rms": "A"})
    assert [str(f.type) for f in schema.fields] == ["f32", "bool", "f32[3]"]
    assert schema["rms"].unit == "A"
    with pytest.raises(FlowError) as caught:
        Schema.of({"rms": 1.0}, {"rsm": "A"})
    assert caught.value.code == "schema.unknown-field"


def test_an_unknown_field_is_named_with_those_that_exist():
    with pytest.raises(FlowError) as caught:
        Schema((Field("rms", f32),))["rsm"]
    assert caught.value.code == "schema.unknown-field"
    assert "rms" in caught.value.why


@pytest.mark.parametrize("name", ["", "Rms", "1st", "a-b", "_a", "a" * 64, "ä", "a\n"])
def test_field_names(name):
    with pytest.raises(FlowError) as caught:
        Field(name, f32)
    assert caught.value.code == "schema.field-name"


@pytest.mark.parametrize(
    "fields",
    [(), (Field("a", f32), Field("a", i32)), tuple(Field(f"f{i}", f32) for i in range(FIELDS_MAX + 1))],
)
def test_a_schema_is_a_bounded_set_of_fields(fields):
    with pytest.raises(FlowError) as caught:
        Schema(fields)
    assert caught.value.code == "schema.fields"


@pytest.mark.parametrize("scale", [(1.0, 2.0), (float("nan"),), (float("inf"),), (0.0,), (1.0, 2.0, 0.0)])
def test_scales_are_one_finite_factor_or_one_a_channel(scale):
    with pytest.raises(FlowError) as caught:
        Field("frame", i16[3, 4], "A", scale)
    assert caught.value.code == "schema.scale"


def test_physical_values_are_stored_ones_times_scale():
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    per_channel = Field("frame", i16[3, 4], "A", (0.5, 1.0, 2.0)).physical(stored)
    assert per_channel.dtype == np.float32
    assert np.array_equal(per_channel, stored * np.array([0.5, 1, 2]).reshape(1, 3, 1))
    assert np.array_equal(Field("frame", i16[3, 4], "A", (0.25,)).physical(stored), stored * 0.25)
    assert Field("frame", i16[3, 4]).physical(stored) is stored
    rows = np.arange(5, dtype=np.int16)
    assert np.array_equal(Field("level", i16, "m", (0.1,)).physical(rows), rows * np.float32(0.1))


@pytest.mark.parametrize("value", [Field("a", f32), f32, Schema((Field("a", f32),))], ids=str)
def test_schemas_are_frozen(value):
    for name in type(value).__slots__:
        with pytest.raises(AttributeError):
            setattr(value, name, "x")
