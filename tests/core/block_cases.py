"""Blocks for tests: any origins interleaved in any way, any bits in the columns."""

import numpy as np
from hypothesis import strategies as st

from ganglion.core.block import Block
from tests.core.wire_cases import columns_of, extremes, same_array, schemas, texts


@st.composite
def blocks(draw):
    """(block, its schema). Numbers count on, leave gaps or reach the ends of int64; some origins have no rows."""
    schema = draw(schemas)
    n = draw(st.integers(1, 16))
    origins = tuple(draw(st.lists(texts, min_size=1, max_size=5, unique=True)))
    origin = np.array(draw(st.lists(st.integers(0, len(origins) - 1), min_size=n, max_size=n)), np.int32)
    seq = np.empty(n, np.int64)
    for place in range(len(origins)):
        rows = np.flatnonzero(origin == place)
        if draw(st.booleans()):
            seq[rows] = draw(st.integers(0, 2**60)) + np.arange(len(rows))
        else:
            seq[rows] = sorted(draw(st.sets(extremes, min_size=len(rows), max_size=len(rows))))
    times = np.array(draw(st.lists(extremes, min_size=n, max_size=n)), np.int64)
    columns = {f.name: draw(columns_of(f.type, n)) for f in schema.fields}
    return Block(draw(texts), origins, origin, seq, times, columns), schema


def same_block(a: Block, b: Block) -> bool:
    """Equal down to the payload of every NaN."""
    return (
        (a.stream, a.origins, tuple(a.columns)) == (b.stream, b.origins, tuple(b.columns))
        and all(same_array(getattr(a, k), getattr(b, k)) for k in ("origin_index", "seq", "time_ns"))
        and all(same_array(a.columns[k], b.columns[k]) for k in a.columns)
    )


def fixed_block() -> Block:
    """Three origins, one without rows, one with a gap in its numbers; a NaN with a payload among the values."""
    nan = np.array([0x7FC0_1234, 0x8000_0000, 0x3F80_0000, 0, 0x4000_0000], np.uint32).view(np.float32)
    return Block(
        "readings",
        ("gw1-room-00", "gw1-room-01", "gw1-room-02"),
        np.array([0, 2, 0, 2, 0], np.int32),
        np.array([1 << 40, 5, (1 << 40) + 1, 8, (1 << 40) + 2], np.int64),
        np.array([1_700_000_000_000_000_000 + 1_000_000 * i for i in (0, 0, 1, 1, 3)], np.int64),
        {"temp": nan, "q": np.array([0, 1, 0, 0, 1], np.int32)},
    )
