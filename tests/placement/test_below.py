"""Which paths a site is told to take from which child."""

from __future__ import annotations

from ganglion.flow.assignment import ALL
from ganglion.placement import plan
from ganglion.placement.below import paths_below
from tests.placement.instances import small_flow, small_topology


def told(spec, topology, site):
    return paths_below(topology, plan(spec, topology).assignments(), site)


def test_a_child_may_send_for_all_gateways_below_it_and_for_no_others():
    spec, topology = small_flow(rollup=False), small_topology(sites__gw2__parent="cloud")
    assert told(spec, topology, "edge1") == {"gw1": ("gw1-relay",)}
    assert told(spec, topology, "cloud") == {"edge1": ("gw1-relay",), "gw2": ("gw2-relay",)}
    assert told(spec, topology, "gw1") == {}


def test_rows_merged_over_origins_come_only_from_a_child_that_merges_them():
    topology = small_topology()
    merged = small_flow(by="all", on=(), minutes_on=("edge",))
    assert told(merged, topology, "cloud") == {"edge1": ("gw1-relay", "gw2-relay", ALL)}
    assert told(merged, topology, "edge1") == {"gw1": ("gw1-relay",), "gw2": ("gw2-relay",)}
