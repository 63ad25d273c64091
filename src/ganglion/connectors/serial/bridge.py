"""Between a serial line and a gateway: the device on the line has a UDP socket of its own, like any other device."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Self, cast

from ganglion.connectors.serial.slip import DATAGRAM_BYTES_MAX, FrameCounts, Frames, encode
from ganglion.core.errors import HostError
from ganglion.host.ports import Line


@dataclass(slots=True)
class BridgeCounts:
    """What went through a bridge; a datagram that is lost is sent again by who waits for its answer."""

    to_gateway: int = 0
    to_device: int = 0
    unsent: int = 0
    """Datagrams for the device that were too large for a frame, or came while the line was full."""
    line: FrameCounts = field(default_factory=FrameCounts)


class Bridge(asyncio.DatagramProtocol):
    """Carries CoAP datagrams between one line and one gateway; `run` lasts as long as the line does."""

    def __init__(self, line: Line, datagram_bytes_max: int = DATAGRAM_BYTES_MAX) -> None:
        self._line = line
        self._frames = Frames(datagram_bytes_max)
        self._datagram_bytes_max = datagram_bytes_max
        self._transport: asyncio.DatagramTransport | None = None
        self._lost = asyncio.Event()
        self.counts = BridgeCounts(line=self._frames.counts)

    @classmethod
    async def open(cls, line: Line, gateway: tuple[str, int]) -> Self:
        """``gateway``: numeric host and port of its CoAP socket. Raises `HostError` ``host.network``."""
        bridge = cls(line)
        loop = asyncio.get_running_loop()
        try:
            # Connected: only the gateway's datagrams reach the device.
            await loop.create_datagram_endpoint(lambda: bridge, remote_addr=gateway)
        except OSError as error:
            raise HostError(
                "host.network",
                f"no UDP socket to {gateway[0]} port {gateway[1]} can be opened",
                why=str(error),
                next_step="give the gateway's numeric address and CoAP port",
            ) from error
        return bridge

    async def run(self) -> BridgeCounts:
        """Until the line has ended, or the task is cancelled; then the line and the socket are closed."""
        assert self._transport is not None
        try:
            while content := await self._line.read():
                for datagram in self._frames.take(content):
                    self.counts.to_gateway += 1
                    self._transport.sendto(datagram)
        finally:
            self._line.close()
            self._transport.close()
            await self._lost.wait()
        return self.counts

    # --- asyncio.DatagramProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio once the socket is open."""
        # Python 3.11's own transport does not derive from the class it implements.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio when the socket is gone."""
        self._lost.set()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Called by asyncio for every datagram of the gateway."""
        fits = 0 < len(data) <= self._datagram_bytes_max
        if fits and self._line.write(encode(data, self._datagram_bytes_max)):
            self.counts.to_device += 1
        else:
            self.counts.unsent += 1

    def error_received(self, exc: Exception) -> None:
        """Called by asyncio when nobody listens at the gateway; the device sends again in its time."""
