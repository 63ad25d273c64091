"""The wire format: exact round trips, refusal of every damage, bounded effort, and the golden bytes of format 1.

The golden files hold hexadecimal. A change that alters them needs a new FORMAT, or old journals cannot be read.
"""

import contextlib
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ganglion.core import wire
from ganglion.core.batch import ROWS_MAX, Batch
from ganglion.core.block import Block
from ganglion.core.errors import DataError
from ganglion.core.wire import (
    BODY_BYTES_MAX,
    FORMAT,
    FORMAT_BLOCK,
    FORMAT_SEVERAL,
    ITEMS_MAX,
    End,
    decode,
    decode_several,
    encode,
    encode_several,
)
from tests.core.block_cases import blocks, fixed_block, same_block
from tests.core.wire_cases import LEAST, MOST, batches, fixed_batch, same_bits, sawtooth, texts, waveforms

GOLDEN = Path(__file__).parent / "golden"


def closed(content):
    """A message with a good checksum, whatever is in it."""
    return content + zlib.crc32(content).to_bytes(4, "little")


def message(*, stream="s", origin="o", body=None, deflated=False, number=FORMAT, extra=()):
    packed = cbor2.dumps(body) if not isinstance(body, bytes) else body
    return closed(cbor2.dumps([number, stream, origin, deflated, packed, *extra]))


def rows_of(content) -> Batch:
    item = decode(content)
    assert isinstance(item, Batch)
    return item


def rows(seq=(1, 1, 2), time_ns=(0, 1, 2), **columns):
    return [list(seq), list(time_ns), columns or {"x": ["<i4", [2], False, bytes(8)]}]


@given(batches())
def test_a_batch_comes_back_bit_by_bit(case):
    batch, schema = case
    again = rows_of(encode(batch))
    assert same_bits(batch, again)
    again.check(schema)
    assert encode(again) == encode(batch)


@pytest.mark.parametrize(
    "numbers",
    [
        [0],
        [MOST],
        [LEAST, MOST],
        [LEAST, 0, MOST],
        [LEAST, LEAST + 1, MOST - 1, MOST],
        [0, 1, 2, 4],
        list(range(5, 500, 5)),
    ],
)
def test_row_numbers_and_times_come_back_at_the_ends_of_64_bits(numbers):
    seq = np.array(numbers, np.int64)
    batch = Batch("s", "o", seq, seq[::-1].copy(), {"x": np.zeros(len(seq), np.float32)})
    assert same_bits(rows_of(encode(batch)), batch)


def test_nan_payloads_negative_zeros_and_integer_ends_survive():
    assert same_bits(rows_of(encode(fixed_batch())), fixed_batch())


def test_columns_may_be_foreign_in_byte_order_and_strides():
    frames = np.arange(48, dtype=">i2").reshape(2, 3, 8)[:, :, ::2]
    batch = Batch("s", "o", np.arange(2), np.arange(2), {"x": frames})
    again = rows_of(encode(batch)).columns["x"]
    assert again.dtype == np.dtype("<i2")
    assert again.tolist() == frames.tolist()


def test_decoded_rows_can_be_written():
    again = rows_of(encode(fixed_batch()))
    assert all(c.flags.writeable for c in (again.seq, again.time_ns, *again.columns.values()))


@given(texts, texts)
def test_end_marks_come_back(stream, origin):
    assert decode(encode(End(stream, origin))) == End(stream, origin)
    assert End(stream, origin).renamed("t") == End("t", origin)


@pytest.mark.parametrize(
    "item",
    [End("s", "o"), fixed_batch(), waveforms(2), fixed_block()],
    ids=["end", "every dtype", "deflated", "block"],
)
def test_any_one_byte_changed_and_any_cut_is_refused(item):
    whole = encode(item)
    for i in range(len(whole)):
        spoilt = bytearray(whole)
        for bit in (0x01, 0x10, 0x80, 0xFF):
            spoilt[i] = whole[i] ^ bit
            refused(bytes(spoilt))
        refused(whole[:i])
    refused(whole + b"\0")
    assert decode(whole)


