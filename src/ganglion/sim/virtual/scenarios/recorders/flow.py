"""Recorders with more to tell than islands keep: waves give way to newer ones, peaks to older ones, trips to none."""

from typing import Any

import numpy as np

from ganglion.core.schema import f32
from ganglion.flow import aggregates
from ganglion.flow.build import Flow
from ganglion.flow.forms import Frame
from ganglion.kernels import kernel

flow = Flow("recorders")
waves = flow.source("waves", Frame(2, 160, unit="A"), every="500ms")
waves.backlog(budget="64KB", when_full="keep-newest")


@kernel(x=f32[2, 160])
def peak(x: Any) -> Any:
    """The peak."""
    return {"peak": np.max(np.abs(x))}


peaks = waves.map(peak)
trips = peaks.where(lambda t: t.peak > 4, id="trips").backlog(urgent=True)
trips.act("breaker", "open", within="20ms")
trips.sink("tripped")
waves.sink("raw")
sums = peaks.window("10s", lag_max="20s", keep="2h").aggregate(
    n=aggregates.count(), top=aggregates.max("peak"), id="sums"
)
sums.sink("sums_kept")
peaks.backlog(budget="64KB", when_full="keep-oldest").sink("peaks_kept")
