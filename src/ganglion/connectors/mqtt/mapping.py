"""Declared routes at work: messages become readings of streams, and what cannot is given back with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.connectors.mqtt.columns import UNITS_NS, Column, Numbers, Odd, Refused, Times, shown
from ganglion.connectors.mqtt.decoding import Decoded, Form, Wanted, covered
from ganglion.connectors.mqtt.devices import NAME_CHARS_MAX, NUMBERED_BELOW, Devices
from ganglion.connectors.mqtt.payloads import Packed, Table, form_of, table
from ganglion.core.batch import Int64s
from ganglion.core.errors import TopologyError
from ganglion.core.schema import Schema
from ganglion.core.topology_mqtt import Route

NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Readings:
    """Rows of one stream as they came. ``seq`` None: the devices number nothing.

    ``origins``: all known so far; ``origin`` int32[n]: a place in it; with ``seq`` an origin's numbers go up.
    """

    stream: str
    origins: tuple[str, ...]
    origin: npt.NDArray[np.int32]
    seq: Int64s | None
    time_ns: Int64s
    columns: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.time_ns)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message, or one reading of it, that could not be taken: topic, payload, reason code, details."""

    topic: str
    payload: bytes
    code: str
    why: str


Rows = tuple[npt.NDArray[np.int32], Int64s | None, Int64s, dict[str, npt.NDArray[Any]]]
"""Places of devices, sequence numbers, times and columns, as they came."""
Before = Sequence[tuple[int, Decoded]]
"""Rows that C has read, each with how many of the messages left to Python came before them."""


