"""The network of a world: datagrams that get lost, late, doubled and reordered, paths that part and grow slow."""

from __future__ import annotations

import asyncio
import errno
import socket
import zlib
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

from ganglion.host.ports import Chance
from ganglion.sim.virtual.chance import SeededChances
from ganglion.sim.virtual.paths import Address, Life, Path, Weather
from ganglion.sim.virtual.streams import RETRY_NS, StreamSocket, StreamTap, join
from ganglion.sim.virtual.trace import Trace

FIRST_PORT = 40_000
LAST_PORT = 65_000


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
        self.stream_taps: list[Callable[[StreamTap], None]] = []
        self._listeners: dict[int, tuple[Life, bytes]] = {}
        self._servers: dict[int, tuple[Life, Callable[[], asyncio.Protocol], Context]] = {}
        self._streams_of: dict[Life, list[StreamSocket]] = {}
        self._dark: set[str] = set()
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

    # --- streams ---

    def listen(self, life: Life, port: int, greeting: bytes) -> None:
        """Whoever connects to ``port`` is told that, as a message server does, and nothing else."""
        self._listeners[port] = (life, greeting)

    def unlisten(self, port: int) -> None:
        self._listeners.pop(port, None)

    def serve(self, life: Life, port: int, made: Callable[[], asyncio.Protocol]) -> None:
        """Whoever connects to ``port`` gets a protocol of the caller's to talk to, as long as ``life`` lasts."""
        self._servers[port] = (life, made, copy_context())

    async def connect(self, life: Life, protocol: asyncio.Protocol, address: Address) -> asyncio.Transport:
        """Connects; raises `ConnectionRefusedError`. A server that cannot be reached is waited for."""
        port = address[1]
        if port in self._servers:
            return await self._joined(life, protocol, port)
        listener = self._listeners.get(port)
        delay_ns = self._calm.delay_ns(self._stream(life.name), 0)
        await asyncio.sleep(delay_ns / 1e9)
        if listener is None or listener is not self._listeners.get(port) or not listener[0].alive:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        return Greeting(protocol, listener[1])

    async def _joined(self, life: Life, protocol: asyncio.Protocol, port: int) -> StreamSocket:
        path = self.path(life.name, self._servers[port][0].name)
        await asyncio.sleep(path.weather.delay_ns(self._stream(life.name), 0) / 1e9)
        while not path.whole or self._servers[port][0].name in self._dark:  # noqa: ASYNC110 # virtual time: looking costs nothing
            await asyncio.sleep(RETRY_NS / 1e9)
        served, made, context = self._servers[port]
        if not served.alive:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        ours = self._end(life, protocol, path, copy_context())
        theirs = self._end(served, made(), path, context.copy())
        join(ours, theirs)
        theirs.begin()
        protocol.connection_made(ours)
        return ours

    def _end(self, life: Life, protocol: asyncio.Protocol, path: Path, context: Context) -> StreamSocket:
        chance, name = self._stream(life.name), life.name

        def delay_ns(size_bytes: int) -> int:
            return path.weather.delay_ns(chance, size_bytes)

        end = StreamSocket(
            life,
            protocol,
            path,
            delay_ns,
            self.now_ns,
            context,
            self._tell_stream,
            lambda: name not in self._dark,
        )
        self._streams_of.setdefault(life, []).append(end)
        return end

    def booted(self, life: Life) -> None:
        """A machine is up, if it was not."""
        self._dark.discard(life.name)

    def died(self, life: Life, *, silent: bool) -> None:
        """A life has ended; ``silent``: with its machine, which answers nobody until it boots again."""
        if silent:
            self._dark.add(life.name)
        for end in self._streams_of.pop(life, []):
            end.died(silent=silent)

    def _tell_stream(self, tap: StreamTap) -> None:
        if tap.kind == "arrived":
            self._note(tap.machine, f"got {_digest(tap.data)}")
        for listener in self.stream_taps:
            listener(tap)

    def taken(self, port: int) -> bool:
        """True while somebody holds the port."""
        holder = self._sockets.get(port)
        served = self._servers.get(port)
        return (
            port in self._listeners
            or (served is not None and served[0].alive)
            or (holder is not None and not holder.is_closing())
        )

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
