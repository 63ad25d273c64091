"""Sinks: rows kept in one Arrow IPC stream file per sink, each row exactly once.

The checkpoint records each file's length; after a crash the file is cut back to it and the replay writes the rest
again. Any Arrow reader opens the files (``pyarrow.ipc.open_stream``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ganglion.core.block import Block, Rows
from ganglion.core.errors import HostError
from ganglion.core.schema import Schema
from ganglion.host.ports import Disk

_ARROW = {
    "f32": pa.float32(),
    "f64": pa.float64(),
    "i16": pa.int16(),
    "i32": pa.int32(),
    "i64": pa.int64(),
    "bool": pa.bool_(),
}
_NUMPY = {"f32": "<f4", "f64": "<f8", "i16": "<i2", "i32": "<i4", "i64": "<i8", "bool": "?"}

_POOL = pa.system_memory_pool()
"""Arrow's own pool sets aside four megabytes for the first record."""


def arrow_schema(schema: Schema) -> pa.Schema:
    """origin, seq, time_ns, then the fields; frames are fixed-size lists with their shape as metadata."""
    fields = [pa.field("origin", pa.string()), pa.field("seq", pa.int64()), pa.field("time_ns", pa.int64())]
    for f in schema.fields:
        kind = _ARROW[f.type.dtype]
        arrow = pa.list_(kind, f.type.elements) if f.type.shape else kind
        notes = {"unit": f.unit, "shape": str(list(f.type.shape)), "scale": str(list(f.scale))}
        fields.append(pa.field(f.name, arrow, metadata=notes))
    return pa.schema(fields)


# Arrays are made of buffers: `pyarrow.array` imports pandas where that is installed, a quarter of a second in the
# middle of a run.
def _flat(values: Any, dtype: str) -> Any:
    flat = np.ascontiguousarray(values, _NUMPY.get(dtype)).reshape(-1)
    content = np.packbits(flat, bitorder="little") if dtype == "bool" else flat
    return pa.Array.from_buffers(_ARROW[dtype], len(flat), [None, pa.py_buffer(content)])


def _text(value: str, count: int) -> Any:
    content = value.encode()
    ends = np.arange(count + 1, dtype=np.int32) * len(content)
    return pa.Array.from_buffers(
        pa.string(), count, [None, pa.py_buffer(ends), pa.py_buffer(content * count)]
    )


def _names(block: Block) -> Any:
    each = [origin.encode() for origin in block.origins]
    sizes = np.array([len(name) for name in each], np.int64)[block.origin_index]
    ends = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    content = b"".join([each[i] for i in block.origin_index.tolist()])
    return pa.Array.from_buffers(pa.string(), len(block), [None, pa.py_buffer(ends), pa.py_buffer(content)])


class SinkFile:
    """One sink's file on a `Disk`; rows wait in memory until `sync`, which the checkpoint calls."""

    def __init__(self, disk: Disk, name: str, schema: Schema) -> None:
        self.path = f"sinks/{name}.arrows"
        self._disk = disk
        self._fields = schema.fields
        self._arrow = arrow_schema(schema)
        self._waiting: list[bytes] = []
        self._size_bytes: int | None = None  # what is whole on disk; None until it was asked
        self.rows = 0

    @property
    def waiting_bytes(self) -> int:
        return sum(len(w) for w in self._waiting)

    def add(self, rows: Rows) -> None:
        """Takes rows; they are on disk after the next `sync`."""
        columns: list[Any] = [_names(rows) if isinstance(rows, Block) else _text(rows.origin, len(rows))]
        columns += [_flat(rows.seq, "i64"), _flat(rows.time_ns, "i64")]
        for f in self._fields:
            flat = _flat(rows.columns[f.name], f.type.dtype)
            columns.append(pa.FixedSizeListArray.from_arrays(flat, f.type.elements) if f.type.shape else flat)
        record = pa.RecordBatch.from_arrays(columns, schema=self._arrow)
        self._waiting.append(record.serialize(memory_pool=_POOL).to_pybytes())
        self.rows += len(rows)

    def sync(self) -> int:
        """Writes and fsyncs what waits; returns the file's length. Blocks: call it in a thread.

        After an error everything still waits, and what was written of it is cut off by the next call.
        """
        size = self._whole()
        if self._waiting or not size:
            head = [] if size else [self._arrow.serialize().to_pybytes()]
            size = self._size_bytes = self._disk.append(self.path, b"".join(head + self._waiting))
            self._waiting = []
        return size

    def _whole(self) -> int:
        size = self._disk.size_bytes(self.path)
        if self._size_bytes is None:
            self._size_bytes = size
        if size < self._size_bytes:
            raise HostError(
                "host.disk",
                f"{self.path} was cut short by somebody else",
                why=f"it had {self._size_bytes} bytes, now it has {size}",
                next_step="put the file back, or start from a fresh --run-dir",
            )
        if size > self._size_bytes:
            self._disk.truncate(self.path, self._size_bytes)
        return self._size_bytes

    def cut_back(self, size_bytes: int, rows: int) -> None:
        """After a restart: forgets what the checkpoint does not know. The file must be at least that long."""
        self._waiting = []
        assert self._disk.size_bytes(self.path) >= size_bytes
        self._disk.truncate(self.path, size_bytes)
        self._size_bytes = size_bytes
        self.rows = rows
