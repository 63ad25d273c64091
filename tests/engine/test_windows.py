"""Windows against a plain-Python reference, and the laws that hold without one."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.packing import pack
from ganglion.engine import windows
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.loading import load
from tests.engine.streams import DAY_MS, MS, ORIGINS, plain, rows_of, stored
from tests.engine.window_cases import (
    AGGREGATES,
    WIDTH_MS,
    Sender,
    built,
    bys,
    grouped,
    histories,
    keeps_ms,
    lags_ms,
    newest,
    operator,
    results,
)
from tests.engine.window_reference import ReferenceWindows

awkward = st.floats(-1000, 1000, width=32) | st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan])


needs_compiler = pytest.mark.skipif(not compilers(), reason="there is no C compiler (gcc, clang or ziglang)")


@pytest.fixture(scope="module", params=["numpy", pytest.param("compiled", marks=needs_compiler)])
def libraries(request, tmp_path_factory):
    """What windows are computed by: nothing compiled, or their folds."""
    if request.param == "numpy":
        return {}
    folds = built("origin", 0, 0).folds({"tens", "scaled_tens"})
    loaded = load([], tmp_path_factory.mktemp("folds"), folds)
    assert len(loaded) == 1  # of one form
    return loaded


@given(histories, bys, lags_ms, keeps_ms)
def test_every_step_gives_what_the_reference_gives(libraries, steps, by, lag_max_ms, keep_ms):
    sender = Sender(operator(by, lag_max_ms, keep_ms, libraries=libraries))
    reference = ReferenceWindows(width=WIDTH_MS, by=by, lag_max=lag_max_ms, keep=keep_ms)
    for origin, rows in steps:
        given_rows = results(sender.step((origin, rows)))
        expected = reference.push(origin, rows) if rows else reference.end(origin)
        assert given_rows == expected
    counts = sender.target.counts
    assert (counts.late, counts.dropped) == (reference.late, reference.dropped)
    assert counts.rows == sum(len(rows) for _, rows in steps)


@given(histories, bys, lags_ms, keeps_ms)
def test_after_the_end_every_row_is_in_a_window_or_counted_as_dropped(steps, by, lag_max_ms, keep_ms):
    sender = Sender(operator(by, lag_max_ms, keep_ms))
    given_rows = [b for step in [*steps, *((o, []) for o in ORIGINS)] for b in sender.step(step)]
    counts = sender.target.counts
    kept = sum(rows for rows, _ in newest(given_rows).values())
    assert kept + counts.dropped == counts.rows
    assert counts.out == sum(len(b) for b in given_rows)


@given(histories, bys, lags_ms, st.randoms(use_true_random=False))
def test_the_newest_revisions_do_not_depend_on_the_order_of_arrival(steps, by, lag_max_ms, chance):
    singles = [(origin, [row]) for origin, rows in steps for row in rows]
    chance.shuffle(singles)
    sender = Sender(operator(by, lag_max_ms))
    given_rows = [b for step in [*singles, *((o, []) for o in ORIGINS)] for b in sender.step(step)]
    assert newest(given_rows) == grouped(steps, merged=by == "all")
    assert sender.target.counts.dropped == 0


@given(histories, bys)
def test_results_are_numbered_one_after_the_other_and_timed_at_the_end_of_their_window(steps, by):
    sender = Sender(operator(by))
    next_seq: defaultdict[str, int] = defaultdict(int)
    for batch in (b for step in steps for b in sender.step(step)):
        assert batch.seq.tolist() == [next_seq[batch.origin] + i for i in range(len(batch))]
        next_seq[batch.origin] += len(batch)
        assert (batch.time_ns == batch.columns["start_ns"] + WIDTH_MS * MS - 1).all()
        batch.check(built("origin", 0, 0)["tens"].schema)


@given(histories, bys, lags_ms, keeps_ms)
def test_an_operator_restored_after_every_step_goes_on_the_same(steps, by, lag_max_ms, keep_ms):
    whole = Sender(operator(by, lag_max_ms, keep_ms))
    restarted = Sender(operator(by, lag_max_ms, keep_ms))
    for step in steps:
        snapshot = stored(restarted.target.snapshot())
        restarted.target = operator(by, lag_max_ms, keep_ms)
        restarted.target.restore(snapshot)
        assert [plain(b) for b in restarted.step(step)] == [plain(b) for b in whole.step(step)]
    assert restarted.target.counts == whole.target.counts


@given(histories, bys, keeps_ms)
def test_a_snapshot_is_not_altered_by_what_comes_after_it(steps, by, keep_ms):
    sender = Sender(operator(by, keep_ms=keep_ms))
    for step in steps:
        snapshot = sender.target.snapshot()
        before = pack(snapshot)
        sender.step(step)
        assert pack(snapshot) == before


@given(st.lists(st.tuples(st.integers(0, 40), awkward), min_size=1, max_size=30), bys, st.data())
def test_however_rows_come_in_batches_a_window_has_the_same_bits(libraries, rows, by, data):
    """So a replay with other batches, or a stage that moved, gives the same rows."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    whole, cut = Sender(operator(by)), Sender(operator(by, libraries=libraries))
    given_whole = [*whole.push(ORIGINS[0], *rows), *whole.end(ORIGINS[0])]
    given_cut = []
    for first, last in pairwise([0, *cuts, len(rows)]):
        if first < last:
            given_cut += cut.push(ORIGINS[0], *rows[first:last])
    given_cut += cut.end(ORIGINS[0])
    assert last_bits(given_cut) == last_bits(given_whole)


