"""Sink files: any Arrow reader gets back every row, bit by bit and once, whatever the disk went through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.batch import Batch
from ganglion.core.block import Block
from ganglion.core.errors import HostError
from ganglion.core.schema import Field, Schema, TensorType, f32
from ganglion.engine.sinks import SinkFile
from ganglion.host.system import SystemDisk
from tests.core.wire_cases import batches, same_bits
from tests.engine.stores import MemoryDisk
from tests.engine.streams import rows_of

SCHEMA = Schema((Field("frame", TensorType("i16", (2, 3)), "V,A", (0.5, 2.0)), Field("rms", f32, "A")))


def rows(first_seq: int, count: int) -> Batch:
    frames = np.arange(count * 6, dtype=np.int16).reshape(count, 2, 3) + np.int16(first_seq)
    rms = np.arange(count, dtype=np.float32)
    return rows_of("waves", "gw1-relay-00", first_seq, list(range(count)), frame=frames, rms=rms)


def read(content: bytes, schema: Schema, stream: str = "waves") -> list[Batch]:
    """The batches in a file, by pyarrow alone."""
    found = []
    for record in pa.ipc.open_stream(content):
        columns = {}
        for field in schema.fields:
            column = record.column(field.name)
            flat = column.flatten() if field.type.shape else column
            values = flat.to_numpy(zero_copy_only=False)
            columns[field.name] = values.reshape(len(record), *field.type.shape)
        (origin,) = set(record.column("origin").to_pylist())
        seq, time_ns = (record.column(name).to_numpy() for name in ("seq", "time_ns"))
        found.append(Batch(stream, origin, seq, time_ns, columns))
    return found


def same(found: list[Batch], expected: list[Batch]) -> bool:
    return len(found) == len(expected) and all(same_bits(a, b) for a, b in zip(found, expected, strict=True))


def opened(disk: Any) -> SinkFile:
    """A sink after a start without a checkpoint."""
    sink = SinkFile(disk, "waves", SCHEMA)
    sink.cut_back(0, 0)
    return sink


@given(batches(), st.integers(1, 3))
def test_every_bit_of_every_row_is_read_back(drawn, copies):
    batch, schema = drawn
    disk = MemoryDisk()
    sink = SinkFile(disk, "any", schema)
    for _ in range(copies):
        sink.add(batch)
        sink.sync()
    assert same(read(disk.files[sink.path], schema, batch.stream), [batch] * copies)
    assert sink.rows == copies * len(batch)


def test_a_real_file_is_opened_by_pyarrow_and_tells_units_shapes_and_scales(tmp_path):
    sink = opened(SystemDisk(tmp_path))
    sink.add(rows(0, 3))
    sink.add(rows(3, 2))
    sink.sync()
    with pa.OSFile(str(tmp_path / "sinks" / "waves.arrows")) as file:
        table = pa.ipc.open_stream(file).read_all()
    assert table.num_rows == sink.rows == 5
    assert table.column_names == ["origin", "seq", "time_ns", "frame", "rms"]
    notes = table.schema.field("frame").metadata
    assert notes == {b"unit": b"V,A", b"shape": b"[2, 3]", b"scale": b"[0.5, 2.0]"}
    assert table.schema.field("rms").metadata[b"unit"] == b"A"
    assert table.column("frame")[4].as_py() == rows(3, 2).columns["frame"][1].reshape(-1).tolist()


@given(batches(), st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5, unique=True))
def test_rows_of_many_origins_are_one_record_that_is_valid_throughout(drawn, names):
    batch, schema = drawn
    each = [Batch(batch.stream, name, batch.seq, batch.time_ns, batch.columns) for name in names]
    disk = MemoryDisk()
    sink = SinkFile(disk, "any", schema)
    sink.add(Block.joined(each))
    sink.sync()
    (record,) = pa.ipc.open_stream(disk.files[sink.path])
    record.validate(full=True)
    assert record.column("origin").to_pylist() == [name for name in names for _ in range(len(batch))]
    for place, one in enumerate(each):
        part = pa.BufferOutputStream()
        with pa.ipc.new_stream(part, record.schema) as writer:
            writer.write_batch(record.slice(place * len(batch), len(batch)))
        assert same(read(part.getvalue().to_pybytes(), schema, batch.stream), [one])


def test_the_bytes_are_those_that_arrow_itself_understands_as_the_same_schema():
    disk = MemoryDisk()
    sink = opened(disk)
    sink.sync()
    frame = {"unit": "V,A", "shape": "[2, 3]", "scale": "[0.5, 2.0]"}
    rms = {"unit": "A", "shape": "[]", "scale": "[]"}
    expected = pa.schema(
        [
            pa.field("origin", pa.string()),
            pa.field("seq", pa.int64()),
            pa.field("time_ns", pa.int64()),
            pa.field("frame", pa.list_(pa.int16(), 6), metadata=frame),
            pa.field("rms", pa.float32(), metadata=rms),
        ]
    )
    assert pa.ipc.open_stream(disk.files[sink.path]).schema.equals(expected, check_metadata=True)


def test_a_sink_without_rows_is_a_readable_file():
    disk = MemoryDisk()
    sink = opened(disk)
    sink.sync()
    assert pa.ipc.open_stream(disk.files[sink.path]).read_all().num_rows == 0
    assert sink.sync() == len(disk.files[sink.path])


def test_rows_wait_until_they_are_synced():
    disk = MemoryDisk()
    sink = opened(disk)
    assert sink.waiting_bytes == 0
    sink.add(rows(0, 2))
    first = sink.waiting_bytes
    sink.add(rows(2, 2))
    assert sink.waiting_bytes == 2 * first > 0
    assert disk.files[sink.path] == b""
    sink.sync()
    assert sink.waiting_bytes == 0
    assert same(read(disk.files[sink.path], SCHEMA), [rows(0, 2), rows(2, 2)])


@given(st.integers(0, 400), st.binary(max_size=40))
def test_after_a_crash_what_the_checkpoint_does_not_know_is_cut_off_and_written_again(torn_bytes, garbage):
    disk = MemoryDisk()
    sink = opened(disk)
    sink.add(rows(0, 2))
    known, known_rows = sink.sync(), sink.rows
    sink.add(rows(2, 3))
    sink.sync()
    disk.files[sink.path] = disk.files[sink.path][: known + torn_bytes] + garbage
    restarted = SinkFile(disk, "waves", SCHEMA)
    restarted.cut_back(known, known_rows)
    assert same(read(disk.files[sink.path], SCHEMA), [rows(0, 2)])
    restarted.add(rows(2, 3))
    assert restarted.sync() == len(disk.files[sink.path])
    assert restarted.rows == 5
    assert same(read(disk.files[sink.path], SCHEMA), [rows(0, 2), rows(2, 3)])


@pytest.mark.parametrize("synced_before", [True, False])
def test_on_a_full_disk_rows_go_on_waiting_and_are_written_once_when_there_is_space(synced_before):
    disk = MemoryDisk()
    sink = opened(disk)
    expected = [rows(0, 2)] if synced_before else []
    for batch in expected:
        sink.add(batch)
        sink.sync()
    disk.full = True
    for first in (2, 4):
        sink.add(rows(first, 2))
        waiting = sink.waiting_bytes
        for _ in range(2):
            with pytest.raises(HostError) as caught:
                sink.sync()
            assert caught.value.code == "host.disk-full"
            assert sink.waiting_bytes == waiting
    disk.full = False
    assert sink.sync() == len(disk.files[sink.path])
    assert same(read(disk.files[sink.path], SCHEMA), [*expected, rows(2, 2), rows(4, 2)])


def test_a_file_that_somebody_cut_short_is_an_error_and_is_not_written_to():
    disk = MemoryDisk()
    sink = opened(disk)
    sink.add(rows(0, 2))
    sink.sync()
    shorter = disk.files[sink.path] = disk.files[sink.path][:-1]
    sink.add(rows(2, 2))
    with pytest.raises(HostError) as caught:
        sink.sync()
    assert caught.value.code == "host.disk"
    assert disk.files[sink.path] == shorter


def test_a_file_shorter_than_the_checkpoint_cannot_be_cut_back():
    with pytest.raises(AssertionError):
        SinkFile(MemoryDisk(), "waves", SCHEMA).cut_back(10, 1)
