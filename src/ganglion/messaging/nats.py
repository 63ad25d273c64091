"""`Bus` on a real nats-server; the only module that knows the client library.

Waiting here is done with the event loop's own timers: they bound what the server may take, and decide nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ganglion.core.errors import MessagingError
from ganglion.core.units import NS_PER_S
from ganglion.messaging.answers import checked
from ganglion.messaging.bus import (
    Stored,
    check_payload,
    no_stream,
    rewound,
    unavailable,
)
from ganglion.messaging.fences import fenced
from ganglion.messaging.pins import Delivered, QueueMailbox
from ganglion.messaging.questions import Questions
from ganglion.messaging.security.identity import Access
from ganglion.messaging.subjects import answers

CONNECT_WITHIN_NS = 10 * NS_PER_S
ANSWER_WITHIN_NS = 5 * NS_PER_S
PULL_MESSAGES_MAX = 500
PULL_MAX_BYTES = 8 << 20
PULL_FOR_NS = 20 * NS_PER_S
HEARTBEAT_NS = 1 * NS_PER_S
HEARTBEATS_MISSED_MAX = 3
READER_FORGOTTEN_AFTER_NS = 60 * NS_PER_S
RETRY_AFTER_S = 0.1


async def connect(
    url: str,
    *,
    name: str = "ganglion",
    access: Access | None = None,
    within_ns: int = CONNECT_WITHIN_NS,
    answer_within_ns: int = ANSWER_WITHIN_NS,
) -> NatsBus:
    """A bus on the server at ``url`` that reconnects for ever; raises ``messaging.unavailable`` if none answers.

    ``url`` may be those of a cluster with commas between them: the bus goes on with the next when its own is gone.
    ``access``: who we are, for a server that wants to know; refused is ``messaging.unavailable`` too.
    Every later request, a write above all, fails with that code when no answer came ``answer_within_ns``.
    """
    client = Client()
    bus = NatsBus(client, answer_within_ns)
    last: list[Exception] = []

    async def failed(error: Exception) -> None:
        # The library tells of every failed connection; once we are connected, whoever waits for an answer is told.
        last[:] = [error]

    async def connecting() -> None:
        await client.connect(
            url.split(","),
            name=name,
            error_cb=failed,
            disconnected_cb=bus._lose,  # built here and nowhere else
            closed_cb=bus._lose,  # built here and nowhere else
            reconnect_time_wait=RETRY_AFTER_S,  # type: ignore[arg-type] # any number will do
            max_reconnect_attempts=-1,
            ping_interval=5,
            max_outstanding_pings=2,
            **({} if access is None else access.options()),
        )
        await bus._open()  # built here and nowhere else

    # A task of its own: the library may take a cancellation for a failed try, and go on trying.
    trying = asyncio.ensure_future(connecting())
    try:
        await asyncio.wait({trying}, timeout=within_ns / 1e9)
        if trying.done():
            trying.result()
            return bus
    except (TimeoutError, OSError, nats.errors.Error) as error:
        last[:] = [error]
    finally:
        if not trying.done():
            trying.cancel()
        if not client.is_connected:
            client.options["allow_reconnect"] = False
            # Not waited for without end: closing in the middle of a TLS handshake was seen to hang.
            closing = asyncio.ensure_future(client.close())
            await asyncio.wait({closing}, timeout=1)
            if closing.done() and not closing.cancelled():
                closing.exception()  # what a failed connection says at its end is of no use
            else:
                closing.cancel()
    why = f"{last[0]!r}" if last else f"nobody answered within {within_ns / 1e9:g} s"
    raise unavailable(url, f"no connection: {why}")


class NatsBus(Questions):
    """`Bus` and `StreamApi` over one connection; made by `connect`."""

    def __init__(self, client: Client, answer_within_ns: int) -> None:
        self._client = client
        self._answer_within_ns = answer_within_ns
        self._answers = ""
        self._answers_of: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._readers: set[asyncio.Queue[Any]] = set()
        self._asked = 0

    async def _open(self) -> None:
        self._answers = self._client.new_inbox()
        await self._client.subscribe(f"{self._answers}.*", cb=self._answered)
        await self._client.flush()

    async def _answered(self, message: Msg) -> None:
        future = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if future is not None and not future.done():
            future.set_result(message)

    async def _lose(self) -> None:
        """The connection broke: no answer under way will come, and every reader must begin anew."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the connection broke"))
        for queue in self._readers:
            queue.put_nowait(None)

    async def _inbox_of(self, domain: str | None) -> str:
        """Where the answer is to go: a child is let answer on subjects of its own only."""
        if domain is None:
            return self._answers
        if domain not in self._answers_of:
            inbox = f"{answers(domain)}.{self._answers.rpartition('.')[2]}"
            await self._client.subscribe(f"{inbox}.*", cb=self._answered)
            self._answers_of[domain] = inbox
        return self._answers_of[domain]

    async def _request(
        self,
        about: str,
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None = None,
        *,
        domain: str | None = None,
    ) -> Msg:
        """The answer to one request; raises ``messaging.unavailable``, ``messaging.no-stream`` when nobody listens."""
        self._asked += 1
        token = str(self._asked)
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._answer_within_ns / 1e9):
                # Never let the library keep a message for later: a write that was reported lost must not follow.
                while not self._client.is_connected:
                    if self._client.is_closed:
                        raise unavailable(about, "the bus was closed")
                    await asyncio.sleep(RETRY_AFTER_S / 4)
                inbox = await self._inbox_of(domain)
                self._waiting[token] = future
                await self._client.publish(subject, payload, f"{inbox}.{token}", headers)
                answer = await future
        except TimeoutError as error:
            raise unavailable(about, f"no answer within {self._answer_within_ns / 1e9:g} s") from error
        except (OSError, nats.errors.Error) as error:
            raise unavailable(about, str(error) or repr(error)) from error
        finally:
            self._waiting.pop(token, None)
        if (answer.headers or {}).get("Status") == "503":
            raise no_stream(about)
        return answer

    async def ask(
        self, subject: str, request: Mapping[str, Any], *, domain: str | None = None
    ) -> dict[str, Any]:
        """`StreamApi.ask`; ``messaging.no-stream`` also when there is no link to ``domain`` now."""
        api = "$JS.API" if domain is None else f"$JS.{domain}.API"
        answer = await self._request(subject, f"{api}.{subject}", json.dumps(request).encode(), domain=domain)
        return checked(subject, json.loads(answer.data), None)

    async def renew_claims(self, claims: str) -> None:
        """Gives a running server newer claims of an account, withdrawn users among them; for the steward only.

        Raises ``messaging.refused`` when the server does not take them, ``messaging.unavailable``.
        """
        answer = await self._request("claims", "$SYS.REQ.CLAIMS.UPDATE", claims.encode())
        checked("claims", json.loads(answer.data), None)

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
        answer = await self._request(stream, subject, payload, sent)
        return int(checked(stream, json.loads(answer.data), expect_last)["seq"])

    async def read(self, stream: str, after_seq: int) -> AsyncGenerator[Stored]:
        last = after_seq
        while True:
            try:
                async with contextlib.aclosing(self._pull(stream, last)) as messages:
                    async for message in messages:
                        last = message.seq
                        yield message
            except MessagingError as error:
                if error.code != "messaging.unavailable" or self._client.is_closed:
                    raise
            if self._client.is_closed:
                raise unavailable(stream, "the bus was closed")
            await asyncio.sleep(RETRY_AFTER_S)

    async def _pull(self, stream: str, after_seq: int) -> AsyncGenerator[Stored]:
        """Messages after ``after_seq`` until the connection, the consumer or the order breaks."""
        queue: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._readers.add(queue)
        inbox = self._client.new_inbox()
        subscription, consumer = None, None
        try:
            subscription = await self._client.subscribe(inbox, cb=queue.put)
            consumer = await self._consumer(stream, after_seq)
            delivered = 0
            while True:
                wanted = await self._want(stream, consumer, inbox)
                while wanted:
                    message = await _next(queue)
                    if message is None:
                        return
                    status = (message.headers or {}).get("Status") if not message.reply else None
                    if status == "100":
                        continue
                    if status is not None:
                        if status in ("404", "408"):
                            break  # the request has run out; ask again
                        return
                    number, seq = _position(message.reply)
                    delivered += 1
                    if number != delivered or seq <= after_seq:
                        return
                    wanted -= 1
                    yield _stored(seq, message)
        except nats.errors.Error as error:
            raise unavailable(stream, repr(error)) from error
        finally:
            self._readers.discard(queue)
            if subscription is not None and self._client.is_connected:
                with contextlib.suppress(Exception):
                    await subscription.unsubscribe()
                    if consumer is not None:
                        await self._client.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{consumer}")

    async def _consumer(self, stream: str, after_seq: int) -> str:
        """A reader of the server's that starts after ``after_seq``; it is forgotten when we are."""
        state = await self.state(stream)
        if state.last_seq < after_seq:
            raise rewound(stream, after_seq, state.last_seq)
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after_seq + 1,
            "ack_policy": "none",
            "inactive_threshold": READER_FORGOTTEN_AFTER_NS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        answer = await self.ask(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
        return str(answer["name"])

    async def _want(self, stream: str, consumer: str, inbox: str) -> int:
        """Asks for the next messages; returns how many at most."""
        request = {
            "batch": PULL_MESSAGES_MAX,
            "max_bytes": PULL_MAX_BYTES,
            "expires": PULL_FOR_NS,
            "idle_heartbeat": HEARTBEAT_NS,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        await self._client.publish(subject, json.dumps(request).encode(), inbox)
        return PULL_MESSAGES_MAX

    async def publish(self, subject: str, payload: bytes) -> None:
        check_payload(payload)
        await self._send(subject, payload)

    async def _send(self, subject: str, payload: bytes, reply: str = "") -> None:
        if not self._client.is_connected:
            raise unavailable(subject, "not connected")
        try:
            await self._client.publish(subject, payload, reply)
        except nats.errors.Error as error:
            raise unavailable(subject, repr(error)) from error

    async def subscribe(self, subject: str) -> AsyncGenerator[Stored]:
        subscription = await self._client.subscribe(subject)
        await self._client.flush()
        try:
            async for message in subscription.messages:
                yield _stored(0, message)
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()
        raise unavailable(subject, "the bus was closed")

    async def mailbox(self) -> QueueMailbox:
        """See `Post`."""
        queue: asyncio.Queue[Delivered | None] = asyncio.Queue()
        inbox = self._client.new_inbox()

        async def came(message: Msg) -> None:
            queue.put_nowait(_delivered(message))

        async def close() -> None:
            self._readers.discard(queue)
            if self._client.is_connected:
                with contextlib.suppress(nats.errors.Error):
                    await subscription.unsubscribe()

        if not self._client.is_connected:
            raise unavailable(inbox, "not connected")
        subscription = await self._client.subscribe(inbox, cb=came)
        self._readers.add(queue)
        return QueueMailbox(inbox, queue, self._send, close)

    async def close(self) -> None:
        await self._client.close()
        await self._lose()


async def _next(queue: asyncio.Queue[Msg | None]) -> Msg | None:
    """The next message; None when the connection broke or the server has been silent for too long."""
    if not queue.empty():
        return queue.get_nowait()
    try:
        async with asyncio.timeout(HEARTBEATS_MISSED_MAX * HEARTBEAT_NS / 1e9):
            return await queue.get()
    except TimeoutError:
        return None


def _position(reply: str) -> tuple[int, int]:
    """(number within the consumer, stream sequence) from the reply subject of a delivered message.

    ``$JS.ACK.<stream>.<consumer>.<tries>.<stream seq>.<consumer seq>...``, newer servers with domain and account first.
    """
    parts = reply.split(".")
    at = 5 if len(parts) == 9 else 7
    return int(parts[at + 1]), int(parts[at])


def _delivered(message: Msg) -> Delivered:
    status = (message.headers or {}).get("Status") if not message.reply else None
    if status is not None:
        return Delivered(status)
    number, seq = _position(message.reply)
    return Delivered("", number, _stored(seq, message), message.reply)


def _stored(seq: int, message: Msg) -> Stored:
    return Stored(seq, message.subject, message.data, message.headers or {})
