"""Reading a stream's partition as its only reader: JetStream's pull consumers with the policy ``pinned_client``.

The server pins one client of a consumer by the first message it gives it, and gives messages to no other until that
client has not asked for `PIN_TIMEOUT_NS`, or is unpinned (ADR-42 of NATS, server 2.11). What a client then still holds
it may go on with: whoever writes for a partition is fenced as well (docs/adr/0026).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ganglion.core.errors import MessagingError
from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.messaging.answers import NO_CONSUMER, ApiRefused
from ganglion.messaging.bus import Stored, no_stream, unavailable
from ganglion.messaging.provision import StreamApi

PIN_HEADER = "Nats-Pin-Id"
GROUP = "owner"
PIN_TIMEOUT_NS = 4 * NS_PER_S
"""A pinned client that has not asked for so long is not pinned any more."""
ASK_EVERY_NS = 800 * NS_PER_MS
ASKED_FOR_NS = 1500 * NS_PER_MS
SILENCE_NS_MAX = 5 * NS_PER_S
"""A server that answers no request for so long is taken for gone."""
MESSAGES_MAX = 256
BYTES_MAX = 8 << 20
UNACKNOWLEDGED_MAX = 20_000
"""Messages given to a client before it must have acknowledged some."""
ACK_WAIT_NS = 24 * 3600 * NS_PER_S
"""Never in practice: a new client goes back to where it wants by itself."""
_RETRY_S = 0.1
_WRONG_PIN, _RAN_OUT = "423", ("404", "408")


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a server sent to a mailbox: the consumer's ``number``-th message, or a ``status`` and no message."""

    status: str
    number: int = 0
    stored: Stored | None = None
    reply: str = ""


class Mailbox(Protocol):
    """Where a server sends what was asked for."""

    async def pull(self, stream: str, consumer: str, request: Mapping[str, Any]) -> None:
        """Asks for messages, see ``$JS.API.CONSUMER.MSG.NEXT``; raises ``messaging.unavailable``."""

    async def next(self, within_ns: int) -> Delivered | None:
        """What came; None when nothing did in time. Raises ``messaging.unavailable`` when the connection broke."""

    async def acknowledge(self, reply: str) -> None:
        """Tells the server that a message, and all before it, are done with; no promise."""

    @property
    def close(self) -> Callable[[], Awaitable[None]]:
        """Nothing more is wanted."""


class Post(StreamApi, Protocol):
    """What pins need of a bus."""

    async def mailbox(self) -> Mailbox:
        """A new one; raises ``messaging.unavailable``."""


