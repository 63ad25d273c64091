"""Payloads as tables: one tuple of wanted values for each reading, in every form a route may declare.

A form is asked for all payloads of a socket read at once. Only when one of them is odd is each looked at by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from io import BytesIO
from operator import itemgetter
from typing import Any, Protocol

import cbor2
import numpy as np
import orjson

from ganglion.connectors.mqtt.columns import TIME_NS_MAX, Refused, shown
from ganglion.connectors.senml import Resolved, nanoseconds, resolve, unpack
from ganglion.connectors.senml_json import unpack_json
from ganglion.core.errors import DataError
from ganglion.core.schema import Schema
from ganglion.core.topology_mqtt import RAW, Route

READINGS_MAX = 4096
"""Readings in one payload."""
DEPTH_MAX = 16
_SEPARATORS = ":/._-"


@dataclass(slots=True)
class Table:
    """Values of readings. ``rows``: one tuple for each, in the order of the wanted keys; ``places``: which payload it
    came in; None: one from each. ``refused``: (place, why) of payloads or parts of them that cannot be read.
    """

    rows: list[tuple[Any, ...]]
    places: list[int] | None = None
    refused: list[tuple[int, Refused]] = field(default_factory=list)


class Form(Protocol):
    """One way of writing readings."""

    def bulk(self, payloads: Sequence[bytes], now_ns: int) -> list[tuple[Any, ...]]:
        """One reading of each payload; raises anything for the odd."""

    def each(self, payload: bytes, now_ns: int) -> list[tuple[Any, ...]]:
        """The readings of one payload; raises `Refused`."""


def table(form: Form, payloads: Sequence[bytes], now_ns: int) -> Table:
    """The readings of all payloads, and which could not be read."""
    try:
        return Table(form.bulk(payloads, now_ns))
    except Exception:  # noqa: BLE001  # whatever is odd, the slow way says it of the payload it is in
        found = Table([], [])
    assert found.places is not None
    for place, payload in enumerate(payloads):
        try:
            rows = form.each(payload, now_ns)
        except Refused as error:
            found.refused.append((place, error))
            continue
        found.rows += rows
        found.places += [place] * len(rows)
    return found


class Documents:
    """Objects with keys, or lists of such objects, in JSON or CBOR."""

    def __init__(self, keys: Sequence[str], loads: Callable[[bytes], Any], name: str) -> None:
        self._keys = tuple(keys)
        self._loads = loads
        self._name = name
        plain = bool(keys) and not any("." in key for key in keys)
        self._single = plain and len(keys) == 1
        self._getter: Callable[[Any], Any] = itemgetter(*keys) if plain else self._values

    def bulk(self, payloads: Sequence[bytes], now_ns: int) -> list[tuple[Any, ...]]:
        rows = list(map(self._getter, map(self._loads, payloads)))
        return [(value,) for value in rows] if self._single else rows

    def each(self, payload: bytes, now_ns: int) -> list[tuple[Any, ...]]:
        try:
            document = self._loads(payload)
        except Exception as error:
            raise Refused("mqtt.payload", f"it is not {self._name}: {_one_line(error)}") from error
        documents = document if isinstance(document, list) else [document]
        if len(documents) > READINGS_MAX:
            raise Refused(
                "mqtt.payload", f"it holds {len(documents)} readings, at most {READINGS_MAX} are taken"
            )
        if not documents:
            raise Refused("mqtt.payload", "it holds no reading")
        return [self._values(one) for one in documents]

    def _values(self, document: Any) -> tuple[Any, ...]:
        if type(document) is not dict:
            raise Refused("mqtt.payload", f"a reading is an object with keys, this is {shown(document)}")
        return tuple(_value(document, key) for key in self._keys)


def _value(document: dict[Any, Any], key: str) -> Any:
    if key in document:
        return document[key]
    found: Any = document
    for part in key.split("."):
        if type(found) is not dict or part not in found:
            raise Refused("mqtt.field", f"there is no {key}")
        found = found[part]
    return found


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _cbor(payload: bytes) -> Any:
    stream = BytesIO(payload)
    value = cbor2.CBORDecoder(stream, tag_hook=_no_tag, max_depth=DEPTH_MAX).decode()
    if stream.tell() != len(payload):
        raise ValueError("bytes follow its end")
    return value


def _no_tag(*_args: Any) -> Any:
    raise ValueError("a tag that is not known here")


class Senml:
    """SenML packs (RFC 8428): records of one device and time are one reading."""

    def __init__(
        self, keys: Sequence[str], unpack_pack: Callable[[bytes], Any], *, with_device: bool
    ) -> None:
        """``keys``: ends of the names of records, one for each field; what stands before it names the device."""
        self._keys = tuple(keys)
        self._unpack = unpack_pack
        self._with_device = with_device

    def bulk(self, payloads: Sequence[bytes], now_ns: int) -> list[tuple[Any, ...]]:
        rows = [self.each(payload, now_ns) for payload in payloads]
        if any(len(r) != 1 for r in rows):
            raise ValueError("several readings in a payload")
        return [r[0] for r in rows]

    def each(self, payload: bytes, now_ns: int) -> list[tuple[Any, ...]]:
        try:
            records = resolve(self._unpack(payload), Decimal(now_ns).scaleb(-9))
            found: dict[tuple[str, int], dict[str, Any]] = {}
            for record in records:
                device, key = self._named(record.name)
                if key is not None:
                    found.setdefault((device, nanoseconds(record.time)), {})[key] = _scalar(record)
        except DataError as error:
            raise Refused("mqtt.payload", f"{error.code}: {error.why}"[:200]) from error
        if not found:
            raise Refused("mqtt.field", f"no record is called {' or '.join(self._keys)}")
        rows = []
        for (device, time_ns), values in found.items():
            if lacking := [k for k in self._keys if k not in values]:
                raise Refused(
                    "mqtt.field", f"there is no {lacking[0]} of {device or 'the device'} at its time"
                )
            if not 0 <= time_ns <= TIME_NS_MAX:
                raise Refused("mqtt.time", "a time lies before 1970")
            own = (device,) if self._with_device else ()
            rows.append((*own, time_ns, *(values[k] for k in self._keys)))
        return rows

    def _named(self, name: str) -> tuple[str, str | None]:
        for key in self._keys:
            before = name.removesuffix(key)
            if name == key or (before != name and before[-1] in _SEPARATORS):
                return before.rstrip(_SEPARATORS), key
        return "", None


def _scalar(record: Resolved) -> Any:
    if record.boolean is not None:
        return record.boolean
    value = record.value
    if value is None:
        return record.text if record.text is not None else record.data
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.adjusted() < 18 else float(value)
    return value


class Packed:
    """Packed numbers: all fields of one row, in their order."""

    def __init__(self, form: str, schema: Schema) -> None:
        found = RAW.fullmatch(form)
        assert found is not None
        kind = found[1]
        self._dtype = np.dtype(f"{'>' if found[2] == 'be' else '<'}{kind[0]}{int(kind[1:]) // 8}")
        self._shapes = [f.type.shape for f in schema.fields]
        self._sizes = [f.type.elements for f in schema.fields]
        self._row_bytes = sum(self._sizes) * self._dtype.itemsize

    def columns(self, payloads: Sequence[bytes]) -> tuple[list[Any], list[int], list[tuple[int, Refused]]]:
        """(an array for each field, the payloads that are rows, why others are not)."""
        places = [p for p, payload in enumerate(payloads) if len(payload) == self._row_bytes]
        refused = [
            (
                p,
                Refused(
                    "mqtt.payload",
                    f"it has {len(payload)} bytes, a row has {sum(self._sizes)} numbers in {self._row_bytes}",
                ),
            )
            for p, payload in enumerate(payloads)
            if len(payload) != self._row_bytes
        ]
        content = b"".join(payloads if not refused else [payloads[p] for p in places])
        rows = np.frombuffer(content, self._dtype).reshape(len(places), -1)
        arrays, at = [], 0
        for shape, size in zip(self._shapes, self._sizes, strict=True):
            arrays.append(rows[:, at : at + size].reshape(len(places), *shape))
            at += size
        return arrays, places, refused


def form_of(route: Route, keys: Sequence[str]) -> Form:
    """The form of a route that is not packed; ``keys``: wanted values (of SenML those of fields only)."""
    with_device = "{" not in route.device
    forms: dict[str, Callable[[], Form]] = {
        "json": partial(Documents, keys, orjson.loads, "JSON"),
        "cbor": partial(Documents, keys, _cbor, "CBOR"),
        "senml+cbor": partial(Senml, keys, unpack, with_device=with_device),
        "senml+json": partial(Senml, keys, unpack_json, with_device=with_device),
    }
    return forms[route.payload]()
