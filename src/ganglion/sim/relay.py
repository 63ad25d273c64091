"""A user-space TCP relay that stands for a link: it can be cut, deaf, far and narrow, and it counts what passes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial

CHUNK_BYTES = 1 << 16
LINE_CHUNKS_MAX = 64
"""Chunks under way on a slow link; more wait at the sender."""


@dataclass(frozen=True, slots=True)
class Pipe:
    """How a link carries each direction: ``delay_ns`` one way, ``bytes_per_s`` at most (0: without limit)."""

    delay_ns: int = 0
    bytes_per_s: int = 0


@dataclass(slots=True)
class LinkBytes:
    """Bytes on the wire above TCP: ``up`` from child to parent, ``down`` back."""

    up: int = 0
    down: int = 0


class Relay:
    """Listens on loopback ports and passes every connection on to another: a port for each of ``target_ports``.

    `cut` aborts and refuses all. `swallow` is worse: what is connected stays so, and nothing passes any more.
    """

    def __init__(self, name: str, *target_ports: int) -> None:
        self.name = name
        self.ports: tuple[int, ...] = ()
        self.bytes = LinkBytes()
        self.is_cut = False
        self.pipe = Pipe()
        self._deaf: set[asyncio.StreamWriter] = set()
        self._swallows = False
        self._target_ports = target_ports
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        """Starts to listen; returns the first of its ``ports``."""
        for target in self._target_ports:
            server = await asyncio.start_server(partial(self._accept, target), "127.0.0.1", 0)
            self._servers.append(server)
            self.ports += (int(server.sockets[0].getsockname()[1]),)
        return self.ports[0]

    def cut(self) -> None:
        """Aborts what is connected and aborts every new connection until `heal`."""
        self.is_cut = True
        for writer in list(self._writers):
            writer.transport.abort()

    def heal(self) -> None:
        """Lets new connections pass again; one that was swallowed stays dead."""
        self.is_cut = self._swallows = False

    def swallow(self, *, also_new: bool = False) -> None:
        """Every connection stays open and dead, without a reset: what a NAT does that has forgotten it.

        ``also_new``: until `heal`, new connections are accepted and dead from the start.
        """
        self._deaf |= self._writers
        self._swallows = also_new

    async def close(self) -> None:
        """Stops listening and ends every connection."""
        for server in self._servers:
            server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(
        self, target_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target_port)
        except OSError:
            self._drop(writer)
            return
        if self.is_cut:
            far_writer.transport.abort()
            self._drop(writer)
            return
        self._writers.add(far_writer)
        if self._swallows:
            self._deaf |= {writer, far_writer}
        for source, sink, upward in ((reader, far_writer, True), (far_reader, writer, False)):
            pump = asyncio.ensure_future(self._pump(source, sink, upward=upward))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, upward: bool) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(LINE_CHUNKS_MAX)
        carrying: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        free_at = 0.0
        try:
            while data := await source.read(CHUNK_BYTES if not self.pipe.bytes_per_s else CHUNK_BYTES >> 2):
                if sink in self._deaf:
                    continue
                if upward:
                    self.bytes.up += len(data)
                else:
                    self.bytes.down += len(data)
                pipe = self.pipe
                if carrying is None and pipe == Pipe():
                    sink.write(data)
                    await sink.drain()
                    continue
                carrying = carrying or asyncio.ensure_future(self._carry(line, sink))
                free_at = max(free_at, loop.time())
                if pipe.bytes_per_s:
                    free_at += len(data) / pipe.bytes_per_s
                await line.put((free_at + pipe.delay_ns / 1e9, data))
        except (OSError, asyncio.IncompleteReadError):
            pass  # an aborted connection is what a cut looks like from inside
        finally:
            if carrying is not None:
                carrying.cancel()
                await asyncio.gather(carrying, return_exceptions=True)
            self._drop(sink)

    async def _carry(self, line: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        """Delivers what is on the line, each chunk at its time, in order."""
        loop = asyncio.get_running_loop()
        while True:
            due, data = await line.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if sink in self._deaf:
                continue
            try:
                sink.write(data)
                await sink.drain()
            except OSError:
                sink.transport.abort()  # and go on taking: the sender must not wait for a line nobody empties

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        self._deaf.discard(writer)
        with contextlib.suppress(OSError, RuntimeError):
            writer.transport.abort()
