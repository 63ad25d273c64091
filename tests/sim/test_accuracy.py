"""Predicted beside measured: from evidence whose every figure is known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.placement import plan
from ganglion.placement.prediction import predict
from ganglion.sim import accuracy
from ganglion.sim.evidence import Command, Evidence
from ganglion.sim.report import build
from ganglion.sim.settings import Settings
from ganglion.sim.text import text
from tests.placement.instances import small_flow, small_topology

SPEC, TOPOLOGY = small_flow(), small_topology(classes__relay__cannot_run=["window"])
PLAN = plan(SPEC, TOPOLOGY, pins={"level": "device", "decide": "device", "minutes": "gateway"})
PREDICTION = predict(SPEC, TOPOLOGY, PLAN)
MS = 10**6


def command(number: int, steps_ms: tuple[float, ...]) -> tuple[Command, tuple[int, int]]:
    """A command and its gateway's times, from the steps wake, send, up, react, down, obey."""
    at, moments = 10**12 + number * 10**9, []
    done = at
    for step in steps_ms:
        at += round(step * MS)
        moments.append(at)
    woke, sent, received, commanded, back, arrived = moments
    one = Command(f"c{number}", "gw1-relay-00", number, done, arrived, woke, sent, back)
    return one, (received, commanded)


def evidence(*reactions: tuple[float, ...], **more: Any) -> Evidence:
    found = Evidence(**more)
    for number, steps in enumerate(reactions):
        one, times = command(number, steps)
        found.commands.append(one)
        found.reactions[one.command_id] = times
    return found


def test_an_error_is_relative_to_what_was_measured():
    assert accuracy.pair(110.0, 100.0) == {"predicted": 110.0, "measured": 100.0, "error": 0.1}
    assert accuracy.pair(90.0, 100.0)["error"] == -0.1
    assert accuracy.pair(90.0, None) == {"predicted": 90.0, "measured": None, "error": None}
    assert accuracy.pair(90.0, 0.0)["error"] is None
    assert accuracy.pair(None, 5.0)["error"] is None


def test_the_steps_of_a_reaction_are_taken_apart():
    found = accuracy.steps(evidence((1, 2, 3, 4, 5, 6)))
    assert [found[n]["typical"] for n in accuracy.STEPS] == [1, 2, 3, 4, 5, 6]
    assert found["wake"]["count"] == 1


def test_typical_steps_are_of_the_middle_and_add_up_to_the_median_reaction():
    # In each reaction another step is slow: the medians of the steps would add up to 6 ms, the median reaction is 16.
    slow = [tuple(11.0 if step == late else 1.0 for step in range(6)) for late in range(6)] * 5
    found = accuracy.steps(evidence(*slow, (1, 1, 1, 1, 1, 1), (90, 1, 1, 1, 1, 1)))
    assert sum(found[n]["typical"] for n in accuracy.STEPS) == pytest.approx(16, rel=0.02)
    assert all(found[n]["p5"] <= found[n]["typical"] <= found[n]["p95"] for n in accuracy.STEPS)


step = st.floats(0.001, 50)


@given(st.lists(st.tuples(step, step, step, step, step, step), min_size=1, max_size=40))
def test_typical_steps_add_up_to_a_reaction_that_is_neither_the_fastest_nor_the_slowest(reactions):
    found = accuracy.steps(evidence(*reactions))
    whole = sorted(sum(r) for r in reactions)
    assert whole[0] - 0.01 <= sum(found[n]["typical"] for n in accuracy.STEPS) <= whole[-1] + 0.01


def test_commands_whose_times_are_not_all_known_are_left_out():
    found = evidence((1, 2, 3, 4, 5, 6), (7, 7, 7, 7, 7, 7))
    del found.reactions["c1"]
    assert accuracy.steps(found)["send"] == {"p5": 2, "typical": 2, "p95": 2, "count": 1}
    found.reactions.clear()
    assert accuracy.steps(found) == {}
    assert accuracy.loop(PREDICTION, {}, found)["device"]["measured"] is None


def test_parts_are_sums_of_steps_beside_what_the_plan_said():
    ran = evidence((1, 2, 3, 4, 5, 6))
    found = accuracy.loop(PREDICTION, accuracy.steps(ran), ran)
    assert {p: v["measured"] for p, v in found.items()} == {
        "device": 3, "link": 8, "gateway": 4, "actuator": 6
    }  # fmt: skip
    predicted_ms = sum(v["predicted"] for v in found.values())
    assert predicted_ms == pytest.approx(max(x.predicted_ns for x in PLAN.loops) / MS, rel=1e-4)


def node(**more: Any) -> dict[str, Any]:
    counts = dict.fromkeys(
        ("duplicated_rows", "out_of_order_rows", "bad_messages", "input_seq", "process_cpu_ns", "at_ns"), 0
    )
    empty: dict[str, Any] = {name: {} for name in ("stages", "kernels", "kernel_builds", "works", "exported")}
    return {**counts, **empty, "ingest": None, **more}


