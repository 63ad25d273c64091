"""A flow with every kind of stage; its JSON and its diagram are golden files."""

import detector  # type: ignore[import-not-found]  # it lies beside this file

import ganglion as gg

features = gg.kernel(x=gg.f32[6, 64], units={"rms": "A", "phases": "V"})(detector.features)
tripped = gg.kernel(f=features, state={"on": False, "n": 0})(detector.tripped)

flow = gg.Flow("sample")
frames = flow.source(
    "frames",
    gg.Frame(6, 64, dtype="i16", scale=(0.25, 0.25, 0.25, 1, 1, 1), unit=("V", "V", "V", "A", "A", "A")),
    every="16.7ms",
    labels=gg.Labels(origin="DE", categories={"trade-secret", "critical-infrastructure", "location"}),
    keep_in=("DE", "FR"),
)
level = flow.source("level", gg.Frame(), every="1s")

seen = frames.map(features)
trips = seen.map(tripped, on=("device", "gateway")).where(
    lambda t: t.trip & ~(t.rms <= 5.5) | (2 * t.rms > abs(-t.rms) + 1e3), id="trips", selectivity=1e-4
)
trips.act("breaker", "open", within="20ms")
frames.around(trips, before="100ms", after="200ms", id="incident").sink("incidents")

minutes = seen.window("1min", lag_max="5s", keep="3d").aggregate(
    n=gg.count(), rms=gg.mean("rms"), spread=gg.std("rms"), peak=gg.max("peak"), id="minutes"
)
minutes.sink("edge_trends", at="edge")
minutes.rollup(id="totals", on=("cloud",)).sink("feeder_totals")
level.window("1h", by="all").aggregate(low=gg.min("frame"), sum=gg.sum("frame"), id="levels").sink(
    "levels_kept"
)
