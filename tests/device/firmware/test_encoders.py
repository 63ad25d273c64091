"""The runtime's bytes are our own encoders' bytes, and it reads what our own decoders read, on drawn input."""

from __future__ import annotations

from typing import Any

import cffi
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ganglion.connectors import batch_senml
from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.message import Message, MessageType
from ganglion.core.batch import Batch
from ganglion.core.errors import DataError
from ganglion.core.packing import pack
from ganglion.core.schema import Field, Schema, TensorType
from ganglion.device import emulated
from ganglion.device.firmware.generate import runtime
from ganglion.device.firmware.layout import RowLayout
from ganglion.kernels.c.toolchain import build_library, compilers
from tests.device.firmware.benches import firmware_of, needs_compiler, plant

pytestmark = needs_compiler
CANARY = 0xA5
FFI: Any = cffi.FFI()
FFI.cdef(
    """
    typedef struct { const char *text; uint32_t bytes; } gd_text;
    typedef struct { gd_text name, unit; uint32_t offset, bytes; } gd_field;
    typedef struct { gd_text name; const gd_field *fields; uint32_t fields_n, stride, rows_max, urgent; } gd_stream;
    typedef struct { uint8_t *at; uint32_t size, room; } gd_writer;
    typedef struct { uint8_t type, code, token_bytes; uint16_t message_id; uint8_t token[8];
      const uint8_t *options, *payload; uint32_t options_bytes, payload_bytes; } gd_coap;
    void gd_senml(gd_writer *w, const gd_stream *stream, gd_text origin, const char *rows, uint32_t n);
    uint32_t gd_is_utf8(const char *at, uint32_t n);
    uint32_t gd_cbor_command(const char *at, uint32_t n, gd_text *verb, gd_text *id, int64_t *seq);
    void gd_coap_head(gd_writer *w, uint32_t type, uint32_t code, uint32_t id, const char *token, uint32_t n);
    void gd_coap_option(gd_writer *w, uint32_t *last, uint32_t number, const void *value, uint32_t n);
    uint32_t gd_coap_decode(gd_coap *message, const char *at, uint32_t n);
    uint32_t gd_coap_next(const gd_coap *m, uint32_t *at, uint32_t *number, const uint8_t **value, uint32_t *n);
    uint32_t gd_coap_critical(const gd_coap *message);
    """
)


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    sizes = firmware_of(plant(), {"runs": (), "exports": ("raw",)}).sizes
    return FFI.dlopen(
        str(build_library(runtime(sizes), compilers()[0], tmp_path_factory.mktemp("encoders"), ("-O2",)))
    )


class Writer:
    """A buffer of exactly ``room`` bytes with a canary behind it."""

    def __init__(self, room: int) -> None:
        self._memory = FFI.new("uint8_t[]", list(bytes([CANARY]) * (room + 8)))
        self.pointer = FFI.new("gd_writer *", {"at": self._memory, "size": 0, "room": room})
        self._room = room

    def content(self) -> bytes | None:
        """What was written; None when it did not fit."""
        memory = bytes(FFI.buffer(self._memory))
        assert memory[self._room :] == bytes([CANARY]) * 8, "written beyond the buffer"
        return memory[: self.pointer.size] if self.pointer.size <= self._room else None


# --- SenML ---

names = st.from_regex(r"[a-z][a-z0-9_]{0,40}", fullmatch=True)
int64s = st.integers(-(2**63), 2**63 - 1)


@st.composite
def schemas(draw):
    found = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    kinds = st.builds(
        TensorType,
        st.sampled_from(["f32", "f64", "i16", "i32", "i64", "bool"]),
        st.lists(st.integers(1, 4), max_size=2).map(tuple),
    )
    return Schema(
        tuple(Field(n, draw(kinds), draw(st.sampled_from(["", "A", "m/s2", "µV,°"]))) for n in found)
    )


