"""Plans with measured figures: used where they fit, ignored by name where they do not, and changing nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.core.calibration import (
    Calibration,
    ClassFigures,
    HopFigures,
    StageFigures,
    StreamFigures,
    calibrated,
)
from ganglion.core.errors import PlacementInfeasible
from ganglion.flow.digests import stream_digest, work_digest
from ganglion.placement import cost, plan
from ganglion.placement.measured import shares, uplink_row_bytes
from ganglion.placement.origins import origins
from ganglion.placement.planner import lay_out
from ganglion.placement.prediction import predict
from tests.core.test_calibration import spread
from tests.placement.instances import random_flow, random_topology, small_flow, small_topology

SPEC = small_flow()


def with_figures(topology=None, *, streams=None, **classes):
    whole = Calibration(
        format=1,
        flow="small",
        measured_at="2026-11-25T17:00:00Z",
        machine={},
        classes=classes,
        streams=streams or {},
    )
    return calibrated(topology or small_topology(), whole)


def stage(name, call=0.0, row=0.0, spec=SPEC, **more):
    figure = StageFigures(stage=name, call_ns=spread(call), row_ns=spread(row), **more)
    return {work_digest(spec, name): figure}


def measured(stages, hop=None):
    return ClassFigures(measured_on="here", stages=stages, hop=hop or HopFigures())


def test_a_measured_stage_costs_what_was_measured_and_says_so():
    pins = {"decide": "gateway", "level": "device"}
    topology = with_figures(box=measured(stage("decide", call=700_000, row=100_000)))
    before = plan(SPEC, small_topology(), pins=pins)
    after = plan(SPEC, topology, pins=pins)
    found = {(s.stage, s.node): s for s in predict(SPEC, topology, after).stages}
    decide = found["decide", "gw1"]
    assert decide.row_ns == 800_000
    assert decide.origin == "measured"
    assert decide.rows_per_s == 2 * 50
    assert decide.cpus == pytest.approx(
        2 * 50 * 2 * 8e-4
    )  # two devices; for the reflex, and from the journal
    assert found["level", "device:gw1-relay"].origin == "declared"
    extra_ns = 800_000 - cost.compute_ns(*load_and_spot(small_topology(), "decide", "gw1-relay", 1))
    assert after.loops[0].predicted_ns - before.loops[0].predicted_ns == pytest.approx(extra_ns, abs=1)


def load_and_spot(topology, name, path, rank):
    ground = lay_out(SPEC, topology, {})
    return ground.loads[name, path], ground.ways[path].spots[rank]


def test_a_kernel_that_was_changed_is_never_given_the_old_ones_figures():
    stale = {"cd" * 32: StageFigures(stage="decide", call_ns=spread(1.0), row_ns=spread(1.0))}
    topology = with_figures(box=measured(stale))
    pins = {"decide": "gateway", "level": "device"}
    assert plan(SPEC, topology, pins=pins).to_json() == plan(SPEC, small_topology(), pins=pins).to_json()
    known = origins(SPEC, topology)
    box = next(c for c in known.classes if c.name == "box")
    assert box.stages["decide"] == "stale"
    assert "ignored" in known.text()
    assert "decide" in known.text().split("ignored")[1].splitlines()[0]
    assert "ganglion calibrate" in known.text()


def test_without_a_calibration_every_class_says_so():
    known = origins(SPEC, small_topology())
    assert {c.name for c in known.classes} == {"relay", "box", "hall"}
    assert known.text().count("not calibrated") == 3
    assert set(known.classes[0].stages.values()) == {"declared"}


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 1e9), st.floats(0.1, 10), st.floats(0.5, 1000))
def test_counted_instructions_become_time_by_the_clock(count, cycles, mhz):
    counted = StageFigures(stage="level", instructions=spread(count))
    kind = (
        small_topology()
        .classes["relay"]
        .model_copy(update={"clock_mhz": mhz, "cycles_per_instruction": cycles})
    )
    topology = small_topology()
    topology = topology.model_copy(update={"classes": {**topology.classes, "relay": kind}})
    made = with_figures(topology, relay=measured({work_digest(SPEC, "level"): counted}))
    load, spot = load_and_spot(made, "level", "gw1-relay", 0)
    assert cost.compute_ns(load, spot) == pytest.approx(count * cycles / mhz * 1e3)


def test_counted_instructions_without_a_clock_are_not_used():
    counted = StageFigures(stage="level", instructions=spread(5e6))
    made = with_figures(relay=measured({work_digest(SPEC, "level"): counted}))
    load, spot = load_and_spot(made, "level", "gw1-relay", 0)
    assert cost.compute_ns(load, spot) == spot.node_class.compute_ns(load.calls, load.operations)
    assert origins(SPEC, made).classes[0].stages["level"] == "declared"


def test_working_memory_that_was_linked_counts():
    plain, spot = load_and_spot(small_topology(), "level", "gw1-relay", 0)
    figure = StageFigures(stage="level", instructions=spread(10), ram_bytes=5000)
    load, there = load_and_spot(
        with_figures(relay=measured({work_digest(SPEC, "level"): figure})), "level", "gw1-relay", 0
    )
    assert cost.stage_memory_bytes(load, there) == cost.stage_memory_bytes(plain, spot) + 5000


def test_rows_that_come_together_share_a_call():
    load, spot = load_and_spot(
        with_figures(box=measured(stage("minutes", 6000, 10))), "minutes", "gw1-relay", 1
    )
    assert load.rows_per_call[0] == 1
    assert load.rows_per_call[1] == pytest.approx(50)  # what a device gathers for a second
    assert cost.compute_ns(load, spot) == pytest.approx(6000 / 50 + 10)


def test_the_parts_of_a_loop_are_those_of_messages_and_stages_on_the_way():
    hop = HopFigures(
        wake_ns=spread(11_000), send_ns=spread(12_000), receive_ns=spread(13_000), obey_ns=spread(14_000)
    )
    gateway = HopFigures(receive_ns=spread(15_000), react_ns=spread(16_000))
    topology = with_figures(
        relay=measured(stage("level", 0, 500), hop), box=measured(stage("decide", 700, 0), gateway)
    )
    made = plan(SPEC, topology, pins={"level": "device", "decide": "gateway", "trips": "gateway"})
    parts = predict(SPEC, topology, made).loops["breaker_open", "gw1-relay"]
    link_ns = (
        2_000_000 + (128 + 8 + 116 + 16) * 8 * 1000
    )  # 1 ms each way, 1 Mbit/s: a command, and a row of two f32
    assert parts.device == pytest.approx(11_000 + 12_000 + 500)
    assert parts.link == pytest.approx(link_ns + 13_000 + 15_000)
    declared = sum(
        cost.compute_ns(*load_and_spot(topology, s, "gw1-relay", 1)) for s in ("trips", "breaker_open")
    )
    assert parts.gateway == pytest.approx(16_000 + 700 + declared)
    assert parts.actuator == 14_000
    assert made.loops[0].predicted_ns == round(sum(parts))


def test_frames_messages_and_idling_are_what_was_measured():
    relay = HopFigures(frame_ns=spread(1e6), message_ns=spread(2e6))
    box = HopFigures(message_ns=spread(3e6), own_cpus=0.05)
    topology = with_figures(relay=measured({}, relay), box=measured({}, box))
    made = plan(SPEC, topology, pins={"level": "gateway"})
    nodes = {n.node: n for n in predict(SPEC, topology, made).nodes}
    assert nodes["device:gw1-relay"].messages_cpus == pytest.approx(50 * 1e-3 + 50 * 2e-3)
    assert nodes["gw1"].messages_cpus == pytest.approx(2 * 50 * 3e-3)
    assert nodes["gw1"].own_cpus == 0.05
    assert nodes["cloud"].own_cpus == 0


def test_streams_of_a_run_decide_rates_and_bytes_until_the_flow_makes_them_another_way():
    streams = {
        "trips": StreamFigures(digest=stream_digest(SPEC, "trips"), share=0.25),
        "incident": StreamFigures(digest=stream_digest(SPEC, "incident"), row_bytes=5.0),
    }
    topology = with_figures(streams=streams)
    assert shares(SPEC, topology) == {"trips": 0.25}
    assert uplink_row_bytes(SPEC, topology) == {"incident": 5.0}
    ground = lay_out(SPEC, topology, shares(SPEC, topology))
    assert ground.loads["trips", "gw1-relay"].rows_out_per_s == 12.5
    assert ground.loads["incident", "gw1-relay"].packed_row_bytes == 5.0
    other = small_flow(keep="2h")  # windows are not on the way to either
    assert shares(other, topology) == {"trips": 0.25}
    moved = replace(
        SPEC, stages=tuple(replace(s, every_ns=7) if s.kind == "source" else s for s in SPEC.stages)
    )
    assert shares(moved, topology) == {}
    assert origins(moved, topology).stale == ("trips", "incident")
    assert "streams ignored" in origins(moved, topology).text()


def planned(spec, topology):
    """The plan, or the code of what it was refused with."""
    try:
        return plan(spec, topology), ""
    except PlacementInfeasible as error:
        return None, error.code


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_figures_equal_to_the_declared_ones_change_no_plan(seed):
    rng = np.random.default_rng(seed)
    spec, topology = random_flow(rng), random_topology(rng)
    loads = {s: load for (s, _), load in lay_out(spec, topology, {}).loads.items()}
    classes = {}
    for name, kind in topology.classes.items():
        stages: dict[str, StageFigures] = {}
        for one, load in loads.items():
            if load.stage.inputs:
                took_ns = kind.compute_ns(load.calls, load.operations)
                stages |= stage(one, 0.0, took_ns, spec)
        classes[name] = measured(stages, HopFigures(message_ns=spread(kind.hop_us * 1000)))
    made = with_figures(topology, **classes)
    expected, refused = planned(spec, topology)
    found, also_refused = planned(spec, made)
    assert also_refused == refused
    if expected is None or found is None:
        return
    assert found.money.total == pytest.approx(expected.money.total)
    assert [x.predicted_ns for x in found.loops] == pytest.approx(
        [x.predicted_ns for x in expected.loops], abs=2
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_prediction_adds_up_to_its_plan(seed):
    rng = np.random.default_rng(seed)
    spec, topology = random_flow(rng), random_topology(rng)
    made, _ = planned(spec, topology)
    if made is None:
        return
    found = predict(spec, topology, made)
    cpus = {n.node: n.cpus for n in found.nodes}
    assert all(cpus[n.node] == pytest.approx(n.cpus, abs=1e-12) for n in made.nodes)
    for x in made.loops:
        assert x.predicted_ns == pytest.approx(sum(found.loops[x.act, x.path]), abs=1)
    for link in made.links:
        own = sum(s.bytes_per_s for s in found.streams if s.link == link.link)
        idle = 0 if link.link.split(">")[0] not in topology.sites else 150
        assert link.bytes_per_day == pytest.approx((own + idle) * 86400)
