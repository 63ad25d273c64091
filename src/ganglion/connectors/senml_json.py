"""SenML records as JSON (RFC 8428, section 5): read only, for devices that speak it over MQTT or HTTP."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any, NoReturn

from ganglion.connectors.senml import PAYLOAD_BYTES_MAX, RECORDS_MAX, Record, record_of
from ganglion.core.errors import DataError

DEPTH_BYTES_MAX = 64
"""Opening brackets in one payload beyond those of records: a pack is flat."""
_LABELS = {
    "bn": -2,
    "bt": -3,
    "bu": -4,
    "bv": -5,
    "bs": -6,
    "bver": -1,
    "n": 0,
    "u": 1,
    "t": 6,
    "ut": 7,
    "v": 2,
    "vs": 3,
    "vb": 4,
    "vd": 8,
    "s": 5,
}


def _bad(kind: str, why: str) -> DataError:
    return DataError(
        f"senml.{kind}",
        "a payload is not a SenML pack in JSON",
        why=why,
        next_step="look at its sender; RFC 8428 sections 4 and 5 have the format",
    )


def unpack_json(payload: bytes) -> tuple[Record, ...]:
    """The records of a pack, as they stand in it; fractions are exact.

    Raises `DataError` ``senml.size`` (too many bytes or records), ``senml.json`` (not well-formed, a label that stands
    twice, NaN), and as `ganglion.connectors.senml.unpack` ``senml.pack``, ``senml.label``, ``senml.value`` and
    ``senml.version``.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise _bad("size", f"{len(payload)} bytes; at most {PAYLOAD_BYTES_MAX}")
    if payload.count(b"[") + payload.count(b"{") > RECORDS_MAX + DEPTH_BYTES_MAX:
        raise _bad("size", f"more than {RECORDS_MAX} records")
    try:
        rows = json.loads(
            payload.decode(), parse_float=Decimal, parse_constant=_no_number, object_pairs_hook=_labelled
        )
    except (ValueError, RecursionError) as error:
        raise _bad("json", str(error)[:120]) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise _bad("pack", "it is not an array of at least one object")
    if len(rows) > RECORDS_MAX:
        raise _bad("size", f"{len(rows)} records; at most {RECORDS_MAX}")
    return tuple(record_of(row) for row in rows)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _labelled(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
    row: dict[Any, Any] = {}
    for name, value in pairs:
        label = _LABELS.get(name, name)
        if label in row:
            raise ValueError(f"{name[:40]!r} stands twice")
        row[label] = _data(value) if name == "vd" and isinstance(value, str) else value
    return row


def _data(text: str) -> bytes:
    """Base64 with the alphabet for addresses, without padding (section 5)."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
