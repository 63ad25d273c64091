"""The port through which a node reads and writes the streams of its own site."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ganglion.core.errors import MessagingError

PAYLOAD_MAX_BYTES = 4 << 20
"""Largest payload of one message; batches aim at 64 KB."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream holds it. ``seq`` counts from 1 in each stream and never repeats."""

    seq: int
    subject: str
    payload: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream holds now. An empty stream has ``first_seq == last_seq + 1``, whatever was purged."""

    first_seq: int
    last_seq: int
    messages: int
    size_bytes: int


class Bus(Protocol):
    """A site's streams. Every method may raise `MessagingError`.

    ``messaging.unavailable`` the server is down or did not answer in time: the outcome of a write is unknown;
    ``messaging.no-stream`` the site has no such stream; ``messaging.refused`` any other answer of the server.
    """

    async def append(
        self,
        stream: str,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        expect_last: int | None = None,
        among: str = "",
    ) -> int:
        """Returns the message's sequence number once it is on disk.

        ``expect_last`` is a fence: the stream's last_seq must be that; with ``among``, a subject with wildcards, the
        newest message's that the stream holds there, 0 for none. Raises ``messaging.full`` at the stream's byte cap,
        ``messaging.fence``, ``messaging.too-large`` above `PAYLOAD_MAX_BYTES`.
        """

    def read(self, stream: str, after_seq: int) -> AsyncIterator[Stored]:
        """Every message after ``after_seq``, endlessly: in order, none twice, no gap but what was purged.

        Waits out a server that is away. Raises ``messaging.rewound`` when the stream ends before ``after_seq``.
        """

    async def state(self, stream: str) -> StreamState:
        """What the stream holds now."""

    async def newest(self, stream: str, among: str) -> Stored | None:
        """The newest message that the stream holds under a subject with wildcards."""

    async def following(self, stream: str, among: str, after_seq: int) -> Stored | None:
        """The first after ``after_seq`` that the stream holds there."""

    async def purge(self, stream: str, up_to_seq: int, among: str = "") -> None:
        """Removes every message with seq <= ``up_to_seq`` (clamped to last_seq); never changes last_seq.

        ``among``: only those under a subject with wildcards.
        """

    async def delivered(self, stream: str) -> int:
        """The highest seq of an outbox that the parent has safely on disk; 0 if none."""

    async def publish(self, subject: str, payload: bytes) -> None:
        """Sends once to whoever listens now, here or across a link that is up; no promise."""

    def subscribe(self, subject: str) -> AsyncIterator[Stored]:
        """What is published to ``subject`` (``*`` and ``>`` as in NATS) from the first ``anext`` on; seq is 0."""

    async def close(self) -> None:
        """Lets go of the server; what is under way fails with ``messaging.unavailable``."""


def check_payload(payload: bytes) -> None:
    """Raises `MessagingError` ``messaging.too-large`` for more than `PAYLOAD_MAX_BYTES`."""
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise MessagingError(
            "messaging.too-large",
            f"a message of {len(payload)} bytes is too large",
            why=f"one message holds at most {PAYLOAD_MAX_BYTES} bytes",
            next_step="send fewer rows in one batch",
        )


def full(stream: str) -> MessagingError:
    """The stream has reached its byte cap."""
    return MessagingError(
        "messaging.full",
        f"stream {stream} is full",
        why="it has reached its byte cap and nothing old may be dropped",
        next_step="heal the uplink or give the site a larger cap; writes go on by themselves after that",
    )


def fence(stream: str, expect_last: int | None) -> MessagingError:
    """Somebody else, or an earlier try, wrote first."""
    return MessagingError(
        "messaging.fence",
        f"stream {stream} does not end at {expect_last}",
        why="another writer, or an earlier try of this one, has appended since",
        next_step="read the stream's state and go on from its last_seq",
    )


def unavailable(stream: str, why: str) -> MessagingError:
    """No answer; a write may or may not have happened."""
    return MessagingError(
        "messaging.unavailable",
        f"the message server did not answer for {stream}",
        why=why,
        next_step="try again; if it lasts, look at the server's log in the run directory",
    )


def no_stream(stream: str) -> MessagingError:
    """The site was never provisioned with this stream."""
    return MessagingError(
        "messaging.no-stream",
        f"there is no stream {stream} here",
        why="the site was not provisioned, or its store was removed",
        next_step="provision the site before reading or writing",
    )


def rewound(stream: str, after_seq: int, last_seq: int) -> MessagingError:
    """The stream has lost what a reader has already seen."""
    return MessagingError(
        "messaging.rewound",
        f"stream {stream} ends at {last_seq} but was read up to {after_seq}",
        why="its store was removed or replaced by an older copy",
        next_step="start the node from an empty checkpoint, or restore the stream",
    )
