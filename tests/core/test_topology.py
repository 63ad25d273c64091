from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ganglion.core.declarations import RuleBroken
from ganglion.core.errors import TopologyError
from ganglion.core.topology import DEVICES_MAX, NodeClass, Topology
from ganglion.core.topology_text import read_topology

FEEDER = Path(__file__).parents[2] / "examples" / "feeder" / "topology.yaml"
MIXED = """
topology: 1
classes:
  box: {ns_per_call: 1000, ns_per_operation: 2.5, hop_us: 300, memory: 64MB}
  relay: {ns_per_call: 90, ns_per_operation: 5, hop_us: 100, memory: 64KiB, cannot_run: [window, around]}
sites:
  cloud: {tier: cloud, jurisdiction: IE, node: {class: box, memory: 1GB}}
  edge1: {tier: edge, parent: cloud, node: {class: box, id: rack7}, uplink: {latency: 15ms, bandwidth: 1Gbit}}
  gw1: {tier: gateway, parent: edge1, node: {class: box}, uplink: {latency: 40ms, bandwidth: 5Mbit}}
  gw2: {tier: gateway, parent: cloud, node: {class: box}, uplink: {latency: 60ms, bandwidth: 2Mbit}}
devices:
  feeder:
    {class: relay, count: 5, gateways: [gw1, gw2], actuators: [breaker], link: {latency: 1ms, bandwidth: 1Mbit}}
  meter: {class: relay, count: 1, gateways: [gw2, gw1], link: {latency: 1ms, bandwidth: 1Mbit}}
"""


@pytest.fixture
def mixed():
    return read_topology(MIXED, "mixed.yaml")


def test_the_examples_topology_has_two_paths_over_all_four_tiers():
    topology = read_topology(FEEDER.read_text(), "topology.yaml")
    assert [(p.id, p.count) for p in topology.paths()] == [("gw1-relay", 2), ("gw2-relay", 2)]
    assert topology.paths()[0].nodes == {
        "device": "device:gw1-relay",
        "gateway": "gw1",
        "edge": "edge1",
        "cloud": "cloud",
    }


def test_paths_are_gateways_times_groups_that_have_devices_there(mixed):
    assert [(p.id, p.gateway, p.group, p.count) for p in mixed.paths()] == [
        ("gw1-feeder", "gw1", "feeder", 3),
        ("gw2-feeder", "gw2", "feeder", 2),
        ("gw2-meter", "gw2", "meter", 1),  # gw1 got no meter: there is only one
    ]
    assert "edge" not in mixed.paths()[1].nodes  # gw2 hangs on the cloud
    assert mixed.paths()[0].nodes["edge"] == "rack7"


def test_look_ups(mixed):
    assert mixed.chain("gw1") == ["gw1", "edge1", "cloud"]
    assert mixed.chain("gw2") == ["gw2", "cloud"]
    assert mixed.cloud == "cloud"
    assert mixed.children("cloud") == ["edge1", "gw2"]
    assert mixed.site_of("rack7") == "edge1"
    assert mixed.uplink_id("gw1") == "gw1>edge1"
    assert mixed.uplink("gw1").latency_ns == 40_000_000
    assert mixed.memory_bytes("cloud") == 10**9
    assert mixed.memory_bytes("gw1") == 64 * 10**6
    assert mixed.node_class("gw1").compute_ns(10, 100) == 10_250
    with pytest.raises(KeyError):
        mixed.site_of("edge1")


@given(st.integers(2, 3000))
def test_with_devices_gives_exactly_that_many_in_turn_and_keeps_shares(total):
    topology = read_topology(MIXED, "mixed.yaml")
    changed = topology.with_devices(total)
    assert sum(p.count for p in changed.paths()) == total
    counts: Counter[str] = Counter()
    for path in changed.paths():
        counts[path.group] += path.count
    assert min(counts.values()) >= 1
    # One device each is given first, the rest by the shares 5 and 1.
    assert abs(counts["feeder"] - (1 + (total - 2) * 5 / 6)) < 1
    per_gateway = {p.gateway: p.count for p in changed.paths() if p.group == "feeder"}
    assert max(per_gateway.values()) - min(per_gateway.values()) <= 1
    assert changed.sites == topology.sites


