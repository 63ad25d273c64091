"""Gives disk back: purges what the parent has from the outbox, and what a checkpoint covers from the input stream.

Streams have limits retention, so nothing leaves them by itself and nothing can leak after a crash (ADR 0003).
"""

from __future__ import annotations

from ganglion.core.errors import MessagingError
from ganglion.core.units import NS_PER_S
from ganglion.host.ports import Clock
from ganglion.messaging.bus import Bus

EVERY_NS = 1 * NS_PER_S
TAIL_MESSAGES = 0


def purge_up_to(first_seq: int, done_seq: int, tail_messages: int) -> int:
    """The last sequence number to purge so that ``tail_messages`` of the done ones stay; 0 for nothing to do."""
    up_to = done_seq - tail_messages
    return up_to if up_to >= first_seq else 0


class Janitor:
    """Purges one site's input stream and outbox every `EVERY_NS`; a server that is away is waited out."""

    def __init__(
        self, bus: Bus, clock: Clock, *, source: str, outbox: str, tail_messages: int = TAIL_MESSAGES
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._source = source
        self._outbox = outbox
        self._tail_messages = tail_messages
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
                await self._purge(self._source, self._processed_seq, 0)
                await self._purge(self._outbox, await self._bus.delivered(self._outbox), self._tail_messages)
                self.trouble = ""
            except MessagingError as error:
                self.trouble = str(error)

    async def _purge(self, stream: str, done_seq: int, tail_messages: int) -> None:
        state = await self._bus.state(stream)
        up_to = purge_up_to(state.first_seq, min(done_seq, state.last_seq), tail_messages)
        if up_to:
            await self._bus.purge(stream, up_to)
