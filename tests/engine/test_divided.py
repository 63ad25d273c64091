"""Blocks that go to a site whose work is shared: each message holds rows of one partition, and says which."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.batch import Batch
from ganglion.core.block import Block
from ganglion.core.partition import PARTITIONS, block_name, home, partition_of
from ganglion.core.wire import End, decode_several, encode
from ganglion.engine.arrivals import Arrivals, Progress
from ganglion.engine.exporter import Exporter
from tests.engine.flows import SPEC

ORIGINS = tuple(f"gw1-relay-{n:02d}" for n in range(9))


def block_of(seqs: defaultdict[str, int], owners: list[int]) -> Block:
    """Rows of the origins at these places, numbered on."""
    seq = []
    for place in owners:
        seq.append(seqs[ORIGINS[place]])
        seqs[ORIGINS[place]] += 1
    n = len(owners)
    frames = np.array([[s, p] for s, p in zip(seq, owners, strict=True)], np.float32)
    return Block(
        "frames",
        ORIGINS,
        np.array(owners, np.int32),
        np.array(seq, np.int64),
        np.arange(n, dtype=np.int64) * 1_000_000,
        {"frame": frames},
    )


def rows(payload: bytes) -> list[tuple[str, int]]:
    """(origin, number) of each row of a message, in order."""
    found = []
    for item in decode_several(payload):
        if isinstance(item, Block):
            names = [item.origins[place] for place in item.origin_index.tolist()]
            found += list(zip(names, item.seq.tolist(), strict=True))
        elif isinstance(item, Batch):
            found += [(item.origin, seq) for seq in item.seq.tolist()]
    return found


histories = st.lists(
    st.one_of(
        st.lists(st.integers(0, len(ORIGINS) - 1), min_size=1, max_size=20),
        st.integers(0, len(ORIGINS) - 1),
        st.none(),
    ),
    max_size=8,
)


@given(histories, st.booleans(), st.integers(0, 8))
def test_divided_blocks_lose_nothing_keep_order_and_stay_in_their_partition(history, gather, restart_at):
    target = Exporter(gather=gather, divide=True)
    seqs: defaultdict[str, int] = defaultdict(int)
    messages: list[tuple[str, str, bytes]] = []
    for number, step in enumerate([*history, None]):
        if step is None:
            target.flush()
        elif isinstance(step, int):
            target.add(End("frames", ORIGINS[step]))
        else:
            target.add(block_of(seqs, step))
        messages += target.take()
        if number == restart_at:
            state = target.snapshot()
            target = Exporter(gather=gather, divide=True)
            target.restore(state)
    seen: defaultdict[str, list[int]] = defaultdict(list)
    for _stream, name, payload in messages:
        for origin, seq in rows(payload):
            assert partition_of(origin) == partition_of(name)
            seen[origin].append(seq)
    assert seen == {origin: list(range(count)) for origin, count in seqs.items()}


def test_undivided_blocks_stay_whole():
    target = Exporter(gather=False)
    target.add(block_of(defaultdict(int), list(range(9))))
    (message,) = target.take()
    assert len(rows(message[2])) == 9


def test_every_partition_has_a_name_for_its_blocks_and_one_home():
    assert [partition_of(block_name(p)) for p in range(PARTITIONS)] == list(range(PARTITIONS))
    for processes in range(1, PARTITIONS + 1):
        homes = [p for index in range(processes) for p in home(index, processes)]
        assert sorted(homes) == list(range(PARTITIONS))


def test_a_block_with_rows_of_another_partition_is_counted_bad_and_not_used():
    progress = Progress()
    here = partition_of(ORIGINS[0])
    arrivals = Arrivals(SPEC, progress, lambda _claim: None, lambda origin: partition_of(origin) == here)
    seqs: defaultdict[str, int] = defaultdict(int)
    other = next(n for n, o in enumerate(ORIGINS) if partition_of(o) != here)
    assert len(arrivals.opened(encode(block_of(seqs, [0, 0])))) == 1
    assert arrivals.opened(encode(block_of(seqs, [0, other]))) == []
    assert progress.bad_messages == 1
    # Origins that a block only knows by name do not matter.
    (item,) = arrivals.opened(encode(block_of(seqs, [0])))
    checked: Any = item
    assert len(checked) == 1
    assert arrivals.opened(encode(End("frames", ORIGINS[other]))) == []
    assert progress.bad_messages == 2
