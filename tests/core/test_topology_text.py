from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from ganglion.core.errors import TopologyError
from ganglion.core.topology import SITES_MAX, DeviceGroup, Link, Node, NodeClass, Site, Topology
from ganglion.core.topology_text import DEPTH_MAX, SCALAR_CHARS_MAX, TEXT_CHARS_MAX, read_topology

GOOD = """\
topology: 1
currency: EUR
classes:
  box:
    ns_per_call: 1000
    ns_per_operation: 1.5
    hop_us: 300
    memory: 64MB
sites:
  cloud:
    tier: cloud
    jurisdiction: NO
    node: {class: box}
  edge1:
    tier: edge
    parent: cloud
    node: {class: box}
    uplink: {latency: 15ms, bandwidth: 100Mbit}
  gw1:
    tier: gateway
    parent: edge1
    node: {class: box, memory: 32MiB}
    uplink:
      latency: 40ms
      bandwidth: 5Mbit
devices:
  relay:
    class: box
    count: 2
    gateways: [gw1]
    actuators: [breaker]
    link: {latency: 0.3ms, bandwidth: 100Mbit}
"""

WRONG = [
    # what is replaced, with what, code, position and field, a part of the message
    ("topology: 1", "topology: 2", "topology.field", "f.yaml:1: topology:", "1"),
    ("topology: 1\n", "", "topology.field", "f.yaml:1: topology:", "missing"),
    ("currency: EUR", "currency: euro", "topology.field", "f.yaml:2: currency:", "^[A-Z]{3}$"),
    (
        "ns_per_call: 1000",
        "ns_per_call: fast",
        "topology.field",
        "f.yaml:5: classes.box.ns_per_call:",
        "number",
    ),
    (
        "ns_per_call: 1000",
        'ns_per_call: "1000"',
        "topology.field",
        "f.yaml:5: classes.box.ns_per_call:",
        "number",
    ),
    (
        "ns_per_call: 1000",
        "ns_per_call: -1",
        "topology.field",
        "f.yaml:5: classes.box.ns_per_call:",
        "greater",
    ),
    ("ns_per_call: 1000", "ns_per_call: 1e999", "topology.field", "f.yaml:5: classes.box.ns_per_call:", ""),
    ("ns_per_call: 1000", "ns_per_call: .nan", "topology.field", "f.yaml:5: classes.box.ns_per_call:", ""),
    ("hop_us: 300", "hopus: 300", "topology.field", "f.yaml:7: classes.box.hopus:", "did you mean hop_us?"),
    ("hop_us: 300\n", "# nothing\n", "topology.field", "f.yaml:4: classes.box.hop_us:", "missing"),
    (
        "memory: 64MB",
        "memory: 64",
        "topology.field",
        "f.yaml:8: classes.box.memory:",
        "is not a size",
    ),
    (
        "memory: 64MB",
        "memory: 64 mb",
        "topology.field",
        "f.yaml:8: classes.box.memory:",
        "'64 mb' is not a size",
    ),
    ("memory: 64MB", "memory: [64MB]", "topology.field", "f.yaml:8: classes.box.memory:", "is not a size"),
    (
        "memory: 64MB",
        "memory: 2000000GiB",
        "topology.field",
        "f.yaml:8: classes.box.memory:",
        "less than",
    ),
    ("  box:\n", "  Box:\n", "topology.field", "f.yaml:4: classes.Box:", "^[a-z]"),
    (
        "    memory: 64MB",
        "    memory: 64MB\n    watts_idle: 3",
        "topology.field",
        "f.yaml:4: classes.box.watts_busy",
        "idle",
    ),
    (
        "    memory: 64MB",
        "    memory: 64MB\n    cannot_run: [windows]",
        "topology.field",
        "f.yaml:9: classes.box.cannot_run.0:",
        "'window'",
    ),
    (
        "tier: cloud",
        "tier: clout",
        "topology.field",
        "f.yaml:11: sites.cloud.tier:",
        "'gateway', 'edge' or 'cloud'",
    ),
    ("tier: cloud", "tier: edge", "topology.rule", "f.yaml:9: sites:", "no cloud"),
    (
        "tier: edge\n    parent: cloud\n",
        "tier: cloud\n",
        "topology.rule",
        "f.yaml:15: sites.edge1.tier:",
        "2 cloud",
    ),
    (
        "jurisdiction: NO",
        "jurisdiction: Norway",
        "topology.field",
        "f.yaml:12: sites.cloud.jurisdiction:",
        "match",
    ),
    ("jurisdiction: NO", "parent: edge1", "topology.rule", "f.yaml:12: sites.cloud.parent:", "root"),
    (
        "jurisdiction: NO",
        "uplink: {latency: 1ms, bandwidth: 1Mbit}",
        "topology.rule",
        "f.yaml:12: sites.cloud.uplink:",
        "",
    ),
    ("    parent: cloud\n", "", "topology.rule", "f.yaml:14: sites.edge1:", "has no parent"),
    ("parent: cloud", "parent: clod", "topology.rule", "f.yaml:16: sites.edge1.parent:", "no site 'clod'"),
    ("parent: cloud", "parent: gw1", "topology.rule", "f.yaml:16: sites.edge1.parent:", "of tier gateway"),
    (
        "parent: cloud",
        "parent: edge1",
        "topology.rule",
        "f.yaml:16: sites.edge1.parent:",
        "is edge1, of tier edge",
    ),
    (
        "parent: edge1",
        "parent: gw1",
        "topology.rule",
        "f.yaml:21: sites.gw1.parent:",
        "is gw1, of tier gateway",
    ),
    (
        "    uplink: {latency: 15ms, bandwidth: 100Mbit}\n",
        "",
        "topology.rule",
        "f.yaml:14: sites.edge1:",
        "no uplink",
    ),
    (
        "latency: 15ms",
        "latency: 15",
        "topology.field",
        "f.yaml:18: sites.edge1.uplink.latency:",
        "'15' is not a duration",
    ),
    (
        "latency: 40ms",
        "latency: 2min",
        "topology.field",
        "f.yaml:24: sites.gw1.uplink.latency:",
        "less than or equal",
    ),
    (
        "bandwidth: 5Mbit",
        "bandwidth: 5 MBit",
        "topology.field",
        "f.yaml:25: sites.gw1.uplink.bandwidth:",
        "is not a rate",
    ),
    (
        "bandwidth: 5Mbit",
        "bandwidth: 0bit",
        "topology.field",
        "f.yaml:25: sites.gw1.uplink.bandwidth:",
        "greater",
    ),
    ("      bandwidth: 5Mbit\n", "", "topology.field", "f.yaml:23: sites.gw1.uplink.bandwidth:", "missing"),
    (
        "      bandwidth: 5Mbit\n",
        "      bandwidth: 5Mbit\n    uplink: {}\n",
        "topology.yaml",
        "f.yaml:26:",
        "sites.gw1.uplink is given twice (first in line 23)",
    ),
    (
        "class: box, memory: 32MiB",
        "class: bax",
        "topology.rule",
        "f.yaml:22: sites.gw1.node.class:",
        "no class 'bax'",
    ),
    (
        "class: box, memory: 32MiB",
        "class: box, id: edge1",
        "topology.rule",
        "f.yaml:22: sites.gw1.node:",
        "both called edge1",
    ),
    (
        "node: {class: box, memory: 32MiB}",
        "node: box",
        "topology.field",
        "f.yaml:22: sites.gw1.node:",
        "dictionary",
    ),
    ("  gw1:\n", "  gw-1:\n", "topology.field", "f.yaml:19: sites.gw-1:", "^[a-z]"),
    (
        "  gw1:\n",
        "  edge1:\n",
        "topology.yaml",
        "f.yaml:19:",
        "sites.edge1 is given twice (first in line 14)",
    ),
    (
        "    class: box\n",
        "    class: bux\n",
        "topology.rule",
        "f.yaml:28: devices.relay.class:",
        "no class 'bux'",
    ),
    ("count: 2", "count: 0", "topology.field", "f.yaml:29: devices.relay.count:", "greater"),
    ("count: 2", "count: 2.5", "topology.field", "f.yaml:29: devices.relay.count:", "integer"),
    ("count: 2", "count: true", "topology.field", "f.yaml:29: devices.relay.count:", "integer"),
    ("count: 2", "count: 10000001", "topology.field", "f.yaml:29: devices.relay.count:", "less than"),
    ("gateways: [gw1]", "gateways: []", "topology.field", "f.yaml:30: devices.relay.gateways:", "at least 1"),
    ("gateways: [gw1]", "gateways: gw1", "topology.field", "f.yaml:30: devices.relay.gateways:", "tuple"),
    (
        "gateways: [gw1]",
        "gateways: [edge1]",
        "topology.rule",
        "f.yaml:30: devices.relay.gateways.0:",
        "not a gateway",
    ),
    (
        "gateways: [gw1]",
        "gateways:\n    - gw1\n    - gw1",
        "topology.rule",
        "f.yaml:32: devices.relay.gateways.1:",
        "twice",
    ),
    (
        "actuators: [breaker]",
        "actuators: [Breaker]",
        "topology.field",
        "f.yaml:31: devices.relay.actuators.0:",
        "match",
    ),
    ("devices:", "device:", "topology.field", "f.yaml:26: device:", "did you mean devices?"),
    ("devices:", "sensors:", "topology.field", "f.yaml:26: sensors:", "known here are topology, currency"),
    ("memory: 64MB\n", "memory: 64MB\n   oops: 1\n", "topology.yaml", "f.yaml:9:", ""),
    ("tier: cloud", "tier: &t cloud", "topology.yaml", "f.yaml:11:", "anchors"),
    ("tier: cloud", "tier: *t", "topology.yaml", "f.yaml:11:", "anchors"),
    ("tier: cloud", "tier: !!python/name:os.system x", "topology.yaml", "f.yaml:11:", "tag"),
    ("tier: cloud", "[a]: cloud", "topology.yaml", "f.yaml:11:", "plain word"),
    ("tier: cloud", f"tier: {'x' * (SCALAR_CHARS_MAX + 1)}", "topology.yaml", "f.yaml:11:", "longer"),
    ("tier: cloud", f"tier: {'[' * DEPTH_MAX}{']' * DEPTH_MAX}", "topology.yaml", "f.yaml:11:", "deep"),
    ("tier: cloud", "tier: \x07", "topology.yaml", "f.yaml:11:", "U+0007"),
    ("tier: cloud", 'tier: "\\UFFFFFFFF"', "topology.yaml", "f.yaml:1:", "cannot be read"),
    ("devices:", "---\ndevices:", "topology.yaml", "f.yaml:26:", "second document"),
]


