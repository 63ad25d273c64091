"""Every construct that firmware runs, and a window that it does not: for its tests."""

import numpy as np

import ganglion as gg

flow = gg.Flow("plant")
raw = flow.source("raw", gg.Frame(2, 4, dtype="i16", scale=(0.1, 3.0), unit="A"), every="10ms")


@gg.kernel(x=gg.f32[2, 4], units={"mean": "A"})
def level(x):
    return {
        "mean": np.mean(x),
        "n": np.sum(x > 10).astype(np.int32),
        "odd": np.sum(x) > 100,
        "both": np.max(x, axis=1),
    }


@gg.kernel(f=level, state={"count": np.int32(0), "sum": np.float32(0)})
def every_third(f, s):
    """Gives one row of three."""
    count = s.count + 1
    full = count >= 3
    total = s.sum + f.mean
    return (
        {"total": total, "count": count},
        full,
        {"count": np.where(full, 0, count), "sum": np.where(full, np.float32(0), total)},
    )


@gg.kernel(x=gg.f32[2, 4])
def shape(x):
    return {"shape": x / np.maximum(np.max(np.abs(x)), 1.0)}


levels = raw.map(level)
levels.sink("kept")
thirds = levels.map(every_third)
thirds.where(lambda t: (t.total > 5) | (t.count * 2 + 1 != 7), id="busy").sink("busy_kept")
alarms = levels.where(lambda t: t.odd & (abs(t.mean) >= 2.5) & (t.n < 8), id="alarms")
alarms.act("siren", "on", within="20ms")
worse = levels.where(lambda t: (t.n / 2 > 2.25) & ~(t.mean < 0.1) & (t.mean * t.n > 300), id="worse")
worse.act("valve", "shut", within="20ms")
near = raw.around(alarms, before="30ms", after="20ms", id="near")
near.sink("near_kept")
shapes = near.map(shape, id="shapes")
shapes.sink("shapes_kept")
levels.around(worse, before="15ms", after="1ms", id="levels_near").sink("levels_near_kept")
levels.window("1s").aggregate(n=gg.count(), id="seconds").sink("seconds_kept")