def last_bits(batches):
    """The bytes of the newest revision of each window."""
    found = {}
    for b in batches:
        for i, start in enumerate(b.columns["start_ns"].tolist()):
            found[start] = [b.columns[name][i].tobytes() for name in ("rows", *AGGREGATES)]
    return found


# --------------------------------------------------------------------------------- chosen histories


def test_a_window_waits_for_all_current_origins_and_an_island_does_not_stall_it():
    a, b, island = ORIGINS
    sender = Sender(operator("all", lag_max_ms=50))
    assert sender.push(island, (5, 7)) == []
    assert sender.push(a, (5, 1), (12, 1)) == []
    assert sender.push(b, (5, 2), (30, 2)) == []  # the island is behind, but not by more than 50
    first = newest(sender.push(a, (56, 1)))
    assert {start: rows for (_, start), (rows, _) in first.items()} == {0: 3, 10: 1}
    assert sender.push(island, (7, 7)) == []  # it has more of that window to come
    late = sender.push(island, (10, 7))
    assert [r[1:3] for r in results(late)] == [(0, 1)]
    assert newest(late)["all", 0][0] == 4
    assert (
        sender.target.counts.late == 2
    )  # one of either window; the second waits until the island has passed
    assert [r[1:3] for r in results(sender.end(island))] == [(10, 1)]


def test_an_ended_origin_is_waited_for_no_more_and_counts_again_when_it_comes_back():
    a, b, _ = ORIGINS
    sender = Sender(operator("all", lag_max_ms=1000))
    assert sender.push(a, (1, 1)) == []
    assert sender.push(b, (1, 1), (25, 1)) == []
    assert newest(sender.end(a)).keys() == {("all", 0)}
    assert sender.push(a, (12, 1)) == []
    assert sender.push(b, (45, 1)) == []  # a is back at 12, so the windows from 10 on wait for it
    assert newest(sender.push(a, (50, 1))).keys() == {("all", 10), ("all", 20)}


def test_the_end_of_an_unknown_origin_gives_nothing_and_ends_only_a_stream_by_origin():
    assert operator("origin").end("level", ORIGINS[0]) == ([], True)
    assert operator("all").end("level", ORIGINS[0]) == ([], False)


@pytest.mark.parametrize("by", ["origin", "all"])
def test_origins_beyond_the_limit_are_bad_rows(by, monkeypatch):
    monkeypatch.setattr(windows, "KEYS_MAX", 1)
    a, b = ORIGINS[:2]
    sender = Sender(operator(by))
    sender.push(a, (1, 1))
    assert sender.push(b, (1, 1), (25, 1)) == []
    assert sender.target.counts.bad == 2
    assert newest(sender.push(a, (12, 1)))


@pytest.mark.parametrize("by", ["origin", "all"])
def test_beyond_the_limit_the_oldest_closed_window_is_forgotten_and_never_begun_anew(by, monkeypatch):
    monkeypatch.setattr(windows, "WINDOWS_MAX", 3)
    a = ORIGINS[0]
    sender = Sender(operator(by))
    sender.push(a, *((10 * i, 1) for i in range(6)))
    # Windows 0 to 40 were given and 50 is open: 30, 40 and 50 are kept.
    assert sender.push(a, (5, 1), (25, 1), (35, 1))[0].columns["start_ns"].tolist() == [30 * MS]
    assert (sender.target.counts.dropped, sender.target.counts.late) == (2, 1)
    held = sender.target.snapshot()["keys"]
    ((opened, _, _, closed),) = held.values()
    assert len(opened) + (len(closed[0]) if closed else 0) == 3


