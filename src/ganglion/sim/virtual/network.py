"""The network of a world: datagrams that get lost, late, doubled and reordered, paths that part and grow slow."""

from __future__ import annotations

import asyncio
import errno
import socket
import zlib
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Protocol

from ganglion.core.units import NS_PER_MS
from ganglion.host.ports import Chance
from ganglion.sim.virtual.chance import SeededChances
from ganglion.sim.virtual.trace import Trace

FIRST_PORT = 40_000
LAST_PORT = 65_000
Address = tuple[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Weather:
    """How a path behaves. Chances are per datagram, ``rate_bytes_per_s`` 0 means as fast as any."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_min_ns: int = NS_PER_MS // 5
    delay_max_ns: int = 2 * NS_PER_MS
    rate_bytes_per_s: int = 0

    def delay_ns(self, chance: Chance, size_bytes: int) -> int:
        """The time one message takes."""
        delay_ns = int(chance.uniform(self.delay_min_ns, self.delay_max_ns))
        if self.rate_bytes_per_s:
            delay_ns += size_bytes * 1_000_000_000 // self.rate_bytes_per_s
        return delay_ns


@dataclass(slots=True)
class Path:
    """Between two machines, in both directions. ``parted`` counts the faults that hold it cut.

    ``storms``: what faults have made of it, the newest last.
    """

    calm: Weather
    parted: int = 0
    storms: list[Weather] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return self.parted == 0

    @property
    def weather(self) -> Weather:
        return self.storms[-1] if self.storms else self.calm


class Life(Protocol):
    """One start of a machine."""

    name: str
    alive: bool
    chances: SeededChances

    @property
    def disk_slowness(self) -> int:
        """How many times slower than usual the disk is now."""

    def touch(self) -> None:
        """The outside was touched."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A datagram as it left or arrived; ``kind`` is ``sent`` or ``arrived``."""

    kind: str
    now_ns: int
    source: Address
    target: Address
    data: bytes


class Network:
    """All sockets of a world. Addresses are ports of 127.0.0.1, as in a local run; machines are told by who binds."""

    def __init__(
        self, now_ns: Callable[[], int], chances: SeededChances, trace: Trace, calm: Weather
    ) -> None:
        self.now_ns = now_ns
        self.taps: list[Callable[[Tap], None]] = []
        self._chances = chances
        self._trace = trace
        self._calm = calm
        self._paths: dict[frozenset[str], Path] = {}
        self._streams: dict[str, Chance] = {}
        self._sockets: dict[int, DatagramSocket] = {}
        self._listeners: dict[int, tuple[Life, bytes]] = {}
        self._next_port = FIRST_PORT

    def path(self, one: str, other: str) -> Path:
        """The path between two machines; calm until faults change it."""
        key = frozenset((one, other))
        if key not in self._paths:
            self._paths[key] = Path(self._calm)
        return self._paths[key]

    def free_port(self) -> int:
        """A port that nobody had before."""
        self._next_port = FIRST_PORT if self._next_port >= LAST_PORT else self._next_port + 1
        return self._next_port

    # --- datagrams ---

    def open(self, life: Life, protocol: asyncio.DatagramProtocol, address: Address) -> DatagramSocket:
        """Binds; raises `OSError` EADDRINUSE."""
        port = address[1] or self.free_port()
        holder = self._sockets.get(port)
        if holder is not None and not holder.is_closing():
            raise OSError(errno.EADDRINUSE, "address already in use")
        opened = self._sockets[port] = DatagramSocket(self, life, protocol, (address[0], port))
        return opened

    def send(self, source: DatagramSocket, data: bytes, target: Address) -> None:
        """One datagram on its way."""
        self._tell(Tap("sent", self.now_ns(), source.address, target, data))
        other = self._sockets.get(target[1])
        if other is None:
            return
        path = self.path(source.life.name, other.life.name)
        chance = self._stream(source.life.name)
        # Always the same draws, whatever becomes of it: a fault then shifts no later one.
        lost, doubled = chance.random() < path.weather.loss, chance.random() < path.weather.duplication
        delays_ns = [path.weather.delay_ns(chance, len(data)), path.weather.delay_ns(chance, len(data))]
        if lost or not path.whole:
            self._note(source.life.name, f"lost {_digest(data)}")
            return
        for delay_ns in delays_ns[: 1 + doubled]:
            asyncio.get_running_loop().call_later(
                delay_ns / 1e9, self._arrive, path, source.address, target, data
            )

    def _arrive(self, path: Path, source: Address, target: Address, data: bytes) -> None:
        other = self._sockets.get(target[1])
        if other is None or other.is_closing() or not path.whole:
            return
        self._note(other.life.name, f"got {_digest(data)} from {source[1]}")
        self._tell(Tap("arrived", self.now_ns(), source, target, data))
        other.context.run(other.protocol.datagram_received, data, source)

    # --- streams: only what a message server says to whoever knocks ---

    def listen(self, life: Life, port: int, greeting: bytes) -> None:
        """Whoever connects to ``port`` is greeted."""
        self._listeners[port] = (life, greeting)

    def unlisten(self, port: int) -> None:
        self._listeners.pop(port, None)

    async def connect(self, life: Life, protocol: asyncio.Protocol, address: Address) -> asyncio.Transport:
        """Connects and is greeted; raises `ConnectionRefusedError`."""
        listener = self._listeners.get(address[1])
        delay_ns = self._calm.delay_ns(self._stream(life.name), 0)
        await asyncio.sleep(delay_ns / 1e9)
        if listener is None or listener is not self._listeners.get(address[1]) or not listener[0].alive:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        return Greeting(protocol, listener[1])

    def taken(self, port: int) -> bool:
        """True while somebody holds the port."""
        holder = self._sockets.get(port)
        return port in self._listeners or (holder is not None and not holder.is_closing())

    def _stream(self, name: str) -> Chance:
        if name not in self._streams:
            self._streams[name] = self._chances.stream(f"network/{name}")
        return self._streams[name]

    def _note(self, who: str, what: str) -> None:
        self._trace.add(self.now_ns(), who, what)

    def _tell(self, tap: Tap) -> None:
        for listener in self.taps:
            listener(tap)


class DatagramSocket(asyncio.DatagramTransport):
    """A bound UDP socket; it is closed when its machine's life ends."""

    def __init__(
        self, network: Network, life: Life, protocol: asyncio.DatagramProtocol, address: Address
    ) -> None:
        super().__init__()
        self.life = life
        self.protocol = protocol
        self.address = address
        # What arrives is handled as the owner's doing, not as the sender's.
        self.context = copy_context()
        self._network = network
        self._closing = False
        protocol.connection_made(self)

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not self.is_closing():
            self._network.send(self, bytes(data), (addr[0], addr[1]))

    def is_closing(self) -> bool:
        return self._closing or not self.life.alive

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": self.address, "socket": _Options()}.get(name, default)


class _Options:
    """What asyncio shows of a socket."""

    family = socket.AF_INET

    def setsockopt(self, *_: Any) -> None:
        """Buffers are as large as they need to be here."""


class Greeting(asyncio.Transport):
    """A connection on which the other side says one thing."""

    def __init__(self, protocol: asyncio.Protocol, greeting: bytes) -> None:
        super().__init__()
        self._protocol = protocol
        self._closing = False
        protocol.connection_made(self)
        protocol.data_received(greeting)

    def write(self, data: Any) -> None:
        """Nobody reads it."""

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close


def _digest(data: bytes) -> str:
    return f"{len(data)}:{zlib.crc32(data):08x}"
