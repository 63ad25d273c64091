"""What the chaos suite runs: every raw frame to the cloud, counts in windows on the way, and a reflex told at once."""

import numpy as np

import ganglion as gg


@gg.kernel(x=gg.f32[2, 16])
def level(x):
    """How strong the frame is."""
    return {"rms": np.sqrt(np.mean(x * x))}


flow = gg.Flow("chaos")
frames = flow.source("frames", gg.Frame(2, 16, dtype="i16", scale=(1.0, 1.0)), every="50ms")
levels = frames.map(level)
trips = levels.where(lambda t: t.rms > 100, id="trips", selectivity=0.1).backlog(urgent=True)
trips.act("relay", "open", within="1s")
trips.sink("tripped")
frames.sink("readings")
levels.window("1s").aggregate(rms=gg.mean("rms"), id="seconds").sink("trends")