@given(batches(), st.data())
def test_a_burst_of_damage_is_refused(case, data):
    whole = encode(case[0])
    start = data.draw(st.integers(0, len(whole) - 4))
    noise = data.draw(st.binary(min_size=4, max_size=4).filter(any))
    spoilt = bytes(a ^ b for a, b in zip(whole[start : start + 4], noise, strict=True))
    refused(whole[:start] + spoilt + whole[start + 4 :])


def refused(content):
    with pytest.raises(DataError) as caught:
        decode(content)
    assert caught.value.code == "wire.corrupt"
    return caught.value


@given(st.binary(max_size=200))
@example(b"")
@example(b"\0\0\0\0")
def test_foreign_bytes_are_a_data_error(content):
    refused(content)


@given(st.binary(max_size=60))
@example(b"\x81" * 100_000)
@example(b"\x9b" + b"\x0f" * 8)
@example(b"\x5b\x7f" + b"\xff" * 7)
@example(cbor2.dumps([2, "s", "o", None]))
@example(cbor2.dumps({0: 1, 1: "s", 2: "o", 3: None}))
def test_foreign_bytes_with_a_good_checksum_are_a_data_error(content):
    refused(closed(content))


parts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=16),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)


@given(st.data())
def test_well_formed_nonsense_is_an_item_or_a_data_error(data):
    body = rows()
    columns = body[2]
    where = data.draw(
        st.sampled_from(["seq", "time", "columns", "column", "dtype", "shape", "delta", "bytes"])
    )
    wrong = data.draw(parts)
    if where in ("seq", "time", "columns"):
        body[["seq", "time", "columns"].index(where)] = wrong
    elif where == "column":
        columns["x"] = wrong
    else:
        columns["x"][["dtype", "shape", "delta", "bytes"].index(where)] = wrong
    # Anything but a DataError fails the test.
    with contextlib.suppress(DataError):
        batch = rows_of(message(body=body))
        assert batch.seq.dtype == batch.time_ns.dtype == np.int64
        assert {len(batch.time_ns), *(len(c) for c in batch.columns.values())} == {len(batch)}


def test_the_parts_of_the_nonsense_test_are_right_before_they_are_spoilt():
    assert rows_of(message(body=rows())).columns["x"].tolist() == [0, 0]


i2 = ["<i2", [2, 2], True, bytes(8)]
LIES = [
    message(body=rows(), number=2),
    message(body=rows(), stream=5),
    message(body=rows(), origin=None),
    message(body=rows(), extra=(1,)),
    message(body=rows(), deflated=True),
    closed(cbor2.dumps([FORMAT, "s", "o", False])),
    message(body=rows(seq=(1, 1, 3))),
    message(body=rows(time_ns=(1, 1, 3))),
    message(body=rows(seq=(1, 1, 0))),
    message(body=rows(seq=(1, 1, -1))),
    message(body=rows(seq=(1, 1, ROWS_MAX + 1))),
    message(body=rows(seq=(2**70, 1, 2))),
    message(body=rows(seq=(1, b"\0" * 7))),
    message(body=rows(x=["<i4", [3], False, bytes(8)])),
    message(body=rows(x=["<i4", [-1], False, bytes(8)])),
    message(body=rows(x=["<i4", [], False, bytes(4)])),
    message(body=rows(x=["|O", [2], False, bytes(16)])),
    message(body=rows(x=["<f2", [2], False, bytes(4)])),
    message(body=rows(x=["|b1", [2], False, b"\0\2"])),
    message(body=rows(x=i2, y=["<i2", [1, 4], True, bytes(8)])),
    message(body=zlib.compress(cbor2.dumps(rows()))[:-1], deflated=True),
    message(body=zlib.compress(cbor2.dumps(rows())) + b"more", deflated=True),
]


@pytest.mark.parametrize("lie", LIES)
def test_a_message_that_contradicts_itself_is_refused(lie):
    refused(lie)


@pytest.mark.parametrize("byte", [b"\0", b"\x81", b"\x5b"])
def test_a_decompression_bomb_is_refused_before_it_unfolds(byte):
    bomb = zlib.compress(byte * (8 * BODY_BYTES_MAX), 9)
    tracemalloc.start()
    try:
        error = refused(message(body=bomb, deflated=True))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(BODY_BYTES_MAX) in error.why
    assert peak < 3 * BODY_BYTES_MAX


