"""Calibration without a stopwatch: figures of clocks and reports that are known, and counted instructions."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.calibration import StageFigures
from ganglion.core.errors import DataError, TopologyError
from ganglion.flow.digests import stream_digest, work_digest
from ganglion.flow.load import load_flow
from ganglion.host.system import SystemClock, SystemDisk, system_host
from ganglion.sim.calibrate import counts
from ganglion.sim.calibrate.hops import hops, read_report, settled, streams
from ganglion.sim.calibrate.stages import Costs, separated, spread, time_kernels, time_stages
from ganglion.sim.calibrate.whole import chosen_classes, merged
from tests.core.test_calibration import example
from tests.device.recordings import recording
from tests.placement.instances import small_flow, small_topology

BAY = Path(__file__).parents[1] / "device" / "bay"
SPEC, TOPOLOGY = small_flow(), small_topology()


class Ticking(SystemClock):
    """Every look at the processor's time finds it a microsecond later; sleeping takes no time."""

    def __init__(self) -> None:
        self.now_ns = 0

    def cpu_ns(self) -> int:
        self.now_ns += 1000
        return self.now_ns

    async def sleep_ns(self, duration_ns: int) -> None:
        await asyncio.sleep(0)


cost = st.floats(0, 1e7)


@given(cost, cost, st.integers(1, 5), st.integers(6, 200))
def test_call_and_rows_are_told_apart(call_ns, row_ns, few, many):
    found = separated(Costs(few, call_ns + few * row_ns), Costs(many, call_ns + many * row_ns))
    assert found == pytest.approx((call_ns, row_ns), rel=1e-6, abs=1e-3)


@given(cost, cost, st.floats(1, 100), st.floats(1, 100))
def test_neither_is_ever_negative_whatever_was_measured(one, other, few, many):
    assert min(separated(Costs(few, one), Costs(many, other))) >= 0


def test_every_stage_is_timed_by_the_clock_as_the_engine_calls_it(tmp_path):
    spec = load_flow(BAY)
    events = recording(tmp_path / "data")
    found = asyncio.run(time_stages(spec, events, {}, Ticking(), SystemDisk(tmp_path / "disk")))
    assert {f.stage for f in found.values()} >= {
        s.id for s in spec.stages if s.kind in ("map", "where", "act")
    }
    for stage in spec.stages:
        figure = found.get(work_digest(spec, stage.id))
        if figure is None or stage.kind == "act":
            continue
        # One look apart, however many rows: all of it is of the call.
        assert figure.call_ns is not None and figure.row_ns is not None
        assert (figure.call_ns.median, figure.row_ns.median, figure.call_ns.count) == (1000, 0, 5)


def test_kernels_alone_leave_out_what_firmware_does_not_run():
    found = time_kernels(SPEC, {}, Ticking(), rounds=1)
    assert {f.stage for f in found.values()} == {"trips", "breaker_open", "incident"}


def report(**more: Any) -> dict[str, Any]:
    """What a run of the small flow might say."""
    steps = {
        n: {"p5": ms / 2, "typical": ms, "p95": ms * 3, "count": 40}
        for n, ms in (("wake", 1.0), ("send", 0.5), ("up", 0.3), ("react", 0.8), ("down", 0.2), ("obey", 0.1))
    }

    def stage(name, node, predicted, measured=None, rows=100, per_call=10.0):
        pair = {"predicted": predicted, "measured": measured, "error": None}
        return {"stage": name, "node": node, "ns_per_row": pair, "rows": rows, "rows_per_call": per_call}

    stages = [
        stage("level", "device:gw1-relay", 20_000.0),
        stage("decide", "gw1", 70_000.0, 65_000.0),
        stage("minutes", "gw1", 10.0, 500.0),
        stage("minutes", "gw2", 10.0, 700.0),
        stage("trends", "cloud", 10.0, 9000.0, rows=2, per_call=1.0),
    ]
    nodes = [
        {"node": "gw1", "stages_ns_per_frame": None, "measured_parts": {"message_ns": 900_000, "own": 0.01}},
        {"node": "gw2", "stages_ns_per_frame": None, "measured_parts": {"message_ns": 700_000, "own": 0.03}},
        {"node": "cloud", "stages_ns_per_frame": None, "measured_parts": {}},
        {"node": "device:gw1-relay", "stages_ns_per_frame": 20_000.0, "measured_parts": {"frame_ns": 90_000}},
    ]
    sent = [
        {"stream": "incident", "link": link, "rows": 100, "messages": 10, "payload_bytes": 10_000}
        for link in ("gw1>edge1", "edge1>cloud")
    ]
    return {
        "format": 1,
        "flow_digest": SPEC.digest,
        "accuracy": {"loop_steps_ms": steps, "stages": stages, "nodes": nodes, "streams": sent},
        "stages": {"trips": {"rows": 1000, "out": 5}},
        **more,
    }


def test_messages_are_read_from_a_run_less_the_stages_in_them():
    found = hops(report(), SPEC, TOPOLOGY)
    relay, box = found["relay"], found["box"]
    medians = {n: getattr(relay, n).median for n in ("wake_ns", "send_ns", "receive_ns", "obey_ns")}
    assert medians == {"wake_ns": 1e6, "send_ns": 480_000, "receive_ns": 200_000, "obey_ns": 100_000}
    assert relay.frame_ns is not None and relay.frame_ns.median == 70_000
    assert box.react_ns is not None and box.react_ns.median == 730_000
    assert box.receive_ns is not None and box.receive_ns.median == 300_000
    assert box.message_ns is not None
    assert (box.message_ns.low, box.message_ns.median, box.message_ns.high) == (700_000, 800_000, 900_000)
    assert box.own_cpus == 0.02
    assert "hall" not in found, "of the cloud nothing was measured"