class Mapper:
    """One route: what its messages are as readings of its stream."""

    def __init__(self, route: Route, schema: Schema, devices: Devices) -> None:
        """Raises `TopologyError` ``mqtt.route`` when route and stream do not fit together."""
        _check(route, schema)
        self.route = route
        self.devices = devices
        self._allowed = re.compile(route.admit) if route.admit else None
        self._columns = [Column(f, keep_nan=route.nan == "keep") for f in schema.fields]
        self._in_topic = "{" in route.device
        self._packed = Packed(route.payload, schema) if route.payload.startswith("raw-") else None
        self._senml = route.payload.startswith("senml")
        keys = [] if self._senml or self._in_topic else [route.device]
        keys += [route.time.field] if route.time and not self._senml else []
        by_number = route.sequence is not None and route.sequence != "time"
        keys += [route.sequence] if by_number and route.sequence else []
        keys += [route.fields.get(f.name, f.name) for f in schema.fields]
        self._form = None if self._packed else form_of(route, keys)
        # What stands in a row before the fields, in this order.
        self._device_at = None if self._in_topic else 0
        timed = route.time is not None or self._senml
        self._times = (
            Times("ns" if self._senml else route.time.unit if route.time else "ns") if timed else None
        )
        self._sequence_at = (not self._in_topic) + timed if by_number else None
        self._fields_at = (not self._in_topic) + timed + by_number
        self.repeated = 0
        """Readings that came twice within one socket read; those that came again later are told by their numbers."""
        self._places: dict[str, int] = {}
        self._origins: tuple[str, ...] = ()
        self._on_device: Callable[[str, int], None] | None = None

    @property
    def form(self) -> Form | None:
        """What compiled code looks for in payloads; None when only Python reads them."""
        route = self.route
        wanted = [] if self._in_topic else [Wanted(route.device, "device")]
        if route.time is not None:
            wanted.append(Wanted(route.time.field, "time", factor=UNITS_NS[route.time.unit]))
        if self._sequence_at is not None:
            wanted.append(Wanted(route.sequence or "", "sequence"))
        fields = [c.field for c in self._columns]
        wanted += [Wanted(route.fields.get(f.name, f.name), f.type.dtype, f.name) for f in fields]
        form = tuple(wanted)
        return form if route.payload == "json" and covered(form) else None

    def tell(self, on_device: Callable[[str, int], None]) -> None:
        """Calls it with name and place of each device: those that are known, and each that is let in."""
        self._on_device = on_device
        for name, place in self._places.items():
            on_device(name, place)

    def place(self, topic: Topic) -> int | None:
        """The place of the device that a topic names, -1 when payloads name it; None: it is not known yet."""
        return self._places.get(topic.device) if self._in_topic else -1

    def take(
        self, topics: Sequence[Topic], payloads: Sequence[bytes], now_ns: int, decoded: Before = ()
    ) -> tuple[Readings | None, list[Letter]]:
        """The readings of messages, in their order, and what could not be taken."""
        if self._packed is not None:
            readings, refused = self._take_packed(self._packed, topics, payloads, now_ns)
        else:
            assert self._form is not None
            found = table(self._form, payloads, now_ns)
            refused = found.refused
            try:
                rows = self._rows(found, topics, now_ns) if found.rows else None
            except Odd:
                refused += self._refuse(found, topics)
                rows = self._rows(found, topics, now_ns) if found.rows else None
            if decoded:
                rows = self._merged(rows, found.places, decoded, now_ns)
            readings = None if rows is None else self._readings(rows)
        letters = [Letter(topics[p].text, payloads[p], error.code, error.why) for p, error in refused]
        return readings, letters

    def take_decoded(self, decoded: Decoded, now_ns: int) -> Readings:
        """`take` for rows that C has read, with nothing beside them."""
        return self._readings(self._decoded_rows(decoded, now_ns))

    def _decoded_rows(self, decoded: Decoded, now_ns: int) -> Rows:
        time_ns, seq = decoded.time_ns, decoded.seq
        if time_ns is None:
            time_ns = np.full(len(decoded), now_ns // NS_PER_MS * NS_PER_MS, np.int64)
        if self.route.sequence == "time":
            seq = time_ns
        return decoded.origin, seq, time_ns, decoded.columns

    def _merged(self, rows: Rows | None, places: list[int] | None, decoded: Before, now_ns: int) -> Rows:
        """All rows in the order in which their messages came; ``places``: of the messages of ``rows``."""
        parts = [self._decoded_rows(d, now_ns) for _, d in decoded]
        order: Any = slice(None)
        if rows is not None:
            keys = [np.full(len(d), 2 * before) for before, d in decoded]
            keys.append(2 * np.array(range(len(rows[0])) if places is None else places) + 1)
            order = np.concatenate(keys).argsort(kind="stable")
            parts.append(rows)
        elif len(parts) == 1:
            return parts[0]
        origins, seqs, times, columns = zip(*parts, strict=True)

        def joined(arrays: Sequence[Any]) -> npt.NDArray[Any]:
            whole: npt.NDArray[Any] = np.concatenate(arrays)[order]
            return whole

        seq = None if seqs[0] is None else joined(seqs)
        names = [c.field.name for c in self._columns]
        return joined(origins), seq, joined(times), {n: joined([c[n] for c in columns]) for n in names}

    def _readings(self, rows: Rows) -> Readings:
        origin, seq, time_ns, values = rows
        if seq is not None:
            return self._numbered(origin, seq, time_ns, values)
        return Readings(self.route.stream, self._origins, origin, None, time_ns, values)

    def _rows(self, found: Table, topics: Sequence[Topic], now_ns: int) -> Rows:
        columns = list(zip(*found.rows, strict=True))
        names: Sequence[Any]
        if self._device_at is None:
            places = range(len(topics)) if found.places is None else found.places
            names = [topics[p].device for p in places]
        else:
            names = columns[0]
        count = len(found.rows)
        if self._times is None:
            time_ns = np.full(count, now_ns // NS_PER_MS * NS_PER_MS, np.int64)
        else:
            time_ns = self._times.bulk(columns[0 if self._in_topic else 1])
        seq: Int64s | None = None
        if self._sequence_at is not None:
            seq = Numbers.bulk(columns[self._sequence_at])
        elif self.route.sequence == "time":
            seq = time_ns
        values = {
            c.field.name: c.bulk(column)
            for c, column in zip(self._columns, columns[self._fields_at :], strict=True)
        }
        return self._origin(names), seq, time_ns, values

    def _numbered(
        self, origin: npt.NDArray[np.int32], seq: Int64s, time_ns: Int64s, values: dict[str, npt.NDArray[Any]]
    ) -> Readings:
        """In the order of numbers within each origin, each number once: the first that came."""
        order = np.lexsort((seq, origin))
        place, number = origin[order], seq[order]
        new = np.ones(len(order), np.bool_)
        new[1:] = (place[1:] != place[:-1]) | (number[1:] != number[:-1])
        self.repeated += len(order) - int(new.sum())
        as_came = (order[1:] > order[:-1]) | (place[1:] != place[:-1])
        kept: Any = slice(None) if new.all() and as_came.all() else order[new]
        return Readings(
            self.route.stream,
            self._origins,
            origin[kept],
            seq[kept],
            time_ns[kept],
            {name: column[kept] for name, column in values.items()},
        )

    def _origin(self, names: Sequence[Any]) -> npt.NDArray[np.int32]:
        """Places of the devices; raises `Odd` when one of them is not let in."""
        try:
            if set(map(type, names)) == {str}:
                return np.array(list(map(self._places.__getitem__, names)), np.int32)
        except KeyError:
            pass
        try:
            return np.array([self._place(n) for n in names], np.int32)
        except Refused:
            raise Odd from None

    def _place(self, name: Any) -> int:
        if type(name) is int and abs(name) < NUMBERED_BELOW:  # Python refuses to write out the largest
            name = str(name)
        if type(name) is not str:
            wanted = f"a text or a whole number of at most {NAME_CHARS_MAX} digits"
            raise Refused("mqtt.device", f"the device is {shown(name)}, it must be {wanted}")
        place = self._places.get(name)
        if place is None:
            origin = self.devices.origin(name, self._allowed)
            place = self._places[name] = len(self._origins)
            self._origins = (*self._origins, origin)
            if self._on_device is not None:
                self._on_device(name, place)
        return place

    def _refuse(self, found: Table, topics: Sequence[Topic]) -> list[tuple[int, Refused]]:
        """Takes out the rows that cannot be taken, and says why of each."""
        good, places, refused = [], [], []
        for number, row in enumerate(found.rows):
            place = number if found.places is None else found.places[number]
            try:
                self._check_row(row, topics[place])
            except Refused as error:
                refused.append((place, error))
                continue
            good.append(row)
            places.append(place)
        found.rows, found.places = good, places
        return refused

    def _check_row(self, row: tuple[Any, ...], topic: Topic) -> None:
        if self._times is not None:
            self._times.check(row[0 if self._in_topic else 1])
        if self._sequence_at is not None:
            Numbers.check(row[self._sequence_at])
        for column, value in zip(self._columns, row[self._fields_at :], strict=True):
            column.check(value)
        # Last: what is nothing else must not take the place of a device.
        self._place(topic.device if self._device_at is None else row[0])

    def _take_packed(
        self, packed: Packed, topics: Sequence[Topic], payloads: Sequence[bytes], now_ns: int
    ) -> tuple[Readings | None, list[tuple[int, Refused]]]:
        arrays, places, refused = packed.columns(payloads)
        good = np.ones(len(places), np.bool_)
        values: dict[str, npt.NDArray[Any]] = {}
        for column, array in zip(self._columns, arrays, strict=True):
            try:
                values[column.field.name] = column.bulk(array)
                continue
            except Odd:
                stored = np.zeros(array.shape, column.field.type.numpy)
            for row in range(len(places)):
                try:
                    stored[row] = column.bulk(array[row : row + 1])[0]
                except Odd:
                    if good[row]:
                        why = (
                            f"{column.field.name} holds a number that type {column.field.type.dtype} has not"
                        )
                        refused.append((places[row], Refused("mqtt.value", why)))
                    good[row] = False
            values[column.field.name] = stored
        index = np.zeros(len(places), np.int32)
        for row, place in enumerate(places):
            if good[row]:
                try:
                    index[row] = self._place(topics[place].device)
                except Refused as error:
                    refused.append((place, error))
                    good[row] = False
        if not good.any():
            return None, refused
        time_ns = np.full(int(good.sum()), now_ns // NS_PER_MS * NS_PER_MS, np.int64)
        taken = {name: array[good] for name, array in values.items()}
        return Readings(self.route.stream, self._origins, index[good], None, time_ns, taken), refused


@dataclass(frozen=True, slots=True, eq=False)
class Topic:
    """One topic of a route: the text, and the device when the topic names it."""

    text: str
    mapper: Mapper | None
    device: str = ""


def _check(route: Route, schema: Schema) -> None:
    wrong = ""
    unknown = [f for f in route.fields if f not in schema]
    if unknown:
        wrong = f"the stream has no field {unknown[0]}; it has {', '.join(schema.names)}"
    elif not route.payload.startswith("raw-") and any(f.type.shape for f in schema.fields):
        wrong = f"its rows are arrays, which only packed numbers (raw-f32le ...) can be, not {route.payload}"
    elif route.payload.startswith("senml") and (
        route.time is not None or route.sequence not in (None, "time")
    ):
        wrong = "SenML says itself where times stand, and has no sequence numbers"
    if wrong:
        raise TopologyError(
            "mqtt.route",
            f"the route of {route.topic} does not fit the stream {route.stream}",
            why=wrong,
            next_step="correct it in topology.yaml; docs/reference/mqtt.md shows the form",
        )
