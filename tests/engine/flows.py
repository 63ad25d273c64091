"""A small flow with every kind of stage, the nodes that share it, and histories of what they receive."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from hypothesis import strategies as st

import ganglion as gg
from ganglion.core.wire import End, Item
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from tests.engine.streams import ORIGINS, rows_of

PATH = "gw1-relay"
STRANGER = "gw2-relay-00"


@gg.kernel(x=gg.f32[2], state={"count": 0, "last": 0.0})
def level(x: Any, s: Any) -> Any:
    """Keeps quiet about every seventh frame."""
    outputs = {"level": x[0], "step": x[0] - s.last, "count": s.count}
    return outputs, s.count != 6, {"count": np.where(s.count == 6, 0, s.count + 1), "last": x[0]}


def flow(name: str = "small") -> FlowSpec:
    made = gg.Flow(name)
    frames = made.source("frames", gg.Frame(2), every="1ms")
    levels = frames.map(level)
    trips = levels.where(lambda t: (t.level > 3) & (t.step > 1), id="trips")
    trips.act("breaker", "open", within="20ms")
    frames.around(trips, before="4ms", after="6ms", id="incident").sink("incidents", at="gateway")
    tens = levels.window("10ms", lag_max="30ms", keep="1h").aggregate(
        n=gg.count(), top=gg.max("level"), average=gg.mean("level"), id="tens"
    )
    tens.sink("tens_kept", at="edge")
    tens.rollup(id="totals").sink("totals_kept", at="edge")
    return made.spec()


SPEC = flow()


def assignment(node: str, runs: str, exports: str = "", spec: FlowSpec = SPEC) -> Assignment:
    """Stages by name; ``totals_kept`` also for the rows merged over origins."""
    here, merged = frozenset({PATH}), frozenset({"*"})
    return Assignment(
        node,
        node,
        "gateway",
        spec.digest,
        {s: merged if s == "totals_kept" else here for s in runs.split()},
        dict.fromkeys(exports.split(), here),
    )


WHOLE = assignment("one", "level trips breaker_open incident incidents tens tens_kept totals totals_kept")
GATEWAY = assignment("gw1", "level trips breaker_open incident incidents tens", "tens trips")
EDGE = assignment("edge", "tens_kept totals totals_kept")

values = st.integers(-2, 8)
pushes = st.tuples(
    st.sampled_from([*ORIGINS, *ORIGINS, STRANGER]),
    st.sampled_from([0, 0, 0, 0, 3, 25, 200]),
    st.lists(values, min_size=1, max_size=6),
)
ends: st.SearchStrategy[Any] = st.tuples(st.sampled_from(ORIGINS), st.just(0), st.just([]))


def items_of(history: list[tuple[str, int, list[int]]]) -> list[Item]:
    """(origin, milliseconds of silence before, first sample of each frame); without frames the end."""
    seqs: defaultdict[str, int] = defaultdict(int)
    times: defaultdict[str, int] = defaultdict(int)
    items: list[Item] = []
    for origin, silence_ms, samples in history:
        if not samples:
            items.append(End("frames", origin))
            continue
        first_ms = times[origin] + silence_ms
        frames = np.array([[v, 0] for v in samples], np.float32)
        moments = list(range(first_ms, first_ms + len(samples)))
        items.append(rows_of("frames", origin, seqs[origin], moments, frame=frames))
        seqs[origin] += len(samples)
        times[origin] = first_ms + len(samples)
    return items


histories = st.lists(st.one_of(pushes, pushes, pushes, pushes, ends), min_size=2, max_size=14).map(items_of)

LONG_HISTORY = [
    (ORIGINS[0], 0, [0, 0, 5, 0, 0, 0, 0, 0]),
    (ORIGINS[1], 0, [1, 2, 3, 13, 7, 1]),
    (STRANGER, 0, [9, 9]),
    (ORIGINS[0], 0, [1, 1, 1, 13, 8, 0, 0, 0, 0]),
    (ORIGINS[2], 150, [4, 8, 0]),
    (ORIGINS[1], 9, [0, 0, 0, 6, 0]),
    (ORIGINS[1], 60, [0, 7]),
    (ORIGINS[2], 0, []),
    (ORIGINS[0], 200, [2, 2, 2, 2, 6, 2, 2, 2, 2, 2, 2, 2]),
    (ORIGINS[1], 1, []),
    (ORIGINS[0], 0, []),
]
