"""What a gateway publishes, and what it refuses to start with."""

import json
from pathlib import Path

import numpy as np
import pytest

import ganglion as gg
from ganglion.agent.mqtt import REST_NS_MAX, MqttDoor, mqtt_listener
from ganglion.connectors.mqtt.decoding import Decoded
from ganglion.connectors.mqtt.reading import Published
from ganglion.connectors.mqtt.settings import Settings
from ganglion.core.batch import Batch
from ganglion.core.block import Block
from ganglion.core.declarations import declaration
from ganglion.core.errors import ConnectorError, TopologyError
from ganglion.core.topology_mqtt import Mqtt
from ganglion.host.system import system_host
from ganglion.kernels.c.toolchain import compilers

ROUTE = {"topic": "in", "devices": "sensor", "stream": "readings", "device": "sensor"}


def flow(within="1s"):
    made = gg.Flow("t")
    readings = made.source("readings", gg.Row(temp=gg.f32), every="1s")
    readings.where(lambda r: r.temp > 100, id="hot").act("alarm", "raise", within=within)
    readings.sink("kept", at="gateway")
    readings.sink("far", at="cloud")
    return made.spec()


def door(tmp_path: Path, monkeypatch=None, *, offline=False, within="1s", **mqtt):
    declared = {"broker": "mqtt://127.0.0.1:1", "routes": [ROUTE], **mqtt}
    settings = Settings("127.0.0.1", 1, 5, "gw")
    made = MqttDoor(
        flow(within), declaration(Mqtt, declared), "gw", {"sensor": 5}, settings, system_host(tmp_path)
    )
    sent = []
    if not offline:

        def publish(topic, payload, *, qos, within_ns, done):
            sent.append((topic, json.loads(payload), qos, done))

        monkeypatch.setattr(made.client, "publish", publish)
    made.remember({"gw-sensor-s1", "gw-sensor-a:2fb", "gw-other-x"})
    return made, sent


def batch(origin="gw-sensor-s1", count=2):
    return Batch(
        "hot",
        origin,
        np.arange(count),
        np.arange(count) * 10,
        {"temp": np.arange(count, dtype=np.float32) + 100.5},
    )


def test_the_socket_rests_as_long_as_deadlines_allow(tmp_path):
    rests_ns = [door(tmp_path, offline=True, within=w)[0].client.pace.rest_ns for w in ("1s", "16ms", "1us")]
    assert rests_ns == [REST_NS_MAX, 1_000_000, 62]


def read(*temps, time_ns=0, route=0, packet_ids=(), payloads=()):
    count = len(temps)
    times = None if time_ns is None else np.full(count, time_ns)
    columns = {"temp": np.array(temps, np.float32)}
    published = Published()
    published.decoded = [(0, Decoded(route, np.zeros(count, np.int32), times, None, columns))]
    published.packet_ids, published.payloads = list(packet_ids), list(payloads)
    return published


def test_only_readings_that_nobody_waits_for_wait_for_others(tmp_path):
    patient = door(tmp_path, offline=True)[0].client.pace.patient
    assert patient(read(20.0, 100.0))
    assert not patient(read(20.0, 100.5))
    assert not patient(read(20.0, packet_ids=(1,)))
    assert not patient(read(20.0, payloads=(b"{}",)))
    # The gateway says when such came, so they are not to come later.
    assert not patient(read(20.0, time_ns=None))


@pytest.mark.skipif(not compilers(), reason="there is no C compiler (gcc, clang or ziglang)")
def test_the_report_says_by_what_usual_messages_are_read(tmp_path):
    made, _ = door(tmp_path, offline=True)
    assert made.to_json()["decoder"] is None
    made.compile(tmp_path / "kernels")
    assert made.to_json()["decoder"]["routes"] == 1
    packed, _ = door(tmp_path, offline=True, routes=[{**ROUTE, "payload": "cbor"}])
    packed.compile(tmp_path / "kernels")
    assert packed.to_json()["decoder"] is None


def test_a_command_for_each_row(tmp_path, monkeypatch):
    made, sent = door(
        tmp_path, monkeypatch, commands=[{"actuator": "alarm", "topic": "to/{device}/{verb}", "qos": 1}]
    )
    made.act("alarm_raise", batch(), 5)
    assert [(t, q) for t, _, q, _ in sent] == [("to/s1/raise", 1)] * 2
    assert sent[1][1] == {
        "id": "alarm_raise:gw-sensor-s1:1",
        "device": "s1",
        "origin": "gw-sensor-s1",
        "actuator": "alarm",
        "verb": "raise",
        "seq": 1,
        "time_ns": 10,
        "row": {"temp": 101.5},
    }
    sent[0][3](False)
    sent[1][3](True)
    assert (made.counts.commands, made.counts.commands_failed) == (2, 1)
    assert [r.received_ns for r in made.reactions] == [5, 5]


