"""Sensors that publish to MQTT brokers: readings kept and summed up, a siren where it is too hot."""

from ganglion.core.schema import f32, i32
from ganglion.flow import aggregates
from ganglion.flow.build import Flow
from ganglion.flow.forms import Row

flow = Flow("sensors")
readings = flow.source("readings", Row(temp=f32, q=i32, units={"temp": "degC"}), every="500ms")
readings.where(lambda r: r.q == 0, id="good").where(lambda r: r.temp > 4, id="hot").act(
    "siren", "on", within="50ms"
)
readings.sink("raw")
sums = readings.window("10s", lag_max="20s", keep="2h").aggregate(
    n=aggregates.count(), top=aggregates.max("temp"), id="sums"
)
sums.sink("sums_kept")
sums.rollup(id="totals").sink("totals_kept")
