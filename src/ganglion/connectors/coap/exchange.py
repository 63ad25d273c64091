"""What endpoint and application say to each other: requests, responses, and how a request fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ganglion.connectors.coap.message import Code, code_text
from ganglion.connectors.coap.reliable import Address
from ganglion.core.errors import ConnectorError


class Request(NamedTuple):
    """What a handler is given: method and path of a request, and who sent it.

    ``path`` and ``query`` are the segments as sent, percent-decoded by nature of CoAP (section 5.10.1).
    """

    peer: Address
    method: int
    path: tuple[str, ...]
    query: tuple[str, ...] = ()
    content_format: int | None = None
    accept: int | None = None
    payload: bytes = b""
    confirmable: bool = True


class Response(NamedTuple):
    """What a handler gives back and `Endpoint.request` returns."""

    code: int = Code.CONTENT
    payload: bytes = b""
    content_format: int | None = None

    @property
    def ok(self) -> bool:
        """True for 2.xx."""
        return self.code >> 5 == 2

    @property
    def status(self) -> str:
        """The dotted code: ``"2.05"``."""
        return code_text(self.code)


Handler = Callable[[Request], Response | Awaitable[Response]]
"""Called straight from the socket's callback: must not block. A `Response` goes out at once, with no task."""


def closed() -> ConnectorError:
    """``coap.closed``: the endpoint was closed before or while the request waited."""
    return ConnectorError("coap.closed", "the CoAP endpoint is closed", next_step="open a new one")


def timeout(peer: Address) -> ConnectorError:
    """``coap.timeout``: no answer, or none to the last retransmission."""
    return ConnectorError(
        "coap.timeout",
        f"{peer[0]}:{peer[1]} did not answer",
        why="no response within the time given and the retransmissions of RFC 7252 section 4.2",
        next_step="check that it runs and that datagrams reach it",
    )


def bad_response(peer: Address) -> ConnectorError:
    """``coap.response``: the answer cannot be understood."""
    return ConnectorError(
        "coap.response",
        f"{peer[0]}:{peer[1]} answered with a critical option that is not known here",
        why="RFC 7252 section 5.4.1: such a response is rejected",
        next_step="ask it for a plain representation",
    )
