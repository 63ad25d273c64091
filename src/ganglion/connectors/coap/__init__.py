"""CoAP over UDP (RFC 7252): a sans-IO message codec, and client and server on one socket."""

from ganglion.connectors.coap.endpoint import Endpoint
from ganglion.connectors.coap.exchange import Handler, Request, Response
from ganglion.connectors.coap.message import (
    CONTENT_FORMAT_CBOR,
    CONTENT_FORMAT_SENML_CBOR,
    CONTENT_FORMAT_TEXT,
    Code,
    Message,
    MessageType,
    Option,
    decode,
    encode,
)
from ganglion.connectors.coap.settings import Counters, Settings

__all__ = [
    "CONTENT_FORMAT_CBOR",
    "CONTENT_FORMAT_SENML_CBOR",
    "CONTENT_FORMAT_TEXT",
    "Code",
    "Counters",
    "Endpoint",
    "Handler",
    "Message",
    "MessageType",
    "Option",
    "Request",
    "Response",
    "Settings",
    "decode",
    "encode",
]