def test_a_stages_rows_and_share_are_what_its_node_metered():
    work = {"calls": 4, "rows": 200, "cpu_ns": 1_000_000, "first_ns": 9_000_000}
    found = evidence(
        nodes={"gw1": node(works={"minutes": work}), "gw2": node(), "edge1": node(), "cloud": node()}
    )
    rows = {(r["stage"], r["node"]): r for r in accuracy.stages(PREDICTION, found, 10.0)}
    minutes = rows["minutes", "gw1"]
    assert minutes["ns_per_row"]["measured"] == 5000
    assert minutes["cpus"]["measured"] == 0.0001
    assert (minutes["rows"], minutes["rows_per_call"], minutes["first_call_ns"]) == (200, 50, 9_000_000)
    assert minutes["figures"] == "declared"
    assert rows["minutes", "gw2"]["ns_per_row"]["measured"] is None
    assert rows["level", "device:gw1-relay"]["ns_per_row"]["measured"] is None, (
        "firmware is measured as a whole"
    )


def at(busy_ns: int, at_s: int, messages: int, stages_ns: int) -> dict[str, Any]:
    works = {"minutes": {"calls": 1, "rows": 1, "cpu_ns": stages_ns, "first_ns": 0}}
    ingest = {"messages": messages}
    return node(process_cpu_ns=busy_ns, at_ns=at_s * 10**9, ingest=ingest, works=works)


def test_a_nodes_messages_are_what_neither_its_stages_nor_its_idling_took():
    reports = {
        "up": {"gw1": at(0, 0, 0, 0)},
        "began": {"gw1": at(20 * MS, 2, 0, 0)},  # idling takes 10 ms each second
        "ended": {"gw1": at(20 * MS + 400 * MS, 12, 500, 50 * MS)},
    }
    found = evidence(nodes={"gw1": node()})
    rows = {r["node"]: r for r in accuracy.nodes(PREDICTION, TOPOLOGY, found, reports, 10.0)}
    gateway = rows["gw1"]
    assert gateway["cpus"]["measured"] == 0.04
    assert gateway["measured_parts"] == pytest.approx(
        {"own": 0.01, "stages": 0.005, "messages_per_s": 50, "message_ns": (400 - 100 - 50) * MS / 500}
    )
    assert rows["cloud"]["cpus"]["measured"] is None
    assert rows["cloud"]["measured_parts"] == {}


def host(**works: Any) -> dict[str, Any]:
    names = ("offered", "acknowledged", "shed", "retries", "refused", "payload_bytes")
    sent = {**dict.fromkeys(names, 0), "messages": 10}
    counts = {"devices": 2, "frames": 1000, "frames_of": {}, "raw_bytes": 0, "commands": 0}
    ran_as = {"board": 0, "qemu": 0, "firmware": 2, "python": 0}
    return {"name": "devices-gw1", **counts, "stages": {}, "kernels": {}, "kernel_builds": {}, "ran_as": ran_as,
            "ledgers": {}, "works": works, "streams": {"trips": sent}}  # fmt: skip


def test_a_devices_frames_and_messages_are_told_apart():
    def work(calls, total_ms):
        return {"calls": calls, "rows": calls, "cpu_ns": round(total_ms * MS), "first_ns": 0}

    works = {
        "device:frame": work(990, 99),  # 0.1 ms each
        "device:sent": work(10, 3),  # as much for the frame, and 0.2 ms to send
        "device:received": work(10, 1),
    }
    found = evidence(device_hosts=[host(**works)])
    rows = {r["node"]: r for r in accuracy.nodes(PREDICTION, TOPOLOGY, found, {}, 10.0)}
    device = rows["device:gw1-relay"]
    assert device["measured_parts"] == pytest.approx({"frame_ns": 100_000, "message_ns": 300_000})
    assert device["cpus"]["measured"] == pytest.approx(0.103 / 10 / 2)
    assert rows["device:gw2-relay"]["measured_parts"] == {}


def test_the_report_and_its_text_hold_it_all(tmp_path):
    sent = {"rows": 17, "messages": 2, "payload_bytes": 4000}
    works = {"minutes": {"calls": 4, "rows": 200, "cpu_ns": 10**6, "first_ns": 0}}
    nodes = {n: node() for n in ("gw2", "edge1", "cloud")}
    nodes["gw1"] = node(works=works, exported={"incident": sent})
    found = evidence((1, 2, 3, 4, 5, 6), nodes=nodes, device_hosts=[host()])
    report = build(
        Settings(tmp_path, tmp_path, 10**10),
        SPEC,
        TOPOLOGY,
        PLAN,
        found,
        cuts=[],
        links={},
        played_s=10.0,
        restarts={},
        devices_why="",
    )
    assert report["flow_digest"] == SPEC.digest
    assert report["prediction"]["reaction_ms_p50"]["measured"] == 21
    incident = next(
        s for s in report["accuracy"]["streams"] if (s["stream"], s["link"]) == ("incident", "gw1>edge1")
    )
    assert incident["bytes_per_s"]["measured"] == 400
    assert incident["messages_per_s"]["measured"] == 0.2
    lines = text(report).splitlines()
    table = [x for x in lines if "minutes at gw1" in x or "reaction_ms_p50" in x or "gateway ms" in x]
    assert len(table) == 3
    assert "5000" in table[2]
    assert table[2].rstrip().endswith("%")
    assert "(declared)" in table[2]
