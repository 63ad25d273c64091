"""Pull consumers of which one client is pinned at a time, as nats-server has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ganglion.messaging.bus import Stored
from ganglion.messaging.memory.store import Stream, pattern
from ganglion.messaging.pins import PIN_HEADER, Delivered

Deliver = Callable[[Delivered], bool]
"""Sends to a client's mailbox; False when the client is no more."""


@dataclass(slots=True, eq=False)
class _Request:
    """What a client has asked for and not got yet."""

    batch: int
    pin: str
    deliver: Deliver


@dataclass(slots=True)
class PulledConsumer:
    """One consumer. What it has given and what was acknowledged outlives the server; who is pinned does not."""

    name: str
    stream: str
    config: dict[str, Any]
    floor: int = 0
    sent_seq: int = 0
    number: int = 0
    pinned: str = ""
    _pins: int = 0
    _requests: list[_Request] = field(default_factory=list)
    _timer: asyncio.TimerHandle | None = None

    def info(self, held: Stream) -> dict[str, Any]:
        """The answer to CONSUMER.INFO."""
        group: dict[str, Any] = {"group": self.config["priority_groups"][0]}
        if self.pinned:
            group["pinned_client_id"] = self.pinned
        fits = pattern(self.config["filter_subject"]).fullmatch
        matching = [m.seq for m in held.held if m.seq > self.floor and fits(m.subject)]
        return {
            "stream_name": self.stream,
            "name": self.name,
            "config": self.config,
            "delivered": {"consumer_seq": self.number, "stream_seq": self.sent_seq},
            "ack_floor": {"stream_seq": self.floor},
            "num_ack_pending": sum(seq <= self.sent_seq for seq in matching),
            "num_pending": sum(seq > self.sent_seq for seq in matching),
            "priority_groups": [group],
        }

    def pull(self, held: Stream, wanted: Mapping[str, Any], deliver: Deliver) -> None:
        """A client asks: it is served as far as it may be, and waits for the rest."""
        known = wanted.get("id", "")
        if known:
            if known != self.pinned:
                deliver(Delivered("423"))
                return
            self._hold()
        request = _Request(int(wanted["batch"]), known, deliver)
        self._requests.append(request)
        asyncio.get_running_loop().call_later(wanted["expires"] / 1e9, self._expire, request)
        self.serve(held)

    def serve(self, held: Stream) -> None:
        """Gives what there is to whom it is due."""
        fits = pattern(self.config["filter_subject"]).fullmatch
        while self._requests:
            message = held.after(self.sent_seq)
            while message is not None and not fits(message.subject):
                message = held.after(message.seq)
            if message is None or not self._give(message):
                return

    def _give(self, message: Stored) -> bool:
        """False when nobody may have it now."""
        request = next((r for r in self._requests if r.pin == self.pinned), None)
        if request is None:
            return False
        pinned = self.pinned or f"pin-{self._pins + 1}"
        given = Stored(message.seq, message.subject, message.payload, {**message.headers, PIN_HEADER: pinned})
        reply = f"$JS.ACK.{self.stream}.{self.name}.1.{message.seq}.{self.number + 1}"
        if not request.deliver(Delivered("", self.number + 1, given, reply)):
            self._requests.remove(request)
            return True
        self.sent_seq, self.number = message.seq, self.number + 1
        request.batch -= 1
        if request.batch == 0:
            self._requests.remove(request)
        if not self.pinned:
            self._pin(request, pinned)
        return True

    def _pin(self, request: _Request, pinned: str) -> None:
        self.pinned, self._pins = pinned, self._pins + 1
        request.pin = pinned
        for other in [r for r in self._requests if r.pin not in ("", pinned)]:
            self._requests.remove(other)
            other.deliver(Delivered("423"))
        self._hold()

    def _hold(self) -> None:
        """The pin lasts for another while."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.config["priority_timeout"] / 1e9, self.unpin)

    def unpin(self) -> None:
        """Nobody is pinned any more; the next to be given a message is."""
        self.pinned = ""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self, request: _Request) -> None:
        if request in self._requests:
            self._requests.remove(request)
            request.deliver(Delivered("408"))

    def acknowledge(self, seq: int) -> None:
        """All messages up to this one are done with."""
        if seq <= self.sent_seq:
            self.floor = max(self.floor, seq)

    def reset(self, seq: int) -> None:
        """Gives again from ``seq`` on, counted anew; who is pinned stays."""
        self.floor = self.sent_seq = seq - 1
        self.number = 0

    def stop(self) -> None:
        """The server is no more."""
        self.unpin()
        self._requests.clear()
