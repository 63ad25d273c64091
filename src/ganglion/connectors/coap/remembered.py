"""Messages already seen (RFC 7252 section 4.5), so that a repeat is answered and not done again."""

from __future__ import annotations

from collections import OrderedDict

from ganglion.connectors.coap.reliable import Address

Key = tuple[Address, int]


class Seen:
    """One message from a peer: a fingerprint of its datagram and what it was answered with so far."""

    __slots__ = ("expires_s", "fingerprint", "reply")

    def __init__(self, fingerprint: int) -> None:
        self.fingerprint = fingerprint
        self.reply: bytes | None = None
        self.expires_s = 0.0


class Remembered:
    """Seen messages by (peer, message id): those still handled, and finished ones, bounded in count and time.

    A repeat is the same datagram byte for byte. The message ids of a peer that sends more than 265 messages a
    second wrap within EXCHANGE_LIFETIME; there the token tells a new request from a repeat.
    """

    def __init__(self, count_max: int, lifetime_s: float) -> None:
        self._count_max = count_max
        self._lifetime_s = lifetime_s
        self._handled: dict[Key, Seen] = {}
        self._finished: OrderedDict[Key, Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._handled) + len(self._finished)

    @property
    def handled(self) -> int:
        """How many messages are still handled; the caller bounds it."""
        return len(self._handled)

    def find(self, key: Key, datagram: bytes, now_s: float) -> Seen | None:
        """What is known of this very datagram, or None when it is new (or forgotten)."""
        seen = self._handled.get(key) or self._finished.get(key)
        if seen is None or seen.fingerprint != hash(datagram) or 0.0 < seen.expires_s <= now_s:
            return None
        return seen

    def begin(self, key: Key, datagram: bytes) -> Seen:
        """Remembers a new message that is being handled."""
        seen = Seen(hash(datagram))
        self._handled[key] = seen
        self._finished.pop(key, None)
        return seen

    def finish(self, key: Key, seen: Seen, now_s: float) -> None:
        """The message needs no more work; it may be forgotten when its time or the room is over."""
        if self._handled.get(key) is not seen:
            return  # the peer used the message id again meanwhile
        del self._handled[key]
        finished = self._finished
        seen.expires_s = now_s + self._lifetime_s
        finished[key] = seen
        while len(finished) > self._count_max or next(iter(finished.values())).expires_s <= now_s:
            finished.popitem(last=False)
