"""Rows as an Arrow IPC stream: a message with the schema, then one for each batch or block of rows.

Written here, since Arrow's own library takes 26 MB of a gateway's memory and we only ever append plain columns
(docs/adr/0033). The form is that of Arrow's columnar format, version 5 of its metadata, without dictionaries,
compression or missing values.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ganglion.core.block import Block, Rows
from ganglion.core.schema import Field, Schema
from ganglion.engine.flatbuffer import Writer, buffer, pairs, table, text, vector

CONTINUATION = 0xFFFFFFFF
METADATA_V5 = 4
SCHEMA, RECORD_BATCH = 1, 3
"""Kinds of a message."""
INT, FLOAT, UTF8, BOOL, FIXED_SIZE_LIST = 2, 3, 5, 6, 16
"""Kinds of a field's type."""
_TYPES: dict[str, tuple[int, Writer]] = {
    "f32": (FLOAT, table({0: ("h", 1)})),
    "f64": (FLOAT, table({0: ("h", 2)})),
    "i16": (INT, table({0: ("i", 16), 1: ("?", True)})),
    "i32": (INT, table({0: ("i", 32), 1: ("?", True)})),
    "i64": (INT, table({0: ("i", 64), 1: ("?", True)})),
    "bool": (BOOL, table({})),
    "text": (UTF8, table({})),
}
_NUMPY = {"f32": "<f4", "f64": "<f8", "i16": "<i2", "i32": "<i4", "i64": "<i8", "bool": "?"}


class ArrowRecords:
    """Rows of one schema: origin, seq, time_ns, then its fields; frames are fixed-size lists.

    ``head``: what stands before the first record. Units, shapes and scales are notes of the fields.
    """

    def __init__(self, schema: Schema) -> None:
        self._fields = schema.fields
        columns = [_plain("origin", "text"), _plain("seq", "i64"), _plain("time_ns", "i64")]
        columns += [_field(f) for f in schema.fields]
        self.head = _message(SCHEMA, table({1: vector(columns)}), 0)

    def record(self, rows: Rows) -> bytes:
        """What is appended for ``rows``."""
        count, body = len(rows), _Body()
        body.column(count, *_names(rows))
        body.column(count, _flat(rows.seq, "i64"))
        body.column(count, _flat(rows.time_ns, "i64"))
        for f in self._fields:
            if f.type.shape:
                body.column(count)
            body.column(count * f.type.elements, _flat(rows.columns[f.name], f.type.dtype))
        batch = table({0: ("q", count), 1: pairs(body.nodes), 2: pairs(body.places)})
        return b"".join((_message(RECORD_BATCH, batch, body.size_bytes), *body.parts))


class _Body:
    """What follows a record's head: the buffers of its columns, each as long as a multiple of eight."""

    def __init__(self) -> None:
        self.nodes: list[int] = []
        self.places: list[int] = []
        self.parts: list[bytes] = []
        self.size_bytes = 0

    def column(self, count: int, *buffers: bytes) -> None:
        """``count`` values, none of which is missing: the buffer that would say so is empty."""
        self.nodes += (count, 0)
        for content in (b"", *buffers):
            self.places += (self.size_bytes, len(content))
            self.parts += (content, bytes(-len(content) % 8))
            self.size_bytes += -(-len(content) // 8) * 8


def _message(kind: int, header: Writer, body_bytes: int) -> bytes:
    content = buffer(table({0: ("h", METADATA_V5), 1: ("B", kind), 2: header, 3: ("q", body_bytes)}))
    return struct.pack("<Ii", CONTINUATION, len(content)) + content


def _plain(name: str, dtype: str, notes: Writer | None = None) -> Writer:
    kind, form = _TYPES[dtype]
    return _column(name, kind, form, (), notes)


def _column(name: str, kind: int, form: Writer, children: tuple[Writer, ...], notes: Writer | None) -> Writer:
    said = {} if notes is None else {6: notes}
    return table({0: text(name), 1: ("?", True), 2: ("B", kind), 3: form, 5: vector(children), **said})


def _field(f: Field) -> Writer:
    said = {"unit": f.unit, "shape": str(list(f.type.shape)), "scale": str(list(f.scale))}
    notes = vector([table({0: text(key), 1: text(value)}) for key, value in said.items()])
    if not f.type.shape:
        return _plain(f.name, f.type.dtype, notes)
    size = table({0: ("i", f.type.elements)})
    return _column(f.name, FIXED_SIZE_LIST, size, (_plain("item", f.type.dtype),), notes)


def _flat(values: Any, dtype: str) -> bytes:
    flat = np.ascontiguousarray(values, _NUMPY[dtype]).reshape(-1)
    return (np.packbits(flat, bitorder="little") if dtype == "bool" else flat).tobytes()


def _names(rows: Rows) -> tuple[bytes, bytes]:
    """The origin of each row: where each text ends, and the texts."""
    if not isinstance(rows, Block):
        content, count = rows.origin.encode(), len(rows)
        return _ends(np.full(count, len(content), np.int64)), content * count
    each = [origin.encode() for origin in rows.origins]
    sizes = np.array([len(name) for name in each], np.int64)[rows.origin_index]
    return _ends(sizes), b"".join([each[i] for i in rows.origin_index.tolist()])


def _ends(sizes: Any) -> bytes:
    return np.concatenate(([0], np.cumsum(sizes))).astype("<i4").tobytes()
