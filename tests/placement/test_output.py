"""What leaves a plan: assignments, JSON (a golden file), text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ganglion.core.topology_text import read_topology
from ganglion.flow.load import load_flow
from ganglion.placement import plan, report, why, why_text
from tests.placement.instances import small_flow, small_topology

GOLDEN = Path(__file__).parent / "golden" / "plan_small.json"
FEEDER = Path(__file__).parents[2] / "examples" / "feeder"


@pytest.fixture(scope="module")
def made():
    return plan(small_flow(), small_topology(classes__relay__cannot_run=["around", "window"]))


def test_assignments_say_who_runs_what_for_whom_and_what_goes_up(made):
    parts = made.assignments()
    assert sorted(parts) == ["cloud", "device:gw1-relay", "device:gw2-relay", "edge1", "gw1", "gw2"]
    device = parts["device:gw1-relay"]
    assert (device.tier, device.site) == ("device", "gw1")
    assert device.runs_here("frames", "gw1-relay-00")
    gateway = parts["gw1"]
    assert gateway.runs_here("breaker_open", "gw1-relay-01")
    assert not gateway.runs_here("breaker_open", "gw2-relay-00")
    assert gateway.exports == {"incident": {"gw1-relay"}, "minutes": {"gw1-relay"}}
    both = {"gw1-relay", "gw2-relay"}
    assert parts["edge1"].exports == {"incident": both, "minutes": both}  # nothing runs there: it passes on
    assert parts["edge1"].runs == {}
    cloud = parts["cloud"]
    assert cloud.runs["totals"] == both  # its input rows come from the paths
    assert cloud.runs["feeder_totals"] == {"*"}  # its input rows are merged
    assert cloud.exports == {}
    assert all(a.flow_digest == small_flow().digest for a in parts.values())


def test_every_stage_runs_once_per_path_and_every_reader_can_be_reached(made):
    spec, parts = small_flow(), made.assignments()
    way = {
        "gw1-relay": ["device:gw1-relay", "gw1", "edge1", "cloud"],
        "gw2-relay": ["device:gw2-relay", "gw2", "edge1", "cloud"],
    }
    for stage in spec.stages:
        for path, nodes in way.items():
            at = [i for i, n in enumerate(nodes) if path in parts[n].runs.get(stage.id, ())]
            merged = [i for i, n in enumerate(nodes) if "*" in parts[n].runs.get(stage.id, ())]
            assert len(at) + len(merged) == 1
            for reader in spec.consumers(stage.id):
                there = [i for i, n in enumerate(nodes) if reader.id in parts[n].runs]
                if merged or not at:
                    continue
                for place in range(at[0], max(there)):
                    assert path in parts[nodes[place]].exports[stage.id]


def test_a_merged_stream_goes_up_as_the_path_of_all():
    made = plan(small_flow(), small_topology(), pins={"totals": "edge"})
    edge = made.assignments()["edge1"]
    assert edge.exports["totals"] == {"*"}
    assert edge.exported("totals", "all")
    assert made.assignments()["cloud"].runs["feeder_totals"] == {"*"}


def test_a_gateway_without_devices_has_an_empty_assignment():
    made = plan(small_flow(), small_topology().with_devices(1))
    empty = made.assignments()["gw2"]
    assert (empty.runs, empty.exports, empty.tier) == ({}, {}, "gateway")


@pytest.mark.golden
def test_the_json_is_as_it_was(made):
    """Write the golden file anew with: rm tests/placement/golden/plan_small.json, and run this test twice."""
    value = made.to_json()
    value["flow_digest"] = value["certificate"]["solver"] = "-"
    for part in value["assignments"].values():
        part["flow_digest"] = "-"
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
        pytest.fail("the golden file was missing and is written now")
    assert text == GOLDEN.read_text()


def test_the_json_of_why():
    spec, topology = small_flow(), small_topology()
    value = why(spec, topology, plan(spec, topology), "decide").to_json()
    assert json.loads(json.dumps(value)) == value
    tiers = {o["tier"]: o for o in value["options"]}
    assert tiers["cloud"]["allowed"] is False
    assert tiers["cloud"]["forbidden_by"][0]["kind"] == "offline"
    other = next(o for o in value["options"] if o["allowed"])
    figures = {"money_more_per_month", "kwh_more_per_month", "carbon_kg_more_per_month"}
    assert set(other) == {"tier", "allowed", "tie", "certain", "loops", *figures}


def test_the_report_has_every_stage_reflex_link_and_node(made):
    text = report(made, small_flow())
    for word in [
        *(s.id for s in small_flow().stages),
        *(u.link for u in made.links),
        *(n.node for n in made.nodes),
        "50ms",
        "EUR per month",
        "proved optimal (HiGHS",
    ]:
        assert word in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_long_table_is_cut_and_says_so():
    names = [f"g{i}" for i in range(60)]
    link = {"latency": "1ms", "bandwidth": "1Mbit"}
    site = {"tier": "gateway", "parent": "cloud", "node": {"class": "box"}, "uplink": link}
    changes = {f"sites__{name}": site for name in names}
    topology = small_topology(**changes, devices__relay__gateways=names, devices__relay__count=60)
    text = report(plan(small_flow(), topology), small_flow())
    assert "... and 20 more (--json has all)" in text


def test_the_examples_plan_is_proved_and_its_reflex_is_local():
    spec = load_flow(FEEDER)
    topology = read_topology((FEEDER / "topology.yaml").read_text(), "topology.yaml")
    for devices in (4, 40):
        made = plan(spec, topology.with_devices(devices))
        assert made.proved
        for act in spec.reflexes:
            for stage in (*spec.ancestors(act.id), act.id):
                assert set(made.tier_of(stage).values()) <= {"device", "gateway"}
        up = next(u for u in made.links if u.link == "gw1>edge1")
        assert up.bytes_per_day < up.raw_bytes_per_day / 100
    made = plan(spec, topology)
    for one in spec.stages:
        assert why_text(why(spec, topology, made, one.id)).startswith(f"{one.id} runs at ")
