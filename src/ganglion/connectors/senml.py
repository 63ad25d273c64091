"""SenML records as CBOR (RFC 8428): packing, unpacking and resolving, with exact times."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple, NoReturn

import cbor2

from ganglion.core.errors import DataError

PAYLOAD_BYTES_MAX = 1 << 16
RECORDS_MAX = 1024
VERSION = 10
"""The version of RFC 8428 (section 4.4); a pack without ``bver`` has it."""
RELATIVE_BELOW_S = 1 << 28
"""A time below this many seconds is relative to now (section 4.5.3)."""
DIGITS_MAX = 40
"""Digits of a decimal before or after the point, ample for times; hostile exponents must not cost memory."""

Number = int | float | Decimal
_EXACT = Context(prec=2 * DIGITS_MAX + 2, traps=[Inexact, InvalidOperation])
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]*")


class Record(NamedTuple):
    """One record as it stands in a pack (section 4.2); None: the label is absent.

    Times are seconds; `exact_seconds` and `nanoseconds` convert without loss. Values are finite.
    """

    base_name: str | None = None
    base_time: Number | None = None
    base_unit: str | None = None
    base_value: Number | None = None
    base_sum: Number | None = None
    base_version: int | None = None
    name: str | None = None
    unit: str | None = None
    time: Number | None = None
    update_time: Number | None = None
    value: Number | None = None
    text: str | None = None
    boolean: bool | None = None
    data: bytes | None = None
    sum: Number | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A record by itself (section 4.6): full name, exact time in seconds, bases added.

    ``time`` is absolute when the caller of `resolve` said what now is, else as sent.
    """

    name: str
    time: Decimal
    unit: str | None = None
    value: Number | None = None
    text: str | None = None
    boolean: bool | None = None
    data: bytes | None = None
    sum: Number | None = None
    update_time: Decimal | None = None


_NUMBER = (int, float, Decimal)
# Section 6, table 4: label and types of each part of a `Record`, in its order (that of the RFC's example).
_LABELS: tuple[tuple[int, tuple[type, ...]], ...] = (
    (-2, (str,)),
    (-3, _NUMBER),
    (-4, (str,)),
    (-5, _NUMBER),
    (-6, _NUMBER),
    (-1, (int,)),
    (0, (str,)),
    (1, (str,)),
    (6, _NUMBER),
    (7, _NUMBER),
    (2, _NUMBER),
    (3, (str,)),
    (4, (bool,)),
    (8, (bytes,)),
    (5, _NUMBER),
)
_PLACES = {label: (place, types) for place, (label, types) in enumerate(_LABELS)}
_LABEL_BYTES = tuple(bytes((label if label >= 0 else 0x1F - label,)) for label, _ in _LABELS)
_ABSENT: tuple[Any, ...] = (None,) * len(_LABELS)


def _bad(kind: str, why: str) -> DataError:
    return DataError(
        f"senml.{kind}",
        "a payload is not a SenML pack in CBOR",
        why=why,
        next_step="look at its sender; RFC 8428 sections 4 and 6 have the format",
    )


def exact_seconds(time_ns: int) -> Decimal:
    """Seconds of whole nanoseconds (64 bits), as the decimal fraction that says exactly that."""
    return Decimal(time_ns).scaleb(-9, _EXACT)


def nanoseconds(seconds: Number) -> int:
    """Whole nanoseconds of a time in seconds; a float counts as its shortest decimal spelling.

    Raises `DataError` ``senml.time`` when it is finer than a nanosecond or beyond 64 bits, ``senml.value``
    when it is not finite or spans more than `DIGITS_MAX` digits.
    """
    scaled = _exact(seconds).scaleb(9, _EXACT)
    whole = scaled.to_integral_value()
    if whole != scaled or not -(2**63) <= whole < 2**63:
        raise _bad("time", f"{seconds} s is not a whole number of nanoseconds in 64 bits")
    return int(whole)


def _exact(number: Number) -> Decimal:
    """The number as a decimal of at most `DIGITS_MAX` digits before and after the point."""
    if isinstance(number, float):
        number = Decimal(repr(number))
    elif isinstance(number, int):
        if number.bit_length() > 128:  # checked before: writing out a huge int is slow
            raise _bad("value", "an integer of more than 128 bits")
        number = Decimal(number)
    if not number.is_finite():
        raise _bad("value", f"{number} is not a finite number")
    _, digits, exponent = number.as_tuple()
    if len(digits) > DIGITS_MAX or abs(int(exponent)) > DIGITS_MAX or abs(number.adjusted()) > DIGITS_MAX:
        raise _bad("value", f"a number that spans more than {DIGITS_MAX} digits")
    return number


