"""Which rows were taken already: a repeated row is never used twice, a new one never taken for a repeated one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.batch import Batch
from ganglion.engine import seen as memory
from ganglion.engine.seen import Seen
from tests.engine.streams import ORIGINS, plain, stored


def numbered(*seqs: int) -> Batch:
    seq = np.array(seqs, np.int64)
    return Batch("level", ORIGINS[0], seq, seq, {"level": seq.astype(np.float32)})


arrivals = st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=8).map(sorted), max_size=12)


@given(arrivals)
def test_new_repeated_and_late_rows_are_told_apart(history):
    seen = Seen()
    taken: set[int] = set()
    for seqs in history:
        fresh, repeated, late = seen.take(numbered(*seqs))
        new = [s for s in seqs if s not in taken]
        assert (fresh.seq.tolist() if fresh else []) == new
        assert repeated == len(seqs) - len(new)
        assert late == sum(s < max(taken, default=-1) for s in new)
        taken.update(seqs)
        assert seen.last_seq == max(taken)


@given(arrivals)
def test_a_memory_restored_after_every_batch_goes_on_the_same(history):
    whole, restarted = Seen(), Seen()
    for seqs in history:
        restarted = Seen.restored(stored(restarted.snapshot()))
        a, b = whole.take(numbered(*seqs)), restarted.take(numbered(*seqs))
        assert a[1:] == b[1:]
        assert (a[0] and plain(a[0])) == (b[0] and plain(b[0]))


@given(arrivals, st.integers(1, 4))
def test_at_its_limit_only_what_lies_below_the_ranges_kept_counts_as_taken(history, ranges_max):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "RANGES_MAX", ranges_max)
        seen = Seen()
        taken: set[int] = set()
        for seqs in history:
            fresh, _, _ = seen.take(numbered(*seqs))
            assert fresh is None or not taken.intersection(fresh.seq.tolist())
            taken.update(seqs)
            floor = floor_of(taken, ranges_max)
            taken.update(range(floor + 1))
            assert seen.last_seq == max(taken)
            open_gaps = [s for s in range(max(taken)) if s not in taken]
            assert all(Seen.restored(seen.snapshot()).take(numbered(s))[0] for s in open_gaps)


def floor_of(taken: set[int], ranges_max: int) -> int:
    ends = sorted((s for s in taken if s + 1 not in taken), reverse=True)
    return ends[ranges_max] if len(ends) > ranges_max else -1


def test_a_backlog_may_come_after_what_is_newest():
    seen, boot = Seen(), 1 << 40
    seen.take(numbered(boot, boot + 1))
    for i in range(500):
        fresh, repeated, late = seen.take(numbered(2 * i, 2 * i + 1))
        assert fresh is not None
        assert (len(fresh), repeated, late) == (2, 0, 2)


def test_rows_without_a_floor_start_at_zero():
    assert Seen().last_seq == -1
    assert Seen(floor=5).take(numbered(4, 5, 6))[1] == 2
