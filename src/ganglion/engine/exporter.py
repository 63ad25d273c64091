"""Turns exported rows into outbox messages, deterministically: the n-th message is the same after a replay.

Rows of one stream and origin gather until they are large enough or a tick (itself a journal message) says so, so small
rows share the cost of a message without any clock being asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ganglion.core.batch import Batch
from ganglion.core.block import MANY, Block, Rows
from ganglion.core.partition import block_name, partition_of
from ganglion.core.shed import Shed, wrap
from ganglion.core.wire import End, Item, encode

MESSAGE_TARGET_BYTES = 64_000
MESSAGE_RAW_BYTES_MAX = 512_000
"""Column bytes of one message: a bus takes at most 1 MiB, and encoding never makes much more of them."""
_ROW_OVERHEAD_BYTES = 16  # sequence number and time

Key = tuple[str, str | int | None]
"""(stream, origin), or for blocks (stream, partition), or (stream, None) where those do not matter."""


class Exporter:
    """Gathers items; `take` gives the messages that are due as (stream, origin, bytes), in order.

    Blocks of a stream gather apart from its batches (under the origin `MANY`): what is held of one is sent before the
    other is held, so that an origin's rows stay in order. ``split``: streams whose messages are to be of one origin
    each, for what is shed of them is told by origin. ``divide``: blocks are to be of one partition each, for several
    processes share what they go to.
    """

    def __init__(self, *, gather: bool, split: frozenset[str] = frozenset(), divide: bool = False) -> None:
        self._gather = gather
        self._divide = divide
        self._split = split
        self._held: dict[Key, list[Rows]] = {}
        self._held_bytes: dict[Key, int] = {}
        self._held_lasts: dict[Key, dict[str, int]] = {}
        self._due: list[tuple[str, str, bytes]] = []

    @property
    def holds(self) -> bool:
        """True while rows wait for a tick."""
        return bool(self._held)

    def add(self, item: Item) -> None:
        """Exported rows, or an end mark."""
        if isinstance(item, End):
            self._flush_line(item.stream, item.origin)
            self._due.append((item.stream, item.origin, encode(item)))
            return
        if isinstance(item, Block) and item.stream in self._split:
            for batch in item.split():
                self._hold(batch)
            return
        if isinstance(item, Block) and self._divide:
            for partition, part in _divided(item):
                self._hold(part, partition)
            return
        self._hold(item)

    def _flush_line(self, stream: str, origin: str) -> None:
        """What may hold rows of an origin is due."""
        for key in [k for k in self._held if k[0] == stream and not isinstance(k[1], str)]:
            self._flush(key)
        self._flush((stream, origin))

    def _hold(self, item: Rows, partition: int | None = None) -> None:
        many = isinstance(item, Block)
        key: Key = (item.stream, partition if isinstance(item, Block) else item.origin)
        for other in [k for k in self._held if k[0] == item.stream and isinstance(k[1], str) is many]:
            self._flush(other)
        if isinstance(item, Block):
            item = item.compact()
        firsts, lasts = _ends(item)
        before = self._held_lasts.get(key)
        if before and any(before.get(origin, first - 1) >= first for origin, first in firsts.items()):
            self._flush(key)  # rows that came out of order start a message: within one, numbers only go up
        self._held.setdefault(key, []).append(item)
        self._held_lasts.setdefault(key, {}).update(lasts)
        self._held_bytes[key] = self._held_bytes.get(key, 0) + item.size_bytes
        if not self._gather or self._held_bytes[key] >= MESSAGE_TARGET_BYTES:
            self._flush(key)

    def shed(self, claim: Shed) -> None:
        """What a site below could not keep, told in its place among the rows."""
        self._flush_line(claim.stream, claim.origin)
        self._due.append((claim.stream, claim.origin, wrap([claim], None)))

    def flush(self) -> None:
        """A tick: everything held becomes due, in the order in which it began to be held."""
        for key in list(self._held):
            self._flush(key)

    def take(self) -> list[tuple[str, str, bytes]]:
        """The due messages, once."""
        due, self._due = self._due, []
        return due

    def _flush(self, key: Key) -> None:
        held = self._held.pop(key, None)
        if not held:
            return
        del self._held_lasts[key]
        row_bytes = self._held_bytes.pop(key) // sum(len(b) for b in held) + _ROW_OVERHEAD_BYTES
        rows = max(1, MESSAGE_RAW_BYTES_MAX // row_bytes)
        whole = _joined(held)
        stream, lot = key
        name = MANY if lot is None else block_name(lot) if isinstance(lot, int) else lot
        for first in range(0, len(whole), rows):
            part = whole.take(slice(first, first + rows))
            part = part.compact() if isinstance(part, Block) else part
            self._due.append((stream, name, encode(part)))

    def snapshot(self) -> Any:
        """What is held. Nothing may be due: take first."""
        assert not self._due
        return [[*key, [_packed(rows) for rows in held]] for key, held in self._held.items()]

    def restore(self, state: Any) -> None:
        """Takes a snapshot back."""
        self._held, self._held_bytes, self._held_lasts = {}, {}, {}
        for stream, origin, packed in state:
            key = (stream, origin)
            held = self._held[key] = [_unpacked(stream, origin, rows) for rows in packed]
            self._held_bytes[key] = sum(rows.size_bytes for rows in held)
            self._held_lasts[key] = {o: last for rows in held for o, last in _ends(rows)[1].items()}


def _divided(block: Block) -> Iterator[tuple[int, Block]]:
    """The rows of each partition, in the order of partitions."""
    lots = np.array([partition_of(origin) for origin in block.origins])[block.origin_index]
    for partition in np.unique(lots).tolist():
        yield partition, block.take(lots == partition)


def _joined(held: list[Rows]) -> Rows:
    blocks = [rows for rows in held if isinstance(rows, Block)]
    return (
        Block.concat(blocks) if blocks else Batch.concat([rows for rows in held if isinstance(rows, Batch)])
    )


def _ends(rows: Rows) -> tuple[dict[str, int], dict[str, int]]:
    """Each origin's first and last number."""
    if isinstance(rows, Batch):
        return {rows.origin: rows.first_seq}, {rows.origin: rows.last_seq}
    groups = rows.groups
    names = [rows.origins[place] for place in groups.present.tolist()]
    firsts = rows.seq[groups.order[groups.starts]].tolist()
    lasts = rows.seq[groups.order[groups.ends - 1]].tolist()
    return dict(zip(names, firsts, strict=True)), dict(zip(names, lasts, strict=True))


def _packed(rows: Rows) -> list[Any]:
    packed = [rows.seq, rows.time_ns, dict(rows.columns)]
    return [*packed, list(rows.origins), rows.origin_index] if isinstance(rows, Block) else packed


def _unpacked(stream: str, origin: str | int | None, packed: list[Any]) -> Rows:
    if isinstance(origin, str):
        seq, time_ns, columns = packed
        return Batch(stream, origin, seq, time_ns, columns)
    seq, time_ns, columns, origins, origin_index = packed
    return Block(stream, tuple(origins), origin_index, seq, time_ns, columns)