# --- packing ---


def pack(records: Iterable[Record]) -> bytes:
    """The CBOR of a pack (section 6): integer labels, shortest floats, decimals as tag 4, definite lengths.

    Raises `DataError` ``senml.size`` for more than `RECORDS_MAX` records or `PAYLOAD_BYTES_MAX` bytes.
    """
    rows = [_pack_record(record) for record in records]
    if len(rows) > RECORDS_MAX:
        raise _bad("size", f"{len(rows)} records; at most {RECORDS_MAX}")
    payload = _head(0x80, len(rows)) + b"".join(rows)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise _bad("size", f"{len(payload)} bytes; at most {PAYLOAD_BYTES_MAX}")
    return payload


def _pack_record(record: Record) -> bytes:
    # By pairs, not as a dict: canonical CBOR, which has the shortest floats, would reorder the labels.
    parts = [b""]
    for label, value in zip(_LABEL_BYTES, record, strict=True):
        if value is not None:
            parts.append(label)
            parts.append(_pack_value(value))
    parts[0] = _head(0xA0, len(parts) // 2)
    return b"".join(parts)


def _pack_value(value: Any) -> bytes:
    if isinstance(value, Decimal):
        exponent = int(_exact(value).as_tuple().exponent)
        mantissa = int(value.scaleb(-exponent, _EXACT))
        if not -(2**63) <= mantissa < 2**63:
            raise _bad("value", f"{value} does not fit a decimal fraction of 64 bits")
        return cbor2.dumps(cbor2.CBORTag(4, [exponent, mantissa]))
    if isinstance(value, bytes):
        return _head(0x40, len(value)) + value
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad("value", f"{value} is not a number")
    if isinstance(value, int) and not -(2**64) <= value < 2**64:
        raise _bad("value", "an integer of more than 64 bits")
    try:
        return cbor2.dumps(value, canonical=True)
    except (cbor2.CBOREncodeError, UnicodeEncodeError) as error:
        raise _bad("value", str(error)) from error


def _head(major: int, count: int) -> bytes:
    """The initial bytes of a CBOR item: its major type (in the top three bits) with a length."""
    if count < 24:
        return bytes((major | count,))
    if count < 1 << 8:
        return bytes((major | 24, count))
    return bytes((major | 25,)) + count.to_bytes(2, "big") if count < 1 << 16 else _long_head(major, count)


def _long_head(major: int, count: int) -> bytes:
    """As `_head` for 65536 and more; such an item is refused by its size afterwards."""
    return bytes((major | 27,)) + count.to_bytes(8, "big")


# --- unpacking ---


def _refuse(tag: int, _value: Any, _immutable: bool) -> NoReturn:
    raise _bad("tag", f"CBOR tag {tag} has no place in SenML")


def _decimal(value: Any, _immutable: bool) -> Decimal:
    """Tag 4: [exponent, mantissa], both plain integers, so at most 64 bits."""
    exponent, mantissa = value
    if type(exponent) is not int or type(mantissa) is not int or abs(exponent) > DIGITS_MAX:
        raise _bad("value", "a decimal fraction is two integers, its exponent small")
    return Decimal(mantissa).scaleb(exponent, _EXACT)


def _refuse_unknown(*args: Any) -> NoReturn:
    tag = next(a for a in args if isinstance(a, cbor2.CBORTag))
    _refuse(tag.tag, None, False)


# cbor2 turns many tags into dates, patterns, mails or shared references: none may come from a datagram.
_TAGS = (0, 1, 2, 3, 5, 25, 28, 29, 30, 35, 36, 37, 43000, 52, 54, 100, 256, 258, 260, 261, 1004, 55799)
_DECODERS: dict[int, Any] = {tag: partial(_refuse, tag) for tag in _TAGS} | {4: _decimal}


def unpack(payload: bytes) -> tuple[Record, ...]:
    """The records of a pack, as they stand in it.

    Raises `DataError` ``senml.size`` (too many bytes or records), ``senml.cbor`` (not one well-formed item,
    indefinite lengths, repeated labels), ``senml.tag``, ``senml.pack`` (no array of maps), ``senml.label``
    (must be understood and is not, section 4.4), ``senml.value`` (wrong for its label), ``senml.version``.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise _bad("size", f"{len(payload)} bytes; at most {PAYLOAD_BYTES_MAX}")
    rows = _loads(payload)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise _bad("pack", "it is not an array of at least one map")
    if len(rows) > RECORDS_MAX:
        raise _bad("size", f"{len(rows)} records; at most {RECORDS_MAX}")
    return tuple(record_of(row) for row in rows)


def _loads(payload: bytes) -> Any:
    decoder = cbor2.CBORDecoder(
        BytesIO(payload),
        semantic_decoders=_DECODERS,
        tag_hook=_refuse_unknown,
        max_depth=4,
        allow_indefinite=False,
        allow_duplicate_keys=False,
    )
    try:
        rows = decoder.decode()
    except DataError:
        raise
    except Exception as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from error
        raise _bad("cbor", str(error)) from error
    try:
        decoder.read(1)
    except cbor2.CBORDecodeEOF:
        return rows
    raise _bad("cbor", "bytes follow the pack")


def record_of(row: dict[Any, Any]) -> Record:
    """A record of its labels, as CBOR numbers them; raises ``senml.label``, ``senml.value`` or ``senml.version``."""
    values = list(_ABSENT)
    for label, value in row.items():
        # bool is an int to Python, not to SenML.
        known = _PLACES.get(label) if type(label) is int else None
        if known is not None:
            place, types = known
            if type(value) not in types or (type(value) is float and not math.isfinite(value)):
                raise _bad("value", f"label {label} holds {str(value)[:40]!r}")
            values[place] = value
        elif type(label) is str:
            if label.endswith("_"):
                raise _bad("label", f"{label[:40]!r} must be understood and is not (section 4.4)")
        elif type(label) is not int:
            raise _bad("label", f"a label is a number or a text, not {type(label).__name__}")
    record = Record(*values)
    if record.base_version is not None and record.base_version > VERSION:
        raise _bad("version", f"version {record.base_version}; {VERSION} is the highest known")
    return record


# --- resolving ---


def resolve(records: Sequence[Record], now_s: Decimal | None = None) -> tuple[Resolved, ...]:
    """Records that stand alone (section 4.6), in the order of the pack; records with bases only give none.

    With ``now_s`` (seconds since the epoch) relative times become absolute (4.5.3). Raises `DataError`
    ``senml.name`` (empty or with characters the RFC forbids), ``senml.value`` (not exactly one value or a sum,
    or too large a number), ``senml.version`` (two of them).
    """
    resolved: list[Resolved] = []
    bases = Record()
    version: int | None = None
    for record in records:
        if record.base_version is not None:
            if version not in (None, record.base_version):
                raise _bad("version", "a pack has two versions (section 4.4)")
            version = record.base_version
        bases = Record(
            base_name=_newer(record.base_name, bases.base_name),
            base_time=_newer(record.base_time, bases.base_time),
            base_unit=_newer(record.base_unit, bases.base_unit),
            base_value=_newer(record.base_value, bases.base_value),
            base_sum=_newer(record.base_sum, bases.base_sum),
        )
        own = _resolve_one(record, bases, now_s)
        if own is not None:
            resolved.append(own)
    return tuple(resolved)


def _newer(own: Any, inherited: Any) -> Any:
    return inherited if own is None else own


def _resolve_one(record: Record, bases: Record, now_s: Decimal | None) -> Resolved | None:
    values = [v for v in (record.value, record.text, record.boolean, record.data) if v is not None]
    if len(values) > 1:
        raise _bad("value", "a record has more than one value")
    if (
        not values
        and record.name is None
        and record.time is None
        and record.unit is None
        and record.sum is None
    ):
        return None  # bases only
    # Section 4.2: a base value or sum stands in for a missing value or sum.
    value = _plus(record.value, bases.base_value) if record.value is not None or not values else None
    total = _plus(record.sum, bases.base_sum)
    if value is None and not values and total is None:
        raise _bad("value", "a record has neither a value nor a sum")
    name = (bases.base_name or "") + (record.name or "")
    if not _NAME.fullmatch(name):
        raise _bad("name", f"{name!r} is not a SenML name (section 4.5.1)")
    time = _EXACT.add(_exact(bases.base_time or 0), _exact(record.time or 0))
    if now_s is not None and time < RELATIVE_BELOW_S:
        time = _EXACT.add(time, now_s)
    return Resolved(
        name,
        time,
        _newer(record.unit, bases.base_unit),
        value,
        record.text,
        record.boolean,
        record.data,
        total,
        None if record.update_time is None else _exact(record.update_time),
    )


def _plus(own: Number | None, inherited: Number | None) -> Number | None:
    if own is None or inherited is None:
        return inherited if own is None else own
    if isinstance(own, Decimal) or isinstance(inherited, Decimal):
        return _EXACT.add(_exact(own), _exact(inherited))
    total = own + inherited
    if isinstance(total, float) and not math.isfinite(total):
        raise _bad("value", f"{own} and its base {inherited} add up to no finite number")
    return total
