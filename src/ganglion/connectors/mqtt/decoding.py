"""The compiled way from a socket read to columns: what C is told to look for, and what it found.

`decoder.c` takes what has one meaning beyond doubt: messages of known topics, flat JSON objects with plain texts and
numbers, known devices. It stops before anything else, and Python goes on from there, so that results are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt

from ganglion.core.batch import Int64s
from ganglion.kernels.c.proof import claim

ROWS_MAX = 1024
"""Rows of one call; columns of so many stay in a processor's nearest memory."""
KEYS_MAX = 64
KNOWN_MAX = 16_384
"""Topics that are known, and devices of each route; messages of others are read by Python."""
KEY_BYTES_MAX = 112
"""The longest topic or name that is known, as `decoder.h` has room for it."""
SLOTS_FIRST = 256
PUBLISH = 3
"""The upper half of the first byte of a message."""
SKIPS_MAX = 15
"""Socket reads left to Python at a stretch, where C could read less than half of those tried before."""

KINDS = ("device", "time", "sequence", "bool", "i16", "i32", "i64", "f32", "f64")
"""What may be wanted of a value, in the order of `decoder.c`."""
_TYPES: dict[str, Any] = {
    "time": np.int64,
    "sequence": np.int64,
    "bool": np.bool_,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "f32": np.float32,
    "f64": np.float64,
}
_PLAIN_KEY = re.compile(r"[ !#-\-/-\[\]-~]+")
"""Printable characters, but no quote and no backslash, which are escaped, and no point, which leads inwards."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key of a payload. ``kind``: one of `KINDS`; ``field``: of the stream, of none "": time and the like.

    ``factor``: nanoseconds of a unit of time.
    """

    name: str
    kind: str
    field: str = ""
    factor: int = 1


Form = tuple[Wanted, ...]
"""What is wanted of the payloads of one route; without ``device`` the topic names it."""


def covered(form: Form) -> bool:
    """True when compiled code can read such payloads."""
    names = [w.name for w in form]
    plain = all(_PLAIN_KEY.fullmatch(name) for name in names)
    return plain and len(set(names)) == len(names) and 0 < len(names) <= KEYS_MAX


@dataclass(slots=True)  # not frozen, which costs a microsecond: one is made of each socket read
class Decoded:
    """Rows of one route in the order in which they came. ``route``: its number; ``origin``: places of devices.

    ``time_ns``, ``seq``: None where payloads do not say them.
    """

    route: int
    origin: npt.NDArray[np.int32]
    time_ns: Int64s | None
    seq: Int64s | None
    columns: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.origin)


@cache
def source() -> str:
    """The C of the decoder, whole."""
    folder = files("ganglion.connectors.mqtt")
    code = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("decoder.h", "decoder.c"))
    return "\n".join(("#include <stdint.h>", *code))


@cache
def _interface() -> cffi.FFI:
    ffi = cffi.FFI()
    ffi.cdef(files("ganglion.connectors.mqtt").joinpath("decoder.h").read_text(encoding="utf-8"))
    return ffi


class _Known:
    """Names that C looks up, each with a route and a place."""

    def __init__(self, loaded: Any, table: Any) -> None:
        self._loaded = loaded
        self._table = table
        self.clear()

    def clear(self) -> None:
        """Forgets all."""
        self._names: dict[bytes, tuple[int, int]] = {}
        self._resize(SLOTS_FIRST)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: bytes) -> bool:
        return name in self._names

    def learn(self, name: bytes, route: int, place: int) -> None:
        """Makes it known, unless it is too long or the table is full of names like it."""
        self._names[name] = route, place
        if 2 * len(self._names) > len(self._slots):
            self._resize(2 * len(self._slots))
        else:
            self._loaded.gg_mqtt_learn(self._table, name, len(name), route, place)

    def _resize(self, count: int) -> None:
        self._slots = _interface().new("gg_slot[]", count)  # which C points to, so it is held here
        self._table.slots, self._table.mask = self._slots, count - 1
        for name, (route, place) in self._names.items():
            self._loaded.gg_mqtt_learn(self._table, name, len(name), route, place)


