"""Exported rows become messages: all of them, in order, in sizes a bus takes, the same after a restart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.batch import Batch
from ganglion.core.block import Block
from ganglion.core.wire import MESSAGE_BYTES_MAX, End, Item, decode
from ganglion.engine import exporter
from ganglion.engine.exporter import MESSAGE_RAW_BYTES_MAX, MESSAGE_TARGET_BYTES, Exporter
from tests.engine.streams import ORIGINS, row_list, rows_of, stored

TICK = None


def wide(
    first_seq: int, rows: int, elements: int = 1, stream: str = "wide", origin: str = ORIGINS[0]
) -> Batch:
    """Rows of numbers that deflate cannot shrink much."""
    chance = np.random.default_rng(first_seq)
    values = chance.integers(-(2**31), 2**31, (rows, elements)).astype(np.int32)
    return rows_of(stream, origin, first_seq, list(range(rows)), values=values)


def sent(target: Exporter) -> list[Item]:
    """The due messages, whose labels must be those of what they hold."""
    items: list[Item] = []
    for stream, origin, payload in target.take():
        item = decode(payload)
        assert not isinstance(item, Block)
        assert (item.stream, item.origin) == (stream, origin)
        assert len(payload) <= MESSAGE_BYTES_MAX
        assert not isinstance(item, Batch) or (np.diff(item.seq) > 0).all()
        items.append(item)
    return items


@st.composite
def steps(draw: Any) -> list[Item | None]:
    """Batches of two streams, some out of order, ends and ticks."""
    found: list[Item | None] = []
    for _ in range(draw(st.integers(0, 12))):
        stream = draw(st.sampled_from(["narrow", "wide"]))
        origin = draw(st.sampled_from(ORIGINS[:2]))
        what = draw(st.integers(0, 9))
        if what == 0:
            found.append(TICK)
        elif what == 1:
            found.append(End(stream, origin))
        else:
            elements = 1 if stream == "narrow" else 8
            found.append(wide(draw(st.integers(0, 40)), draw(st.integers(1, 6)), elements, stream, origin))
    return found


def step(target: Exporter, item: Item | None) -> list[Item]:
    if item is None:
        target.flush()
    else:
        target.add(item)
    return sent(target)


def per_key(items: list[Item | None]) -> dict[tuple[str, str], list[Any]]:
    found: dict[tuple[str, str], list[Any]] = {}
    for item in items:
        if item is not None:
            assert not isinstance(item, Block)
            rows = row_list([item]) if isinstance(item, Batch) else ["end"]
            found.setdefault((item.stream, item.origin), []).extend(rows)
    return found


@given(
    steps(),
    st.booleans(),
    st.sampled_from([20, 100, MESSAGE_TARGET_BYTES]),
    st.sampled_from([60, 150, 10_000]),
)
def test_each_row_and_end_leaves_once_and_in_order_of_its_stream_and_origin(items, gather, target, raw):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "MESSAGE_TARGET_BYTES", target)
        patch.setattr(exporter, "MESSAGE_RAW_BYTES_MAX", raw)
        export = Exporter(gather=gather)
        left = [message for item in [*items, TICK] for message in step(export, item)]
        assert per_key(list(left)) == per_key(items)
        assert not export.holds
        for message in left:
            if isinstance(message, Batch) and len(message) > 1:
                assert message.size_bytes + 16 * len(message) <= raw


@given(steps(), st.booleans(), st.sampled_from([20, 100, MESSAGE_TARGET_BYTES]))
def test_an_exporter_restored_after_every_step_goes_on_the_same(items, gather, target):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "MESSAGE_TARGET_BYTES", target)
        whole, restarted = Exporter(gather=gather), Exporter(gather=gather)
        for item in [*items, TICK]:
            state = stored(restarted.snapshot())
            restarted = Exporter(gather=gather)
            restarted.restore(state)
            assert restarted.holds == whole.holds
            for export in (whole, restarted):
                if item is None:
                    export.flush()
                else:
                    export.add(item)
            assert restarted.take() == whole.take()


def test_without_gathering_every_batch_leaves_at_once():
    target = Exporter(gather=False)
    assert len(step(target, wide(0, 1))) == 1
    assert not target.holds


def test_small_rows_gather_until_a_tick_or_until_they_are_large_enough():
    target = Exporter(gather=True)
    rows_each = MESSAGE_TARGET_BYTES // 4 // 4
    for i in range(3):
        assert step(target, wide(i * rows_each, rows_each)) == []
    assert target.holds
    (message,) = step(target, wide(3 * rows_each, rows_each))
    assert isinstance(message, Batch)
    assert len(message) == 4 * rows_each
    assert not target.holds
    step(target, wide(4 * rows_each, 2))
    assert [len(b) for b in step(target, TICK) if isinstance(b, Batch)] == [2]
    assert step(target, TICK) == []


def test_a_batch_too_large_for_the_bus_is_split():
    rows, elements = 1000, 512
    messages = step(Exporter(gather=False), wide(0, rows, elements))
    assert row_list(messages) == row_list([wide(0, rows, elements)])
    assert len(messages) == -(-rows // (MESSAGE_RAW_BYTES_MAX // (4 * elements + 16)))


def test_a_row_larger_than_the_target_leaves_alone():
    elements = MESSAGE_RAW_BYTES_MAX // 4 + 1
    messages = step(Exporter(gather=True), wide(0, 2, elements))
    assert [len(m) for m in messages if isinstance(m, Batch)] == [1, 1]


def test_rows_out_of_order_start_a_message_of_their_own():
    target = Exporter(gather=True)
    step(target, wide(10, 3))
    (first,) = step(target, wide(5, 3))
    assert row_list([first]) == row_list([wide(10, 3)])
    (second,) = step(target, TICK)
    assert row_list([second]) == row_list([wide(5, 3)])


def test_a_tick_sends_in_the_order_in_which_rows_began_to_be_held():
    target = Exporter(gather=True)
    for first_seq, stream in ((5, "b"), (5, "a"), (5, "c"), (9, "a"), (0, "b")):
        target.add(wide(first_seq, 1, stream=stream))
    target.flush()
    # The second row of b came out of order: the first one had to leave, and b began to be held anew.
    assert [(m.stream, len(row_list([m]))) for m in sent(target)] == [("b", 1), ("a", 2), ("c", 1), ("b", 1)]


def test_an_end_follows_what_was_held_of_its_stream_and_leaves_the_others_waiting():
    target = Exporter(gather=True)
    target.add(wide(0, 1))
    target.add(wide(0, 1, origin=ORIGINS[1]))
    rows, end = step(target, End("wide", ORIGINS[0]))
    assert isinstance(rows, Batch)
    assert end == End("wide", ORIGINS[0])
    assert target.holds


def test_a_snapshot_with_messages_not_taken_is_an_assertion():
    target = Exporter(gather=False)
    target.add(wide(0, 1))
    with pytest.raises(AssertionError):
        target.snapshot()
