"""The engine's journal and outbox on a site's message bus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from ganglion.core.errors import MessagingError
from ganglion.engine.durable import Entry
from ganglion.engine.exporter import MESSAGE_TARGET_BYTES
from ganglion.host.ports import Clock
from ganglion.messaging import subjects
from ganglion.messaging.bus import Bus

T = TypeVar("T")
RETRY_NS = 200_000_000
TICK_STREAM = "tick"


async def answered(call: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """What the call gives once the server answers: one that is restarting is waited out.

    For questions, and for what may be done twice.
    """
    while True:
        try:
            return await call()
        except MessagingError as error:
            if error.code != "messaging.unavailable":
                raise
        await clock.sleep_ns(RETRY_NS)


class BusJournal:
    """Input of the engine: a gateway's JOURNAL, or the IN stream of a site with children."""

    def __init__(self, bus: Bus, stream: str, clock: Clock) -> None:
        self._bus = bus
        self._stream = stream
        self._clock = clock

    async def read(self, after_seq: int) -> AsyncIterator[Entry]:
        async for stored in self._bus.read(self._stream, after_seq):
            tick = stored.subject.startswith(f"j.{TICK_STREAM}.")
            yield Entry(stored.seq, None if tick else stored.payload)

    async def last_seq(self) -> int:
        return (await answered(lambda: self._bus.state(self._stream), self._clock)).last_seq


class BusOutbox:
    """Output of the engine: appends the n-th message exactly as number n, however often a server restarts.

    ``offset``: what the stream's own numbers have beyond that, see `messaging.provision`. ``urgent``: the streams
    that go before others.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        clock: Clock,
        watch: Callable[[str, bool], None] = lambda _stream, _ok: None,
        offset: int = 0,
        urgent: frozenset[str] = frozenset(),
    ) -> None:
        self.trouble = ""
        self._urgent = urgent
        self._mean_bytes: dict[subjects.Lane, float] = {}
        self._watch = watch
        self._offset = offset
        self._bus = bus
        self._stream = stream
        self._clock = clock

    def _lane(self, stream: str) -> subjects.Lane:
        return subjects.URGENT if stream in self._urgent else subjects.BULK

    def mean_bytes(self, lane: subjects.Lane) -> float:
        """About how large a lane's newest messages are; as large as messages get while none is known."""
        return self._mean_bytes.get(lane, MESSAGE_TARGET_BYTES)

    def seq(self, ordinal: int) -> int:
        """The number that the server gives to the n-th message."""
        return self._offset + ordinal

    async def last_ordinal(self) -> int:
        state = await answered(lambda: self._bus.state(self._stream), self._clock)
        return state.last_seq - self._offset

    async def delivered(self) -> int:
        """How many messages the parent has safely on disk."""
        return max(0, await self._bus.delivered(self._stream) - self._offset)

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        while True:
            try:
                await self._bus.append(
                    self._stream,
                    subjects.outbox_subject(stream, origin, self._lane(stream)),
                    payload,
                    expect_last=self._offset + ordinal - 1,
                )
                self.trouble = ""
                self._watch(self._stream, True)
                lane = self._lane(stream)
                self._mean_bytes[lane] = self.mean_bytes(lane) * 0.9 + len(payload) * 0.1
                return
            except MessagingError as error:
                self.trouble = str(error)
                self._watch(self._stream, error.code not in ("messaging.unavailable", "messaging.no-stream"))
                if error.code == "messaging.fence":
                    # An append whose acknowledgement was lost is already there; anything else is a second writer.
                    if await self.last_ordinal() >= ordinal:
                        return
                    raise
                # A server that shut its streams says that there are none: they come back when it starts anew.
                if error.code not in ("messaging.full", "messaging.unavailable", "messaging.no-stream"):
                    raise
            await self._clock.sleep_ns(RETRY_NS)