class _Route:
    """The columns of one route, and the devices it knows."""

    def __init__(self, number: int, form: Form, loaded: Any, c_route: Any) -> None:
        ffi = _interface()
        buffer: Callable[[Any], Any] = ffi.from_buffer  # its stubs know no NumPy arrays
        self._number = number
        self._names = [ffi.new("uint8_t[]", w.name.encode()) for w in form]
        self._keys = c_keys = ffi.new("gg_key[]", len(form))
        self._time: Int64s | None = None
        self._seq: Int64s | None = None
        self._columns: dict[str, npt.NDArray[Any]] = {}
        for key, wanted, name in zip(c_keys, form, self._names, strict=True):
            key.name, key.length = name, len(wanted.name)
            key.kind, key.factor = KINDS.index(wanted.kind), wanted.factor
            if wanted.kind == "device":
                continue
            column = np.zeros(ROWS_MAX, _TYPES[wanted.kind])
            key.out = ffi.cast("void *", buffer(column))
            if wanted.kind == "time":
                self._time = column
            elif wanted.kind == "sequence":
                self._seq = column
            else:
                self._columns[wanted.field] = column
        c_route.keys, c_route.count = c_keys, len(form)
        self.devices = _Known(loaded, ffi.addressof(c_route, "names"))

    def decoded(self, origin: npt.NDArray[np.int32], rows: int) -> Decoded:
        """What stands in the columns now."""
        time_ns, seq = self._time, self._seq
        return Decoded(
            self._number,
            origin[:rows].copy(),
            None if time_ns is None else time_ns[:rows].copy(),
            None if seq is None else seq[:rows].copy(),
            {name: column[:rows].copy() for name, column in self._columns.items()},
        )


class Decoder:
    """The library at ``path`` with routes to read. Not for several threads at once.

    ``forms``: of each route what is wanted; None for one that is not `covered`. It knows no topic and no device
    until it is told. ``skips_max``: of reads that it does not try, after some of which it could read little: to merge
    rows costs more than to read a few messages; 0: it tries all.
    """

    def __init__(self, path: Path, forms: Sequence[Form | None], skips_max: int = 0) -> None:
        ffi = _interface()
        buffer: Callable[[Any], Any] = ffi.from_buffer
        self.path = path
        self.build = claim(path)
        """What it was built by, and what it has shown."""
        self.rows = 0
        """Rows read so far."""
        self._skips_max = skips_max
        self._skips = self._skips_left = 0
        loaded: Any = ffi.dlopen(str(path))
        self._call = loaded.gg_mqtt_decode
        self._c_routes = ffi.new("gg_route[]", max(1, len(forms)))
        self._routes = {
            number: _Route(number, form, loaded, self._c_routes[number])
            for number, form in enumerate(forms)
            if form is not None
        }
        self._origin = np.zeros(ROWS_MAX, np.int32)
        self._packet_ids = np.zeros(ROWS_MAX, np.uint16)
        work: Any = ffi.new("gg_decoder *")
        work.routes, work.rows_max = self._c_routes, ROWS_MAX
        work.origin = ffi.cast("int32_t *", buffer(self._origin))
        work.packet_ids = ffi.cast("uint16_t *", buffer(self._packet_ids))
        self._topics = _Known(loaded, ffi.addressof(work[0], "topics"))
        self._work = work
        self._loaded = loaded  # keeps it in memory

    @property
    def routes(self) -> frozenset[int]:
        """Numbers of the routes it reads."""
        return frozenset(self._routes)

    def to_json(self) -> dict[str, Any]:
        """For the node's report: what was compiled, how many routes it reads, and the rows so far."""
        return {"build": self.build, "routes": len(self._routes), "rows": self.rows}

    def learn_topic(self, text: str, route: int, place: int = -1) -> None:
        """Messages to it belong to the route from now on; ``place``: of the device that the topic names."""
        topic = text.encode()
        if topic in self._topics or not 0 < len(topic) <= KEY_BYTES_MAX:
            return
        if len(self._topics) >= KNOWN_MAX:
            self._topics.clear()
        self._topics.learn(topic, route, place)

    def learn_device(self, route: int, name: str, place: int) -> None:
        """Payloads of the route may name it from now on; beyond `KNOWN_MAX` it is left to Python."""
        devices, content = self._routes[route].devices, name.encode()
        if len(devices) < KNOWN_MAX and 0 < len(content) <= KEY_BYTES_MAX:
            devices.learn(content, route, place)

    def decode(self, data: bytes, *, five: bool, size_max: int) -> tuple[list[Decoded], list[int], int]:
        """(rows, packet identifiers of QoS 1, where the first packet begins that it leaves to Python)."""
        if self._skips_left:
            self._skips_left -= 1
            return [], [], 0
        work, end = self._work, len(data)
        found: list[Decoded] = []
        packet_ids: list[int] = []
        at, rows = 0, ROWS_MAX
        while rows == ROWS_MAX and at < end:
            rows = self._call(data, at, end, five, size_max, work)
            if rows:
                found.append(self._routes[work.route].decoded(self._origin, rows))
                if work.packet_id_count:
                    packet_ids += self._packet_ids[: work.packet_id_count].tolist()
                self.rows += rows
                at = work.at
        if 2 * at >= end:
            self._skips = 0
        elif data[at] >> 4 == PUBLISH:
            self._skips = self._skips_left = min(2 * self._skips + 1, self._skips_max)
        return found, packet_ids, at
