"""Meters with breakers: raw frames kept, levels watched and summed up, breakers opened at once."""

from typing import Any

import numpy as np

from ganglion.core.schema import f32
from ganglion.flow import aggregates
from ganglion.flow.build import Flow
from ganglion.flow.forms import Frame
from ganglion.kernels import kernel

flow = Flow("meters")
frames = flow.source("frames", Frame(2, 4, unit="A"), every="2s")


@kernel(x=f32[2, 4], state={"count": 0})
def level(x: Any, s: Any) -> Any:
    """The peak, and how many frames there were before."""
    return {"peak": np.max(np.abs(x)), "count": s.count}, True, {"count": s.count + 1}


levels = frames.map(level)
trips = levels.where(lambda t: t.peak > 4, id="trips")
trips.act("breaker", "open", within="20ms")
frames.around(trips, before="6s", after="6s", id="incident").sink("incidents")
frames.sink("raw")
sums = levels.window("10s", lag_max="20s", keep="2h").aggregate(
    n=aggregates.count(), top=aggregates.max("peak"), id="sums"
)
sums.sink("sums_kept")
sums.rollup(id="totals").sink("totals_kept")
