"""The feeder's computation once a second: what a thousand devices of one host do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "feeder"))
try:
    import detect
finally:
    sys.path.pop(0)

import ganglion as gg

features = gg.kernel(x=gg.f32[6, 64])(detect.features)
decide = gg.kernel(f=features, state=detect.STATE)(detect.decide)

flow = gg.Flow("slow")
cycle = flow.source(
    "cycle", gg.Frame(6, 64, dtype="i16", scale=(0.25, 0.25, 0.25, 1, 1, 1)), every="1s", keep_in=("EU",)
)
decided = cycle.map(features).map(decide)
decided.sink("decisions")
decided.where(lambda d: d.trip, id="trips").act("breaker", "open", within="1s")