def refused(text):
    with pytest.raises(TopologyError) as caught:
        read_topology(text, "f.yaml")
    return caught.value


@pytest.mark.parametrize("old, new, code, where, part", WRONG)
def test_a_mistake_is_named_with_line_and_field(old, new, code, where, part):
    assert old in GOOD
    error = refused(GOOD.replace(old, new, 1))
    assert error.code == code
    assert error.what.startswith(where)
    assert part in str(error)
    assert error.why
    assert error.next_step


def test_good_text_is_read_and_norway_is_not_false():
    topology = read_topology(GOOD, "f.yaml")
    assert topology.sites["cloud"].jurisdiction == "NO"
    assert topology.memory_bytes("gw1") == 32 * 2**20


def test_json_is_yaml_too():
    assert (
        refused('{"topology": 1, "classes": {}, "sites": {}}').what
        == "f.yaml:1: classes: dictionary should have at least 1 item after validation, not 0"
    )


def test_parents_cannot_go_round():
    link = "{latency: 1ms, bandwidth: 1Mbit}"
    more = f"  edge2: {{tier: edge, parent: edge1, node: {{class: box}}, uplink: {link}}}\n  gw1:\n"
    error = refused(GOOD.replace("parent: cloud", "parent: edge2", 1).replace("  gw1:\n", more, 1))
    assert error.code == "topology.rule"
    assert error.what.startswith("f.yaml:16: sites.edge1.parent: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "a", "- a\n", "1", "null"])
def test_what_is_no_mapping_is_refused(text):
    assert refused(text).what.startswith("f.yaml:1: ")


def test_limits():
    assert "longer" in refused("#" * (TEXT_CHARS_MAX + 1)).what
    site = {"tier": "gateway", "parent": "cloud", "node": {"class": "box"}}
    topology = {
        "topology": 1,
        "classes": {},
        "devices": {},
        "sites": {f"s{i}": site for i in range(SITES_MAX + 1)},
    }
    with pytest.raises(ValidationError) as caught:
        Topology.model_validate(topology)
    assert ("sites",) in [e["loc"] for e in caught.value.errors() if e["type"] == "too_long"]


@given(st.text(max_size=300))
@example("\ufeff")
@example("%YAML 99999999999999999999.1\n---\na: 1")
@example("a: '\ud800'")
@example("? ? ? ?")
@example("a: |\n  x")
@example("\u2028a: b")
def test_arbitrary_text_raises_nothing_else(text):
    refused(text)


@given(st.data())
def test_damaged_text_raises_nothing_else(data):
    """Cuts, repeats and inserts of good text: much closer to what an editor does than arbitrary characters."""
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(at, min(len(text), at + 40)))
        text = (
            text[:at]
            + data.draw(
                st.sampled_from(["", text[at:end] * 2, ":", "- ", "{", "&a ", "*a", "\t", "!x ", "1e9", "?"])
            )
            + text[end:]
        )
    with contextlib.suppress(TopologyError):
        read_topology(text, "f.yaml")


def test_reading_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read_topology(GOOD, "/no/such/file.yaml")
    assert list(Path.cwd().iterdir()) == []


def test_the_topology_in_the_documentation_is_read():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "topology.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    topology = read_topology(text, "topology.md")
    assert [p.id for p in topology.paths()] == ["gw1-relay"]
    for model in (NodeClass, Site, Node, DeviceGroup, Link):
        for name, field in model.model_fields.items():
            assert f"`{field.alias or name}`" in page, f"the page says nothing of {field.alias or name}"
