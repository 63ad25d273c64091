"""Confirmable messages under way (RFC 7252 sections 4.2, 4.7): retransmission, and NSTART per peer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from ganglion.connectors.coap.message import MESSAGE_ID_MAX
from ganglion.connectors.coap.settings import Counters, Settings
from ganglion.core.errors import ConnectorError
from ganglion.core.units import NS_PER_S
from ganglion.host.ports import Chance

Address = tuple[Any, ...]
"""A socket address as the kernel gives it: (host, port), for IPv6 with flow and scope behind."""


class Outcome(Enum):
    """How a confirmable message ended."""

    ACKNOWLEDGED = "acknowledged"
    RESET = "reset"
    EXPIRED = "expired"


class Transmission:
    """One confirmable message until it is acknowledged, reset, given up or cancelled."""

    __slots__ = (
        "attempts_left",
        "datagram",
        "message_id",
        "on_end",
        "peer",
        "started",
        "timer",
        "token",
        "wait_s",
    )

    def __init__(
        self, peer: Address, message_id: int, token: bytes, datagram: bytes, on_end: Callable[[Outcome], None]
    ) -> None:
        self.peer = peer
        self.message_id = message_id
        self.token = token
        self.datagram = datagram
        self.on_end = on_end
        self.started = False
        self.attempts_left = 0
        self.wait_s = 0.0
        self.timer: asyncio.TimerHandle | None = None


class Outbound:
    """All confirmable messages of one endpoint: ``outstanding_max`` in all, ``nstart`` per peer under way."""

    def __init__(
        self,
        settings: Settings,
        chance: Chance,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[bytes, Address], None],
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._chance = chance
        self._loop = loop
        self._send = send
        self._counters = counters
        self._first_wait_s = settings.ack_timeout_ns / NS_PER_S
        self._next_id = chance.getrandbits(16)
        self._under_way: dict[tuple[Address, int], Transmission] = {}
        self._active: dict[Address, int] = {}
        self._waiting: dict[Address, deque[Transmission]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def next_message_id(self, peer: Address) -> int:
        """A message id that none of our messages to ``peer`` is waiting on (section 4.4)."""
        while True:
            message_id = self._next_id
            self._next_id = message_id + 1 & MESSAGE_ID_MAX
            if (peer, message_id) not in self._under_way:
                return message_id

    def submit(self, transmission: Transmission) -> None:
        """Sends now, or when the peer has a place free. Raises ``coap.busy`` at the limit."""
        if len(self._under_way) >= self._settings.outstanding_max:
            raise ConnectorError(
                "coap.busy",
                f"{len(self._under_way)} confirmable messages are waiting to be acknowledged",
                why=f"the limit of this endpoint is {self._settings.outstanding_max}",
                next_step="wait for answers before sending more, or raise outstanding_max",
            )
        peer = transmission.peer
        self._under_way[peer, transmission.message_id] = transmission
        if self._active.get(peer, 0) < self._settings.nstart:
            self._start(transmission)
        else:
            self._waiting.setdefault(peer, deque()).append(transmission)

    def find(self, peer: Address, message_id: int) -> Transmission | None:
        """The message that an ACK or RST of ``peer`` speaks of, if it has been sent and not ended."""
        found = self._under_way.get((peer, message_id))
        return found if found is not None and found.started else None

    def end(self, transmission: Transmission, outcome: Outcome | None) -> None:
        """Takes a message out, tells its owner unless ``outcome`` is None; harmless when repeated."""
        peer = transmission.peer
        if self._under_way.get((peer, transmission.message_id)) is not transmission:
            return
        del self._under_way[peer, transmission.message_id]
        if transmission.timer is not None:
            transmission.timer.cancel()
            transmission.timer = None
        if transmission.started:
            left = self._active[peer] - 1
            if left:
                self._active[peer] = left
            else:
                del self._active[peer]
            if peer in self._waiting:
                self._start_next(peer)
        else:
            self._forget_waiting(transmission)
        if outcome is not None:
            transmission.on_end(outcome)

    def close(self) -> None:
        """Stops every timer and forgets everything; owners are not told."""
        for transmission in self._under_way.values():
            if transmission.timer is not None:
                transmission.timer.cancel()
        self._under_way.clear()
        self._active.clear()
        self._waiting.clear()

    def _start_next(self, peer: Address) -> None:
        queue = self._waiting[peer]
        following = queue.popleft()
        if not queue:
            del self._waiting[peer]
        self._start(following)

    def _forget_waiting(self, transmission: Transmission) -> None:
        queue = self._waiting[transmission.peer]
        queue.remove(transmission)
        if not queue:
            del self._waiting[transmission.peer]

    def _start(self, transmission: Transmission) -> None:
        peer = transmission.peer
        self._active[peer] = self._active.get(peer, 0) + 1
        transmission.started = True
        transmission.attempts_left = self._settings.max_retransmit
        # Section 4.2: the first wait is random so that peers that lost together do not retry together.
        transmission.wait_s = self._first_wait_s * self._chance.uniform(1.0, self._settings.ack_random_factor)
        transmission.timer = self._loop.call_later(transmission.wait_s, self._overdue, transmission)
        self._send(transmission.datagram, peer)

    def _overdue(self, transmission: Transmission) -> None:
        transmission.timer = None
        if transmission.attempts_left == 0:
            self._counters.expired += 1
            self.end(transmission, Outcome.EXPIRED)
            return
        transmission.attempts_left -= 1
        transmission.wait_s *= 2
        self._counters.retransmitted += 1
        transmission.timer = self._loop.call_later(transmission.wait_s, self._overdue, transmission)
        self._send(transmission.datagram, transmission.peer)
