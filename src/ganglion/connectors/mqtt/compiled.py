"""The decoder of a gateway's routes: compiled, tried beside Python on hostile messages, loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.connectors.mqtt.decoding import KINDS, SKIPS_MAX, Decoder, source
from ganglion.connectors.mqtt.devices import Devices
from ganglion.connectors.mqtt.mapping import Mapper, Readings
from ganglion.connectors.mqtt.packets import V3, V5, Publish, encode
from ganglion.connectors.mqtt.reading import Reader
from ganglion.connectors.mqtt.routes import Routes
from ganglion.core.declarations import declaration
from ganglion.core.errors import ConnectorError, KernelError
from ganglion.core.schema import Field, Schema, TensorType
from ganglion.core.topology_mqtt import Route
from ganglion.kernels.c.proof import claim, keep_claim
from ganglion.kernels.c.toolchain import Compiler, build_library

MESSAGES = 1500
"""Random messages a build is tried on, of each version of MQTT, beside each odd thing by itself."""
READ_MIN = 3
"""One of so many at least has to be read by the build itself, else it was not tried."""
PACKET_BYTES_MAX = 4096
SEED = 1
NOW_NS = 1_700_000_000_123_456_789

_SCHEMA = Schema(tuple(Field(kind, TensorType(kind)) for kind in KINDS[3:]))
_ROUTES: tuple[dict[str, Any], ...] = (
    {"topic": "a", "device": "id", "time": {"field": "ts", "unit": "ms"}, "fields": {"f32": "temp"}},
    {"topic": "b/{name}", "device": "{name}", "sequence": "n"},
    {"topic": "c", "device": "id", "time": {"field": "ts", "unit": "s"}, "sequence": "time"},
)
_TOPICS = ("a", "a", "a", "a", "b/s1", "b/s2", "b/\N{DEGREE SIGN}", "c", "nowhere")
_ODD = (
    *("null", "true", "false", '"x"', "-0", "-0.0", "0.0", "01", "1.", ".5", "1e5", "1E-5", "1e22", "1e23"),
    *("5e-324", "1e999", "3.5e38", "-32768", "32768", "2147483648", "9007199254740993", "123456789012345678"),
    *("9223372036854775807", "1234567890123456789", "0.1", "9007199254740993.0", "0.12345678901234567"),
    *("1.0", "[]", "{}", "[1, 2]", '{"a": 1}', '"\\u0041"', '"\\x"', '"\\""', '"\xe4"', '"\xe5"', '"\t"'),
    *("", "nan", "--1", "1e", "+1", "1 2"),
)
_NAMES = ('"s1"', '"s2"', '"s3"', "7", '"7"', '"s one"', '"\xe4"', '"s\\u0031"', '""', f'"{"x" * 65}"')


def proven(routes: Routes, compilers: Iterable[Compiler], directory: Path) -> Decoder | None:
    """A decoder that knows the routes, by the first compiler whose build reads as Python does.

    None when none does, when there is none, or when no route has a form that it reads. Blocks; the build is kept in
    ``directory``.
    """
    forms = routes.forms
    if not any(forms):
        return None
    for compiler in compilers:
        try:
            path = build_library(source(), compiler, directory)
        except KernelError:
            continue
        if not claim(path):
            if not agrees(path):
                continue
            build = f"decoder for this machine by {compiler.label}"
            keep_claim(
                path, build, f"{2 * MESSAGES} random messages and every odd one read as Python reads them"
            )
        decoder = Decoder(path, forms, SKIPS_MAX)
        routes.teach(decoder)
        return decoder
    return None


def agrees(path: Path, messages: int = MESSAGES, seed: int = SEED) -> bool:
    """True when the build at ``path`` gives what Python gives of hostile messages, of MQTT 3.1.1 and 5."""
    for level in (V3, V5):
        plain, taught = _routes(), _routes()
        decoder = Decoder(path, taught.forms)
        taught.teach(decoder)
        expected = _Side(plain, level, None)
        given = _Side(taught, level, decoder)
        for read in _reads(np.random.default_rng([seed, level]), messages, level):
            if expected.take(read) != given.take(read):
                return False
        if READ_MIN * decoder.rows < messages:
            return False
    return True


class _Side:
    """One of the two that are compared."""

    def __init__(self, routes: Routes, level: int, decoder: Decoder | None) -> None:
        self._routes = routes
        self._level = level
        self._decoder = decoder
        self._reader = self._fresh()

    def _fresh(self) -> Reader:
        return Reader(self._level, self._routes.resolve, PACKET_BYTES_MAX, self._decoder)

    def take(self, read: bytes) -> Any:
        """Everything that comes of a socket read, in a form that can be compared."""
        try:
            published, others = self._reader.feed(read)
        except ConnectorError as error:
            self._reader = self._fresh()
            return error.code, error.why
        counts = len(published), published.packet_ids, published.retained, published.repeated
        readings, letters = self._routes.take(published, NOW_NS)
        return others, counts, letters, [_content(r) for r in readings]


def _content(r: Readings) -> tuple[Any, ...]:
    arrays = (r.origin, r.time_ns, *(() if r.seq is None else (r.seq,)), *r.columns.values())
    return r.stream, r.origins, list(r.columns), [(a.dtype.str, a.tobytes()) for a in arrays]


def _routes() -> Routes:
    devices = Devices("gw-sensor", 6)
    made = ({"devices": "sensor", "stream": f"s{n}", **given} for n, given in enumerate(_ROUTES))
    return Routes([Mapper(declaration(Route, m), _SCHEMA, devices) for m in made])


def _reads(rng: np.random.Generator, messages: int, level: int) -> Iterator[bytes]:
    """Socket reads: each odd thing alone, then reads of many sizes, so that odd messages stand between usual ones."""
    usual = _values(rng, 0) | {"f32": "20.25", "temp": "-3.5e-2", "f64": "0.1"}
    for name in _NAMES[:4]:
        yield encode(Publish("a", _written(usual | {"id": name})), level)
    for payload in _odd_payloads(usual):
        yield encode(Publish("a", payload), level)
    yield encode(Publish("a", _written(usual), 1, 1), level).replace(b"a\0\1", b"a\0\0")
    waiting = b""
    for number in range(messages):
        waiting += _packet(rng, number, level)
        if rng.random() < 0.2:
            cut = int(rng.integers(0, len(waiting) + 1)) if rng.random() < 0.3 else len(waiting)
            yield waiting[:cut]
            waiting = waiting[cut:]
    yield waiting


def _odd_payloads(usual: dict[str, str]) -> Iterator[bytes]:
    """Every odd value of every key; keys that are missing or there twice; one that ends too early or too late."""
    for key, odd in product(usual, _ODD):
        yield _written(usual | {key: odd})
    for name in _NAMES:
        yield _written(usual | {"id": name})
    items = list(usual.items())
    for place, item in enumerate(items):
        yield _written(dict(items[:place] + items[place + 1 :]))
        for twice in (item, (item[0], "3")):
            yield _joined([*items, twice])
            yield _joined([*items[: place - 1], *items[place:], twice] if place else [*items[1:], twice])
    whole = _written(usual)
    yield from (whole[:stop] for stop in range(len(whole)))
    yield from (whole + more for more in (b"x", b"}", b",", b"{}", b"\0", b" \n", b"\xef\xbb\xbf"))
    yield from (put + whole for put in (b"x", b"[", b"\xef\xbb\xbf", b"\x0b", b"\t\r\n "))


def _packet(rng: np.random.Generator, number: int, level: int) -> bytes:
    topic = _TOPICS[int(rng.integers(len(_TOPICS)))] if rng.random() < 0.15 else "a"
    qos = int(rng.integers(2))
    values = _values(rng, number)
    if rng.random() < 0.1:
        values |= {list(values)[int(rng.integers(len(values)))]: _ODD[int(rng.integers(len(_ODD)))]}
    keys = list(values)
    if rng.random() < 0.1:
        keys = [keys[k] for k in rng.permutation(len(keys)).tolist()]
    payload = _written({key: values[key] for key in keys}, ("", " ", "\t", "\r\n")[int(rng.integers(4))])
    repeated, retain = bool(qos) and rng.random() < 0.02, rng.random() < 0.02
    packet = encode(Publish(topic, payload, qos, 1 + number if qos else 0, retain, repeated), level)
    if rng.random() < 0.01:  # a byte of it is another one
        at = int(rng.integers(len(packet)))
        packet = packet[:at] + bytes((int(rng.integers(256)),)) + packet[at + 1 :]
    return packet


def _values(rng: np.random.Generator, number: int) -> dict[str, str]:
    return {
        "id": _NAMES[int(rng.integers(4))],
        "ts": str(1_700_000_000 + number),
        "n": str(number // 2),
        "bool": ("true", "false", "0", "1")[int(rng.integers(4))],
        "i16": str(int(rng.integers(-(1 << 15), 1 << 15))),
        "i32": str(int(rng.integers(-(1 << 31), 1 << 31))),
        "i64": str(int(rng.integers(-(10**18) + 1, 10**18))),
        "f32": _decimal(rng),
        "temp": _decimal(rng),
        "f64": _decimal(rng),
        "more": '"text"',
    }


def _written(values: dict[str, str], blank: str = "") -> bytes:
    return _joined(list(values.items()), blank)


def _joined(items: Sequence[tuple[str, str]], blank: str = "") -> bytes:
    pairs = f",{blank}".join(f'"{key}"{blank}:{blank}{value}{blank}' for key, value in items)
    return f"{blank}{{{pairs}{blank}}}{blank}".encode("latin-1" if "\xe5" in pairs else "utf-8")


def _decimal(rng: np.random.Generator) -> str:
    """A number as devices write it, sometimes with more digits than a double holds."""
    length = int(rng.integers(1, 18 if rng.random() < 0.1 else 12))
    digits = "".join(map(str, rng.integers(0, 10, length).tolist()))
    whole = str(int(rng.integers(0, 1000)))
    exponent = f"e{int(rng.integers(-15, 26))}" if rng.random() < 0.1 else ""
    return f"{'-' if rng.random() < 0.3 else ''}{whole}.{digits}{exponent}"