@given(histories, bys, lags_ms, keeps_ms, st.integers(1, 4))
def test_the_limit_forgets_as_the_reference_does_across_restarts(steps, by, lag_max_ms, keep_ms, windows_max):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "WINDOWS_MAX", windows_max)
        sender = Sender(operator(by, lag_max_ms, keep_ms))
        reference = ReferenceWindows(
            width=WIDTH_MS, by=by, lag_max=lag_max_ms, keep=keep_ms, windows_max=windows_max
        )
        for origin, rows in steps:
            snapshot = stored(sender.target.snapshot())
            sender.target = operator(by, lag_max_ms, keep_ms)
            sender.target.restore(snapshot)
            expected = reference.push(origin, rows) if rows else reference.end(origin)
            assert results(sender.step((origin, rows))) == expected
        assert (sender.target.counts.late, sender.target.counts.dropped) == (
            reference.late,
            reference.dropped,
        )


@pytest.mark.parametrize("by", ["origin", "all"])
def test_a_window_is_revised_until_keep_has_passed_and_not_longer(by):
    a = ORIGINS[0]
    sender = Sender(operator(by, keep_ms=100))
    sender.push(a, (5, 1), (15, 1))
    sender.push(a, (110, 1))
    assert newest(sender.push(a, (6, 1)))[a if by == "origin" else "all", 0][0] == 2  # ended 100 ago
    sender.push(a, (111, 1))
    assert sender.push(a, (7, 1)) == []
    assert sender.target.counts.dropped == 1


@pytest.mark.parametrize("by", ["origin", "all"])
def test_a_window_may_begin_until_keep_has_passed_and_not_later(by):
    sender = Sender(operator(by, keep_ms=100))
    sender.push(ORIGINS[0], (110, 1))
    assert len(sender.push(ORIGINS[0], (6, 1))) == 1  # its window ended 100 ago
    sender.push(ORIGINS[0], (121, 1))
    assert sender.push(ORIGINS[0], (16, 1)) == []
    assert sender.target.counts.dropped == 1


def test_an_origin_that_ended_far_ahead_makes_nothing_of_the_others_too_old():
    ahead, b, _ = ORIGINS
    sender = Sender(operator("all", lag_max_ms=50, keep_ms=100))
    sender.push(b, (5, 1))
    sender.push(ahead, (DAY_MS, 1))
    sender.end(ahead)
    assert len(sender.push(b, (16, 1), (25, 1))) == 1
    assert sender.target.counts.dropped == 0


def test_a_window_that_was_given_is_revised_without_waiting_for_the_others_again():
    a, b, slow = ORIGINS
    sender = Sender(operator("all", lag_max_ms=1000))
    sender.push(a, (30, 1))
    assert len(sender.push(b, (5, 1), (30, 1))) == 1
    assert sender.push(slow, (6, 1)) == []  # it has not passed the end of what it brought
    (revision,) = sender.push(a, (7, 1))  # this one has
    assert (revision.columns["revision"].tolist(), revision.columns["rows"].tolist()) == ([1], [3])


def test_stored_counts_are_aggregated_in_their_unit():
    target = operator(stage_id="scaled_tens")
    target.process(rows_of("count", ORIGINS[0], 0, [1, 2], frame=np.array([30_000, 10_000], np.int16)))
    (batch,) = target.process(rows_of("count", ORIGINS[0], 2, [10], frame=np.array([0], np.int16)))
    found = [float(batch.columns[name][0]) for name in AGGREGATES]
    assert found == [2, 20_000, 5_000, 15_000, 10_000, 5_000]


@pytest.mark.parametrize("values", [(np.nan, 5), (5, np.nan), (5, np.nan, 6)])
def test_a_nan_stays_in_every_aggregate_but_the_count(values):
    sender = Sender(operator())
    for value in values:
        sender.push(ORIGINS[0], (1, value))
    (batch,) = sender.push(ORIGINS[0], (10, 0))
    found = {name: float(batch.columns[name][0]) for name in AGGREGATES}
    assert found.pop("n") == len(values)
    assert all(np.isnan(v) for v in found.values())


def test_infinities_are_aggregated_without_a_warning():
    sender = Sender(operator())
    sender.push(ORIGINS[0], (1, np.inf), (2, -np.inf))
    (batch,) = sender.push(ORIGINS[0], (10, 0))
    found = [float(batch.columns[name][0]) for name in AGGREGATES]
    assert found[2:4] == [-np.inf, np.inf]
    assert np.isnan([found[1], *found[4:]]).all()
