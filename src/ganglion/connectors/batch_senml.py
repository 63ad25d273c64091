"""Batches on a device's way to its gateway: a SenML pack with one ``vd`` record per field (RFC 8428).

The base name is ``urn:dev:ops:<origin>:``, the base time the time of the first row. Records, in this order:

* ``Seq`` ``v``: sequence number of the first row;
* ``SeqStep`` ``v`` or ``SeqGaps`` ``vd``: only when the numbers do not go up by one;
* ``TimeStep`` ``v`` (seconds) or ``TimeGaps`` ``vd`` (nanoseconds): only when times differ;
* each field in schema order, ``vd``: the column as packed little-endian values, booleans a byte each.

Gaps are the differences from row to row, signed 32-bit integers or, where one does not fit, 64-bit ones.
Capitals cannot clash with a field, whose name has none. The number of rows follows from the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.connectors.senml import (
    Number,
    Record,
    exact_seconds,
    nanoseconds,
    pack,
    unpack,
)
from ganglion.core.batch import Batch, Int64s
from ganglion.core.errors import DataError
from ganglion.core.origins import is_name
from ganglion.core.schema import Field, Schema

URN = "urn:dev:ops:"
_NO_BASES = Record()[:6]


def _bad(kind: str, what: str, why: str) -> DataError:
    return DataError(
        f"batch.{kind}",
        what,
        why=why,
        next_step="run the device and its parent from the same plan and version",
    )


def encode(batch: Batch, schema: Schema) -> bytes:
    """The payload of a batch that passes ``batch.check(schema)``, whose errors it raises.

    Raises `DataError` ``batch.origin`` for an origin SenML cannot name (letters, digits and ``- : . / _``, at
    most 128) and ``senml.size`` when the pack is larger than a payload may be.
    """
    batch.check(schema)
    if not is_name(batch.origin):
        raise _bad(
            "origin", f"{batch.origin!r} cannot name an origin", "SenML names are letters, digits, - : . / _"
        )
    first = Record(
        base_name=f"{URN}{batch.origin}:",
        base_time=exact_seconds(int(batch.time_ns[0])),
        name="Seq",
        value=batch.first_seq,
    )
    records = [first]
    _add_gaps(records, "Seq", _gaps(batch.seq), default=1)
    _add_gaps(records, "Time", _gaps(batch.time_ns), default=0)
    for field in schema.fields:
        column = np.ascontiguousarray(batch.columns[field.name], _little(field))
        records.append(Record(name=field.name, data=column.tobytes(), unit=field.unit or None))
    return pack(records)


def _little(field: Field) -> np.dtype[Any]:
    return field.type.numpy.newbyteorder("<")


def _gaps(values: Int64s) -> Int64s:
    """Differences from row to row; modulo 2**64, which addition undoes."""
    return np.diff(values)


def _add_gaps(records: list[Record], name: str, gaps: Int64s, default: int) -> None:
    """Nothing when every gap is the default, a step when all are equal, else all of them."""
    if not gaps.size or (gaps == default).all():
        return
    step = int(gaps[0])
    if (gaps == step).all():
        value: Number = exact_seconds(step) if name == "Time" else step
        unit = "s" if name == "Time" else None
        records.append(Record(name=f"{name}Step", value=value, unit=unit))
        return
    narrow = int(gaps.min()) >= -(2**31) and int(gaps.max()) < 2**31
    records.append(Record(name=f"{name}Gaps", data=gaps.astype("<i4" if narrow else "<i8").tobytes()))


def decode(payload: bytes, stream: str, schema: Schema) -> Batch:
    """The batch in a payload, checked against the schema; its columns may be read-only.

    Raises `DataError`: ``senml.*`` (see `unpack`), ``batch.origin``, ``batch.schema`` (fields, units or sizes
    are not the schema's), ``batch.sequence``, ``senml.time``.
    """
    records = unpack(payload)
    first = records[0]
    origin = _origin(first)
    _only_name_and_value(first._replace(base_name=None, base_time=None, base_version=None), stream)
    if first.name != "Seq" or type(first.value) is not int or first.base_time is None:
        raise _bad(
            "sequence", f"{stream} of {origin}: no first sequence number", "Seq with a base time leads"
        )
    steps, columns_at = _row_records(records, stream, origin)
    columns = _columns(records[columns_at:], stream, origin, schema)
    count = len(next(iter(columns.values())))
    start_ns = nanoseconds(first.base_time)
    seq = _spread(first.value, steps.get("Seq"), count, 1, stream)
    if count > 1 and (seq[1:] <= seq[:-1]).any():  # also when they wrapped, which differences would not show
        raise _bad("sequence", f"{stream} of {origin}: bad row numbers", "they must go up, within 64 bits")
    return Batch(
        stream,
        origin,
        seq,
        _spread(start_ns, steps.get("Time"), count, 0, stream),
        columns,
    ).check(schema)


def _origin(first: Record) -> str:
    name = first.base_name or ""
    origin = name[len(URN) : -1]
    if not name.startswith(URN) or not name.endswith(":") or not is_name(origin):
        raise _bad("origin", f"base name {name[:64]!r} names no origin", f"it must be {URN}<origin>:")
    return origin


def _row_records(records: Sequence[Record], stream: str, origin: str) -> tuple[dict[str, Record], int]:
    """The records about rows by what they speak of, and where the fields begin."""
    found: dict[str, Record] = {}
    at = 1
    for record in records[1:3]:
        name = record.name or ""
        of, kind = name[:-4], name[-4:]
        if of not in ("Seq", "Time") or kind not in ("Step", "Gaps"):
            break
        _only_name_and_value(record, stream)
        wanted, other = (record.value, record.data) if kind == "Step" else (record.data, record.value)
        if of in found or wanted is None or other is not None:
            raise _bad(
                "sequence", f"{stream} of {origin}: {record.name} is wrong", "one step or vd of gaps each"
            )
        found[of] = record
        at += 1
    return found, at


def _only_name_and_value(record: Record, stream: str) -> None:
    if record[:6] != _NO_BASES or any(
        part is not None for part in (record.time, record.sum, record.text, record.boolean)
    ):
        raise _bad(
            "schema", f"{stream}: record {record.name!r} is strange", "it has more than name and value"
        )


def _columns(
    records: Sequence[Record], stream: str, origin: str, schema: Schema
) -> dict[str, npt.NDArray[Any]]:
    names = tuple(record.name for record in records)
    if names != schema.names:
        raise _bad(
            "schema", f"{stream} of {origin} has fields {str(names)[:200]}", f"promised {list(schema.names)}"
        )
    return {
        field.name: _column(record, field, stream)
        for record, field in zip(records, schema.fields, strict=True)
    }


def _column(record: Record, field: Field, stream: str) -> npt.NDArray[Any]:
    _only_name_and_value(record, stream)
    size = field.type.size_bytes
    if record.data is None or record.value is not None or not record.data or len(record.data) % size:
        raise _bad(
            "schema", f"{stream}.{field.name} is not packed rows", f"a vd of whole rows of {size} bytes"
        )
    if (record.unit or "") != field.unit:
        raise _bad(
            "schema", f"{stream}.{field.name} is in {record.unit!r}", f"the flow promised {field.unit!r}"
        )
    if field.type.dtype == "bool" and max(record.data) > 1:
        raise _bad("schema", f"{stream}.{field.name} is not booleans", "each is a byte 0 or 1")
    values = np.frombuffer(record.data, _little(field)).astype(field.type.numpy, copy=False)
    return values.reshape(len(record.data) // size, *field.type.shape)


def _spread(start: int, gaps: Record | None, count: int, default: int, stream: str) -> Int64s:
    """The rows' numbers from the first one and the gaps; raises ``batch.sequence`` unless they match."""
    step = default
    if gaps is not None and gaps.data is not None:
        out = np.empty(count, np.int64)
        out[0] = _in_64_bits(start, stream)
        out[1:] = _packed_gaps(gaps.data, count, stream)
        return np.cumsum(out, out=out)
    if gaps is not None and gaps.value is not None:
        step = nanoseconds(gaps.value) if gaps.name == "TimeStep" else _whole(gaps.value, stream)
    if count == 1:
        return np.array([_in_64_bits(start, stream)], np.int64)
    # Beyond 64 bits both wrap, as `encode`'s differences do.
    return np.arange(count, dtype=np.int64) * _in_64_bits(step, stream) + _in_64_bits(start, stream)


def _in_64_bits(number: int, stream: str) -> int:
    if not -(2**63) <= number < 2**63:
        raise _bad("sequence", f"{stream}: a row number is beyond 64 bits", "rows are numbered in 64 bits")
    return number


def _whole(step: Number, stream: str) -> int:
    if type(step) is not int:
        raise _bad("sequence", f"{stream}: step {step} is not a whole number", "sequence numbers are whole")
    return step


def _packed_gaps(data: bytes, count: int, stream: str) -> Int64s:
    width = len(data) // (count - 1) if count > 1 else 0
    if width not in (4, 8) or len(data) != width * (count - 1):
        raise _bad(
            "sequence", f"{stream}: {len(data)} bytes of gaps for {count} rows", "4 or 8 bytes between rows"
        )
    return np.frombuffer(data, f"<i{width}").astype(np.int64)
