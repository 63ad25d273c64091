"""Rows, and ways to compare them, that the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ganglion.core.batch import Batch
from ganglion.core.block import Block
from ganglion.core.packing import pack, unpack
from ganglion.core.wire import End, Item
from ganglion.engine.graph import Emission

ORIGINS = ("gw1-relay-00", "gw1-relay-01", "gw1-relay-02")
MS = 1_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def rows_of(stream: str, origin: str, first_seq: int, times_ms: Sequence[int], **columns: Any) -> Batch:
    """Rows with consecutive numbers."""
    seq = first_seq + np.arange(len(times_ms), dtype=np.int64)
    time_ns = np.array(times_ms, np.int64) * MS
    return Batch(stream, origin, seq, time_ns, {name: np.asarray(c) for name, c in columns.items()})


def measured(x: Any) -> bool:
    """Whether a kernel sees samples, and not what stands for them at its definition."""
    return isinstance(x, np.ndarray)


def plain(item: Item) -> tuple[Any, ...]:
    """An item as nested tuples and bytes, equal only when every bit is."""
    if isinstance(item, End):
        return ("end", item.stream, item.origin)
    if isinstance(item, Block):
        return ("block", *(plain(batch) for batch in item.split()))
    columns = tuple((k, v.dtype.str, v.shape, v.tobytes()) for k, v in item.columns.items())
    return (item.stream, item.origin, tuple(item.seq.tolist()), tuple(item.time_ns.tolist()), columns)


def plain_emissions(emissions: Iterable[Emission]) -> list[tuple[Any, ...]]:
    return [(e.kind, e.stage, plain(e.item)) for e in emissions]


def row_list(items: Iterable[Item]) -> list[tuple[Any, ...]]:
    """Every row of every batch: (stream, origin, seq, time_ns, column bytes), whatever the batches were."""
    return [
        (
            b.stream,
            b.origin,
            int(b.seq[i]),
            int(b.time_ns[i]),
            tuple(c[i].tobytes() for c in b.columns.values()),
        )
        for b in batches_of(items)
        for i in range(len(b))
    ]


def batches_of(items: Iterable[Item]) -> list[Batch]:
    """Batches, and what blocks split into; no end marks."""
    return [b for i in items if not isinstance(i, End) for b in (i.split() if isinstance(i, Block) else [i])]


def interleaved(batches: Sequence[Batch], chance: Any) -> Block:
    """The rows of batches of one stream as one block, shuffled, but each origin's in their order."""
    whole = Block.joined(batches)
    turns = whole.origin_index.tolist()
    chance.shuffle(turns)
    order = np.empty(len(whole), np.intp)
    for place in set(turns):
        order[np.flatnonzero(np.array(turns) == place)] = np.flatnonzero(whole.origin_index == place)
    return whole.take(order)


def stored(state: Any) -> Any:
    """State after a stay on disk."""
    return unpack(pack(state))
