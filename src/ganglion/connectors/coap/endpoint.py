"""One UDP socket that asks and answers at once (RFC 7252 sections 4 and 5)."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Self, cast

from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.exchange import Handler, Request, Response, bad_response, closed, timeout
from ganglion.connectors.coap.message import Code, Message, MessageType, Option
from ganglion.connectors.coap.reliable import Address, Outbound, Outcome, Transmission
from ganglion.connectors.coap.remembered import Remembered
from ganglion.connectors.coap.serving import Server, check_size
from ganglion.connectors.coap.settings import Counters, Settings
from ganglion.core.errors import ConnectorError, DataError, HostError
from ganglion.core.units import NS_PER_S
from ganglion.host.ports import Chance

__all__ = ["Counters", "Endpoint", "Handler", "Request", "Response", "Settings"]
REQUEST_TIMEOUT_NS = 93 * NS_PER_S
"""MAX_TRANSMIT_WAIT of section 4.8.2: when the sender of a confirmable message gives up by the RFC."""
RECEIVE_BUFFER_BYTES = 1 << 20


class _Exchange:
    """A request of ours that waits for its response."""

    __slots__ = ("future", "transmission")

    def __init__(self, future: asyncio.Future[Response]) -> None:
        self.future = future
        self.transmission: Transmission | None = None

    def fail(self, error: ConnectorError) -> None:
        """The caller of `Endpoint.request` gets ``error``, unless an answer came first."""
        if not self.future.done():
            self.future.set_exception(error)

    def time_out(self, peer: Address) -> None:
        """As `fail`, with ``coap.timeout``."""
        self.fail(timeout(peer))


class Endpoint(asyncio.DatagramProtocol):
    """Client and server on one socket; open with `Endpoint.open`, close with `close` or ``async with``."""

    def __init__(self, handler: Handler | None, settings: Settings, random: Chance) -> None:
        self.settings = settings
        self.counters = Counters()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.DatagramTransport | None = None
        self._family = socket.AF_INET
        self._out = Outbound(settings, random, self._loop, self._send, self.counters)
        self._seen = Remembered(settings.remembered_max, settings.exchange_lifetime_ns / NS_PER_S)
        self._exchanges: dict[tuple[Address, bytes], _Exchange] = {}
        self._server: Server | None = None
        if handler is not None:
            self._server = Server(
                handler, settings, self._loop, self._out, self._seen, self._send, self.counters
            )
        self._next_token = random.getrandbits(64)
        self._paused = False
        self._closing = False
        self._lost = self._loop.create_future()

    @classmethod
    async def open(
        cls,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        handler: Handler | None = None,
        random: Chance,
        settings: Settings | None = None,
    ) -> Self:
        """Binds ``host``:``port`` (0: any free port) and answers with ``handler`` (None: client only).

        ``random`` draws the first message id and token and the waits of section 4.2. Raises `HostError`
        ``host.port-taken`` or ``host.network``.
        """
        loop = asyncio.get_running_loop()
        endpoint = cls(handler, settings or Settings(), random)
        try:
            await loop.create_datagram_endpoint(lambda: endpoint, local_addr=(host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise HostError(
                "host.port-taken" if taken else "host.network",
                f"UDP port {port} of {host} cannot be opened",
                why=str(error),
                next_step="stop the other process or choose another port" if taken else "check the address",
            ) from error
        return endpoint

    @property
    def address(self) -> tuple[str, int]:
        """Where this endpoint can be reached: (host, port)."""
        assert self._transport is not None
        name = self._transport.get_extra_info("sockname")
        return str(name[0]), int(name[1])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def request(
        self,
        address: tuple[str, int],
        method: int,
        path: str | Iterable[str],
        payload: bytes = b"",
        content_format: int | None = None,
        timeout_ns: int = REQUEST_TIMEOUT_NS,
        *,
        query: Iterable[str] = (),
        accept: int | None = None,
    ) -> Response:
        """Sends a confirmable request and returns the response, piggybacked or separate, whatever its code.

        ``address`` is a numeric host and a port; ``path`` is ``"a/b"`` or its segments. Raises
        `ConnectorError` ``coap.timeout``, ``coap.reset``, ``coap.busy``, ``coap.closed``, ``coap.address``,
        ``coap.response``, and `DataError` ``coap.encode``, ``coap.size``.
        """
        return await self.begin(
            address, method, path, payload, content_format, timeout_ns, query=query, accept=accept
        )

    def begin(
        self,
        address: tuple[str, int],
        method: int,
        path: str | Iterable[str],
        payload: bytes = b"",
        content_format: int | None = None,
        timeout_ns: int = REQUEST_TIMEOUT_NS,
        *,
        query: Iterable[str] = (),
        accept: int | None = None,
    ) -> asyncio.Future[Response]:
        """As `request`, but the datagram has left when this returns: nothing else of the loop runs before it.

        Cancel the future to give the request up. What `request` raises before it sends is raised here.
        """
        if self._closing:
            raise closed()
        peer = _numeric(address[0], address[1], self._family)
        segments = [part for part in path.split("/") if part] if isinstance(path, str) else path
        token = self._next_token.to_bytes(8, "big")
        self._next_token = self._next_token + 1 & 0xFFFF_FFFF_FFFF_FFFF
        message_id = self._out.next_message_id(peer)
        options = wire.request_options(segments, query, content_format, accept)
        datagram = wire.encode(Message(MessageType.CON, method, message_id, token, options, payload))
        check_size(datagram, self.settings)
        exchange = _Exchange(self._loop.create_future())
        exchange.transmission = Transmission(
            peer, message_id, token, datagram, partial(self._request_ended, exchange, peer)
        )
        self._out.submit(exchange.transmission)
        self._exchanges[peer, token] = exchange
        timer = self._loop.call_later(timeout_ns / NS_PER_S, exchange.time_out, peer)
        exchange.future.add_done_callback(partial(self._forget, exchange, (peer, token), timer))
        return exchange.future

    def _forget(
        self,
        exchange: _Exchange,
        key: tuple[Address, bytes],
        timer: asyncio.TimerHandle,
        _future: asyncio.Future[Response],
    ) -> None:
        timer.cancel()
        assert exchange.transmission is not None
        self._out.end(exchange.transmission, None)
        self._exchanges.pop(key, None)

    async def close(self) -> None:
        """Fails what waits with ``coap.closed``, cancels handlers, closes the socket; may be called again."""
        if not self._closing:
            self._closing = True
            self._out.close()
            for exchange in self._exchanges.values():
                exchange.fail(closed())
            if self._server is not None:
                await self._server.close()
            if self._transport is not None:
                self._transport.close()
        await asyncio.shield(self._lost)

    # --- asyncio.DatagramProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio once the socket is open."""
        # Python 3.11's own transport does not derive from the class it implements.
        self._transport = cast("asyncio.DatagramTransport", transport)
        sock = transport.get_extra_info("socket")
        self._family = sock.family
        # A burst of many devices must fit while the loop does other work; the kernel may grant less.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio when the socket is gone."""
        self._closing = True
        self._out.close()
        for exchange in self._exchanges.values():
            exchange.fail(closed())
        if not self._lost.done():
            self._lost.set_result(None)

    def error_received(self, exc: Exception) -> None:
        """Called by asyncio when a send or receive failed; the retransmission timer decides what follows."""
        self.counters.errors += 1

    def pause_writing(self) -> None:
        """Called by asyncio when its send buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Called by asyncio when its send buffer has room again."""
        self._paused = False

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Called by asyncio for every datagram."""
        self.counters.received += 1
        try:
            message = wire.decode(data)
        except DataError:
            self.counters.malformed += 1
            # Section 4.2: a confirmable message with a format error is rejected with a reset.
            if len(data) >= 4 and data[0] & 0xF0 == 0x40:
                self._reset(data[2] << 8 | data[3], addr)
            return
        if message.code == Code.EMPTY:
            self._empty_received(message, addr)
        elif wire.is_response(message.code):
            self._response_received(message, data, addr)
        else:
            self._request_received(message, data, addr)

    def _request_received(self, message: Message, data: bytes, peer: Address) -> None:
        if message.type is MessageType.ACK or message.type is MessageType.RST:
            self.counters.malformed += 1
        elif self._server is not None and not self._closing:
            self._server.received(message, data, peer)
        else:
            self.counters.unmatched += 1
            if message.type is MessageType.CON:
                self._reset(message.message_id, peer)

    # --- sending ---

    def _send(self, datagram: bytes, peer: Address) -> None:
        if self._paused or self._transport is None or self._transport.is_closing():
            self.counters.unsent += 1
            return
        self.counters.sent += 1
        self._transport.sendto(datagram, peer)

    def _reset(self, message_id: int, peer: Address) -> None:
        self._send(wire.encode(Message(MessageType.RST, Code.EMPTY, message_id)), peer)

    # --- client ---

    def _empty_received(self, message: Message, peer: Address) -> None:
        if message.type is MessageType.CON:
            self._reset(message.message_id, peer)  # a ping, section 4.3
            return
        found = self._out.find(peer, message.message_id)
        if found is None or message.type is MessageType.NON:
            self.counters.unmatched += 1
            return
        self._out.end(found, Outcome.RESET if message.type is MessageType.RST else Outcome.ACKNOWLEDGED)

    def _request_ended(self, exchange: _Exchange, peer: Address, outcome: Outcome) -> None:
        """An acknowledgement alone leaves the request waiting for its separate response (5.2.2)."""
        if outcome is Outcome.EXPIRED:
            exchange.fail(timeout(peer))
        elif outcome is Outcome.RESET:
            exchange.fail(
                ConnectorError(
                    "coap.reset",
                    f"{peer[0]}:{peer[1]} rejected a request",
                    why="it sent a reset: it does not serve requests or lost its state",
                    next_step="check that the right process listens on this port",
                )
            )

    def _response_received(self, message: Message, data: bytes, peer: Address) -> None:
        kind, code, message_id, token, options, payload = message
        exchange = self._exchanges.get((peer, token))
        if kind is MessageType.ACK:
            # Section 5.3.2: a piggybacked response must match both message id and token.
            found = self._out.find(peer, message_id)
            if exchange is None or found is None or found is not exchange.transmission:
                self.counters.unmatched += 1
                return
        elif kind is MessageType.CON:
            if not self._acknowledge_response((peer, message_id), data, exchange is not None):
                return
        elif kind is MessageType.RST:
            self.counters.malformed += 1
            return
        if exchange is None or exchange.transmission is None:
            self.counters.unmatched += 1
            return
        self._out.end(exchange.transmission, None)
        if wire.unknown_critical(options) is not None:
            exchange.fail(bad_response(peer))  # section 5.4.1
        elif not exchange.future.done():
            exchange.future.set_result(Response(code, payload, wire.uint(options, Option.CONTENT_FORMAT)))

    def _acknowledge_response(self, key: tuple[Address, int], data: bytes, wanted: bool) -> bool:
        """Answers a separate confirmable response (5.2.2): ACK, that ACK again, or a reset; True when new."""
        now_s = self._loop.time()
        seen = self._seen.find(key, data, now_s)
        if seen is not None and seen.reply is not None:
            self.counters.duplicates += 1
            self._send(seen.reply, key[0])
            return False
        if not wanted:
            self.counters.unmatched += 1
            self._reset(key[1], key[0])
            return False
        seen = self._seen.begin(key, data)
        seen.reply = wire.encode(Message(MessageType.ACK, Code.EMPTY, key[1]))
        self._seen.finish(key, seen, now_s)
        self._send(seen.reply, key[0])
        return True


@lru_cache(maxsize=1024)
def _numeric(host: str, port: int, family: int) -> Address:
    """The address in the form the kernel gives it back, so that answers are matched to it."""
    try:
        numeric = ipaddress.ip_address(host)
    except ValueError as error:
        raise _bad_address(host, port, str(error)) from error
    if (numeric.version == 6) != (family == socket.AF_INET6):
        raise _bad_address(host, port, "the endpoint is bound to an address of the other family")
    if not 0 < port < 65536:
        raise _bad_address(host, port, "a port is 1 to 65535")
    return (str(numeric), port) if numeric.version == 4 else (str(numeric), port, 0, 0)


def _bad_address(host: str, port: int, why: str) -> ConnectorError:
    return ConnectorError(
        "coap.address",
        f"{host!r} port {port} cannot be sent to",
        why=why,
        next_step="give a numeric address of the endpoint's own family and a valid port",
    )
