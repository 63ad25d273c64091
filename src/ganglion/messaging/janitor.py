"""Gives disk back: purges what the parent has from the outbox, and what a checkpoint covers from the input stream.

Streams have limits retention, so nothing leaves them by itself and nothing can leak after a crash (ADR 0003). Of what
the parent has, the outbox keeps a tail while there is room: a parent restored from an older backup is refilled from it
(`provision.refill`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ganglion.core.errors import MessagingError
from ganglion.core.units import NS_PER_S
from ganglion.host.ports import Clock
from ganglion.messaging.bus import Bus, StreamState

EVERY_NS = 1 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Tail:
    """How much of an outbox stays after it was delivered: ``bytes_max``, and nothing once the stream is half full.

    ``cap_bytes`` is the stream's. New data never waits for the tail: it goes first, within one round of the janitor.
    """

    bytes_max: int = 0
    cap_bytes: int = 0

    def messages(self, state: StreamState, done_seq: int) -> int:
        """How many of the messages up to ``done_seq`` stay, by the mean size of those in the stream."""
        if not state.messages or state.size_bytes > self.cap_bytes // 2:
            return 0
        owed = max(0, state.last_seq - max(done_seq, state.first_seq - 1))
        return max(0, self.bytes_max * state.messages // max(1, state.size_bytes) - owed)


NO_TAIL = Tail()


def purge_up_to(first_seq: int, done_seq: int, tail_messages: int) -> int:
    """The last sequence number to purge so that ``tail_messages`` of the done ones stay; 0 for nothing to do."""
    up_to = done_seq - tail_messages
    return up_to if up_to >= first_seq else 0


class Janitor:
    """Purges one site's input stream and outbox every `EVERY_NS`; a server that is away is waited out.

    ``outbox`` "": it is purged elsewhere.
    """

    def __init__(self, bus: Bus, clock: Clock, *, source: str, outbox: str, tail: Tail = NO_TAIL) -> None:
        self._bus = bus
        self._clock = clock
        self._source = source
        self._outbox = outbox
        self._tail = tail
        self._processed_seq = 0
        self.trouble = ""

    def processed(self, seq: int) -> None:
        """A checkpoint covers the input up to ``seq``: it is not needed any more."""
        self._processed_seq = max(seq, self._processed_seq)

    async def run(self) -> None:
        """Goes on for ever; what cannot be purged now is purged next time, and `trouble` says why."""
        while True:
            await self._clock.sleep_ns(EVERY_NS)
            try:
                await self._purge(self._source, self._processed_seq, NO_TAIL)
                if self._outbox:
                    await self._purge(self._outbox, await self._bus.delivered(self._outbox), self._tail)
                self.trouble = ""
            except MessagingError as error:
                self.trouble = str(error)

    async def _purge(self, stream: str, done_seq: int, tail: Tail) -> None:
        state = await self._bus.state(stream)
        done = min(done_seq, state.last_seq)
        up_to = purge_up_to(state.first_seq, done, tail.messages(state, done))
        if up_to:
            await self._bus.purge(stream, up_to)
