"""A user-space TCP relay that stands for a link: it can be cut and healed, and it counts what passes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

CHUNK_BYTES = 1 << 16


@dataclass(slots=True)
class LinkBytes:
    """Bytes on the wire above TCP: ``up`` from child to parent, ``down`` back."""

    up: int = 0
    down: int = 0


class Relay:
    """Listens on a loopback port and passes every connection on to another; `cut` aborts and refuses all."""

    def __init__(self, name: str, target_port: int) -> None:
        self.name = name
        self.bytes = LinkBytes()
        self.is_cut = False
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        """Starts to listen; returns the port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Aborts what is connected and aborts every new connection until `heal`."""
        self.is_cut = True
        for writer in list(self._writers):
            writer.transport.abort()

    def heal(self) -> None:
        """Lets connections pass again."""
        self.is_cut = False

    async def close(self) -> None:
        """Stops listening and ends every connection."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            self._drop(writer)
            return
        if self.is_cut:
            far_writer.transport.abort()
            self._drop(writer)
            return
        self._writers.add(far_writer)
        for source, sink, upward in ((reader, far_writer, True), (far_reader, writer, False)):
            pump = asyncio.ensure_future(self._pump(source, sink, upward=upward))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, upward: bool) -> None:
        try:
            while data := await source.read(CHUNK_BYTES):
                if upward:
                    self.bytes.up += len(data)
                else:
                    self.bytes.down += len(data)
                sink.write(data)
                await sink.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # an aborted connection is what a cut looks like from inside
        finally:
            self._drop(sink)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        with contextlib.suppress(OSError, RuntimeError):
            writer.transport.abort()
