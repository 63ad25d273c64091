"""`Bus` and `StreamApi` on a `MemoryServer`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from ganglion.messaging.answers import checked
from ganglion.messaging.bus import Stored, check_payload, no_stream, rewound, unavailable
from ganglion.messaging.fences import fenced
from ganglion.messaging.memory.pace import Instant, Pace, later
from ganglion.messaging.memory.server import Listener, MemoryServer
from ganglion.messaging.pins import Delivered, QueueMailbox
from ganglion.messaging.questions import Questions


class MemoryBus(Questions):
    """One client's connection. ``find`` gives the site's server of now; None while there is none.

    ``answer_within_ns``: how long a request waits for a server that is away before it fails.
    """

    def __init__(
        self, find: Callable[[], MemoryServer | None], pace: Pace | None = None, answer_within_ns: int = 0
    ) -> None:
        self._find = find
        self._pace = pace or Instant()
        self._answer_within_s = answer_within_ns / 1e9
        self.on_append: Callable[[], None] = lambda: None
        self._closed = False
        self._listeners: list[Listener] = []
        self._mailboxes: set[_Mailbox] = set()
        self._arrives_s = 0.0

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
        check_payload(payload)
        sent = fenced(headers, stream, expect_last, among)

        def append(server: MemoryServer) -> dict[str, Any] | None:
            return server.append(stream, subject, bytes(payload), sent, expect_last)

        self.on_append()
        answer = await self._request(stream, len(payload), append)
        return int(checked(stream, answer, expect_last)["seq"])

    async def ask(
        self, subject: str, request: Mapping[str, Any], *, domain: str | None = None
    ) -> dict[str, Any]:
        """`StreamApi.ask`; ``messaging.no-stream`` also when there is no link to ``domain`` now."""

        def ask(server: MemoryServer) -> dict[str, Any] | None:
            named = server if domain is None else _across(server, domain)
            if named is None:
                raise no_stream(subject)
            return named.ask(subject, request)

        asks = subject.split(".")[1] == "INFO"
        return checked(subject, await self._request(subject, 0, ask, changes=not asks), None)

    async def _request(
        self,
        about: str,
        size_bytes: int,
        call: Callable[[MemoryServer], dict[str, Any] | None],
        *,
        changes: bool = True,
    ) -> dict[str, Any]:
        """Goes to the server, is done there, comes back; a server that ends meanwhile leaves the outcome unknown.

        What changes nothing is done when it comes back: one wait instead of two, and nobody can tell.
        """
        server = await self._reach(about)
        incarnation = server.incarnation
        answer_ns = self._pace.answer_ns()
        await self._in_order(self._pace.request_ns(size_bytes) + (0 if changes else answer_ns))
        self._check_same(about, server, incarnation)
        answer = call(server)
        if answer is None:
            await asyncio.sleep(self._answer_within_s)
            raise unavailable(about, f"no answer within {self._answer_within_s:g} s")
        if changes:
            await asyncio.sleep(answer_ns / 1e9)
            self._check_same(about, server, incarnation)
        return answer

    async def _reach(self, about: str) -> MemoryServer:
        """The server, waited for as long as the client would."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._answer_within_s
        while True:
            if self._closed:
                raise unavailable(about, "the bus was closed")
            server = self._find()
            if server is not None and server.running:
                return server
            if loop.time() >= until_s:
                raise unavailable(about, f"no answer within {self._answer_within_s:g} s")
            await asyncio.sleep(min(0.025, until_s - loop.time()))

    async def _in_order(self, delay_ns: int) -> None:
        """Requests of one connection are done in the order in which they were made."""
        now_s = asyncio.get_running_loop().time()
        self._arrives_s = max(now_s + delay_ns / 1e9, self._arrives_s + 1e-9)
        if delay_ns:
            await asyncio.sleep(self._arrives_s - now_s)

    def _check_same(self, about: str, server: MemoryServer, incarnation: int) -> None:
        if self._closed:
            raise unavailable(about, "the bus was closed")
        if not server.running or server.incarnation != incarnation:
            raise unavailable(about, "the connection broke")

    async def read(self, stream: str, after_seq: int) -> AsyncGenerator[Stored]:
        last, known = after_seq, False
        while True:
            if self._closed:
                raise unavailable(stream, "the bus was closed")
            server = self._find()
            if server is None or not server.running or server.shut:
                known = False
                await asyncio.sleep(0.1)
                continue
            held = server.store.streams.get(stream)
            if held is None:
                raise no_stream(stream)
            # The server is asked where the stream ends when a reader begins, and again after each reconnection.
            if not known and held.last_seq < last:
                raise rewound(stream, last, held.last_seq)
            known = True
            incarnation, changed = server.incarnation, server.changed()
            message = held.after(last)
            if message is None:
                await changed.wait()
                known = server.running and server.incarnation == incarnation
                continue
            delay_ns = self._pace.answer_ns()
            if delay_ns:
                await asyncio.sleep(delay_ns / 1e9)
                if not server.running or server.incarnation != incarnation:
                    known = False
                    continue
            last = message.seq
            yield message

    async def publish(self, subject: str, payload: bytes) -> None:
        check_payload(payload)
        server = self._find()
        if self._closed or server is None or not server.running:
            raise unavailable(subject, "not connected")
        server.publish(subject, payload)
        for link in (server.uplink, *server.downlinks):
            if link is not None:
                link.spread(subject, payload, server)

    async def subscribe(self, subject: str) -> AsyncGenerator[Stored]:
        server = await self._reach(subject)
        listener = Listener(subject)
        server.listeners.append(listener)
        self._listeners.append(listener)
        try:
            while (message := await listener.waiting.get()) is not None:
                yield message
        finally:
            server.listeners.remove(listener)
            self._listeners.remove(listener)
        raise unavailable(subject, "the bus was closed")

    async def mailbox(self) -> QueueMailbox:
        """See `Post`."""
        server = self._find()
        if self._closed or server is None or not server.running:
            raise unavailable("mailbox", "not connected")
        slot = _Mailbox(self, server)
        self._mailboxes.add(slot)
        return QueueMailbox("mailbox", slot.queue, slot.send, slot.close)

    async def close(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """What `close` does, at once: the client's process is no more."""
        self._closed = True
        server = self._find()
        if server is not None:
            server.wake()
        for listener in self._listeners:
            listener.waiting.put_nowait(None)
        for slot in self._mailboxes:
            slot.queue.put_nowait(None)


class _Mailbox:
    """A client's end of what it has asked pinned consumers for, on one connection."""

    def __init__(self, bus: MemoryBus, server: MemoryServer) -> None:
        self.queue: asyncio.Queue[Delivered | None] = asyncio.Queue()
        self._bus = bus
        self._server = server
        self._incarnation = server.incarnation
        self._open = True
        self._arrives_s = 0.0

    async def send(self, subject: str, payload: bytes, _reply: str) -> None:
        """A request for messages, or an acknowledgement of one."""
        await self._bus._in_order(self._bus._pace.request_ns(len(payload)))
        self._bus._check_same(subject, self._server, self._incarnation)
        match subject.split("."):
            case ["$JS", "API", "CONSUMER", "MSG", "NEXT", stream, consumer]:
                self._server.pull(stream, consumer, json.loads(payload), self._deliver)
            case ["$JS", "ACK", stream, consumer, _, seq, _]:
                self._server.store.pulled[stream, consumer].acknowledge(int(seq))
            case _:
                raise AssertionError(subject)

    def _deliver(self, came: Delivered) -> bool:
        if not self._open or self._bus._closed or self._server.incarnation != self._incarnation:
            return False
        now_s = asyncio.get_running_loop().time()
        # What is sent on one connection arrives in order.
        self._arrives_s = max(now_s + self._bus._pace.answer_ns() / 1e9, self._arrives_s + 1e-9)
        later(int((self._arrives_s - now_s) * 1e9), self.queue.put_nowait, came)
        return True

    async def close(self) -> None:
        self._open = False
        self._bus._mailboxes.discard(self)


def _across(server: MemoryServer, domain: str, came_by: Any = None) -> MemoryServer | None:
    """The server of another site, over links that are up."""
    if server.site == domain:
        return server
    for link in (server.uplink, *server.downlinks):
        if link is not None and link is not came_by and link.up:
            other = link.parent if server is link.child else link.child
            found = _across(other, domain, link)
            if found is not None:
                return found
    return None
