"""A fleet's plan told and drawn in kinds of node: the same nodes, stages and sums as when it is written out."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree as ET

import pytest

from ganglion.placement import picture, plan
from tests.placement.instances import small_flow
from tests.placement.test_fleet import counted, fleet, fleet_flow


def kinds_of(made):
    assert made.aggregate is not None
    return made.aggregate()


def by_tier(kinds, value):
    found: dict[str, float] = {}
    for one in kinds:
        found[one.tier] = found.get(one.tier, 0) + one.many * value(one)
    return found


@pytest.mark.parametrize("seed, edge_cpus", [(1, 9.0), (2, 0.3)])
def test_kinds_add_up_to_what_is_written_out(seed, edge_cpus):
    spec, topology = fleet_flow(), fleet(seed, gateways=50, crowded=0.4, edge_cpus=edge_cpus)
    made = plan(spec, topology)
    kinds = kinds_of(made)
    counts = {path.id: path.count for path in topology.paths()}
    nodes = {"device": 0, "gateway": 0, "edge": 0, "cloud": 0}
    cpus, sent = dict.fromkeys(nodes, 0.0), dict.fromkeys(nodes, 0.0)
    for use in made.nodes:
        many = counts[use.node.removeprefix("device:")] if use.tier == "device" else 1
        nodes[use.tier] += many
        cpus[use.tier] += many * use.cpus
    for link in made.links:
        below = link.link.partition(">")[0]
        sent["device" if below in counts else topology.sites[below].tier] += link.bytes_per_day
    assert by_tier(kinds, lambda _: 1) == nodes
    assert by_tier(kinds, lambda one: one.use.cpus) == pytest.approx(cpus, rel=1e-9)
    found = by_tier(kinds, lambda one: one.up.bytes_per_day if one.up else 0.0)
    assert found == pytest.approx(sent, rel=1e-9)
    for stage, tiers in made.summary.tiers.items():
        at_devices = sum(o.many for o in kinds if o.tier == "device" and stage in o.stages)
        assert at_devices == tiers.get("device", 0)


def test_a_million_devices_are_drawn_in_kinds():
    spec, topology = small_flow(), counted(40, 500, 1_000_000)
    text = picture(plan(spec, topology), spec, topology)
    words = " ".join(ET.fromstring(text).itertext())
    assert "relay  \N{MULTIPLICATION SIGN}1,000,000" in words
    assert "box gateways 1  \N{MULTIPLICATION SIGN}20,000" in words
    assert "hall edges 1  \N{MULTIPLICATION SIGN}40" in words
    assert "not drawn" not in words
    assert text.count("<path") == 3


def test_what_is_not_drawn_is_counted(monkeypatch):
    monkeypatch.setattr(sys.modules[picture.__module__], "KINDS_MAX", 3)
    spec, topology = fleet_flow(), fleet(5, gateways=310, edges=8, crowded=0.3, edge_cpus=0.1)
    topology = topology.model_copy(
        update={
            "classes": {
                **topology.classes,
                "hall": topology.classes["hall"].model_copy(update={"cpus": 50.0}),
            }
        }
    )
    made = plan(spec, topology)
    kinds = [one for one in kinds_of(made) if one.tier == "gateway"]
    words = " ".join(ET.fromstring(picture(made, spec, topology)).itertext())
    missed = re.search(r"([\d,]+) gateways of other kinds are not drawn", words)
    assert sum(one.many for one in kinds) == 310
    assert missed is not None
    assert int(missed[1]) == sum(one.many for one in kinds[3:])
