"""The feeder's computation without its breaker: nothing acts, so no deadline keeps it from any tier.

What `ganglion compare` is shown with: the same kernels on the same frames, forced onto the device, the gateway and the
cloud (docs/how-to/show-the-same-bits.md).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    import detect
finally:
    sys.path.pop(0)

import ganglion as gg

features = gg.kernel(x=gg.f32[6, 64], units={"rms": "A", "peak": "A", "i_rms": "A", "v_rms": "V"})(
    detect.features
)
decide = gg.kernel(f=features, state=detect.STATE)(detect.decide)


@gg.kernel(f=features)
def described(f):
    """All features, for keeping: a kept row has a column `seq` of its own."""
    return {
        "rms": f.rms,
        "peak": f.peak,
        "i_rms": f.i_rms,
        "v_rms": f.v_rms,
        "components": f.seq,
        "bad": f.bad,
    }


flow = gg.Flow("feeder-decisions")

cycle = flow.source(
    "cycle",
    gg.Frame(6, 64, dtype="i16", unit=("V", "V", "V", "A", "A", "A"), scale=(0.25, 0.25, 0.25, 1, 1, 1)),
    every="80ms",  # slower than the line's cycle: every frame is sent here, and none may be shed for want of time
    labels=gg.Labels(origin="DE", categories={"critical-infrastructure"}),
    keep_in=("EU",),
)

measured = cycle.map(features)
decided = measured.map(decide)
trips = decided.where(lambda t: t.trip, id="trips", selectivity=1e-6)

measured.map(described).sink("kept_features")
decided.sink("kept_decisions")
trips.sink("kept_trips")
cycle.around(trips, before="100ms", after="200ms", id="incident").sink("kept_incidents")
