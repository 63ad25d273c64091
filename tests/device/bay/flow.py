"""One feeder bay: a breaker opens by itself when a frame's peak is too high, and levels are kept."""

import numpy as np

import ganglion as gg

flow = gg.Flow("bay")
frames = flow.source("frames", gg.Frame(2, 8, dtype="i16", scale=0.5, unit="A"), every="2ms")


@gg.kernel(x=gg.f32[2, 8])
def level(x):
    return {"rms": np.sqrt(np.mean(x * x)), "peak": np.max(np.abs(x))}


levels = frames.map(level)
levels.where(lambda t: t.peak > 100, id="trips").act("breaker", "open", within="20ms")
levels.sink("levels")
levels.window("1h").aggregate(n=gg.count(), peak=gg.max("peak"), id="hours").sink("trends")
