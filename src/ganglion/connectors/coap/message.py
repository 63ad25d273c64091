"""The CoAP message format (RFC 7252 section 3): one datagram to one `Message` and back, sans IO."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from ganglion.core.errors import DataError

VERSION = 1
TOKEN_BYTES_MAX = 8
MESSAGE_ID_MAX = 0xFFFF
OPTION_NUMBER_MAX = 0xFFFF
OPTION_BYTES_MAX = 65535 + 269
SEGMENT_BYTES_MAX = 255
"""Longest value of a Uri-Path or Uri-Query option (section 5.10)."""
DATAGRAM_BYTES_MAX = 65507
"""Largest UDP payload over IPv4; the settings of an endpoint ask for much less."""

CONTENT_FORMAT_TEXT = 0
CONTENT_FORMAT_CBOR = 60
CONTENT_FORMAT_SENML_CBOR = 112
"""``application/senml+cbor`` (RFC 8428 section 12.3)."""


class MessageType(IntEnum):
    """Section 3: how a message wants to be answered on the message layer."""

    CON = 0
    NON = 1
    ACK = 2
    RST = 3


class Code(IntEnum):
    """Methods and response codes of sections 12.1.1 and 12.1.2, ``class << 5 | detail``.

    A `Message` may carry any number; these are the ones with a name.
    """

    EMPTY = 0
    GET = 1
    POST = 2
    PUT = 3
    DELETE = 4
    CREATED = 0x41
    DELETED = 0x42
    VALID = 0x43
    CHANGED = 0x44
    CONTENT = 0x45
    BAD_REQUEST = 0x80
    UNAUTHORIZED = 0x81
    BAD_OPTION = 0x82
    FORBIDDEN = 0x83
    NOT_FOUND = 0x84
    METHOD_NOT_ALLOWED = 0x85
    NOT_ACCEPTABLE = 0x86
    PRECONDITION_FAILED = 0x8C
    REQUEST_ENTITY_TOO_LARGE = 0x8D
    UNSUPPORTED_CONTENT_FORMAT = 0x8F
    INTERNAL_SERVER_ERROR = 0xA0
    NOT_IMPLEMENTED = 0xA1
    BAD_GATEWAY = 0xA2
    SERVICE_UNAVAILABLE = 0xA3
    GATEWAY_TIMEOUT = 0xA4
    PROXYING_NOT_SUPPORTED = 0xA5


class Option(IntEnum):
    """Option numbers of section 12.2 that this package looks at; odd numbers are critical (5.4.1)."""

    URI_HOST = 3
    URI_PORT = 7
    URI_PATH = 11
    CONTENT_FORMAT = 12
    URI_QUERY = 15
    ACCEPT = 17
    PROXY_URI = 35
    PROXY_SCHEME = 39


Options = tuple[tuple[int, bytes], ...]
_TYPES = tuple(MessageType)


class Message(NamedTuple):
    """One CoAP message. ``options`` are (number, value) pairs; repeats allowed, `decode` orders by number.

    ``code`` is ``class << 5 | detail`` (see `Code`), ``token`` 0 to 8 bytes, ``message_id`` 16 bits.
    """

    type: MessageType
    code: int
    message_id: int
    token: bytes = b""
    options: Options = ()
    payload: bytes = b""


def code_text(code: int) -> str:
    """The dotted spelling of section 3: ``69`` is ``"2.05"``."""
    return f"{code >> 5}.{code & 31:02d}"


def is_request(code: int) -> bool:
    """True for 0.01 to 0.31."""
    return 0 < code < 32


def is_response(code: int) -> bool:
    """True for 2.00 to 5.31."""
    return 64 <= code < 192


def encode(message: Message) -> bytes:
    """The datagram of a message. Options may come in any order; equal numbers keep theirs.

    Raises `DataError` ``coap.encode`` when a part is out of its range (token, message id, option number or
    length, an empty message with content).
    """
    kind, code, message_id, token, options, payload = message
    if len(token) > TOKEN_BYTES_MAX or not (0 <= message_id <= MESSAGE_ID_MAX and 0 <= code <= 255):
        raise _unencodable("token, message id or code is out of range")
    if code == 0 and (token or options or payload):
        raise _unencodable("an empty message has neither token, options nor payload (section 4.1)")
    head = bytes((VERSION << 6 | kind << 4 | len(token), code, message_id >> 8, message_id & 255)) + token
    if options:
        head += _encode_options(options)
    return head + b"\xff" + payload if payload else head


def _unencodable(why: str) -> DataError:
    return DataError("coap.encode", "this is not a CoAP message", why=why, next_step="see RFC 7252 section 3")


def _nibble(value: int) -> tuple[int, bytes]:
    """Section 3.1: a delta or length as its four bits and the extended bytes."""
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes((value - 13,))
    return 14, (value - 269).to_bytes(2, "big")


def _encode_options(options: Options) -> bytes:
    out = bytearray()
    last = 0
    for number, value in sorted(options, key=lambda option: option[0]):
        if not 0 <= number <= OPTION_NUMBER_MAX or len(value) > OPTION_BYTES_MAX:
            raise _unencodable(f"option {number} of {len(value)} bytes is out of range")
        delta, delta_more = _nibble(number - last)
        length, length_more = _nibble(len(value))
        out.append(delta << 4 | length)
        out += delta_more
        out += length_more
        out += value
        last = number
    return bytes(out)


def _malformed(kind: str, why: str) -> DataError:
    return DataError(
        f"coap.{kind}",
        "a datagram is not a CoAP message",
        why=why,
        next_step="look at who sends to this port; RFC 7252 section 3 has the format",
    )


def decode(datagram: bytes) -> Message:
    """The message in a datagram, options ordered by number.

    Raises `DataError` ``coap.truncated`` (ends early), ``coap.version``, ``coap.token-length`` (9 to 15),
    ``coap.code`` (reserved class 1, 6 or 7), ``coap.empty`` (0.00 with more than a header), ``coap.option``
    (reserved nibble, number above 65535), ``coap.payload-marker`` (marker with nothing after it).
    """
    size = len(datagram)
    if size < 4:
        raise _malformed("truncated", f"{size} bytes are less than a header")
    first, code = datagram[0], datagram[1]
    if first >> 6 != VERSION:
        raise _malformed("version", f"version {first >> 6}, not {VERSION}")
    kind = _TYPES[first >> 4 & 3]
    token_end = 4 + (first & 15)
    message_id = datagram[2] << 8 | datagram[3]
    if token_end > 4 + TOKEN_BYTES_MAX:
        raise _malformed("token-length", f"a token of {first & 15} bytes is reserved")
    if code == 0:
        if size > 4 or token_end > 4:
            raise _malformed("empty", "an empty message is exactly four bytes (section 4.1)")
        return Message(kind, 0, message_id)
    if code >= 192 or 32 <= code < 64:
        raise _malformed("code", f"code class {code >> 5} is reserved")
    if size < token_end:
        raise _malformed("truncated", "the datagram ends inside the token")
    options, payload = _decode_options(datagram, token_end)
    return Message(kind, code, message_id, datagram[4:token_end], options, payload)


def _decode_options(data: bytes, at: int) -> tuple[Options, bytes]:
    """Section 3.1: the options from offset ``at`` on, and the payload."""
    size = len(data)
    options: list[tuple[int, bytes]] = []
    number = 0
    while at < size:
        first = data[at]
        at += 1
        if first == 0xFF:
            if at == size:
                raise _malformed("payload-marker", "a payload marker is followed by no payload")
            return tuple(options), data[at:]
        delta, length = first >> 4, first & 15
        if delta > 12:
            delta, at = _extended(data, at, delta)
        if length > 12:
            length, at = _extended(data, at, length)
        number += delta
        end = at + length
        if number > OPTION_NUMBER_MAX:
            raise _malformed("option", f"option number {number} is above {OPTION_NUMBER_MAX}")
        if end > size:
            raise _malformed("truncated", "the datagram ends inside an option")
        options.append((number, data[at:end]))
        at = end
    return tuple(options), b""


def _extended(data: bytes, at: int, nibble: int) -> tuple[int, int]:
    """The value of an extended delta or length, and the offset behind it."""
    if nibble == 15:
        raise _malformed("option", "option delta or length 15 is reserved")
    width = 1 if nibble == 13 else 2
    if at + width > len(data):
        raise _malformed("truncated", "the datagram ends inside an option header")
    if width == 1:
        return data[at] + 13, at + 1
    return (data[at] << 8 | data[at + 1]) + 269, at + 2


def uint_value(number: int) -> bytes:
    """Section 3.2: a ``uint`` option value in as few bytes as can be; 0 is empty."""
    assert number >= 0
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def request_options(
    path: Iterable[str],
    query: Iterable[str] = (),
    content_format: int | None = None,
    accept: int | None = None,
) -> Options:
    """Options of a request (section 5.10), by number. Raises ``coap.encode`` for a segment over 255 bytes."""
    options: list[tuple[int, bytes]] = [(Option.URI_PATH, _segment(part)) for part in path]
    if content_format is not None:
        options.append((Option.CONTENT_FORMAT, uint_value(content_format)))
    options.extend((Option.URI_QUERY, _segment(part)) for part in query)
    if accept is not None:
        options.append((Option.ACCEPT, uint_value(accept)))
    return tuple(options)


def _segment(text: str) -> bytes:
    try:
        value = text.encode()
    except UnicodeEncodeError as error:
        raise _unencodable("a path or query segment is not text that UTF-8 can carry") from error
    if len(value) > SEGMENT_BYTES_MAX:
        raise _unencodable("a path or query segment is at most 255 bytes (section 5.10)")
    return value


def texts(options: Options, number: int) -> tuple[str, ...]:
    """The values of a repeatable string option, e.g. the path. Raises ``coap.text`` when one is not UTF-8."""
    try:
        return tuple(value.decode() for n, value in options if n == number)
    except UnicodeDecodeError as error:
        raise _malformed("text", f"option {number} is not UTF-8") from error


def uint(options: Options, number: int, bytes_max: int = 2) -> int | None:
    """The value of a ``uint`` option, None when absent or too long (5.4.3: as if unknown)."""
    for n, value in options:
        if n == number:
            return int.from_bytes(value, "big") if len(value) <= bytes_max else None
    return None


_CRITICAL_BYTES_MAX: dict[int, int] = {
    Option.URI_HOST: 255,
    Option.URI_PORT: 2,
    Option.URI_PATH: SEGMENT_BYTES_MAX,
    Option.URI_QUERY: SEGMENT_BYTES_MAX,
    Option.ACCEPT: 2,
}


def unknown_critical(options: Options) -> int | None:
    """The first critical option we do not know or that is too long (5.4.1, 5.4.3), or None."""
    for number, value in options:
        if number & 1 and len(value) > _CRITICAL_BYTES_MAX.get(number, -1):
            return number
    return None
