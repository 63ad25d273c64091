"""`servers:` of a site in a topology: what is taken, and what each wrong list is told."""

from __future__ import annotations

import pytest

from ganglion.core.errors import TopologyError
from ganglion.core.topology_text import read_topology
from tests.core.test_topology_text import GOOD

THREE = "nats://a:4222, nats://b:4222, nats://c:4222"


def with_site(site, **lists):
    lines = "".join(f"    {key}: [{urls}]\n" for key, urls in lists.items())
    at = GOOD.index(f"  {site}:\n") + len(f"  {site}:\n")
    return GOOD[:at] + lines + GOOD[at:]


def test_children_link_to_the_same_hosts_unless_told_otherwise():
    cloud = read_topology(with_site("cloud", servers=THREE), "f.yaml").sites["cloud"]
    assert cloud.servers == tuple(THREE.split(", "))
    assert cloud.leaves() == ("nats://a:7422", "nats://b:7422", "nats://c:7422")
    one_machine = "nats://a:1, nats://a:2, nats://a:3"
    leaves = ("nats://a:4", "nats://a:5", "nats://[::1]:6")
    quoted = ", ".join(f'"{leaf}"' for leaf in leaves)
    edge = read_topology(with_site("edge1", servers=one_machine, leaf_servers=quoted), "f.yaml").sites[
        "edge1"
    ]
    assert edge.leaves() == leaves
    assert read_topology(GOOD, "f.yaml").sites["cloud"].leaves() == ()


WRONG = [
    ("cloud", {"servers": "nats://a:4222"}, "topology.rule", "1 servers"),
    ("cloud", {"servers": "nats://a:4222, nats://b:4222"}, "topology.rule", "2 servers"),
    ("cloud", {"servers": f"{THREE}, nats://d:4222"}, "topology.rule", "give 3 or 5"),
    ("cloud", {"servers": ", ".join(f"nats://h{n}:4222" for n in range(7))}, "topology.field", "at most 5"),
    ("cloud", {"servers": "nats://a:4222, nats://A:4222, nats://c:4222"}, "topology.rule", "given twice"),
    (
        "cloud",
        {"servers": "nats://a:1, nats://a:2, nats://a:3"},
        "topology.rule",
        "leaf_servers with different",
    ),
    ("cloud", {"servers": "nats://a:7422, nats://b:4222, nats://c:4222"}, "topology.rule", "given twice"),
    ("cloud", {"servers": THREE, "leaf_servers": "nats://a:1"}, "topology.rule", "1 leaf_servers and 3"),
    ("cloud", {"leaf_servers": "nats://a:1"}, "topology.rule", "1 leaf_servers and 0"),
    ("gw1", {"servers": THREE}, "topology.rule", "it is a gateway"),
    ("cloud", {"servers": "tls://a:4222, nats://b:4222, nats://c:4222"}, "topology.field", "servers.0"),
    ("cloud", {"servers": "nats://a, nats://b:4222, nats://c:4222"}, "topology.field", "servers.0"),
    ("cloud", {"servers": "nats://u:p@a:4222, nats://b:4222, nats://c:4222"}, "topology.field", "servers.0"),
    ("cloud", {"servers": "nats://a:0, nats://b:4222, nats://c:4222"}, "topology.field", "servers.0"),
    ("cloud", {"servers": "nats://a:70000, nats://b:4222, nats://c:4222"}, "topology.rule", "70000"),
]


@pytest.mark.parametrize("site, lists, code, part", WRONG)
def test_wrong_servers_are_named_with_their_line(site, lists, code, part):
    with pytest.raises(TopologyError) as caught:
        read_topology(with_site(site, **lists), "f.yaml")
    assert caught.value.code == code, caught.value
    assert part in str(caught.value), caught.value
    assert str(caught.value).startswith(f"[{code}] f.yaml:")
    assert caught.value.next_step


def test_sites_alike_cannot_share_servers():
    text = with_site("edge1", servers=THREE).replace("tier: edge\n", "tier: edge\n    count: 2\n")
    with pytest.raises(TopologyError) as caught:
        read_topology(text, "f.yaml")
    assert "stands for 2 sites" in str(caught.value)
