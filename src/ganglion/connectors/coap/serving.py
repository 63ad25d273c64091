"""The server half of an endpoint: requests to the handler, its answers back (RFC 7252 section 5.2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.exchange import Handler, Request, Response
from ganglion.connectors.coap.message import Code, Message, MessageType, Option
from ganglion.connectors.coap.reliable import Address, Outbound, Outcome, Transmission
from ganglion.connectors.coap.remembered import Remembered, Seen
from ganglion.connectors.coap.settings import Counters, Settings
from ganglion.core.errors import ConnectorError, DataError, GanglionError
from ganglion.core.units import NS_PER_S

_log = logging.getLogger(__name__)


class _Serving:
    """A request of a peer that is being handled."""

    __slots__ = ("acknowledged", "key", "peer", "request", "seen", "timer")

    def __init__(self, key: tuple[Address, int], peer: Address, request: Message, seen: Seen) -> None:
        self.key = key
        self.peer = peer
        self.request = request
        self.seen = seen
        self.acknowledged = False
        self.timer: asyncio.TimerHandle | None = None


class Server:
    """Runs the handler once per request, at most ``handlers_max`` at a time, and sends what it answers."""

    def __init__(
        self,
        handler: Handler,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        out: Outbound,
        seen: Remembered,
        send: Callable[[bytes, Address], None],
        counters: Counters,
    ) -> None:
        self._handler = handler
        self._settings = settings
        self._loop = loop
        self._out = out
        self._seen = seen
        self._send = send
        self._counters = counters
        self._serving: dict[asyncio.Future[Response], _Serving] = {}
        self._closing = False

    async def close(self) -> None:
        """Cancels what handlers still do and waits for it; nobody is answered."""
        self._closing = True
        unfinished = list(self._serving)
        for future in unfinished:
            future.cancel()
        for serving in self._serving.values():
            if serving.timer is not None:
                serving.timer.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    def received(self, message: Message, data: bytes, peer: Address) -> None:
        """A confirmable or non-confirmable request came in."""
        confirmable = message.type is MessageType.CON
        key = (peer, message.message_id)
        seen = self._seen.find(key, data, self._loop.time())
        if seen is not None:
            self._counters.duplicates += 1
            if seen.reply is not None and confirmable:
                self._send(seen.reply, peer)
            return
        serving = _Serving(key, peer, message, self._seen.begin(key, data))
        result = self._handle(message, peer, len(data))
        if isinstance(result, Response):
            self._respond(serving, result)
            return
        future = asyncio.ensure_future(result)
        self._serving[future] = serving
        if confirmable:
            delay_s = self._settings.empty_ack_after_ns / NS_PER_S
            serving.timer = self._loop.call_later(delay_s, self._acknowledge_empty, serving)
        future.add_done_callback(self._handled)

    def _handle(self, message: Message, peer: Address, size_bytes: int) -> Response | Awaitable[Response]:
        _, method, _, _, options, payload = message
        if size_bytes > self._settings.datagram_bytes_max:
            limit = f"at most {self._settings.datagram_bytes_max} bytes"
            return self._diagnostic(Code.REQUEST_ENTITY_TOO_LARGE, limit)
        unknown = wire.unknown_critical(options)
        if unknown is not None:
            proxy = unknown in (Option.PROXY_URI, Option.PROXY_SCHEME)
            code = Code.PROXYING_NOT_SUPPORTED if proxy else Code.BAD_OPTION
            return self._diagnostic(code, f"option {unknown} is not supported")
        if self._seen.handled > self._settings.handlers_max:
            self._counters.refused += 1
            return self._diagnostic(Code.SERVICE_UNAVAILABLE, "too many requests are being handled")
        try:
            result: object = self._handler(
                Request(
                    peer,
                    method,
                    wire.texts(options, Option.URI_PATH),
                    wire.texts(options, Option.URI_QUERY),
                    wire.uint(options, Option.CONTENT_FORMAT),
                    wire.uint(options, Option.ACCEPT),
                    payload,
                    message.type is MessageType.CON,
                )
            )
        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the endpoint goes on)
            return self._failure(error)
        if isinstance(result, (Response, Awaitable)):
            return result
        return self._failure(TypeError(f"a handler returned {type(result).__name__}"))

    def _handled(self, future: asyncio.Future[Response]) -> None:
        """The awaitable of a handler is done: answer."""
        serving = self._serving.pop(future)
        if serving.timer is not None:
            serving.timer.cancel()
        if future.cancelled():
            if not self._closing:
                self._respond(serving, self._diagnostic(Code.SERVICE_UNAVAILABLE, "cancelled"))
            return
        error = future.exception()
        if isinstance(error, Exception):
            response = self._failure(error)
        elif error is not None:
            raise error
        else:
            result: object = future.result()
            wrong = TypeError(f"a handler gave {type(result).__name__}")
            response = result if isinstance(result, Response) else self._failure(wrong)
        self._respond(serving, response)

    def _acknowledge_empty(self, serving: _Serving) -> None:
        serving.acknowledged = True
        serving.seen.reply = wire.encode(Message(MessageType.ACK, Code.EMPTY, serving.request.message_id))
        self._send(serving.seen.reply, serving.peer)

    def _respond(self, serving: _Serving, response: Response) -> None:
        """Piggybacked (5.2.1), separate (5.2.2) or non-confirmable (5.2.3)."""
        request, peer = serving.request, serving.peer
        confirmable = request.type is MessageType.CON
        piggyback = confirmable and not serving.acknowledged
        kind = MessageType.ACK if piggyback else request.type
        message_id = request.message_id if piggyback else self._out.next_message_id(peer)
        datagram = self._encode_response(kind, message_id, request.token, response)
        if piggyback:
            serving.seen.reply = datagram
        self._seen.finish(serving.key, serving.seen, self._loop.time())
        if confirmable and not piggyback:
            try:
                self._out.submit(Transmission(peer, message_id, request.token, datagram, _ignore))
            except ConnectorError:
                self._counters.unsent += 1
            return
        self._send(datagram, peer)

    def _encode_response(self, kind: MessageType, message_id: int, token: bytes, response: Response) -> bytes:
        code, payload, content_format = response
        options: wire.Options = ()
        if content_format is not None:
            options = ((Option.CONTENT_FORMAT, wire.uint_value(content_format)),)
        try:
            datagram = wire.encode(Message(kind, code, message_id, token, options, payload))
            check_size(datagram, self._settings)
        except DataError as error:
            failure = self._failure(error, Code.INTERNAL_SERVER_ERROR)
            datagram = wire.encode(Message(kind, failure.code, message_id, token, (), failure.payload))
        return datagram

    def _failure(self, error: Exception, code: Code | None = None) -> Response:
        """4.00 when the request's content is to blame, else 5.00; bugs are logged, not told to the peer."""
        self._counters.failed += 1
        if isinstance(error, GanglionError):
            blamed = Code.BAD_REQUEST if isinstance(error, DataError) else Code.INTERNAL_SERVER_ERROR
            return self._diagnostic(code or blamed, str(error))
        _log.error("a CoAP handler failed", exc_info=error)
        return self._diagnostic(Code.INTERNAL_SERVER_ERROR, type(error).__name__)

    def _diagnostic(self, code: Code, text: str) -> Response:
        """Section 5.5.2: text without a content format, cut so that it stays UTF-8."""
        payload = text.encode("utf-8", "replace")[: self._settings.diagnostic_bytes_max]
        return Response(code, payload.decode("utf-8", "ignore").encode())


def check_size(datagram: bytes, settings: Settings) -> None:
    """Raises `DataError` ``coap.size`` for a message larger than ``datagram_bytes_max``."""
    if len(datagram) > settings.datagram_bytes_max:
        raise DataError(
            "coap.size",
            f"a message of {len(datagram)} bytes does not fit",
            why=f"the limit of this endpoint is {settings.datagram_bytes_max} bytes",
            next_step="send fewer rows in one message, or raise datagram_bytes_max on both sides",
        )


def _ignore(outcome: Outcome) -> None:
    """A separate response that is not acknowledged is counted by `Outbound` and no more can be done."""
