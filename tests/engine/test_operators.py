"""Map, where and around: per origin, each row by itself, against references in plain Python."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ganglion as gg
from ganglion.core.batch import Batch
from ganglion.engine import operators
from ganglion.engine.operators import AroundOperator, Counts, MapOperator, WhereOperator
from ganglion.flow.stages import AroundStage, MapStage, WhereStage
from ganglion.kernels.running import NumpyRunner
from tests.engine.streams import ORIGINS, batches_of, measured, plain, row_list, rows_of, stored

BEFORE_MS, AFTER_MS = 20, 30


WRITEABLE: list[bool] = []
"""Of the state that `looking` was given."""


@gg.kernel(x=gg.f32[2], state={"sum": 0.0, "trail": np.zeros(2, np.float32)})
def running(x: Any, s: Any) -> Any:
    """Keeps quiet about even sums."""
    total = s.sum + x[0]
    return {"sum": total, "trail": s.trail}, total - 2 * np.floor(total / 2) != 0, {"sum": total, "trail": x}


@gg.kernel(x=gg.f32[2])
def plainly(x: Any) -> Any:
    return {"sum": x[0] + x[1]}


@gg.kernel(x=gg.f32[2], state={"seen": np.zeros(2, np.float32)})
def looking(x: Any, s: Any) -> Any:
    if measured(x):
        WRITEABLE.append(s.seen.flags.writeable)
    return {"seen": s.seen + x}, True, {"seen": s.seen + x}


def _flow() -> gg.Flow:
    flow = gg.Flow("operators")
    pairs = flow.source("pairs", gg.Frame(2), every="1ms")
    scaled = flow.source("scaled", gg.Frame(2, dtype="i16", scale=(0.5, 2)), every="1ms")
    sums = pairs.map(running)
    pairs.map(plainly)
    pairs.map(looking)
    scaled.map(plainly, id="scaled_sums")
    high = sums.where(lambda t: (t.sum > 3) | (t.sum < -3), id="high")
    counts = flow.source("counts", gg.Frame(dtype="i16", unit="V", scale=0.5), every="1ms")
    counts.where(lambda t: t.frame > 3, id="high_counts")
    pairs.around(high, before=f"{BEFORE_MS}ms", after=f"{AFTER_MS}ms", id="near")
    return flow


STAGES = {s.id: s for s in _flow().stages}


def mapped(name: str) -> MapOperator:
    stage = STAGES[name]
    assert isinstance(stage, MapStage)
    return MapOperator(stage, STAGES[stage.inputs[0]], NumpyRunner(stage.kernel))


def pairs(
    origin: str, first: int, values: list[int], stream: str = "pairs", dtype: Any = np.float32
) -> Batch:
    times = list(range(first, first + len(values)))
    return rows_of(stream, origin, first, times, frame=np.array([[v, 1] for v in values], dtype))


arrivals = st.lists(
    st.tuples(st.sampled_from(ORIGINS), st.lists(st.integers(-3, 4), min_size=1, max_size=5)),
    min_size=1,
    max_size=12,
)


def numbered(history: list[tuple[str, list[int]]]) -> list[Batch]:
    first: defaultdict[str, int] = defaultdict(int)
    batches = []
    for origin, values in history:
        batches.append(pairs(origin, first[origin], values))
        first[origin] += len(values)
    return batches


# ----------------------------------------------------------------------------------------------- map


@given(arrivals)
def test_a_map_runs_each_row_through_the_kernel_with_the_state_of_its_origin(history):
    operator = mapped("running")
    found = [b for batch in numbered(history) for b in batches_of(operator.process(batch))]
    sums: defaultdict[str, float] = defaultdict(float)
    seqs: defaultdict[str, int] = defaultdict(int)
    expected = []
    for origin, values in history:
        for value in values:
            seq = seqs[origin]
            seqs[origin] += 1
            sums[origin] += value
            if sums[origin] % 2:
                expected.append((origin, seq, sums[origin]))
    rows = [(b.origin, s, v) for b in found for s, v in zip(b.seq, b.columns["sum"], strict=True)]
    assert rows == expected
    assert operator.counts == Counts(sum(len(v) for _, v in history), len(expected))
    for batch in found:
        assert (batch.time_ns == batch.seq * 1_000_000).all()
        batch.check(STAGES["running"].schema)


@given(arrivals, st.sampled_from(["running", "plainly", "looking"]))
def test_how_rows_are_batched_makes_no_difference_to_a_map(history, name):
    whole, single = mapped(name), mapped(name)
    batches = numbered(history)
    together = [b for batch in batches for b in whole.process(batch)]
    apart = [
        b for batch in batches for i in range(len(batch)) for b in single.process(batch.take(slice(i, i + 1)))
    ]
    assert row_list(together) == row_list(apart)
    assert whole.counts == single.counts


def test_a_scaled_frame_reaches_the_kernel_in_its_unit():
    (batch,) = mapped("scaled_sums").process(pairs("gw1-relay-00", 0, [4], "scaled", np.int16))
    assert batch.columns["sum"].tolist() == [4]  # 4 x 0.5 + 1 x 2


@given(arrivals, st.sampled_from(["running", "plainly", "looking"]), st.integers(1, 3))
def test_a_map_restored_after_every_batch_goes_on_the_same_also_at_its_limit(history, name, keys_max):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "KEYS_MAX", keys_max)
        whole, restarted = mapped(name), mapped(name)
        for batch in numbered(history):
            snapshot = stored(restarted.snapshot())
            restarted = mapped(name)
            restarted.restore(snapshot)
            assert [plain(b) for b in restarted.process(batch)] == [plain(b) for b in whole.process(batch)]
        assert restarted.counts == whole.counts


def test_a_kernel_cannot_write_into_its_state_whether_it_is_fresh_older_or_restored():
    WRITEABLE.clear()
    operator = mapped("looking")
    operator.process(pairs("gw1-relay-00", 0, [1, 2]))
    restored = mapped("looking")
    restored.restore(stored(operator.snapshot()))
    restored.process(pairs("gw1-relay-00", 2, [3]))
    assert WRITEABLE == [False] * 3


def test_origins_beyond_the_limit_are_bad_rows_where_state_is_kept(monkeypatch):
    monkeypatch.setattr(operators, "KEYS_MAX", 1)
    operator = mapped("running")
    assert operator.process(pairs("gw1-relay-00", 0, [1]))
    assert operator.process(pairs("gw1-relay-01", 0, [1, 2])) == []
    assert operator.counts == Counts(rows=3, out=1, bad=2)


# --------------------------------------------------------------------------------------------- where


def where(stage_id: str = "high") -> WhereOperator:
    stage = STAGES[stage_id]
    assert isinstance(stage, WhereStage)
    return WhereOperator(stage)


@given(st.lists(st.floats(-10, 10, width=32) | st.just(float("nan")), min_size=1, max_size=8))
def test_where_gives_exactly_the_rows_that_its_predicate_holds_for(values):
    operator = where()
    sums, trail = np.array(values, np.float32), np.zeros((len(values), 2), np.float32)
    batch = rows_of("running", "gw1-relay-00", 0, list(range(len(values))), sum=sums, trail=trail)
    found = operator.process(batch)
    wanted = [i for i, v in enumerate(values) if v > 3 or v < -3]
    assert [s for b in found for s in b.seq.tolist()] == wanted
    assert all(b.stream == "high" for b in found)
    assert row_list(found) == row_list([batch.renamed("high").take(np.array(wanted))] if wanted else [])
    assert operator.counts == Counts(rows=len(values), out=len(wanted))
    restored = where()
    restored.restore(stored(operator.snapshot()))
    assert restored.counts == operator.counts


def test_a_predicate_speaks_of_stored_counts_in_their_unit_and_passes_them_as_stored():
    batch = rows_of("counts", "gw1-relay-00", 0, [0, 1, 2], frame=np.array([5, 6, 7], np.int16))
    (found,) = where("high_counts").process(batch)
    assert plain(found) == plain(batch.take(slice(2, 3)).renamed("high_counts"))


# -------------------------------------------------------------------------------------------- around


def around() -> AroundOperator:
    stage = STAGES["near"]
    assert isinstance(stage, AroundStage)
    return AroundOperator(stage)


def base(origin: str, times_ms: list[int]) -> Batch:
    """Rows numbered by their time, so that any choice of them keeps its numbers."""
    seq = np.array(times_ms, np.int64)
    frames = np.stack([seq, seq], axis=1).astype(np.float32)
    return Batch("pairs", origin, seq, seq * 1_000_000, {"frame": frames})


def triggers(origin: str, times_ms: list[int]) -> Batch:
    n = len(times_ms)
    seq = np.array(times_ms, np.int64)
    columns = {"sum": np.zeros(n, np.float32), "trail": np.zeros((n, 2), np.float32)}
    return Batch("high", origin, seq, seq * 1_000_000, columns)


def near(times_ms: list[int], trigger_ms: list[int]) -> list[int]:
    return [t for t in times_ms if any(at - BEFORE_MS <= t <= at + AFTER_MS for at in trigger_ms)]


def cut(times_ms: list[int], cuts: list[int]) -> list[list[int]]:
    bounds = sorted({0, len(times_ms), *(c for c in cuts if c < len(times_ms))})
    return [times_ms[a:b] for a, b in itertools.pairwise(bounds)]


@st.composite
def around_histories(draw):
    """(base times, trigger times, batches of both as they arrive: base rows in order, triggers in any)."""
    times = sorted(draw(st.sets(st.integers(0, 300), max_size=40)))
    at = sorted(draw(st.sets(st.integers(-30, 330), max_size=8)))
    cuts = st.lists(st.integers(0, 40), max_size=6)
    waiting = [base(ORIGINS[0], part) for part in cut(times, draw(cuts)) if part]
    found = [triggers(ORIGINS[0], part) for part in cut(at, draw(cuts)) if part]
    arrived = draw(st.permutations([*found, *[None] * len(waiting)]))
    following = iter(waiting)
    return times, at, [batch or next(following) for batch in arrived]


@given(around_histories())
def test_rows_near_any_trigger_come_once_each_in_whatever_order_both_arrive(history):
    times, at, batches = history
    operator = around()
    found = [b for batch in batches for b in operator.process(batch)]
    seqs = [s for b in found for s in b.seq.tolist()]
    assert sorted(seqs) == near(times, at)
    for batch in found:
        batch.check(STAGES["near"].schema)
        assert (batch.columns["frame"][:, 0] == batch.seq).all()
        assert batch.stream == "near"
    assert operator.counts == Counts(rows=len(times), out=len(seqs))


@given(around_histories())
def test_an_around_restored_after_every_batch_goes_on_the_same(history):
    whole, restarted = around(), around()
    for batch in history[2]:
        snapshot = stored(restarted.snapshot())
        restarted = around()
        restarted.restore(snapshot)
        assert [plain(b) for b in restarted.process(batch)] == [plain(b) for b in whole.process(batch)]
    assert restarted.counts == whole.counts
    assert plain_state(restarted) == plain_state(whole)


def plain_state(operator: AroundOperator) -> str:
    return repr(operator.snapshot())


def test_triggers_of_one_origin_choose_no_rows_of_another():
    operator = around()
    operator.process(base(ORIGINS[0], [10]))
    assert operator.process(triggers(ORIGINS[1], [10])) == []
    assert len(operator.process(triggers(ORIGINS[0], [10]))) == 1


def test_a_trigger_reaches_back_over_the_slack_and_not_further(monkeypatch):
    monkeypatch.setattr(operators, "AROUND_SLACK_ROWS", 5)
    operator = around()
    for t in range(100, 200):
        operator.process(base(ORIGINS[0], [t]))
    # 179 to 199 lie within `before` of the newest row; a late trigger finds those, and no row that was let go.
    (late,) = operator.process(triggers(ORIGINS[0], [180]))
    assert late.seq.tolist() == list(range(179, 200))
    assert operator.process(triggers(ORIGINS[0], [130])) == []


def test_rows_beyond_the_limit_are_let_go_and_counted_unless_they_were_sent(monkeypatch):
    monkeypatch.setattr(operators, "AROUND_ROWS_MAX", 4)
    operator = around()
    operator.process(triggers(ORIGINS[0], [-29]))  # chooses up to time 1
    sent = [b for t in range(8) for b in operator.process(base(ORIGINS[0], [t]))]
    assert [s for b in sent for s in b.seq.tolist()] == [0, 1]
    operator.process(base(ORIGINS[0], [8]))
    assert operator.counts.dropped == 2  # 2 and 3; 4 to 7 are held beside the newest
    (found,) = operator.process(triggers(ORIGINS[0], [4]))
    assert found.seq.tolist() == [4, 5, 6, 7, 8]


def test_the_newest_spans_are_remembered(monkeypatch):
    operator = around()
    count = operators.AROUND_SPANS_MAX + 2
    far_apart = [1000 * i for i in range(count)]
    operator.process(triggers(ORIGINS[0], far_apart))
    found = [b for t in far_apart for b in operator.process(base(ORIGINS[0], [t]))]
    assert [s for b in found for s in b.seq.tolist()] == far_apart[2:]


def test_rows_that_are_held_are_found_by_all_triggers_of_a_batch_however_many():
    """After an island, hours of rows and their triggers may come at once."""
    far_apart = [1000 * i for i in range(3 * operators.AROUND_SPANS_MAX)]
    together, singly = around(), around()
    for operator in (together, singly):
        operator.process(base(ORIGINS[0], far_apart))
    (found,) = together.process(triggers(ORIGINS[0], far_apart))
    assert found.seq.tolist() == far_apart
    each = [b for t in far_apart for b in singly.process(triggers(ORIGINS[0], [t]))]
    assert [s for b in each for s in b.seq.tolist()] == far_apart


def test_an_older_trigger_does_not_shorten_what_newer_ones_chose():
    operator = around()
    for at in (0, 20, 5):
        operator.process(triggers(ORIGINS[0], [at]))
    assert len(operator.process(base(ORIGINS[0], [20 + AFTER_MS]))) == 1


def test_overlapping_spans_are_remembered_as_one():
    operator = around()
    operator.process(triggers(ORIGINS[0], [0, *range(1000, 1000 + 2 * operators.AROUND_SPANS_MAX)]))
    found = [b for t in (0, 1000) for b in operator.process(base(ORIGINS[0], [t]))]
    assert [s for b in found for s in b.seq.tolist()] == [0, 1000]


def test_origins_beyond_the_limit_are_bad_rows_also_around(monkeypatch):
    monkeypatch.setattr(operators, "KEYS_MAX", 1)
    operator = around()
    operator.process(base(ORIGINS[0], [1]))
    assert operator.process(base(ORIGINS[1], [1, 2])) == []
    assert operator.process(triggers(ORIGINS[1], [1])) == []
    assert operator.counts.bad == 3
    assert operator.end("pairs", ORIGINS[1]) == ([], False)


@pytest.mark.parametrize("first, second", [("pairs", "high"), ("high", "pairs")])
def test_around_ends_when_both_its_inputs_have_ended(first, second):
    operator = around()
    assert operator.end(first, ORIGINS[0]) == ([], False)
    restored = around()
    restored.restore(stored(operator.snapshot()))
    assert restored.end(second, ORIGINS[0]) == ([], True)


def test_an_input_that_comes_back_has_not_ended():
    operator = around()
    operator.end("pairs", ORIGINS[0])
    operator.process(base(ORIGINS[0], [1]))
    assert operator.end("high", ORIGINS[0]) == ([], False)
