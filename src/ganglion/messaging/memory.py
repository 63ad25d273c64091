"""A tree of sites without servers: the same promises as the NATS binding, in memory, without any delay of its own.

`MemorySites` holds the sites and the links between them; what a link lets through moves at once, in full, and in a
fixed order, so runs repeat exactly. Faults are method calls: ``cut``, ``heal``, ``stop``, ``start``.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

from ganglion.messaging.bus import (
    Stored,
    StreamState,
    check_payload,
    fence,
    full,
    no_stream,
    rewound,
    unavailable,
)
from ganglion.messaging.provision import Caps
from ganglion.messaging.subjects import inbox, journal, outbox

MESSAGE_OVERHEAD_BYTES = 30
"""About what a stored message costs beside its subject, headers and payload."""
LISTENER_WAITING_MAX = 10_000


@dataclass(slots=True)
class _Stream:
    size_max_bytes: int
    first_seq: int = 1
    size_bytes: int = 0
    held: deque[Stored] = field(default_factory=deque)
    delivered_seq: int = 0

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.held) - 1

    def fits(self, message: Stored) -> bool:
        return self.size_bytes + _size_bytes(message) <= self.size_max_bytes

    def add(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> int | None:
        """The new message's seq, or None when it does not fit."""
        message = Stored(self.last_seq + 1, subject, payload, headers)
        if not self.fits(message):
            return None
        self.held.append(message)
        self.size_bytes += _size_bytes(message)
        return message.seq

    def purge(self, up_to_seq: int) -> None:
        while self.held and self.first_seq <= up_to_seq:
            self.size_bytes -= _size_bytes(self.held.popleft())
            self.first_seq += 1


@dataclass(slots=True)
class _Site:
    streams: dict[str, _Stream]
    children: list[str] = field(default_factory=list)
    parent: str | None = None
    running: bool = True
    linked: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    listeners: list[tuple[re.Pattern[str], asyncio.Queue[Stored | None]]] = field(default_factory=list)


class MemorySites:
    """Sites, their streams, and the links between a child and its parent."""

    def __init__(self) -> None:
        self._sites: dict[str, _Site] = {}

    def add(self, site: str, caps: Caps, *, parent: str | None = None) -> MemoryBus:
        """A site with empty streams, linked to ``parent`` (which must be there already) unless that is None."""
        assert site not in self._sites
        if parent is not None:
            self._sites[parent].children.append(site)
        self._sites[site] = _Site(
            {
                journal(site): _Stream(caps.journal_max_bytes),
                outbox(site): _Stream(caps.outbox_max_bytes),
                inbox(site): _Stream(caps.inbox_max_bytes),
            },
            parent=parent,
        )
        return MemoryBus(self, site)

    def bus(self, site: str) -> MemoryBus:
        """Another connection to a site's server."""
        assert site in self._sites
        return MemoryBus(self, site)

    def cut(self, child: str) -> None:
        """The link from ``child`` to its parent lets nothing through."""
        self._sites[child].linked = False

    def heal(self, child: str) -> None:
        """The link works again; what waited moves at once."""
        self._sites[child].linked = True
        self.settle()

    def stop(self, site: str) -> None:
        """The site's server is away; its streams are kept."""
        self._sites[site].running = False

    def start(self, site: str) -> None:
        """The site's server is back."""
        self._sites[site].running = True
        self._wake(self._sites[site])
        self.settle()

    def settle(self) -> None:
        """Moves everything that may move now from outboxes to the parents' inboxes."""
        for name, site in self._sites.items():
            for child in site.children:
                below = self._sites[child]
                if site.running and below.running and below.linked:
                    self._draw(name, site, child, below)

    def _draw(self, name: str, site: _Site, child: str, below: _Site) -> None:
        source, target = below.streams[outbox(child)], site.streams[inbox(name)]
        before = target.last_seq
        for message in source.held:
            if message.seq <= source.delivered_seq:
                continue
            # A full inbox holds the whole link back: order is kept by not looking further.
            if target.add(f"in.{child}.{message.subject}", message.payload, message.headers) is None:
                break
            source.delivered_seq = message.seq
        if target.last_seq != before:
            self._wake(site)

    @staticmethod
    def _wake(site: _Site) -> None:
        site.changed.set()
        site.changed = asyncio.Event()

    def spread(self, site: str, subject: str, payload: bytes, came_from: str | None = None) -> None:
        """Hands a plain message to listeners here and across every link that is up."""
        here = self._sites[site]
        if not here.running:
            return
        for pattern, waiting in here.listeners:
            if pattern.fullmatch(subject) and waiting.qsize() < LISTENER_WAITING_MAX:
                waiting.put_nowait(Stored(0, subject, payload, {}))
        for child in here.children:
            if child != came_from and self._sites[child].linked:
                self.spread(child, subject, payload, site)
        if here.parent is not None and here.parent != came_from and here.linked:
            self.spread(here.parent, subject, payload, site)


