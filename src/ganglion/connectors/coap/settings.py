"""What may be tuned on an endpoint: the transmission parameters of RFC 7252 section 4.8 and our limits."""

from __future__ import annotations

from dataclasses import dataclass

from ganglion.core.units import NS_PER_MS, NS_PER_S


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults are those of section 4.8; every limit is a count or a size that memory use follows."""

    ack_timeout_ns: int = 2 * NS_PER_S
    """ACK_TIMEOUT: the first wait for an acknowledgement, before the random factor."""
    ack_random_factor: float = 1.5
    """ACK_RANDOM_FACTOR, >= 1: the first wait is drawn from timeout .. timeout * factor."""
    max_retransmit: int = 4
    """MAX_RETRANSMIT: how often a confirmable message is sent again, each wait twice the last."""
    nstart: int = 1
    """NSTART: confirmable messages to one peer that may wait for an acknowledgement at once (4.7)."""
    exchange_lifetime_ns: int = 247 * NS_PER_S
    """EXCHANGE_LIFETIME (4.8.2): how long a message id is remembered against duplicates, if room allows."""
    empty_ack_after_ns: int = 1500 * NS_PER_MS
    """When a handler takes longer, its request is acknowledged empty and the response goes apart (5.2.2)."""
    datagram_bytes_max: int = 1152
    """Largest message sent or taken (4.6: 1152 fits one IPv6 packet); a larger request is answered 4.13."""
    remembered_max: int = 8192
    """Finished exchanges remembered against duplicates, oldest forgotten first."""
    handlers_max: int = 1024
    """Requests in a handler at once; above it a request is answered 5.03."""
    outstanding_max: int = 1024
    """Confirmable messages of ours under way or waiting for their turn; above it ``coap.busy``."""
    diagnostic_bytes_max: int = 256
    """Longest diagnostic payload of an error response (5.5.2)."""

    def __post_init__(self) -> None:
        assert self.ack_timeout_ns > 0 and self.ack_random_factor >= 1 and self.max_retransmit >= 0
        assert min(self.nstart, self.remembered_max, self.handlers_max, self.outstanding_max) >= 1
        assert self.exchange_lifetime_ns > 0 and self.empty_ack_after_ns > 0
        assert 64 <= self.datagram_bytes_max <= 65507 and self.diagnostic_bytes_max >= 0


@dataclass(slots=True)
class Counters:
    """What an endpoint has done since it was opened; nothing is dropped without being counted here."""

    received: int = 0
    """Datagrams that came in."""
    sent: int = 0
    """Datagrams handed to the socket, repeats included."""
    retransmitted: int = 0
    """Confirmable messages of ours sent again."""
    expired: int = 0
    """Confirmable messages of ours given up after the last retransmission."""
    duplicates: int = 0
    """Messages of peers that had been seen before; not handled again."""
    malformed: int = 0
    """Datagrams that are no CoAP message, or one that makes no sense in its place."""
    unmatched: int = 0
    """Acknowledgements, resets and responses that belong to nothing we wait for."""
    refused: int = 0
    """Requests answered 5.03 because too many were being handled."""
    failed: int = 0
    """Requests whose handler raised."""
    unsent: int = 0
    """Datagrams not sent because the socket was full or closed; confirmable ones are repeated anyway."""
    errors: int = 0
    """Errors the socket reported for a datagram."""