def test_more_rows_than_the_limit_are_refused_also_when_unevenly_numbered(monkeypatch):
    monkeypatch.setattr(wire, "ROWS_MAX", 4)
    wide = Batch("s", "o", np.array([1, 2, 4, 8, 9]), np.arange(5), {"x": np.zeros(5, np.float32)})
    with pytest.raises(AssertionError):
        encode(wide)
    assert len(rows_of(encode(wide.take(slice(0, 4))))) == 4
    monkeypatch.undo()
    whole = encode(wide)
    monkeypatch.setattr(wire, "ROWS_MAX", 4)
    refused(whole)


@pytest.mark.parametrize(
    "batch",
    [
        fixed_batch().take(slice(0, 0)),
        Batch("s", "o", np.arange(2), np.arange(3), {"x": np.zeros(2, np.float32)}),
        Batch("s", "o", np.arange(2), np.arange(2), {"x": np.zeros(3, np.float32)}),
        Batch("s", "o", np.arange(2), np.arange(2), {"x": np.zeros(2, np.uint8)}),
    ],
    ids=["empty", "times", "rows", "dtype"],
)
def test_what_could_not_be_read_again_is_not_written(batch):
    with pytest.raises(AssertionError):
        encode(batch)


@settings(max_examples=20)
@given(st.integers(1, 40))
def test_waveforms_survive_their_compression(frames):
    assert same_bits(rows_of(encode(waveforms(frames))), waveforms(frames))


def test_noisy_waveforms_shrink():
    batch = waveforms(60)
    ratio = len(encode(batch)) / batch.size_bytes
    plain = len(zlib.compress(batch.columns["frame"].tobytes(), 6)) / batch.size_bytes
    print(f"wire/raw {ratio:.3f}, deflate alone {plain:.3f}")
    assert ratio < 0.75
    assert ratio < plain


def test_evenly_numbered_rows_cost_the_same_however_many():
    def overhead(n):
        batch = Batch("s", "o", np.arange(n), np.arange(n) * 20, {"x": np.zeros(n, np.float32)})
        return len(encode(batch))

    assert overhead(10_000) < overhead(10) + 100


# ------------------------------------------------------------------------------- blocks, and several items


def block_of(content) -> Block:
    item = decode(content)
    assert isinstance(item, Block)
    return item


@given(blocks())
def test_a_block_comes_back_bit_by_bit(case):
    block, schema = case
    again = block_of(encode(block))
    assert same_block(block, again)
    again.check(schema)
    assert encode(again) == encode(block)
    arrays: list[Any] = [again.origin_index, again.seq, again.time_ns, *again.columns.values()]
    assert all(a.flags.writeable for a in arrays)


@given(st.lists(blocks().map(lambda c: c[0]) | batches().map(lambda c: c[0]), min_size=1, max_size=4))
def test_several_items_come_back_in_order(items):
    items = [*items, End("s", "o")]
    message = encode_several(items)
    assert [encode(i) for i in decode_several(message)] == [encode(i) for i in items]
    assert encode_several(items[:1]) == encode(items[0])
    assert [encode(i) for i in decode_several(encode(items[0]))] == [encode(items[0])]
    refused(message)  # it is not one item


def test_a_damaged_message_of_several_is_refused():
    whole = encode_several([fixed_block(), End("s", "o")])
    for i in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[i] ^= 0x10
        with pytest.raises(DataError):
            decode_several(bytes(spoilt))
        with pytest.raises(DataError):
            decode_several(whole[:i])
    inner = encode(fixed_block())
    inside = closed(cbor2.dumps([FORMAT_SEVERAL, [inner[:-1] + b"\0"]]))
    with pytest.raises(DataError):
        decode_several(inside)