class QueueMailbox:
    """`Mailbox` whose server puts into a queue; None there: the connection broke.

    ``send`` (subject, payload, where the answer goes) publishes.
    """

    def __init__(
        self,
        inbox: str,
        queue: asyncio.Queue[Delivered | None],
        send: Callable[[str, bytes, str], Awaitable[None]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._inbox = inbox
        self._queue = queue
        self._send = send
        self.close = close

    async def pull(self, stream: str, consumer: str, request: Mapping[str, Any]) -> None:
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        await self._send(subject, json.dumps(request).encode(), self._inbox)

    async def acknowledge(self, reply: str) -> None:
        await self._send(reply, b"", "")

    async def next(self, within_ns: int) -> Delivered | None:
        if self._queue.empty():
            try:
                async with asyncio.timeout(within_ns / 1e9):
                    came = await self._queue.get()
            except TimeoutError:
                return None
        else:
            came = self._queue.get_nowait()
        if came is None:
            raise unavailable(self._inbox, "the connection broke")
        return came


@dataclass(frozen=True, slots=True)
class Standing:
    """How a consumer stands. ``pinned``: the pin of who is, or nothing.

    Messages not acknowledged yet are ``waiting`` or ``given``; all up to ``floor_seq`` are.
    """

    pinned: str
    waiting: int
    given: int
    floor_seq: int

    @property
    def owed(self) -> int:
        return self.waiting + self.given


def consumer_config(name: str, subject: str) -> dict[str, Any]:
    """A durable pull consumer of which one client is pinned at a time."""
    return {
        "name": name,
        "durable_name": name,
        "ack_policy": "all",
        "ack_wait": ACK_WAIT_NS,
        "max_ack_pending": UNACKNOWLEDGED_MAX,
        "filter_subject": subject,
        "priority_policy": "pinned_client",
        "priority_groups": [GROUP],
        "priority_timeout": PIN_TIMEOUT_NS,
    }


async def make_consumer(post: StreamApi, stream: str, name: str, subject: str) -> None:
    """Makes the consumer be there; its place in the stream stays."""
    wanted = consumer_config(name, subject)
    try:
        found = (await post.ask(f"CONSUMER.INFO.{stream}.{name}", {}))["config"]
        if all(found.get(key) == value for key, value in wanted.items()):
            return
    except ApiRefused as refusal:
        if refusal.number != NO_CONSUMER:
            raise
    await post.ask(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": wanted})


async def standing(post: StreamApi, stream: str, consumer: str) -> Standing:
    """Asks the server."""
    info = await post.ask(f"CONSUMER.INFO.{stream}.{consumer}", {})
    groups = info.get("priority_groups") or [{}]
    return Standing(
        groups[0].get("pinned_client_id", ""),
        int(info["num_pending"]),
        int(info["num_ack_pending"]),
        int(info["ack_floor"]["stream_seq"]),
    )


async def unpin(post: StreamApi, stream: str, consumer: str) -> None:
    """Lets the server pin another client of those that wait; the one pinned before is told when it asks next."""
    await post.ask(f"CONSUMER.UNPIN.{stream}.{consumer}", {"group": GROUP})


async def pin(post: Post, stream: str, consumer: str, wait_ns: int) -> Pin | None:
    """Waits to be pinned, which happens when there is a message to be had; None when it did not in time.

    Raises ``messaging.unavailable``, and ``messaging.no-stream`` where there is no such consumer.
    """
    mailbox = await post.mailbox()
    kept = False
    try:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_ns / 1e9
        request = {"batch": 1, "expires": ASKED_FOR_NS, "group": GROUP}
        while True:
            await mailbox.pull(stream, consumer, request)
            came = await mailbox.next(SILENCE_NS_MAX)
            if came is None:
                raise unavailable(stream, f"no answer within {SILENCE_NS_MAX / 1e9:g} s")
            if came.stored is not None:
                kept = True
                return Pin(post, mailbox, stream, consumer, came.stored.headers.get(PIN_HEADER, ""))
            await _check(came, stream)
            # Also when the time is over: who comes back for it, or another, finds something to be pinned by.
            await _offer_again(post, stream, consumer)
            if loop.time() >= until:
                return None
    finally:
        if not kept:
            await mailbox.close()


async def _offer_again(post: StreamApi, stream: str, consumer: str) -> None:
    """What was given to a client that is no more is due again: without it nobody would be pinned until more comes."""
    found = await standing(post, stream, consumer)
    if not found.pinned and found.given and not found.waiting:
        await post.ask(f"CONSUMER.RESET.{stream}.{consumer}", {"seq": found.floor_seq + 1})


async def _check(came: Delivered, stream: str) -> None:
    if came.status == "503":
        raise no_stream(stream)
    if came.status not in _RAN_OUT:
        await asyncio.sleep(_RETRY_S)


class Pin:
    """The pinned client of a consumer, as far as it knows; made by `pin`. One `read` at a time."""

    def __init__(self, post: Post, mailbox: Mailbox, stream: str, consumer: str, number: str) -> None:
        self._post = post
        self._mailbox = mailbox
        self._stream = stream
        self._consumer = consumer
        self._id = number
        self._given: deque[tuple[int, str]] = deque()

    async def read(self, after_seq: int) -> AsyncIterator[Stored]:
        """The consumer's messages after ``after_seq``, in order, none twice, none left out.

        Ends with ``messaging.unpinned`` once another client is pinned, or none after the server started anew; until
        then a server that is away is waited out. Who does not ask for the next message for `PIN_TIMEOUT_NS` loses
        the pin.
        """
        last = after_seq
        while True:
            try:
                await self._go_back(last)
                async with contextlib.aclosing(self._on(last)) as messages:
                    async for message in messages:
                        last = message.seq
                        yield message
            except MessagingError as error:
                if error.code != "messaging.unavailable":
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _go_back(self, after_seq: int) -> None:
        if (await standing(self._post, self._stream, self._consumer)).pinned != self._id:
            raise unpinned(self._stream, self._consumer)
        self._given.clear()
        await self._mailbox.close()
        self._mailbox = await self._post.mailbox()
        await self._post.ask(f"CONSUMER.RESET.{self._stream}.{self._consumer}", {"seq": after_seq + 1})

    async def _on(self, after_seq: int) -> AsyncGenerator[Stored]:
        """Messages until the connection or their order breaks."""
        loop = asyncio.get_running_loop()
        asked_s, wanted, number, heard_s = float("-inf"), 0, 0, loop.time()
        while True:
            now_s = loop.time()
            if wanted <= 0 or now_s - asked_s >= ASK_EVERY_NS / 1e9:
                asked_s, wanted = now_s, MESSAGES_MAX
                await self._mailbox.pull(self._stream, self._consumer, self._request())
            came = await self._mailbox.next(ASK_EVERY_NS)
            if came is None:
                if loop.time() - heard_s >= SILENCE_NS_MAX / 1e9:
                    return
                continue
            heard_s = loop.time()
            if came.status == _WRONG_PIN:
                raise unpinned(self._stream, self._consumer)
            if came.stored is None:
                await _check(came, self._stream)
                wanted = wanted if came.status in _RAN_OUT else 0
                continue
            if came.stored.headers.get(PIN_HEADER) != self._id:
                raise unpinned(self._stream, self._consumer)
            if number == 0 and came.number != 1:
                continue  # sent before we went back
            number += 1
            if came.number != number or came.stored.seq <= after_seq:
                return
            wanted -= 1
            self._given.append((came.stored.seq, came.reply))
            yield came.stored

    def _request(self) -> dict[str, Any]:
        return {
            "batch": MESSAGES_MAX,
            "max_bytes": BYTES_MAX,
            "expires": ASKED_FOR_NS,
            "group": GROUP,
            "id": self._id,
        }

    async def done(self, seq: int) -> None:
        """Everything read up to ``seq`` need not be given again to anybody."""
        reply = ""
        while self._given and self._given[0][0] <= seq:
            reply = self._given.popleft()[1]
        if reply:
            await self._mailbox.acknowledge(reply)

    async def close(self) -> None:
        """Stops reading; the server notices after `PIN_TIMEOUT_NS`."""
        await self._mailbox.close()


def unpinned(stream: str, consumer: str) -> MessagingError:
    """Another client has the partition now."""
    return MessagingError(
        "messaging.unpinned",
        f"{consumer} of {stream} is not ours any more",
        why="we did not ask for too long, the server started anew, or somebody unpinned us",
        next_step="let go of what belongs to the partition, and wait to be pinned again",
    )
