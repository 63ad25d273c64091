"""What an agent is told: the same after a way through its file, and refused where it has another form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from ganglion.agent.config import Limits, NodeConfig, WorkerConfig, load_config
from ganglion.core.declarations import declaration
from ganglion.core.errors import DataError
from ganglion.core.topology_mqtt import Mqtt
from ganglion.flow.assignment import Assignment

MQTT = {
    "broker": "mqtts://broker.example:8883",
    "version": "3.1.1",
    "routes": [
        {
            "topic": "plant/{line}/{sensor}",
            "devices": "sensor",
            "stream": "readings",
            "device": "{line}_{sensor}",
            "time": {"field": "ts", "unit": "us"},
            "fields": {"temp": "data.temp"},
        }
    ],
    "commands": [{"actuator": "alarm", "topic": "to/{device}", "qos": 0}],
    "outputs": [{"sink": "kept", "topic": "out"}],
}


def config() -> NodeConfig:
    return NodeConfig(
        assignment=Assignment(
            "gw", "gw", "gateway", "0" * 64, {"hot": frozenset(["gw-sensor"])}, {"hot": frozenset(["x", "y"])}
        ),
        flow_dir=Path("/flow"),
        nats_port=4222,
        leaf_port=0,
        parent_url="nats-leaf://127.0.0.1:7422",
        children={"a": ("gw-sensor",), "b": ()},
        coap_port=5683,
        paths=("gw-sensor",),
        kernel_dir=Path("/kernels"),
        limits=Limits(journal_bytes_max=1 << 20, durable=False),
        identity_dir=Path("/identity"),
        mqtt=declaration(Mqtt, MQTT),
        mqtt_devices={"sensor": 5},
        processes=1,
        parent_processes=3,
    )


def loaded(directory: Path, value: Any) -> Any:
    path = directory / "config.json"
    path.write_bytes(orjson.dumps(value))
    return load_config(path)


@pytest.mark.parametrize("made", [config(), WorkerConfig(config(), 2)], ids=["node", "worker"])
def test_what_is_written_is_read_back(tmp_path, made):
    assert loaded(tmp_path, made.to_json()) == made


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"nats_port": "4222"}, "nats_port: '4222' is not a whole number"),
        ({"nats_port": True}, "nats_port: True is not a whole number"),
        ({"children": ["a", "b"]}, "is not a mapping"),
        ({"children": {"a": "b"}}, "children.a: 'b' is not a list"),
        ({"children": {"a": [1]}}, "children.a.0: 1 is not a text"),
        ({"flow_dir": None}, "flow_dir: nothing is not a text"),
        ({"identity_dir": 3}, "identity_dir: 3 is not a text"),
        ({"limits": {"durable": "no"}}, "limits.durable: 'no' is not true or false"),
        ({"limits": {"journal_bytes": 1}}, "limits.journal_bytes: unknown key"),
        ({"mqtt_devices": {"sensor": "5"}}, "mqtt_devices.sensor: '5' is not a whole number"),
        ({"mqtt": {**MQTT, "listen": 1883}}, "mqtt: MQTT with both a broker and a listener"),
        ({"mqtt": {**MQTT, "keep_alive_s": 0}}, "mqtt.keep_alive_s: 0 is out of range"),
        ({"mqtt": {**MQTT, "routes": [{"topic": "a"}]}}, "mqtt.routes.0.devices: missing"),
        ({"mqtt": {**MQTT, "broker": "http://x"}}, "mqtt.broker: 'http://x' is no broker's address"),
        ({"colour": "red"}, "colour: unknown key"),
    ],
)
@pytest.mark.parametrize("worker", [False, True], ids=["node", "worker"])
def test_a_part_of_another_form_is_named(tmp_path, changes, part, worker):
    value = {**config().to_json(), **changes}
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, {"kind": "worker", "node": value, "index": 0} if worker else value)
    assert caught.value.code == "agent.config"
    assert part in caught.value.why
    assert caught.value.next_step


@pytest.mark.parametrize("name", ["nats_port", "paths", "limits", "assignment"])
def test_a_part_that_is_missing_is_named(tmp_path, name):
    value = config().to_json()
    del value[name]
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, value)
    assert caught.value.code == "agent.config"
    assert f"{name}: missing" in caught.value.why


@pytest.mark.parametrize("value", [None, 3, [], "node", {}, {"kind": "node"}, {"kind": "worker", "node": []}])
def test_what_is_no_configuration_at_all_is_refused(tmp_path, value):
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, value)
    assert caught.value.code == "agent.config"


def test_a_file_that_is_no_json_or_not_there_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    for name in ("config.json", "none.json"):
        with pytest.raises(DataError) as caught:
            load_config(tmp_path / name)
        assert caught.value.code == "agent.config"
