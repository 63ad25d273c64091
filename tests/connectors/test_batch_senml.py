"""Batches through SenML and back: nothing changes, nothing crashes, little is added."""

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ganglion.connectors import senml
from ganglion.connectors.batch_senml import decode, encode
from ganglion.core.batch import Batch, sequence
from ganglion.core.errors import DataError
from ganglion.core.schema import Field, Schema, TensorType, boolean, f32, i16, i32, i64

START_NS = 1_764_000_000_123_456_789
INT64 = np.iinfo(np.int64)


def batch_of(schema, seq, time_ns, origin="feeder/g1/d3", fill=None):
    seq, time_ns = np.asarray(seq, np.int64), np.asarray(time_ns, np.int64)
    columns = {}
    for field in schema.fields:
        shape = (len(seq), *field.type.shape)
        columns[field.name] = (
            np.zeros(shape, field.type.numpy) if fill is None else fill(shape, field.type.numpy)
        )
    return Batch("amps", origin, seq, time_ns, columns)


def assert_same(left, right):
    assert (left.stream, left.origin, tuple(left.columns)) == (
        right.stream,
        right.origin,
        tuple(right.columns),
    )
    assert left.seq.tobytes() == right.seq.tobytes()
    assert left.time_ns.tobytes() == right.time_ns.tobytes()
    for name, column in left.columns.items():
        assert (column.dtype, column.shape) == (right.columns[name].dtype, right.columns[name].shape)
        assert column.tobytes() == right.columns[name].tobytes()


@st.composite
def sequences(draw, count):
    start = draw(st.sampled_from([0, sequence(3, 7), 2**62]))
    steps = draw(
        st.just([1] * count)
        | st.integers(1, 2**35).map(lambda step: [step] * count)
        | st.lists(st.integers(1, 9) | st.just(1 << 40), min_size=count, max_size=count)
    )
    return start + np.concatenate([[0], np.cumsum(np.array(steps[1:], np.int64))]).astype(np.int64)


@st.composite
def times(draw, count):
    if draw(st.booleans()):
        return np.array(
            draw(st.lists(st.integers(INT64.min, INT64.max), min_size=count, max_size=count)), np.int64
        )
    steps = draw(
        st.integers(-(10**9), 10**9).map(lambda step: [step] * count)
        | st.lists(st.integers(-(10**10), 10**10), min_size=count, max_size=count)
    )
    return START_NS + np.cumsum(np.array(steps, np.int64))


@st.composite
def batches(draw):
    types = st.builds(
        TensorType,
        st.sampled_from(["f32", "i16", "i32", "i64", "bool"]),
        st.lists(st.integers(1, 4), max_size=2).map(tuple),
    )
    names = draw(
        st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), min_size=1, max_size=4, unique=True)
    )
    schema = Schema(tuple(Field(n, draw(types), draw(st.sampled_from(["", "A", "m/s²"]))) for n in names))
    count = draw(st.integers(1, 6))
    columns = {}
    for field in schema.fields:
        # Floats by their bits, so that every NaN is among them.
        kind = np.dtype(np.uint32) if field.type.dtype == "f32" else field.type.numpy
        bits = draw(hnp.arrays(kind, (count, *field.type.shape)))
        columns[field.name] = bits.view(np.float32) if field.type.dtype == "f32" else bits
    origin = draw(st.from_regex(r"[A-Za-z0-9:./_\-]{1,20}", fullmatch=True))
    return Batch("s", origin, draw(sequences(count)), draw(times(count)), columns), schema


def batch_or_error(payload, schema):
    try:
        return decode(payload, "s", schema)
    except DataError as error:
        return error


@given(batches())
def test_decode_undoes_encode(case):
    batch, schema = case
    assert_same(decode(encode(batch, schema), "s", schema), batch)


@given(batches(), st.data())
def test_altered_payloads_are_batches_or_bad_data(case, data):
    batch, schema = case
    payload = bytearray(encode(batch, schema))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(payload)))
    got = batch_or_error(bytes(payload[:cut]), schema)
    if isinstance(got, Batch):
        got.check(schema)
    else:
        assert got.code.split(".")[0] in ("senml", "batch")


def test_non_finite_floats_keep_their_bits():
    schema = Schema((Field("x", f32[4]),))
    bits = np.array([[0x7FC00001, 0xFFC12345, 0x7F800000, 0xFF800000]], np.uint32)
    batch = Batch("s", "d", np.array([1]), np.array([2]), {"x": bits.view(np.float32)})
    assert decode(encode(batch, schema), "s", schema).columns["x"].view(np.uint32).tolist() == bits.tolist()


def test_one_frame_of_six_channels_fits_900_bytes(rng):
    schema = Schema((Field("frame", i16[6, 64], "A"),))
    batch = batch_of(schema, [sequence(2, 5)], [START_NS], fill=lambda s, t: rng.integers(-9, 9, s).astype(t))
    assert len(encode(batch, schema)) < 900


