"""Streams as a server keeps them: limits retention, discard new, a byte cap, positions of sources and of the uplink."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ganglion.messaging.bus import Stored

if TYPE_CHECKING:
    from ganglion.messaging.memory.pins import PulledConsumer

RECORD_BYTES = 22
"""A stored message beside its subject, headers and payload, as nats-server counts it: head 22, checksum 8."""
CHECKSUM_BYTES = 8
HEADERS_BYTES = 4
"""What headers cost at all: their length."""


@dataclass(slots=True)
class Stream:
    """One stream. ``sourced``: per source the last sequence taken from it; it goes when the source does."""

    config: dict[str, Any]
    first_seq: int = 1
    last_seq: int = 0
    size_bytes: int = 0
    held: list[Stored] = field(default_factory=list)
    """In the order of their numbers, which may have gaps."""
    sourced: dict[str, int] = field(default_factory=dict)
    synced_seq: int = 0
    unsynced: dict[str, int] = field(default_factory=dict)
    """``sourced`` as of the last sync."""
    broken: bool = False
    """A write met a full disk: the server writes nothing more to this stream until it starts anew, room or not."""
    kinds: Counter[str] = field(default_factory=Counter)
    """How many messages there are by the first part of their subjects."""

    @property
    def max_bytes(self) -> int:
        return int(self.config["max_bytes"])

    def fits(self, message: Stored) -> bool:
        """False when discard new would refuse it."""
        return self.max_bytes <= 0 or self.size_bytes + stored_bytes(message) <= self.max_bytes

    def add(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> int | None:
        """The new message's sequence number; None when it does not fit."""
        message = Stored(self.last_seq + 1, subject, payload, headers)
        if not self.fits(message):
            return None
        self.held.append(message)
        self.size_bytes += stored_bytes(message)
        self.kinds[_kind(subject)] += 1
        self.last_seq = message.seq
        return message.seq

    def purge(self, up_to_seq: int) -> int:
        """Removes the messages up to ``up_to_seq``; a purge beyond the end moves the end, as the server's does."""
        count = self._index(up_to_seq)
        self._forget(self.held[:count])
        del self.held[:count]
        self.last_seq = max(self.last_seq, up_to_seq) if not self.held else self.last_seq
        self.first_seq = self.held[0].seq if self.held else self.last_seq + 1
        return count

    def purge_some(self, up_to_seq: int, subjects: str) -> int:
        """Removes of the messages up to ``up_to_seq`` those of a filter; the end stays where it is."""
        count = self._index(up_to_seq)
        gone = [m for m in self.held[:count] if matches(m, subjects)]
        self._forget(gone)
        self.held[:count] = [m for m in self.held[:count] if not matches(m, subjects)]
        self.first_seq = self.held[0].seq if self.held else self.last_seq + 1
        return len(gone)

    def newest(self, subjects: str) -> Stored | None:
        """The newest message that a filter lets through."""
        return next((m for m in reversed(self.held) if matches(m, subjects)), None)

    def delete(self, seq: int) -> bool:
        """Removes one message; False when it is not here."""
        at = self._index(seq) - 1
        if at < 0 or self.held[at].seq != seq:
            return False
        self._forget([self.held.pop(at)])
        self.first_seq = self.held[0].seq if self.held else self.last_seq + 1
        return True

    def _forget(self, messages: list[Stored]) -> None:
        for message in messages:
            self.size_bytes -= stored_bytes(message)
            self.kinds[_kind(message.subject)] -= 1

    def _index(self, seq: int) -> int:
        """How many messages have numbers up to ``seq``."""
        return bisect_right(self.held, seq, key=lambda m: m.seq)

    def after(self, seq: int, subjects: str = "") -> Stored | None:
        """The first message beyond ``seq`` that a filter lets through; None at the end."""
        return next(self.beyond(seq, subjects), None)

    def beyond(self, seq: int, subjects: str = "") -> Iterator[Stored]:
        """The messages beyond ``seq`` that a filter lets through."""
        if self.last_seq <= seq or (subjects and "*" not in subjects and not self.kinds[_kind(subjects)]):
            return
        for at in range(self._index(seq), len(self.held)):
            if matches(self.held[at], subjects):
                yield self.held[at]

    def sync(self) -> None:
        """What is here now survives a power cut."""
        self.synced_seq = self.last_seq
        self.unsynced = dict(self.sourced)

    def power_cut(self) -> None:
        """Loses what was not synced."""
        while self.held and self.held[-1].seq > self.synced_seq:
            self._forget([self.held.pop()])
        self.last_seq = min(self.last_seq, max(self.synced_seq, self.first_seq - 1))
        if not self.held:
            self.first_seq = self.last_seq + 1
        self.sourced = dict(self.unsynced)

    def takes(self, subject: str) -> bool:
        """True when a message published to the subject is stored here."""
        return any(pattern(s).fullmatch(subject) for s in self.config.get("subjects") or ())