def test_a_run_without_a_reflex_leaves_loops_undecided():
    value = report()
    value["accuracy"]["loop_steps_ms"] = {}
    found = hops(value, SPEC, TOPOLOGY)
    assert found["relay"].wake_ns is None
    assert found["box"].message_ns is not None


def test_calls_are_taken_from_the_run_where_there_were_enough():
    before = {
        work_digest(SPEC, name): StageFigures(stage=name, call_ns=spread([1.0]), row_ns=spread([100.0]))
        for name in ("minutes", "trends", "totals")
    }
    found = settled(before, report(), SPEC, {"gw1", "gw2", "cloud"})
    minutes = found[work_digest(SPEC, "minutes")]
    assert minutes.call_ns is not None
    assert (minutes.call_ns.low, minutes.call_ns.high) == ((500 - 100) * 10, (700 - 100) * 10)
    assert found[work_digest(SPEC, "trends")] == before[work_digest(SPEC, "trends")], "two calls say nothing"
    assert settled(before, report(), SPEC, set()) == before, "another class's nodes"


def test_streams_come_from_the_data_and_shares_only_when_they_are_asked_for():
    found = streams(report(), SPEC, shares=True)
    assert found["trips"].share == 0.005
    assert found["trips"].digest == stream_digest(SPEC, "trips")
    head = 55 + 12 * 1  # of a batch, and of its one field
    assert found["incident"].row_bytes == pytest.approx((20_000 - 20 * head) / 200)
    assert set(streams(report(), SPEC, shares=False)) == {"incident"}
    few = report()
    for entry in few["accuracy"]["streams"]:
        entry["rows"] = 20
    assert streams(few, SPEC, shares=False) == {}, "so few rows say nothing of their bytes"
    silent = report(stages={"trips": {"rows": 1000, "out": 0}})
    share = streams(silent, SPEC, shares=True)["trips"].share
    assert share is not None and 0 < share < 1e-9, "no row in a run is not: never"


@pytest.mark.parametrize(
    "content,why",
    [
        (None, "No such file"),
        ("{", "unexpected end"),
        ("[]", "not a report"),
        ('{"format": 1}', "not a report"),
        (json.dumps(report(format=99)), "not a report"),
        (json.dumps(report(flow_digest="0" * 64)), "another flow"),
    ],
)
def test_what_is_no_report_of_this_flow_is_refused(tmp_path, content, why):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_report(path, SPEC)
    assert caught.value.code == "calibrate.report"
    assert why in caught.value.why
    path.write_text(json.dumps(report()))
    assert read_report(path, SPEC)["format"] == 1


def test_classes_are_named_or_all_and_strange_ones_refused():
    assert chosen_classes(TOPOLOGY, ()) == ("relay", "box", "hall")
    assert chosen_classes(TOPOLOGY, ("box",)) == ("box",)
    with pytest.raises(TopologyError) as caught:
        chosen_classes(TOPOLOGY, ("cellar",))
    assert caught.value.code == "topology.calibration-class"


def test_figures_of_classes_that_were_not_measured_again_are_kept():
    old = example()
    new = old.model_copy(
        update={
            "classes": {"box": old.classes["relay"]},
            "streams": {},
            "measured_at": "2027-01-01T00:00:00Z",
        }
    )
    whole = merged(old, new)
    assert whole.classes == {"box": old.classes["relay"], "relay": old.classes["relay"]}
    assert whole.streams == old.streams
    assert whole.measured_at == new.measured_at
    assert merged(old, new.model_copy(update={"flow": "other"})).classes == new.classes


def test_a_core_that_is_not_known_is_refused():
    with pytest.raises(TopologyError) as caught:
        counts.target_of("relay", TOPOLOGY.classes["relay"].model_copy(update={"core": "z80"}))
    assert caught.value.code == "topology.core"
    assert "cortex-m4f" in caught.value.why


def test_without_the_emulator_a_class_is_left_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(counts, "lacks_emulator", lambda: "unicorn and elftools is not installed")
    kind = TOPOLOGY.classes["relay"].model_copy(update={"core": "cortex-m4f"})
    found = counts.count_class(SPEC, "relay", kind, [], tmp_path, system_host(tmp_path))
    assert isinstance(found, str)
    assert "ganglion[emulator]" in found


@pytest.mark.skipif(bool(counts.missing()), reason=counts.missing() or "-")
def test_instructions_are_counted_per_frame_on_the_class_core(tmp_path):
    spec = load_flow(BAY)
    events = recording(tmp_path / "data")
    host = system_host(tmp_path / "host")
    kind = TOPOLOGY.classes["relay"].model_copy(update={"core": "cortex-m4f"})
    hard = counts.count_class(spec, "relay", kind, events, tmp_path, host)
    again = counts.count_class(spec, "relay", kind, events, tmp_path, host)
    assert isinstance(hard, counts.Counted)
    assert again == hard, "counts do not depend on the day"
    assert "cortex-m4f" in hard.where
    assert {f.stage for f in hard.stages.values()} >= {s.id for s in spec.stages if s.kind == "map"}
    for figure in hard.stages.values():
        assert figure.instructions is not None
        assert figure.instructions.count == counts.FRAMES
        assert 10 < figure.instructions.median < 100_000
        assert figure.flash_bytes is not None and figure.flash_bytes > 20