@pytest.mark.parametrize("total", [-1, 0, 1, DEVICES_MAX + 1])
def test_with_devices_refuses_a_number_that_cannot_be(mixed, total):
    with pytest.raises(TopologyError) as caught:
        mixed.with_devices(total)
    assert caught.value.code == "topology.devices"


def test_a_topology_is_frozen(mixed):
    with pytest.raises(ValueError, match="frozen"):
        mixed.currency = "USD"


def test_made_in_python_it_is_checked_as_well(mixed):
    value: dict[str, Any] = {
        "topology": 1,
        "classes": {"box": {"ns_per_call": 1, "ns_per_operation": 1, "hop_us": 1, "memory": "1MB"}},
        "sites": {"cloud": {"tier": "cloud", "node": {"class": "box"}}},
        "devices": {
            "x": {
                "class": "box",
                "count": 1,
                "gateways": ["cloud"],
                "link": {"latency": "1ms", "bandwidth": "1Mbit"},
            }
        },
    }
    with pytest.raises(ValueError, match="not a gateway"):
        Topology.model_validate(value)
    assert issubclass(RuleBroken, ValueError)
    assert NodeClass.model_validate(value["classes"]["box"]).memory_bytes == 10**6


LINK_ = {"latency": "1ms", "bandwidth": "1Mbit"}
ALIKE: dict[str, Any] = {
    "topology": 1,
    "classes": {"c": {"ns_per_call": 1.0, "ns_per_operation": 1.0, "hop_us": 1.0, "memory": "1MB"}},
    "sites": {
        "cloud": {"tier": "cloud", "node": {"class": "c"}},
        "e": {"tier": "edge", "parent": "cloud", "count": 2, "node": {"class": "c"}, "uplink": LINK_},
        "g": {"tier": "gateway", "parent": "e", "count": 3, "node": {"class": "c"}, "uplink": LINK_},
    },
    "devices": {"d": {"class": "c", "count": 8, "gateways": ["g"], "link": LINK_}},
}


def test_sites_alike_written_out():
    topology = Topology.model_validate(ALIKE)
    assert topology.alike() == {"cloud": 1, "e": 2, "g": 6}
    every = topology.expanded()
    assert [s for s in every.sites if s.startswith("g")] == [f"gx{i}" for i in range(6)]
    assert [every.sites[f"gx{i}"].parent for i in range(6)] == ["ex0"] * 3 + ["ex1"] * 3
    assert [p.count for p in every.paths()] == [2, 2, 1, 1, 1, 1]
    assert every.expanded() is every


@pytest.mark.parametrize(
    "path, value, part",
    [
        (("sites", "cloud", "count"), 2, "there is one cloud"),
        (
            ("sites", "gx4"),
            {"tier": "edge", "parent": "cloud", "node": {"class": "c"}, "uplink": LINK_},
            "rename",
        ),
        (("sites", "g", "node"), {"class": "c", "id": "one"}, "cannot all be called the same"),
        (("sites", "g", "count"), 100_000, "at most 200000 are planned"),
        (("devices", "d", "counts"), [8], "gateways alike share evenly"),
        (("devices", "d", "counts"), [3, 5], "one count"),
    ],
)
def test_sites_alike_that_cannot_be(path, value, part):
    wrong = copy.deepcopy(ALIKE)
    *way, last = path
    target = wrong
    for key in way:
        target = target[key]
    target[last] = value
    with pytest.raises(ValidationError) as caught:
        Topology.model_validate(wrong)
    broken = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(broken, RuleBroken)
    assert part in f"{broken.what}; {broken.why}; {broken.next_step}"


def test_mixes_of_devices_by_counts():
    value = copy.deepcopy(ALIKE)
    value["sites"] = {k: {x: y for x, y in v.items() if x != "count"} for k, v in ALIKE["sites"].items()}
    value["sites"]["h"] = value["sites"]["g"]
    value["devices"]["d"] |= {"gateways": ["g", "h"], "counts": [7, 1]}
    topology = Topology.model_validate(value)
    assert {p.id: p.count for p in topology.paths()} == {"g-d": 7, "h-d": 1}
    assert sum(p.count for p in topology.with_devices(4).paths()) == 4
