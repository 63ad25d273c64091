"""Rows of one stream from one origin, in columns: what every stage takes and gives."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.core.schema import Schema

BOOT_BITS = 40
"""A sequence number is ``boot << 40 | n``: a restarted origin counts on from a higher number."""
ROWS_MAX = 1 << 20

Int64s = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Batch:
    """``n`` rows of ``stream`` measured by ``origin``.

    ``seq`` int64[n], strictly increasing: the identity of each row with (stream, origin).
    ``time_ns`` int64[n]: event time, nanoseconds since the Unix epoch, as the origin says.
    ``columns``: field name -> array of shape (n, then the field's shape), in schema order.
    """

    stream: str
    origin: str
    seq: Int64s
    time_ns: Int64s
    columns: Columns

    def __len__(self) -> int:
        return int(self.seq.shape[0])

    @property
    def first_seq(self) -> int:
        return int(self.seq[0])

    @property
    def last_seq(self) -> int:
        return int(self.seq[-1])

    @property
    def size_bytes(self) -> int:
        """Payload bytes held in the columns."""
        return sum(int(c.nbytes) for c in self.columns.values())

    def take(self, rows: npt.NDArray[Any] | slice) -> Batch:
        """The rows chosen by a boolean mask, indices or a slice, as a batch of the same stream."""
        return replace(
            self,
            seq=self.seq[rows],
            time_ns=self.time_ns[rows],
            columns={k: v[rows] for k, v in self.columns.items()},
        )

    def renamed(self, stream: str) -> Batch:
        """The same rows under another stream's name."""
        return replace(self, stream=stream)

    def check(self, schema: Schema) -> Batch:
        """Raises `DataError` ``batch.schema`` or ``batch.sequence`` unless the rows are as promised."""
        if not _are_rows(self.seq, self.time_ns):
            raise DataError(
                "batch.sequence",
                f"{self.stream} of {self.origin}: bad row numbers",
                why=f"1 to {ROWS_MAX} rows, one time each, 64-bit integers, sequence strictly increasing",
                next_step="look at the sender: it repeats or reorders rows",
            )
        check_columns(f"{self.stream} of {self.origin}", self.columns, len(self), schema)
        return self

    def row_digests(self) -> list[int]:
        """CRC-32 of each row's column bytes, in schema order: what a checker compares contents by."""
        columns = [np.ascontiguousarray(c) for c in self.columns.values()]
        digests = []
        for i in range(len(self)):
            crc = 0
            for column in columns:
                crc = zlib.crc32(column[i].tobytes(), crc)
            digests.append(crc)
        return digests

    @staticmethod
    def concat(parts: Sequence[Batch]) -> Batch:
        """One batch of the rows of ``parts`` (same stream and origin), in the order given."""
        assert parts and all(p.stream == parts[0].stream and p.origin == parts[0].origin for p in parts)
        if len(parts) == 1:
            return parts[0]
        return Batch(
            parts[0].stream,
            parts[0].origin,
            np.concatenate([p.seq for p in parts]),
            np.concatenate([p.time_ns for p in parts]),
            {k: np.concatenate([p.columns[k] for p in parts]) for k in parts[0].columns},
        )


def check_columns(who: str, columns: Columns, rows: int, schema: Schema) -> None:
    """Raises `DataError` ``batch.schema`` unless the columns are the schema's fields, with ``rows`` rows each."""
    if tuple(columns) != schema.names:
        raise DataError(
            "batch.schema",
            f"{who} has fields {list(columns)}",
            why=f"the flow promised {list(schema.names)}",
            next_step="run the device and its parent from the same plan",
        )
    for field in schema.fields:
        column = columns[field.name]
        if column.shape != (rows, *field.type.shape) or column.dtype != field.type.numpy:
            raise DataError(
                "batch.schema",
                f"{who}: {field.name} is {column.dtype}{list(column.shape)}",
                why=f"the flow promised {rows} rows of {field.type}",
                next_step="run the device and its parent from the same plan",
            )


def _are_rows(seq: npt.NDArray[Any], time_ns: npt.NDArray[Any]) -> bool:
    if seq.ndim != 1 or time_ns.shape != seq.shape or not 1 <= len(seq) <= ROWS_MAX:
        return False
    if seq.dtype != np.int64 or time_ns.dtype != np.int64:
        return False
    # Compared, not subtracted: the difference of two extreme numbers wraps round.
    return bool(np.all(seq[1:] > seq[:-1]))


def sequence(boot: int, count: int) -> int:
    """The sequence number of the ``count``-th row after the ``boot``-th start of an origin."""
    assert 0 <= boot < 1 << (62 - BOOT_BITS) and 0 <= count < 1 << BOOT_BITS
    return boot << BOOT_BITS | count
