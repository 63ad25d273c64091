"""Rollups: partial results of many origins, in any order, merge to what a window of all raw rows gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.batch import Batch
from ganglion.engine.windows import WindowOperator
from tests.engine.streams import ORIGINS, batches_of, plain, stored
from tests.engine.window_cases import Sender, grouped, histories, newest, operator


def rollup() -> WindowOperator:
    return operator(stage_id="all_tens")


def partials(steps: Any) -> list[Batch]:
    """The results of a window by origin after all steps and the end of every origin, one row each."""
    sender = Sender(operator())
    given_rows = [b for step in [*steps, *((o, []) for o in ORIGINS)] for b in sender.step(step)]
    return [b.take(slice(i, i + 1)) for b in given_rows for i in range(len(b))]


def rolled_up(batches: list[Batch], target: WindowOperator) -> list[Batch]:
    merged = [b for batch in batches for b in batches_of(target.process(batch))]
    return merged + [b for origin in ORIGINS for b in batches_of(target.end("tens", origin)[0])]


@given(histories, st.randoms(use_true_random=False))
def test_a_rollup_of_partials_in_any_order_is_the_window_of_all_rows(steps, chance):
    singles = partials(steps)
    chance.shuffle(singles)
    assert newest(rolled_up(singles, rollup())) == grouped(steps, merged=True)


@given(histories, st.lists(st.integers(0, 30), max_size=6))
def test_a_rollup_takes_a_repeated_or_older_revision_as_nothing_new(steps, repeated):
    singles = partials(steps)
    again = [singles[i % len(singles)] for i in repeated if singles]
    target = rollup()
    first = rolled_up(singles, target)
    revisions = {(b.origin, int(b.columns["start_ns"][0])): b for b in singles}
    older = [b for b in again if b is not revisions[b.origin, int(b.columns["start_ns"][0])]]
    assert rolled_up(older, target) == []
    assert newest(first) == grouped(steps, merged=True)
    repeats = [b for batch in again for b in batches_of(target.process(batch))]
    for key, result in newest(repeats).items():
        assert result == newest(first)[key]


@given(histories, st.data())
def test_a_rollup_takes_no_result_over_nothing_or_over_more_rows_than_there_can_be(steps, data):
    singles = partials(steps)
    target = rollup()
    bad = 0
    for batch in singles:
        rows = np.array([data.draw(st.sampled_from((0, -1, (1 << 44) + 1, (1 << 63) - 1)))], np.int64)
        nothing = replace(batch, columns={**batch.columns, "rows": rows})
        both = Batch.concat([nothing, replace(batch, seq=batch.seq + 1)])
        assert batches_of(target.process(nothing)) == []
        rolled_up([both], target)
        bad += 2
    assert target.counts.bad == bad
    rolled_up([], target)


@given(histories, st.randoms(use_true_random=False))
def test_a_rollup_restored_after_every_batch_goes_on_the_same(steps, chance):
    singles = partials(steps)
    chance.shuffle(singles)
    whole, restarted = rollup(), rollup()
    for batch in singles:
        snapshot = stored(restarted.snapshot())
        restarted = rollup()
        restarted.restore(snapshot)
        assert [plain(b) for b in restarted.process(batch)] == [plain(b) for b in whole.process(batch)]
    assert [plain(b) for b in rolled_up([], restarted)] == [plain(b) for b in rolled_up([], whole)]


def test_a_rollup_reads_the_last_revision_of_a_batch():
    below, above = Sender(operator()), rollup()
    a, _ = ORIGINS[:2]
    first = below.push(a, (1, 1), (11, 1))
    second = below.push(a, (2, 5))
    both = Batch.concat(first + second)
    assert both.columns["revision"].tolist() == [0, 1]
    (merged,) = batches_of(above.process(both))
    assert (merged.origin, merged.columns["rows"].tolist(), merged.columns["total"].tolist()) == (
        "all",
        [2],
        [6],
    )