@st.composite
def batches(draw):
    schema = draw(schemas())
    count = draw(st.integers(1, 30))
    start = draw(int64s)
    gap = draw(st.sampled_from([1, 2, 300, 2**31 - 1, 2**31, 2**40]))
    gaps = draw(
        st.one_of(st.just([gap] * count), st.lists(st.integers(1, gap), min_size=count, max_size=count))
    )
    seq = np.array([start + sum(gaps[:i]) for i in range(count)], object)
    if seq[-1] >= 2**63:
        seq = seq - (int(seq[-1]) - 2**63 + 1)
    steps = st.sampled_from([0, 1, 16_667_000, 2**31, -1, -(2**31) - 1])
    times = draw(
        st.one_of(
            st.builds(
                lambda first, step: [first + step * i for i in range(count)],
                st.integers(-(2**60), 2**60),
                steps,
            ),
            st.lists(int64s, min_size=count, max_size=count),
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = {}
    for field in schema.fields:
        raw = rng.integers(
            0, 2 if field.type.dtype == "bool" else 256, count * field.type.size_bytes, np.uint8
        )
        columns[field.name] = raw.view(field.type.numpy).reshape(count, *field.type.shape)
    origin = draw(st.from_regex(r"[A-Za-z0-9\-:./_]{1,128}", fullmatch=True))
    return schema, Batch("s", origin, seq.astype(np.int64), np.array(times, np.int64), columns)


def written(c, schema: Schema, batch: Batch, room: int) -> bytes | None:
    layout = RowLayout(schema)
    rows = np.zeros(len(batch), layout.dtype())
    rows["Seq"], rows["Time"] = batch.seq, batch.time_ns
    for name, column in batch.columns.items():
        rows[name] = column
    keep = []

    def text(content: str):
        encoded = content.encode()
        keep.append(FFI.from_buffer(encoded))
        return {"text": keep[-1], "bytes": len(encoded)}

    fields = FFI.new(
        "gd_field[]",
        [
            {"name": text(f.name), "unit": text(f.unit), "offset": at, "bytes": f.type.size_bytes}
            for f, at in zip(schema.fields, layout.offsets, strict=True)
        ],
    )
    stream = FFI.new("gd_stream *", (text("s"), fields, len(schema.fields), layout.stride, len(batch), 0))
    writer = Writer(room)
    origin = FFI.new("gd_text *", text(batch.origin))
    c.gd_senml(writer.pointer, stream, origin[0], FFI.from_buffer(rows.tobytes()), len(batch))
    return writer.content()


@given(batches())
def test_senml_is_that_of_the_python_encoder(c, drawn) -> None:
    schema, batch = drawn
    wanted = batch_senml.encode(batch, schema)
    assert written(c, schema, batch, len(wanted)) == wanted
    assert written(c, schema, batch, len(wanted) - 1) is None
    assert written(c, schema, batch, 0) is None


@pytest.mark.parametrize("end", [-(2**31) - 1, -(2**31), 2**31 - 1, 2**31])
def test_gaps_are_narrow_up_to_the_last_that_fits(c, end: int) -> None:
    schema = Schema((Field("a", TensorType("i16")),))
    batch = Batch("s", "o", np.arange(3), np.array([0, end, end + 5]), {"a": np.zeros(3, np.int16)})
    wanted = batch_senml.encode(batch, schema)
    assert written(c, schema, batch, len(wanted)) == wanted


# --- CoAP ---

options = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([1, 3, 7, 11, 12, 15, 17, 35, 39, 60]), st.integers(0, 65535)),
        st.one_of(st.binary(max_size=20), st.binary(min_size=250, max_size=290)),
    ),
    max_size=5,
).map(tuple)
messages = st.builds(
    Message,
    st.sampled_from(list(MessageType)),
    st.one_of(st.integers(1, 31), st.integers(64, 191)),
    st.integers(0, 65535),
    st.binary(max_size=8),
    options,
    st.binary(max_size=30),
)