@pytest.mark.parametrize("parts", [[], 5, [5], [b""], [encode(End("s", "o"))] * (ITEMS_MAX + 1)])
def test_a_message_of_several_that_lies_is_refused(parts):
    with pytest.raises(DataError) as caught:
        decode_several(closed(cbor2.dumps([FORMAT_SEVERAL, parts])))
    assert caught.value.code == "wire.corrupt"


def block_body(**changes):
    """Two rows of one origin, and what is spoilt of them."""
    body = {
        "origins": ["o"],
        "places": ["|i1", b"\0\0"],
        "firsts": ["|i1", b"\1"],
        "rest": None,
        "times": ["|i1", b"\1\1"],
        "columns": {"x": ["<i4", [2], False, bytes(8)]},
    }
    body.update(changes)
    return closed(cbor2.dumps([FORMAT_BLOCK, "s", False, cbor2.dumps(list(body.values()))]))


BLOCK_LIES = [
    {"origins": []},
    {"origins": [5]},
    {"origins": "o"},
    {"places": ["|i1", b"\0\1"]},
    {"places": ["|i1", b"\0\xff"]},
    {"places": ["|i1", b""]},
    {"places": ["<f4", bytes(8)]},
    {"firsts": ["|i1", b"\1\1"]},
    {"rest": ["|i1", b"\0"]},
    {"times": ["|i1", b"\1\1\1"]},
    {"times": ["<i2", b"\1\1\1"]},
    {"columns": {"x": ["<i4", [1], False, bytes(4)]}},
    {"columns": 5},
]


@pytest.mark.parametrize("lie", BLOCK_LIES)
def test_a_block_that_contradicts_itself_is_refused(lie):
    assert block_of(block_body()).seq.tolist() == [1, 2]
    refused(block_body(**lie))


def test_interleaved_origins_cost_little():
    """Numbers that count on, times that step, a hundred origins in turn: a few bytes a row, most of them values."""
    n = 4000
    origin = (np.arange(n) % 100).astype(np.int32)
    names = tuple(f"gw1-room-{i:02d}" for i in range(100))
    values = np.random.default_rng(5).normal(20, 1, n).astype(np.float32)
    times = 1_700_000_000_000_000_000 + np.arange(n) * 100_000
    block = Block("s", names, origin, np.arange(n) // 100, times, {"x": values})
    assert len(encode(block)) < values.nbytes + 0.3 * n


GOLDEN_ITEMS = [("end", End("trend", "gw1-relay-03")), ("batch", fixed_batch().take(slice(0, 2)))]


@pytest.mark.golden
@pytest.mark.parametrize("name, item", GOLDEN_ITEMS)
def test_format_1_has_not_changed(name, item):
    golden = bytes.fromhex((GOLDEN / f"wire_1_{name}.hex").read_text())
    if isinstance(item, End):
        assert decode(golden) == item
    else:
        assert same_bits(rows_of(golden), item)
    # Deflate differs between builds of zlib, so what is compared byte by byte is not deflated.
    number, stream, origin, deflated, *_ = cbor2.loads(golden[:-4])
    assert (number, stream, origin) == (FORMAT, "trend", "gw1-relay-03")
    assert deflated is (None if isinstance(item, End) else False)
    assert encode(item) == golden


@pytest.mark.golden
def test_format_2_and_3_have_not_changed():
    golden = bytes.fromhex((GOLDEN / "wire_2_block.hex").read_text())
    small = fixed_block().take(slice(0, 3))
    assert same_block(block_of(golden), small)
    assert encode(small) == golden
    several = bytes.fromhex((GOLDEN / "wire_3_several.hex").read_text())
    block, end = decode_several(several)
    assert isinstance(block, Block)
    assert same_block(block, small)
    assert end == End("readings", "gw1-room-00")
    assert encode_several([small, End("readings", "gw1-room-00")]) == several


@pytest.mark.golden
def test_deflated_messages_of_format_1_can_still_be_read():
    golden = bytes.fromhex((GOLDEN / "wire_1_deflated.hex").read_text())
    head, again = cbor2.loads(golden[:-4]), cbor2.loads(encode(sawtooth())[:-4])
    assert head[3] is True
    assert zlib.decompress(head[4]) == zlib.decompress(again[4])
    assert same_bits(rows_of(golden), sawtooth())
