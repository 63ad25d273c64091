"""Digests of what stages compute: equal for equal work, another for another."""

from __future__ import annotations

import numpy as np

import ganglion as gg
from ganglion.flow.digests import stream_digest, work_digest


def made(*, factor=2.0, limit=1.0, name="trips", selectivity=0.5, at="cloud"):
    @gg.kernel(x=gg.f32[4])
    def level(x):
        return {"rms": np.sqrt(np.mean(x * x)) * factor}

    flow = gg.Flow("digested")
    rows = flow.source("frames", gg.Frame(4), every="10ms").map(level, id="level")
    rows.where(lambda t: t.rms > limit, id=name, selectivity=selectivity).sink("kept", at=at)
    rows.window("1s").aggregate(rms=gg.mean("rms"), id="seconds").sink("trends")
    return flow.spec()


def test_names_places_and_expectations_are_not_work():
    one, other = made(), made(name="other", selectivity=0.1, at="edge")
    assert work_digest(one, "trips") == work_digest(other, "other")
    assert stream_digest(one, "trips") == stream_digest(other, "other")
    assert work_digest(one, "kept") == work_digest(other, "kept")


def test_another_predicate_or_kernel_is_other_work():
    one = made()
    assert work_digest(one, "trips") != work_digest(made(limit=2.0), "trips")
    changed = made(factor=3.0)
    assert work_digest(one, "level") != work_digest(changed, "level")
    assert work_digest(one, "level") == one["level"].kernel.digest
    assert work_digest(one, "frames") == work_digest(changed, "frames")


def test_a_stream_is_another_when_anything_before_it_is():
    one, changed = made(), made(factor=3.0)
    for stage in ("level", "trips", "kept", "seconds", "trends"):
        assert stream_digest(one, stage) != stream_digest(changed, stage)
    assert stream_digest(one, "frames") == stream_digest(changed, "frames")


def test_every_stage_of_a_flow_has_work_of_its_own():
    spec = made()
    assert len({work_digest(spec, s.id) for s in spec.stages}) == len(spec.stages)