@dataclass(slots=True)
class Consumer:
    """A durable push consumer with flow-control acknowledgements.

    ``floor``: everything up to it is acknowledged. ``saved_floor``: what of that a crash leaves, as a server writes
    consumer state a little later.
    """

    config: dict[str, Any]
    floor: int = 0
    saved_floor: int = 0
    sent_seq: int = 0
    acknowledged: int = 0
    """How many messages since the parent last began to draw."""
    under_way: int = 0
    generation: int = 0
    told: bool = False
    """It was reset by name, which the parent takes note of."""
    looked_seq: int = 0
    """Up to here nothing is left to send: a lane that is empty need not look again."""

    @property
    def filter(self) -> str:
        """The subjects it draws; "" for all."""
        return str(self.config.get("filter_subject", ""))

    def acknowledge(self, seq: int, stream: Stream) -> None:
        """Everything up to ``seq``; ignored when that was not sent yet, as nats-server does after it was drawn anew."""
        seq = min(seq, self.sent_seq) if self.told else seq
        if self.floor < seq <= self.sent_seq:
            self.saved_floor, self.floor = self.floor, seq
            before = self.under_way
            sent = (m for m in stream.beyond(seq, self.filter) if m.seq <= self.sent_seq)
            self.under_way = sum(1 for _ in sent)
            self.acknowledged += max(0, before - self.under_way)

    def rewind(self, seq: int) -> None:
        """Goes on after ``seq``; what was on its way, both data and acknowledgements, is lost."""
        self.generation += 1
        self.sent_seq = self.looked_seq = seq
        self.under_way = self.acknowledged = 0


@dataclass(slots=True)
class Store:
    """What one server has on disk; it outlives the server. ``full``: the disk beneath takes no more."""

    streams: dict[str, Stream] = field(default_factory=dict)
    consumers: dict[tuple[str, str], Consumer] = field(default_factory=dict)
    pulled: dict[tuple[str, str], PulledConsumer] = field(default_factory=dict)
    full: bool = False

    def crash(self) -> None:
        """The server was killed: written streams stay, consumers are where they were last saved."""
        for consumer in self.consumers.values():
            consumer.floor = consumer.saved_floor
            consumer.rewind(consumer.floor)
        for pulled in self.pulled.values():
            pulled.stop()
        for stream in self.streams.values():
            stream.broken = False

    def power_cut(self) -> None:
        """The machine lost power: only what was synced stays."""
        self.crash()
        for stream in self.streams.values():
            stream.power_cut()

    def sync(self) -> None:
        """Everything survives a power cut from here on."""
        for stream in self.streams.values():
            stream.sync()


def stored_bytes(message: Stored) -> int:
    """What the message counts towards a stream's cap, exactly as nats-server's file store counts it."""
    headers = headers_bytes(message.headers)
    extra = HEADERS_BYTES + headers if headers else 0
    return RECORD_BYTES + len(message.subject) + extra + len(message.payload) + CHECKSUM_BYTES


def headers_bytes(headers: Mapping[str, str]) -> int:
    """The size of headers on the wire: ``NATS/1.0`` and a line each; 0 for none."""
    if not headers:
        return 0
    return len("NATS/1.0\r\n\r\n") + sum(len(f"{k}: {v}\r\n") for k, v in headers.items())


def matches(message: Stored, subjects: str) -> bool:
    """Whether a filter, a subject with wildcards or "" for all, lets a message through."""
    if subjects.endswith(".>") and "*" not in subjects:  # the usual case
        return message.subject.startswith(subjects[:-1])
    return not subjects or pattern(subjects).fullmatch(message.subject) is not None


def _kind(subject: str) -> str:
    return subject.partition(".")[0]


@lru_cache(1024)
def pattern(subject: str) -> re.Pattern[str]:
    """A subject with wildcards (``*`` one part, ``>`` the rest) as an expression for whole subjects."""
    parts = {"*": r"[^.]+", ">": r".+"}
    return re.compile(r"\.".join(parts.get(p, re.escape(p)) for p in subject.split(".")))