class MemoryBus:
    """`Bus` on one site of a `MemorySites`."""

    def __init__(self, sites: MemorySites, site: str) -> None:
        self._sites = sites
        self._name = site
        self._site = sites._sites[site]  # the two classes are halves of one
        self._closed = False
        self._own: list[asyncio.Queue[Stored | None]] = []

    async def append(
        self,
        stream: str,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        expect_last: int | None = None,
    ) -> int:
        check_payload(payload)
        held = self._stream(stream)
        if expect_last is not None and held.last_seq != expect_last:
            raise fence(stream, expect_last)
        seq = held.add(subject, bytes(payload), dict(headers or {}))
        if seq is None:
            raise full(stream)
        self._sites._wake(self._site)  # the two classes are halves of one
        self._sites.settle()
        # A real append waits for the disk: whoever else is ready runs first.
        await asyncio.sleep(0)
        return seq

    async def read(self, stream: str, after_seq: int) -> AsyncGenerator[Stored]:
        if stream not in self._site.streams:
            raise no_stream(stream)
        held = self._site.streams[stream]
        last = after_seq
        while True:
            if self._closed:
                raise unavailable(stream, "the bus was closed")
            changed = self._site.changed
            if self._site.running:
                if held.last_seq < last:
                    raise rewound(stream, last, held.last_seq)
                if held.last_seq > last:
                    message = held.held[max(0, last + 1 - held.first_seq)] if held.held else None
                    last = message.seq if message else held.last_seq
                    if message:
                        yield message
                    continue
            await changed.wait()

    async def state(self, stream: str) -> StreamState:
        held = self._stream(stream)
        return StreamState(held.first_seq, held.last_seq, len(held.held), held.size_bytes)

    async def purge(self, stream: str, up_to_seq: int) -> None:
        self._stream(stream).purge(up_to_seq)
        self._sites.settle()

    async def delivered(self, stream: str) -> int:
        return self._stream(stream).delivered_seq

    async def publish(self, subject: str, payload: bytes) -> None:
        check_payload(payload)
        self._check_open(subject)
        self._sites.spread(self._name, subject, payload)

    async def subscribe(self, subject: str) -> AsyncGenerator[Stored]:
        waiting: asyncio.Queue[Stored | None] = asyncio.Queue()
        listener = (_pattern(subject), waiting)
        self._site.listeners.append(listener)
        self._own.append(waiting)
        try:
            while (message := await waiting.get()) is not None:
                yield message
        finally:
            self._site.listeners.remove(listener)
            self._own.remove(waiting)
        raise unavailable(subject, "the bus was closed")

    async def close(self) -> None:
        self._closed = True
        for waiting in self._own:
            waiting.put_nowait(None)
        self._sites._wake(self._site)  # the two classes are halves of one

    def _stream(self, stream: str) -> _Stream:
        self._check_open(stream)
        if stream not in self._site.streams:
            raise no_stream(stream)
        return self._site.streams[stream]

    def _check_open(self, name: str) -> None:
        if self._closed:
            raise unavailable(name, "the bus was closed")
        if not self._site.running:
            raise unavailable(name, "the server is stopped")


def _size_bytes(message: Stored) -> int:
    headers = sum(len(k) + len(v) + 4 for k, v in message.headers.items())
    return MESSAGE_OVERHEAD_BYTES + len(message.subject) + len(message.payload) + headers


def _pattern(subject: str) -> re.Pattern[str]:
    parts = {"*": r"[^.]+", ">": r".+"}
    return re.compile(r"\.".join(parts.get(p, re.escape(p)) for p in subject.split(".")))
