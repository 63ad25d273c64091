"""What `--late` plays: means per sensor, and over all sensors, corrected for four hours; ten seconds make an island."""

import ganglion as gg

flow = gg.Flow("stream-replay")
readings = flow.source("readings", gg.Row(temp=gg.f32, q=gg.i32, units={"temp": "degC"}), every="100ms")
good = readings.where(lambda r: r.q == 0, id="good", selectivity=0.9)
for name, by in (("windows", "origin"), ("totals", "all")):
    means = good.window("1s", by=by, lag_max="10s", keep="4h").aggregate(
        mean=gg.mean("temp"), n=gg.count(), id=f"{name}_means"
    )
    means.sink(name, at="gateway")
