"""What a topology may say of MQTT, and one clear line for whatever it may not."""

from dataclasses import asdict

import orjson
import pytest

from ganglion.core.declarations import declaration
from ganglion.core.errors import TopologyError
from ganglion.core.topology_mqtt import Mqtt, captures, template_filter, topic_filter
from ganglion.core.topology_text import read_topology
from ganglion.placement.changes import changed

GOOD = """\
topology: 1
classes:
  sensor: {ns_per_call: 0, ns_per_operation: 0, hop_us: 0, memory: 1MB, cannot_run: [map, where, around, window, act]}
  board: {ns_per_call: 0, ns_per_operation: 0, hop_us: 0, memory: 1MB}
  box: {ns_per_call: 1000, ns_per_operation: 1, hop_us: 10, memory: 1GB}
sites:
  cloud: {tier: cloud, node: {class: box}}
  gw:
    tier: gateway
    parent: cloud
    node: {class: box}
    uplink: {latency: 20ms, bandwidth: 10Mbit}
    mqtt:
      broker: mqtts://broker.example:8883
      routes:
        - topic: plant/+/{line}/{sensor}/temp
          devices: sensor
          stream: readings
          payload: json
          device: "{line}_{sensor}"
          time: {field: ts, unit: ms}
      commands:
        - {actuator: alarm, topic: "alarms/{device}"}
      outputs:
        - {sink: windows, topic: out/windows}
devices:
  sensor: {class: sensor, count: 5, gateways: [gw], link: {latency: 1ms, bandwidth: 1Mbit}}
  board: {class: board, count: 5, gateways: [gw], link: {latency: 1ms, bandwidth: 1Mbit}}
"""
ROUTE = "sites.gw.mqtt.routes.0"
WRONG = [
    ("{class: box}}", '{class: box}, mqtt: {broker: "mqtt://x"}}', "topology.rule", "sites.cloud.mqtt"),
    ("devices: sensor", "devices: nobody", "topology.rule", f"{ROUTE}.devices"),
    ("devices: sensor", "devices: board", "topology.rule", f"{ROUTE}.devices"),
    ("plant/+/{line}", "plant/a+/{line}", "topology.field", f"{ROUTE}.topic"),
    ("plant/+/{line}", "plant/#/{line}", "topology.field", f"{ROUTE}.topic"),
    ("plant/+/{line}", "plant/x{line}", "topology.field", f"{ROUTE}.topic"),
    ("plant/+/{line}", "plant/{line}/{line}", "topology.field", f"{ROUTE}.topic"),
    ('"{line}_{sensor}"', '"{place}"', "topology.field", f"{ROUTE}.device"),
    ("payload: json", "payload: xml", "topology.field", f"{ROUTE}.payload"),
    ("payload: json", "payload: raw-f32", "topology.field", f"{ROUTE}.payload"),
    ("payload: json", "payload: raw-f32le", "topology.field", f"{ROUTE}.payload"),
    ("payload: json", 'admit: "(" ', "topology.field", f"{ROUTE}.admit"),
    ("payload: json", "qos: 2", "topology.field", f"{ROUTE}.qos"),
    ("payload: json", "quality: 1", "topology.field", f"{ROUTE}.quality"),
    ("unit: ms", "unit: minutes", "topology.field", f"{ROUTE}.time.unit"),
    ("alarms/{device}", "alarms/#", "topology.field", "sites.gw.mqtt.commands.0.topic"),
    ("mqtts://broker.example:8883", "http://x", "topology.field", "sites.gw.mqtt.broker"),
    ("mqtts://broker.example:8883", "mqtt://u:p@x", "topology.field", "sites.gw.mqtt.broker"),
    ("mqtts://broker.example:8883", "mqtt://x:99999", "topology.field", "sites.gw.mqtt.broker"),
    (
        "broker: mqtts://broker.example:8883\n",
        "broker: mqtt://x\n      listen: 1883\n",
        "topology.field",
        "mqtt",
    ),
    ("broker: mqtts://broker.example:8883\n", "keep_alive_s: 5\n", "topology.field", "sites.gw.mqtt"),
    (
        "broker: mqtts://broker.example:8883\n",
        'listen: 1883\n      version: "5"\n',
        "topology.field",
        "version",
    ),
]


def test_a_topology_with_mqtt_is_read():
    mqtt = read_topology(GOOD, "f.yaml").sites["gw"].mqtt
    assert mqtt is not None
    assert mqtt.routes[0].qos == 1
    assert declaration(Mqtt, orjson.loads(orjson.dumps(asdict(mqtt)))) == mqtt


def test_a_site_with_a_listener_can_be_asked_what_if():
    topology = read_topology(GOOD.replace("broker: mqtts://broker.example:8883", "listen: 1883"), "f.yaml")
    faster = changed(topology, "link gw bandwidth=20Mbit")
    assert faster.uplink("gw").bandwidth_bit_per_s == 20_000_000
    assert faster.sites["gw"].mqtt == topology.sites["gw"].mqtt


@pytest.mark.parametrize("old, new, code, place", WRONG)
def test_what_it_may_not_say(old, new, code, place):
    assert old in GOOD
    with pytest.raises(TopologyError) as caught:
        read_topology(GOOD.replace(old, new), "f.yaml")
    error = caught.value
    assert error.code == code
    assert place in error.what
    assert error.what.startswith("f.yaml:")
    assert error.why
    assert error.next_step


def test_names_of_levels():
    assert captures("a/{x}/+/{y_1}/#") == ("x", "y_1")
    assert topic_filter("a/{x}/+/{y_1}/#") == "a/+/+/+/#"
    assert template_filter("a/x{device}/b") == "a/+/b"
