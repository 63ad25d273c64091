"""Turns exported rows into outbox messages, deterministically: the n-th message is the same after a replay.

Rows of one stream and origin gather until they are large enough or a tick (itself a journal message) says so, so small
rows share the cost of a message without any clock being asked.
"""

from __future__ import annotations

from typing import Any

from ganglion.core.batch import Batch
from ganglion.core.shed import Shed, wrap
from ganglion.core.wire import End, Item, encode

MESSAGE_TARGET_BYTES = 64_000
MESSAGE_RAW_BYTES_MAX = 512_000
"""Column bytes of one message: a bus takes at most 1 MiB, and encoding never makes much more of them."""
_ROW_OVERHEAD_BYTES = 16  # sequence number and time


class Exporter:
    """Gathers items; `take` gives the messages that are due as (stream, origin, bytes), in order."""

    def __init__(self, *, gather: bool) -> None:
        self._gather = gather
        self._held: dict[tuple[str, str], list[Batch]] = {}
        self._held_bytes: dict[tuple[str, str], int] = {}
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
        held = self._held.get(key)
        if held and item.first_seq <= held[-1].last_seq:
            self._flush(key)  # rows that came out of order start a message: within one, numbers only go up
        self._held.setdefault(key, []).append(item)
        self._held_bytes[key] = self._held_bytes.get(key, 0) + item.size_bytes
        if not self._gather or self._held_bytes[key] >= MESSAGE_TARGET_BYTES:
            self._flush(key)

    def shed(self, claim: Shed) -> None:
        """What a site below could not keep, told in its place among the rows."""
        key = (claim.stream, claim.origin)
        self._flush(key)
        self._due.append((*key, wrap([claim], None)))

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
        if not held:
            return
        row_bytes = self._held_bytes.pop(key) // sum(len(b) for b in held) + _ROW_OVERHEAD_BYTES
        rows = max(1, MESSAGE_RAW_BYTES_MAX // row_bytes)
        batch = Batch.concat(held)
        for first in range(0, len(batch), rows):
            self._due.append((*key, encode(batch.take(slice(first, first + rows)))))

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
        self._held_bytes = {key: sum(b.size_bytes for b in held) for key, held in self._held.items()}
