"""The job as a flow: bad readings are dropped first, an alarm where it is too hot, means per sensor and second."""

import ganglion as gg

flow = gg.Flow("stream-benchmark")
readings = flow.source("readings", gg.Row(temp=gg.f32, q=gg.i32, units={"temp": "degC"}), every="10ms")
good = readings.where(lambda r: r.q == 0, id="good", selectivity=0.9)
good.where(lambda r: r.temp > 100, id="hot", selectivity=0.01).act("alarm", "raise", within="50ms")
means = good.window("1s", keep="1min").aggregate(mean=gg.mean("temp"), n=gg.count(), id="means")
means.sink("windows", at="gateway")
