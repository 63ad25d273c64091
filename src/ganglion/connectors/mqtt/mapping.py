"""Declared routes at work: messages become readings of streams, and what cannot is given back with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.connectors.mqtt.columns import Column, Numbers, Odd, Refused, Times, shown
from ganglion.connectors.mqtt.payloads import Packed, Table, form_of, table
from ganglion.connectors.mqtt.reading import Published
from ganglion.connectors.mqtt.topics import Pattern, fill
from ganglion.core.batch import Int64s
from ganglion.core.errors import TopologyError
from ganglion.core.schema import Schema
from ganglion.core.topology_mqtt import Route

NAME_CHARS_MAX = 64
NS_PER_MS = 1_000_000
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


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


class Devices:
    """The devices of one group at a gateway: names as they send them, and what they are called here.

    Names may be anything; an origin is ``<gateway>-<group>-<name>``, with characters other than letters, digits, ``_``
    and ``.`` as ``:`` and two hexadecimal digits for each byte.
    """

    def __init__(self, path: str, count_max: int) -> None:
        self._path = path
        self._count_max = count_max
        self._origins: dict[str, str] = {}
        self.names: dict[str, str] = {}
        """Origin -> the name the device goes by."""

    def origin(self, name: str, allowed: re.Pattern[str] | None) -> str:
        """The origin of a device, which is let in when it is new; raises `Refused` ``mqtt.device``."""
        origin = self._origins.get(name)
        if origin is not None:
            return origin
        if not 1 <= len(name) <= NAME_CHARS_MAX:
            raise Refused("mqtt.device", f"a device's name has 1 to {NAME_CHARS_MAX} characters")
        if _SURROGATE.search(name):
            raise Refused("mqtt.device", f"{shown(name)} cannot be written as UTF-8")
        if allowed is not None and not allowed.fullmatch(name):
            raise Refused("mqtt.device", f"{shown(name)} does not match {allowed.pattern}")
        if len(self._origins) >= self._count_max:
            raise Refused(
                "mqtt.device", f"{shown(name)} is one more than the {self._count_max} devices of {self._path}"
            )
        return self._admit(name)

    def remember(self, origin: str) -> None:
        """Lets a device in that sent before a restart, as far as it belongs here."""
        path, _, written = origin.rpartition("-")
        name = _unescaped(written)
        # A device that came in another way may have a name that no escape makes: it is none of ours.
        if path == self._path and len(self._origins) < self._count_max and _escaped(name) == written:
            self._admit(name)

    def _admit(self, name: str) -> str:
        origin = f"{self._path}-{_escaped(name)}"
        self._origins[name] = origin
        self.names[origin] = name
        return origin

    def __len__(self) -> int:
        return len(self._origins)


def _escaped(name: str) -> str:
    if _PLAIN.fullmatch(name):
        return name
    return "".join(c if _PLAIN.fullmatch(c) else "".join(f":{b:02x}" for b in c.encode()) for c in name)


def _unescaped(written: str) -> str:
    content = re.sub(rb":([0-9a-f]{2})", lambda m: bytes((int(m[1], 16),)), written.encode())
    return content.decode("utf-8", "replace")


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

    def take(
        self, topics: Sequence[Topic], payloads: Sequence[bytes], now_ns: int
    ) -> tuple[Readings | None, list[Letter]]:
        """The readings of messages, in their order, and what could not be taken."""
        if self._packed is not None:
            readings, refused = self._take_packed(self._packed, topics, payloads, now_ns)
        else:
            assert self._form is not None
            found = table(self._form, payloads, now_ns)
            refused = found.refused
            try:
                readings = self._readings(found, topics, now_ns) if found.rows else None
            except Odd:
                refused += self._refuse(found, topics)
                readings = self._readings(found, topics, now_ns) if found.rows else None
        letters = [Letter(topics[p].text, payloads[p], error.code, error.why) for p, error in refused]
        return readings, letters

    def _readings(self, found: Table, topics: Sequence[Topic], now_ns: int) -> Readings:
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
        origin = self._origin(names)  # before the origins are looked at: there may be new ones
        if seq is not None:
            return self._numbered(origin, seq, time_ns, values)
        return Readings(self.route.stream, self._origins, origin, None, time_ns, values)

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
        if type(name) is int:
            name = str(name)
        if type(name) is not str:
            raise Refused("mqtt.device", f"the device is {shown(name)}, it must be a text or a whole number")
        place = self._places.get(name)
        if place is None:
            origin = self.devices.origin(name, self._allowed)
            place = self._places[name] = len(self._origins)
            self._origins = (*self._origins, origin)
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


class Routes:
    """All routes of a gateway. ``resolve`` is for the `Reader`, which remembers what it says."""

    def __init__(self, mappers: Sequence[Mapper]) -> None:
        self._routes = [(Pattern(m.route.topic), m) for m in mappers]

    def resolve(self, text: str) -> Topic:
        """The route of a topic: the first that matches; one without a mapper when none does."""
        for pattern, mapper in self._routes:
            named = pattern.match(text)
            if named is not None:
                device = fill(mapper.route.device, named) or "" if "{" in mapper.route.device else ""
                return Topic(text, mapper, device)
        return Topic(text, None)

    def take(self, published: Published, now_ns: int) -> tuple[list[Readings], list[Letter]]:
        """Everything that came with one socket read, as readings by stream and letters that cannot be delivered."""
        readings: list[Readings] = []
        letters: list[Letter] = []
        for mapper, topics, payloads in _by_mapper(published):
            if mapper is None:
                letters += [
                    Letter(t.text, p, "mqtt.unrouted", "no route matches the topic")
                    for t, p in zip(topics, payloads, strict=True)
                ]
                continue
            found, bad = mapper.take(topics, payloads, now_ns)
            letters += bad
            if found is not None:
                readings.append(found)
        return readings, letters


def _by_mapper(published: Published) -> list[tuple[Mapper | None, list[Topic], list[bytes]]]:
    topics: list[Topic] = published.topics
    if len(set(topics)) == 1:
        return [(topics[0].mapper, topics, published.payloads)]
    groups: dict[int, tuple[Mapper | None, list[Topic], list[bytes]]] = {}
    mapper: Mapper | None = None
    add: tuple[Callable[[Topic], None], Callable[[bytes], None]] | None = None
    for topic, payload in zip(topics, published.payloads, strict=True):
        if add is None or topic.mapper is not mapper:
            mapper = topic.mapper
            group = groups.setdefault(id(mapper), (mapper, [], []))
            add = group[1].append, group[2].append
        add[0](topic)
        add[1](payload)
    return list(groups.values())


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
