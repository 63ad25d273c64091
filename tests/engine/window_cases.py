"""Windows to test, histories of rows that come to them, and how their results are read."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import ganglion as gg
from ganglion.core.batch import Batch
from ganglion.engine.windows import WindowOperator
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import WindowStage
from ganglion.kernels.running import Libraries, folder_of
from tests.engine.streams import DAY_MS, HOUR_MS, MS, ORIGINS, batches_of, rows_of
from tests.engine.window_reference import aggregated

WIDTH_MS = 10
AGGREGATES = ("n", "total", "low", "high", "average", "spread")


@lru_cache
def built(by: str, lag_max_ms: int, keep_ms: int) -> FlowSpec:
    """A window over a scalar source, one over a source of scaled counts, and by origin also a rollup."""
    flow = gg.Flow("levels")
    sources = {
        "tens": flow.source("level", gg.Frame(), every="1ms"),
        "scaled_tens": flow.source("count", gg.Frame(dtype="i16", unit="V", scale=0.5), every="1ms"),
    }
    for name, source in sources.items():
        window = source.window(f"{WIDTH_MS}ms", by=by, lag_max=f"{lag_max_ms}ms", keep=f"{keep_ms}ms")  # type: ignore[arg-type]  # a parameter
        results = window.aggregate(
            id=name,
            n=gg.count(),
            total=gg.sum("frame"),
            low=gg.min("frame"),
            high=gg.max("frame"),
            average=gg.mean("frame"),
            spread=gg.std("frame"),
        )
        if by == "origin":
            results.rollup(id=f"all_{name}")
    return FlowSpec(flow.name, flow.stages)


def operator(
    by: str = "origin",
    lag_max_ms: int = 100,
    keep_ms: int = 30 * DAY_MS,
    stage_id: str = "tens",
    libraries: Libraries | None = None,
) -> WindowOperator:
    spec = built(by, lag_max_ms, keep_ms)
    stage = spec[stage_id]
    assert isinstance(stage, WindowStage)
    folder = None if stage.merges else folder_of(spec.fold(stage), libraries or {})
    return WindowOperator(stage, spec[stage.inputs[0]], folder)


class Sender:
    """Numbers rows per origin and pushes them."""

    def __init__(self, target: WindowOperator) -> None:
        self.target = target
        self._next: defaultdict[str, int] = defaultdict(int)

    def push(self, origin: str, *rows: tuple[int, float]) -> list[Batch]:
        first = self._next[origin]
        self._next[origin] += len(rows)
        values = np.array([v for _, v in rows], np.float32)
        return batches_of(
            self.target.process(rows_of("level", origin, first, [t for t, _ in rows], frame=values))
        )

    def end(self, origin: str) -> list[Batch]:
        return batches_of(self.target.end("level", origin)[0])

    def step(self, step: Any) -> list[Batch]:
        """A step of a drawn history: (origin, rows), where no rows are the end."""
        origin, rows = step
        return self.push(origin, *rows) if rows else self.end(origin)


def results(batches: list[Batch]) -> list[tuple[Any, ...]]:
    """(key, start in ms, revision, aggregates) per row."""
    return [
        (
            b.origin,
            int(b.columns["start_ns"][i]) // MS,
            int(b.columns["revision"][i]),
            pytest.approx([float(b.columns[name][i]) for name in AGGREGATES], abs=1e-4),
        )
        for b in batches
        for i in range(len(b))
    ]


def newest(batches: list[Batch]) -> dict[tuple[str, int], tuple[int, list[float]]]:
    """The last revision of every window: (key, start in ms) -> (rows, aggregates)."""
    found: dict[tuple[str, int], tuple[int, tuple[int, list[float]]]] = {}
    for b in batches:
        for i in range(len(b)):
            key = (b.origin, int(b.columns["start_ns"][i]) // MS)
            revision = int(b.columns["revision"][i])
            assert key not in found or revision > found[key][0]
            values = [float(b.columns[name][i]) for name in AGGREGATES]
            found[key] = (revision, (int(b.columns["rows"][i]), values))
    return {key: result for key, (_, result) in found.items()}


def grouped(steps: Any, *, merged: bool) -> dict[tuple[str, int], tuple[int, Any]]:
    """What the newest revisions must be when no row was dropped, whatever the order of arrival."""
    values: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for origin, rows in steps:
        for time_ms, value in rows:
            values["all" if merged else origin, time_ms // WIDTH_MS * WIDTH_MS].append(value)
    return {k: (len(v), pytest.approx(aggregated(v), abs=1e-4)) for k, v in values.items()}


# Some rows come from an island that was away for hours or days: their times lie far behind the others'.
moments = st.builds(
    lambda away, offset: away + offset,
    st.sampled_from([0, 0, 0, 0, -HOUR_MS, -3 * DAY_MS]),
    st.integers(-20, 60),
)
some_rows = st.lists(st.tuples(moments, st.integers(-50, 50)), min_size=1, max_size=5)
pushes = st.tuples(st.sampled_from(ORIGINS), some_rows)
ends: st.SearchStrategy[Any] = st.tuples(st.sampled_from(ORIGINS), st.just([]))
histories = st.lists(st.one_of(pushes, pushes, pushes, ends), min_size=3, max_size=14)
keeps_ms = st.sampled_from([0, 15, 40, 2 * HOUR_MS, 30 * DAY_MS])
lags_ms = st.sampled_from([0, 10, 35, 2 * HOUR_MS])
bys = st.sampled_from(["origin", "all"])