def test_blocks_are_as_their_batches(tmp_path, monkeypatch):
    made, sent = door(
        tmp_path,
        monkeypatch,
        commands=[{"actuator": "alarm", "topic": "x"}],
        outputs=[{"sink": "kept", "topic": "{device}"}],
    )
    rows = Block.joined([batch(), batch("gw-sensor-unknown", 1)])
    made.act("alarm_raise", rows, 5)
    made.gave("kept", rows)
    made.gave("far", rows)
    assert [v["device"] for _, v, _, _ in sent] == ["s1", "s1", "gw-sensor-unknown"] * 2
    assert [t for t, _, _, _ in sent[3:]] == ["s1", "s1", "gw-sensor-unknown"]
    assert sent[4][1] == {"device": "s1", "origin": "gw-sensor-s1", "seq": 1, "time_ns": 10, "temp": 101.5}


@pytest.mark.parametrize("commands", [[], [{"actuator": "alarm", "topic": "to/{device}"}]])
def test_a_command_that_cannot_go_anywhere_is_counted_and_said(tmp_path, monkeypatch, commands):
    made, sent = door(
        tmp_path, monkeypatch, commands=commands, outputs=[{"sink": "kept", "topic": "{device}"}]
    )
    made.act("alarm_raise", batch("gw-sensor-a:2fb", 1), 5)
    assert (made.counts.commands_failed, sent) == (1, [])
    assert "mqtt.command" in made.troubles[-1]
    made.gave("kept", batch("gw-sensor-a:2fb", 1))
    assert made.counts.outputs_failed == 1
    assert "mqtt.output" in made.troubles[-1]


def test_without_a_connection_fast_commands_fail_and_sure_ones_wait(tmp_path):
    made, _ = door(tmp_path, offline=True, commands=[{"actuator": "alarm", "topic": "x", "qos": 0}])
    made.act("alarm_raise", batch(), 5)
    assert made.counts.commands_failed == 2
    assert "mqtt.offline" in made.troubles[-1]
    made, _ = door(tmp_path, offline=True, commands=[{"actuator": "alarm", "topic": "x"}])
    made.act("alarm_raise", batch(count=300), 5)
    assert (made.counts.commands, made.counts.commands_failed) == (300, 300 - 256)
    assert "mqtt.full" in made.troubles[-1]


@pytest.mark.parametrize(
    "changes, code",
    [
        ({"routes": [ROUTE | {"stream": "hot"}]}, "mqtt.route"),
        ({"routes": [ROUTE | {"fields": {"nope": "x"}}]}, "mqtt.route"),
        ({"outputs": [{"sink": "far", "topic": "x"}]}, "mqtt.output"),
        ({"outputs": [{"sink": "nope", "topic": "x"}]}, "mqtt.output"),
    ],
)
def test_topology_and_flow_must_fit_together(tmp_path, changes, code):
    with pytest.raises(TopologyError) as caught:
        door(tmp_path, offline=True, **changes)
    assert caught.value.code == code


def test_a_broker_that_is_away_and_dead_letters_are_conditions(tmp_path):
    made, _ = door(tmp_path, offline=True)
    made.letters.counts["mqtt.value"] = 3
    found = made.conditions(tmp_path)
    assert [(c.code, c.severity) for c in found] == [
        ("health.mqtt-away", "warning"),
        ("health.mqtt-dead-letters", "info"),
    ]
    assert "3 MQTT messages" in found[1].text
    assert str(tmp_path) in found[1].command


def test_a_listener_lets_devices_do_what_is_declared():
    declared = {
        "listen": 1883,
        "routes": [ROUTE | {"topic": "a/{sensor}/#"}],
        "commands": [{"actuator": "alarm", "topic": "to/{device}"}],
        "outputs": [{"sink": "kept", "topic": "out"}],
    }
    listener = mqtt_listener(declaration(Mqtt, declared))
    assert listener is not None
    assert (listener.send, listener.hear) == (("a/+/#",), ("to/+", "out"))
    assert mqtt_listener(declaration(Mqtt, {"broker": "mqtt://x"})) is None


def test_files_that_cannot_be_read_are_said(tmp_path):
    from ganglion.connectors.mqtt.settings import settings_of

    (tmp_path / "bad.pem").write_text("x")
    for declared in (
        {"broker": "mqtt://x", "password_file": "none"},
        {"broker": "mqtts://x", "ca_file": "none"},
        {"broker": "mqtts://x", "ca_file": "bad.pem"},
        {"broker": "mqtts://x", "certificate_file": "bad.pem"},
    ):
        with pytest.raises(ConnectorError) as caught:
            settings_of(declaration(Mqtt, declared), "gw", tmp_path)
        assert caught.value.code == "mqtt.file"
    (tmp_path / "secret").write_text("word\n")
    made = settings_of(declaration(Mqtt, {"broker": "mqtt://x", "password_file": "secret"}), "gw", tmp_path)
    assert (made.password, made.port, made.client_id) == (b"word", 1883, "ganglion-gw")
