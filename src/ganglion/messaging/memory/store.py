"""Streams as a server keeps them: limits retention, discard new, a byte cap, positions of sources and of the uplink."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ganglion.messaging.bus import Stored

RECORD_BYTES = 22
"""A stored message beside its subject, headers and payload, as nats-server counts it: head 22, checksum 8."""
CHECKSUM_BYTES = 8
HEADERS_BYTES = 4
"""What headers cost at all: their length."""


@dataclass(slots=True)
class Stream:
    """One stream. ``sourced``: per source stream the last sequence taken from it; it goes when the source does."""

    config: dict[str, Any]
    first_seq: int = 1
    last_seq: int = 0
    size_bytes: int = 0
    held: deque[Stored] = field(default_factory=deque)
    sourced: dict[str, int] = field(default_factory=dict)
    synced_seq: int = 0
    unsynced: dict[str, int] = field(default_factory=dict)
    """``sourced`` as of the last sync."""
    broken: bool = False
    """A write met a full disk: the server writes nothing more to this stream until it starts anew, room or not."""

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
        self.last_seq = message.seq
        return message.seq

    def purge(self, up_to_seq: int) -> int:
        """Removes the messages up to ``up_to_seq``; a purge beyond the end moves the end, as the server's does."""
        before = len(self.held)
        while self.held and self.held[0].seq <= up_to_seq:
            self.size_bytes -= stored_bytes(self.held.popleft())
        self.last_seq = max(self.last_seq, up_to_seq) if not self.held else self.last_seq
        self.first_seq = self.held[0].seq if self.held else self.last_seq + 1
        return before - len(self.held)

    def after(self, seq: int) -> Stored | None:
        """The first message beyond ``seq``; None at the end."""
        if not self.held or self.last_seq <= seq:
            return None
        return self.held[max(0, seq + 1 - self.held[0].seq)]

    def sync(self) -> None:
        """What is here now survives a power cut."""
        self.synced_seq = self.last_seq
        self.unsynced = dict(self.sourced)

    def power_cut(self) -> None:
        """Loses what was not synced."""
        while self.held and self.held[-1].seq > self.synced_seq:
            self.size_bytes -= stored_bytes(self.held.pop())
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

    def acknowledge(self, seq: int) -> None:
        self.saved_floor = self.floor
        self.floor = max(self.floor, seq)


@dataclass(slots=True)
class Store:
    """What one server has on disk; it outlives the server. ``full``: the disk beneath takes no more."""

    streams: dict[str, Stream] = field(default_factory=dict)
    consumers: dict[tuple[str, str], Consumer] = field(default_factory=dict)
    full: bool = False

    def crash(self) -> None:
        """The server was killed: written streams stay, consumers are where they were last saved."""
        for consumer in self.consumers.values():
            consumer.floor = consumer.sent_seq = consumer.saved_floor
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


def pattern(subject: str) -> re.Pattern[str]:
    """A subject with wildcards (``*`` one part, ``>`` the rest) as an expression for whole subjects."""
    parts = {"*": r"[^.]+", ">": r".+"}
    return re.compile(r"\.".join(parts.get(p, re.escape(p)) for p in subject.split(".")))
