"""Closed windows in arrays against a plain dictionary."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ganglion.engine.slots import NEVER_NS, Closed
from tests.engine.streams import stored

starts = st.integers(-20, 20)
steps = st.one_of(
    st.tuples(st.just("put"), starts),
    st.tuples(st.just("put"), starts),
    st.tuples(st.just("pop"), starts),
    st.tuples(st.just("forget"), starts, st.integers(-2, 3)),
)


@given(st.lists(steps, max_size=60), st.booleans())
def test_closed_windows_are_a_dictionary_sorted_by_start(history, restored):
    closed, wanted = Closed(2), dict[int, Any]()
    for number, step in enumerate(history):
        match step:
            case ("put", start) if start not in wanted:
                wanted[start] = ([float(number), -1.0], number, number + 1)
                closed.put(start, *wanted[start])
            case ("pop", start):
                assert closed.pop(start) == wanted.pop(start, None)
            case ("forget", until, more):
                gone = sorted(s for s in wanted if s < until)
                gone += sorted(s for s in wanted if s >= until)[: max(0, more - len(gone))]
                assert closed.forget(until, more) == max(gone, default=NEVER_NS)
                for start in gone:
                    del wanted[start]
        if restored:
            closed = Closed.restored(stored(closed.snapshot()))
        assert len(closed) == len(wanted)
        assert [s for s in range(-21, 22) if s in closed] == sorted(wanted)
        if wanted:
            assert closed.oldest == min(wanted)
        assert closed.snapshot()[0].tolist() == sorted(wanted)
        assert closed.size_bytes >= 40 * len(wanted)
