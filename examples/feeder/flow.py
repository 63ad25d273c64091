"""Feeder protection, written once: relays measure, a breaker opens within 20 ms, only what matters goes up."""

import classify
import detect

import ganglion as gg

features = gg.kernel(x=gg.f32[6, 64], units={"rms": "A", "peak": "A", "i_rms": "A", "v_rms": "V"})(
    detect.features
)
# The rule, and a small network for what the rule alone cannot tell: weak faults from inrush and uneven loads.
decide = gg.kernel(f=features, state=classify.STATE)(classify.decider(gg.network("fault.onnx")))


@gg.kernel(f=features, units={"rms": "A", "peak": "A"})
def trend(f):
    """What the trends need: a device that sends only this keeps its radio asleep."""
    return {"rms": f.rms, "peak": f.peak}


flow = gg.Flow("feeder-protection")

# One cycle of three voltages and three currents; stored as integers of 0.25 V and 1 A, as the recorder gives them.
cycle = flow.source(
    "cycle",
    gg.Frame(6, 64, dtype="i16", unit=("V", "V", "V", "A", "A", "A"), scale=(0.25, 0.25, 0.25, 1, 1, 1)),
    every="16.667ms",
    labels=gg.Labels(origin="DE", categories={"critical-infrastructure"}),
    keep_in=("EU",),
)

measured = cycle.map(features)
# A feeder sees a few faults a day at most; `ganglion run` plays far more and plans with what it plays.
trips = measured.map(decide).where(lambda t: t.trip, id="trips", selectivity=1e-6)

# The reflex: local, whether there is an uplink or not.
trips.act("breaker", "open", within="20ms")

# Frames of interest only, to find out later what happened.
cycle.around(trips, before="100ms", after="200ms", id="incident").sink("incidents")

# One-minute trends per relay to the edge and the cloud, and of the whole feeder.
minutes = measured.map(trend).window("1min").aggregate(rms=gg.mean("rms"), peak=gg.max("peak"), id="minutes")
minutes.sink("edge_trends", at="edge")
minutes.sink("trends")
minutes.rollup(id="feeder_minutes").sink("feeder_trends")
