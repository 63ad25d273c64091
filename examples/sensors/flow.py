"""A hundred sensors over MQTT: one-second means of good readings, and an alarm where it is too hot."""

import ganglion as gg

flow = gg.Flow("sensors")

# Plain rows: what a payload's keys are, topology.yaml says. `every` is the rate to plan with.
readings = flow.source(
    "readings",
    gg.Row(temp=gg.f32, q=gg.i32, units={"temp": "degC"}),
    every="10ms",
)

good = readings.where(lambda r: r.q == 0, id="good", selectivity=0.9)

# The reflex: published from memory, before the reading is on disk.
good.where(lambda r: r.temp > 100, id="hot", selectivity=1e-3).act("alarm", "raise", within="50ms")

# A second can be revised by late readings for ten minutes of its own sensor's time.
means = good.window("1s", keep="10min").aggregate(mean=gg.mean("temp"), n=gg.count(), id="means")
means.sink("windows", at="gateway")
