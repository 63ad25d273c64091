"""A device's way to its gateway: rows of each exported stream in order, each kept until it is acknowledged.

Rows that lead to an actuator go at once; others gather for a second or a datagram's worth. One message per
stream is under way at a time, so rows arrive in order; an unanswered one is sent again for ever with the same
numbers, and the gateway skips what it already has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ganglion.connectors.batch_senml import encode
from ganglion.connectors.coap.endpoint import Endpoint, Response
from ganglion.connectors.coap.message import Code
from ganglion.core.batch import Batch
from ganglion.core.errors import ConnectorError
from ganglion.core.schema import Schema
from ganglion.host.ports import Chance, Clock

SENML_CBOR = 112
"""CoAP content format application/senml+cbor (RFC 8428 section 12.3.6)."""
PAYLOAD_TARGET_BYTES = 800
GATHER_NS = 1_000_000_000
HELD_BYTES_MAX = 4 << 20
"""Unacknowledged rows a device keeps per stream; beyond that new rows are shed, and counted."""
RETRY_NS = 200_000_000
_HEAD_BYTES_MAX = 128
"""More than a CoAP message needs around its payload."""
REQUEST_TIMEOUT_NS = 4_000_000_000


@dataclass(slots=True)
class UplinkCounts:
    """What became of a stream's rows on the device."""

    offered: int = 0
    acknowledged: int = 0
    shed: int = 0
    messages: int = 0
    retries: int = 0
    refused: int = 0
    payload_bytes: int = 0


@dataclass(slots=True)
class StreamUplink:
    """One stream of one origin."""

    stream: str
    origin: str
    schema: Schema
    urgent: bool
    endpoint: Endpoint
    gateway: tuple[str, int]
    clock: Clock
    on_acknowledged: Callable[[Batch], None]
    chance: Chance
    counts: UplinkCounts = field(default_factory=UplinkCounts)
    _held: deque[Batch] = field(default_factory=deque)
    _held_bytes: int = 0
    _since_ns: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _closing: bool = False
    _gather_ns: int = 0
    _waiting: bool = False
    _early: tuple[Batch, bytes, asyncio.Future[Response]] | None = None

    def __post_init__(self) -> None:
        # Devices that were switched on together must not report together, each second, for ever.
        # Not at once either: `run` looks again after this time until there is a first row.
        self._gather_ns = max(GATHER_NS // 100, int(GATHER_NS * self.chance.random()))

    def offer(self, batch: Batch) -> None:
        """Takes rows to send; never waits."""
        self.counts.offered += len(batch)
        if self._held_bytes + batch.size_bytes > HELD_BYTES_MAX:
            self.counts.shed += len(batch)
            return
        if not self._held:
            self._since_ns = self.clock.monotonic_ns()
        rows = max(1, PAYLOAD_TARGET_BYTES * len(batch) // max(1, batch.size_bytes))
        self._held.extend(batch.take(slice(i, i + rows)) for i in range(0, len(batch), rows))
        self._held_bytes += batch.size_bytes
        if self.urgent and self._waiting and self._early is None:
            self._send_early()
        if self.urgent or self._held_bytes >= PAYLOAD_TARGET_BYTES:
            self._wake.set()

    def _send_early(self) -> None:
        """Sends at once what leads to an actuator, before anything else of this process has its turn."""
        batch = self._next()
        payload = encode(batch, self.schema)
        if not self._fits(payload):
            self._put_back(batch)
            return
        try:
            self._early = (batch, payload, self._begin(f"s/{self.stream}", payload, SENML_CBOR))
        except ConnectorError:  # `run` goes on trying
            self._put_back(batch)

    def _put_back(self, batch: Batch) -> None:
        self._held.appendleft(batch)
        self._held_bytes += batch.size_bytes

    async def run(self) -> None:
        """Sends until `close` and everything is acknowledged; then says that the stream has ended."""
        try:
            while not (self._closing and not self._held and self._early is None):
                await self._due()
                if self._early is not None:
                    batch, payload, answer = self._early
                    await self._deliver(batch, payload, answer)
                    self._early = None
                elif self._held:
                    await self._send(self._next())
            await self._until_answered(f"s/{self.stream}/end", self.origin.encode(), None)
        finally:
            if self._early is not None:
                self._early[2].cancel()

    def close(self) -> None:
        """No more rows will be offered."""
        self._closing = True
        self._wake.set()

    async def _due(self) -> None:
        full = self._held_bytes >= PAYLOAD_TARGET_BYTES
        if self._closing or self._early is not None or (self._held and (self.urgent or full)):
            return
        wait_ns = self._gather_ns
        if self._held:
            wait_ns += self._since_ns - self.clock.monotonic_ns()
        self._wake.clear()
        if wait_ns > 0:
            self._waiting = True
            with contextlib.suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 forgets a cancellation that comes together with the wake.
                async with asyncio.timeout(wait_ns / 1e9):
                    await self._wake.wait()
            self._waiting = False

    def _next(self) -> Batch:
        """The oldest rows that fit one message (always at least one row)."""
        taken: list[Batch] = []
        size = 0
        while self._held and (not taken or size + self._held[0].size_bytes <= PAYLOAD_TARGET_BYTES):
            batch = self._held.popleft()
            size += batch.size_bytes
            taken.append(batch)
        self._held_bytes -= size
        self._gather_ns = GATHER_NS
        self._since_ns = self.clock.monotonic_ns()
        return Batch.concat(taken)

    async def _send(self, batch: Batch) -> None:
        payload = encode(batch, self.schema)
        if not self._fits(payload) and len(batch) > 1:
            half = len(batch) // 2
            await self._send(batch.take(slice(half)))
            await self._send(batch.take(slice(half, None)))
            return
        await self._deliver(batch, payload)

    def _fits(self, payload: bytes) -> bool:
        return len(payload) + _HEAD_BYTES_MAX <= self.endpoint.settings.datagram_bytes_max

    async def _deliver(
        self, batch: Batch, payload: bytes, begun: asyncio.Future[Response] | None = None
    ) -> None:
        answer = await self._until_answered(f"s/{self.stream}", payload, SENML_CBOR, begun)
        self.counts.messages += 1
        self.counts.payload_bytes += len(payload)
        if answer.ok:
            self.counts.acknowledged += len(batch)
            self.on_acknowledged(batch)
        else:
            self.counts.refused += len(batch)

    def _begin(self, path: str, payload: bytes, content_format: int | None) -> asyncio.Future[Response]:
        return self.endpoint.begin(self.gateway, Code.POST, path, payload, content_format, REQUEST_TIMEOUT_NS)

    async def _until_answered(
        self,
        path: str,
        payload: bytes,
        content_format: int | None,
        begun: asyncio.Future[Response] | None = None,
    ) -> Response:
        """The gateway's final answer: 2.xx taken, 4.xx never to be taken. 5.xx and silence are tried again.

        ``begun``: the first try, when it was made already.
        """
        while True:
            try:
                response = await (begun or self._begin(path, payload, content_format))
                if response.code >> 5 in (2, 4):
                    return response
            except ConnectorError as error:
                if error.code == "coap.closed":
                    raise
            begun = None
            self.counts.retries += 1
            await self.clock.sleep_ns(RETRY_NS)
