"""Turns exported rows into outbox messages, deterministically: the n-th message is the same after a replay.

Rows of one stream and origin gather until they are large enough or a tick (itself a journal message) says so, so small
rows share the cost of a message without any clock being asked.
"""

from __future__ import annotations

from typing import Any

from ganglion.core.batch import Batch
from ganglion.core.wire import End, Item, encode

MESSAGE_TARGET_BYTES = 64_000


class Exporter:
    """Gathers items; `take` gives the messages that are due as (stream, origin, bytes), in order."""

    def __init__(self, *, gather: bool) -> None:
        self._gather = gather
        self._held: dict[tuple[str, str], list[Batch]] = {}
        self._due: list[tuple[str, str, bytes]] = []

    @property
    def holds(self) -> bool:
        """True while rows wait for a tick."""
        return bool(self._held)

    def add(self, item: Item) -> None:
        """One exported batch or end mark."""
        key = (item.stream, item.origin)
        if isinstance(item, End):
            self._flush(key)
            self._due.append((*key, encode(item)))
            return
        held = self._held.setdefault(key, [])
        held.append(item)
        if not self._gather or sum(b.size_bytes for b in held) >= MESSAGE_TARGET_BYTES:
            self._flush(key)

    def flush(self) -> None:
        """A tick: everything held becomes due, in the order in which it began to be held."""
        for key in list(self._held):
            self._flush(key)

    def take(self) -> list[tuple[str, str, bytes]]:
        """The due messages, once."""
        due, self._due = self._due, []
        return due

    def _flush(self, key: tuple[str, str]) -> None:
        held = self._held.pop(key, None)
        if held:
            self._due.append((*key, encode(Batch.concat(held))))

    def snapshot(self) -> Any:
        """What is held. Nothing may be due: take first."""
        assert not self._due
        return [
            [*key, [[b.seq, b.time_ns, dict(b.columns)] for b in held]] for key, held in self._held.items()
        ]

    def restore(self, state: Any) -> None:
        """Takes a snapshot back."""
        self._held = {
            (stream, origin): [Batch(stream, origin, seq, time_ns, columns) for seq, time_ns, columns in held]
            for stream, origin, held in state
        }