@st.composite
def datagrams(draw):
    """Messages, some with a byte changed, added or taken away, and plain noise."""
    data = bytearray(wire.encode(draw(messages)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.integers(0, 2))
        if kind == 0 and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == 1:
            del data[at:]
        else:
            data.insert(at, draw(st.integers(0, 255)))
    return bytes(data)


@given(messages)
def test_a_message_is_written_as_the_python_encoder_writes_it(c, message: Message) -> None:
    wanted = wire.encode(message)
    writer = Writer(len(wanted))
    token = FFI.from_buffer(message.token)
    c.gd_coap_head(writer.pointer, message.type, message.code, message.message_id, token, len(message.token))
    last = FFI.new("uint32_t *")
    for number, value in sorted(message.options, key=lambda option: option[0]):
        c.gd_coap_option(writer.pointer, last, number, FFI.from_buffer(value), len(value))
    assert writer.content() == wanted[: len(wanted) - len(message.payload) - bool(message.payload)]


@given(st.one_of(datagrams(), st.binary(max_size=40)))
@example(b"\x40\x00\x00\x01")
@example(b"\x41\x00\x00\x01a")
@example(b"\x40\x02\x00\x01\xff")
@example(b"\x49\x02\x00\x01" + b"t" * 9)
@example(b"\x40\x02\x00\x01\xd0")
@example(b"\x40\x02\x00\x01\x0d")
@example(b"\x40\x02\x00\x01\xe0\x00")
@example(b"\x40\x02\x00\x01\xe0\xff\xff")
def test_a_datagram_is_read_as_the_python_decoder_reads_it(c, data: bytes) -> None:
    exact = FFI.new("char[]", len(data))
    FFI.buffer(exact)[:] = data
    found = FFI.new("gd_coap *")
    taken = c.gd_coap_decode(found, exact, len(data))
    try:
        wanted = wire.decode(data)
    except DataError:
        assert not taken
        return
    assert taken
    assert (found.type, found.code, found.message_id) == (wanted.type, wanted.code, wanted.message_id)
    assert bytes(FFI.buffer(found.token, found.token_bytes)) == wanted.token
    assert bytes(FFI.buffer(found.payload, found.payload_bytes)) == wanted.payload
    at, number, n = FFI.new("uint32_t *"), FFI.new("uint32_t *"), FFI.new("uint32_t *")
    value = FFI.new("uint8_t **")
    got = []
    while c.gd_coap_next(found, at, number, value, n) == 1:
        got.append((number[0], bytes(FFI.buffer(value[0], n[0]))))
    assert tuple(got) == wanted.options
    assert (c.gd_coap_critical(found) or None) == wire.unknown_critical(wanted.options)


# --- commands ---


def command(c, payload: bytes) -> tuple[str, str, int] | None:
    exact = FFI.new("char[]", len(payload))
    FFI.buffer(exact)[:] = payload
    verb, name, seq = FFI.new("gd_text *"), FFI.new("gd_text *"), FFI.new("int64_t *")
    if not c.gd_cbor_command(exact, len(payload), verb, name, seq):
        return None
    return *(bytes(FFI.buffer(t.text, t.bytes)).decode() for t in (verb, name)), seq[0]


def python_command(payload: bytes) -> tuple[str, str, int] | None:
    try:
        return emulated._command(payload)
    except DataError:
        return None


plain = st.one_of(st.text(max_size=8), st.binary(max_size=8), st.integers(-(2**64), 2**64 - 1))
texts = st.text(max_size=300)
seqs = st.integers(0, 2**63 - 1)


@given(texts, texts, seqs, st.dictionaries(st.text(max_size=6), plain, max_size=3))
def test_a_command_is_understood(c, verb: str, name: str, seq: int, more) -> None:
    asked = {"verb": verb, "id": name, "seq": seq}
    assert command(c, pack(more | asked)) == (verb, name, seq)
    assert command(c, pack(asked | {k: v for k, v in more.items() if k not in asked})) == (verb, name, seq)


@given(st.dictionaries(st.sampled_from(["verb", "id", "seq", "x"]), st.one_of(plain, seqs), max_size=4))
def test_what_lacks_a_part_or_has_another_type_is_refused_like_in_python(c, asked) -> None:
    assert command(c, pack(asked)) == python_command(pack(asked))


@given(st.binary(max_size=4), st.integers(0, 60), st.integers(0, 3))
def test_what_firmware_takes_python_takes(c, noise: bytes, at: int, cut: int) -> None:
    good = pack({"verb": "open", "id": "trip:gw1-relay-03:77", "seq": 1 << 41, "at": 7})
    bad = good[:at] + noise + good[at + cut :]
    taken = command(c, bad)
    assert taken is None or taken == python_command(bad)


def test_what_firmware_takes_of_a_command_with_any_byte_changed_python_takes(c) -> None:
    good = pack({"verb": "é", "id": "trip:gw1", "seq": 1 << 41, "at": 7})
    for at in range(len(good)):
        for byte in range(256):
            bad = good[:at] + bytes((byte,)) + good[at + 1 :]
            taken = command(c, bad)
            assert taken is None or taken == python_command(bad), bad


def test_a_length_that_cbor_reserves_is_refused(c) -> None:
    good = pack({"verb": "on", "id": "c1", "seq": 0})
    assert command(c, good) == ("on", "c1", 0)
    for first in (0x1C, 0x1D, 0x1E, 0x1F):
        assert command(c, good[:-1] + bytes((first,)) + bytes(1 << (first & 7))) is None


@example(b"\xed\x9f\xbf", b"")
@example(b"\xed\xa0\x80", b"")
@example(b"\xf4\x8f\xbf\xbf", b"")
@example(b"\xf4\x90\x80\x80", b"")
@example(b"\xe0\x9f\x80", b"")
@example(b"\xf0\x8f\x80\x80", b"")
@given(st.one_of(st.binary(max_size=8), st.text(max_size=4).map(str.encode)), st.binary(max_size=2))
def test_utf8_is_what_python_says_it_is(c, data: bytes, tail: bytes) -> None:
    whole = data + tail
    exact = FFI.new("char[]", len(whole))
    FFI.buffer(exact)[:] = whole
    try:
        whole.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    assert bool(c.gd_is_utf8(exact, len(whole))) == valid