def test_rows_that_step_evenly_cost_no_more_than_their_columns_and_small_heads(rng):
    schema = Schema(tuple(Field(f"rms_{i}", f32, "A") for i in range(6)))
    evenly = START_NS + np.arange(32) * 16_700_000
    batch = batch_of(schema, sequence(2, 5) + np.arange(32), evenly)
    even = len(encode(batch, schema))
    assert even <= 32 * schema.row_bytes + 28 * (2 + len(schema.fields))  # nothing per row
    batch.time_ns[7] += 1
    assert even < len(encode(batch, schema)) <= even + 31 * 4
    batch.time_ns[7] += 2**40
    assert_same(decode(encode(batch, schema), "amps", schema), batch)


SCHEMA = Schema((Field("seq", i32, "A"), Field("ok", boolean), Field("n", i64)))


def rows(**changes):
    """A good pack of two rows as plain CBOR data, each record changed as asked: r0={...}; None removes a label."""
    pack = cbor2.loads(encode(batch_of(SCHEMA, [5, 7], [START_NS, START_NS + 3]), SCHEMA))
    for name, change in changes.items():
        row = pack[int(name[1:])]
        row.update(change)
        for label in [label for label, value in row.items() if value is None]:
            del row[label]
    return cbor2.dumps(pack)


def test_records_are_as_documented():
    pack = senml.unpack(encode(batch_of(SCHEMA, [5, 7], [START_NS, START_NS + 3]), SCHEMA))
    assert [r.name for r in pack] == ["Seq", "SeqStep", "TimeStep", "seq", "ok", "n"]
    assert pack[0].base_name == "urn:dev:ops:feeder/g1/d3:"
    assert pack[0].base_time == senml.exact_seconds(START_NS)
    resolved = senml.resolve(pack)
    assert resolved[3].name == "urn:dev:ops:feeder/g1/d3:seq"
    assert resolved[3].unit == "A"
    assert decode(rows(), "amps", SCHEMA).seq.tolist() == [5, 7]


@pytest.mark.parametrize(
    "changes,code",
    [
        ({"r0": {-2: "urn:dev:mac:00:"}}, "batch.origin"),
        ({"r0": {-2: None}}, "batch.origin"),
        ({"r0": {-2: "urn:dev:ops::"}}, "batch.origin"),
        ({"r0": {-3: None}}, "batch.sequence"),
        ({"r0": {-3: 0.1234567891}}, "senml.time"),
        ({"r0": {0: "first"}}, "batch.sequence"),
        ({"r0": {2: 1.5}}, "batch.sequence"),
        ({"r0": {2: 2**63}}, "batch.sequence"),
        ({"r0": {2: INT64.max - 1}}, "batch.sequence"),
        ({"r0": {-5: 1}}, "batch.schema"),
        ({"r1": {2: 0}}, "batch.sequence"),
        ({"r1": {2: 2**63}}, "batch.sequence"),
        ({"r1": {2: 1.5}}, "batch.sequence"),
        ({"r1": {2: None}}, "batch.sequence"),
        ({"r1": {8: b"1234"}}, "batch.sequence"),
        ({"r1": {0: "SeqGaps", 2: None, 8: b"123"}}, "batch.sequence"),
        ({"r1": {0: "TimeStep"}}, "batch.sequence"),
        ({"r2": {2: 1e-10}}, "senml.time"),
        ({"r3": {0: "other"}}, "batch.schema"),
        ({"r3": {1: "mA"}}, "batch.schema"),
        ({"r3": {1: None}}, "batch.schema"),
        ({"r3": {8: bytes(7)}}, "batch.schema"),
        ({"r3": {8: bytes(12)}}, "batch.schema"),
        ({"r3": {8: b""}}, "batch.schema"),
        ({"r3": {8: None, 2: 1}}, "batch.schema"),
        ({"r3": {6: 1}}, "batch.schema"),
        ({"r4": {8: b"\x00\x02"}}, "batch.schema"),
        ({"r4": {3: "text"}}, "batch.schema"),
    ],
)
def test_packs_that_are_no_batch_name_their_fault(changes, code):
    with pytest.raises(DataError) as caught:
        decode(rows(**changes), "amps", SCHEMA)
    assert caught.value.code == code


@pytest.mark.parametrize("origin", ["", "a b", "ü", "x" * 129])
def test_origins_senml_cannot_name_are_refused(origin):
    with pytest.raises(DataError) as caught:
        encode(batch_of(SCHEMA, [1], [1], origin=origin), SCHEMA)
    assert caught.value.code == "batch.origin"


def test_only_batches_of_the_schema_are_encoded_and_only_small_ones():
    with pytest.raises(DataError) as caught:
        encode(batch_of(SCHEMA, [2, 2], [1, 1]), SCHEMA)
    assert caught.value.code == "batch.sequence"
    with pytest.raises(DataError) as caught:
        encode(batch_of(SCHEMA, range(6000), [1] * 6000), SCHEMA)
    assert caught.value.code == "senml.size"
