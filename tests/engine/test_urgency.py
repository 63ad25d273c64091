"""Rows that are said not to be urgent lead to no command, whatever came before them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ganglion as gg
from ganglion.core.block import Block
from ganglion.engine.graph import Graph
from ganglion.engine.urgency import Urgency
from ganglion.flow.assignment import Assignment

ORIGINS = ("gw-a-1", "gw-a-2")
ODD = (float("nan"), float("inf"), -0.0, 99.5, 100.0, 100.5)


def flow(*, windowed: bool = False, direct: bool = False) -> Any:
    made = gg.Flow("urgency")
    rows = made.source("rows", gg.Row(temp=gg.f32, q=gg.i32), every="10ms")
    others = made.source("others", gg.Row(level=gg.f32), every="1s")
    others.window("1s").aggregate(n=gg.count(), id="levels").sink("levels_kept", at="edge")
    good = rows.where(lambda r: r.q == 0, id="good")
    good.where(lambda r: r.temp > 100, id="hot").act("alarm", "raise", within="50ms")
    rows.where(lambda r: (r.temp < 0) & (r.q != 2), id="cold").act("alarm", "cold", within="50ms")
    good.window("1s").aggregate(mean=gg.mean("temp"), id="means").sink("means_kept", at="edge")
    if windowed:
        good.window("1s").aggregate(n=gg.count(), id="n").where(lambda r: r.n > 5, id="many").act(
            "alarm", "many", within="50ms"
        )
    if direct:
        rows.act("alarm", "each", within="50ms")
    return made.spec()


def assignment(spec: Any) -> Assignment:
    paths = frozenset(o.rpartition("-")[0] for o in ORIGINS)
    runs = {s.id: paths for s in spec.stages if s.inputs}
    return Assignment("gw", "gw", "gateway", spec.digest, runs, {})


def block(temp: list[float], q: list[int], first: int) -> Block:
    count = len(temp)
    places = np.arange(count, dtype=np.int32) % 2
    seq = np.arange(first, first + count, dtype=np.int64)
    columns = {"temp": np.array(temp, np.float32), "q": np.array(q, np.int32)}
    return Block("rows", ORIGINS, places, seq, seq * 1000, columns)


temps = st.one_of(st.sampled_from(ODD), st.floats(-20, 120, width=32))
reads = st.lists(
    st.lists(st.tuples(temps, st.integers(0, 3)), min_size=1, max_size=5), min_size=1, max_size=8
)


@given(reads)
def test_commands_follow_from_just_the_reads_that_are_urgent(read: list[list[tuple[float, int]]]) -> None:
    spec = flow()
    graph, urgency = Graph(spec, assignment(spec), "reflex"), Urgency(spec)
    for number, rows in enumerate(read):
        one = block([t for t, _ in rows], [q for _, q in rows], 10 * number)
        assert urgency.urgent("rows", one.columns) == bool(graph.push(one))


@pytest.mark.parametrize("changes", [{"windowed": True}, {"direct": True}])
def test_rows_that_alone_do_not_tell_are_urgent(changes: dict[str, bool]) -> None:
    spec = flow(**changes)
    assert Urgency(spec).urgent("rows", block([20.0], [0], 0).columns)


def test_streams_without_acts_are_never_urgent() -> None:
    assert not Urgency(flow()).urgent("others", {"level": np.array([1e9], np.float32)})
