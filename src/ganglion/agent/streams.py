"""The engine's journal and outbox on a site's message bus."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ganglion.core.errors import MessagingError
from ganglion.engine.durable import Entry
from ganglion.host.ports import Clock
from ganglion.messaging import subjects
from ganglion.messaging.bus import Bus

RETRY_NS = 200_000_000
TICK_STREAM = "tick"


class BusJournal:
    """Input of the engine: a gateway's JOURNAL, or the IN stream of a site with children."""

    def __init__(self, bus: Bus, stream: str) -> None:
        self._bus = bus
        self._stream = stream

    async def read(self, after_seq: int) -> AsyncIterator[Entry]:
        async for stored in self._bus.read(self._stream, after_seq):
            tick = stored.subject.startswith(f"j.{TICK_STREAM}.")
            yield Entry(stored.seq, None if tick else stored.payload)

    async def last_seq(self) -> int:
        return (await self._bus.state(self._stream)).last_seq


class BusOutbox:
    """Output of the engine: appends the n-th message exactly as number n, however often a server restarts.

    ``offset``: what the stream's own numbers have beyond that, see `messaging.provision`.
    """

    def __init__(self, bus: Bus, stream: str, clock: Clock, offset: int = 0) -> None:
        self.trouble = ""
        self._offset = offset
        self._bus = bus
        self._stream = stream
        self._clock = clock

    async def last_ordinal(self) -> int:
        return (await self._bus.state(self._stream)).last_seq - self._offset

    async def delivered(self) -> int:
        """How many messages the parent has safely on disk."""
        return max(0, await self._bus.delivered(self._stream) - self._offset)

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        while True:
            try:
                await self._bus.append(
                    self._stream,
                    subjects.outbox_subject(stream, origin),
                    payload,
                    expect_last=self._offset + ordinal - 1,
                )
                self.trouble = ""
                return
            except MessagingError as error:
                self.trouble = str(error)
                if error.code == "messaging.fence":
                    # An append whose acknowledgement was lost is already there; anything else is a second writer.
                    if await self.last_ordinal() >= ordinal:
                        return
                    raise
                if error.code not in ("messaging.full", "messaging.unavailable"):
                    raise
            await self._clock.sleep_ns(RETRY_NS)
