"""A gateway with MQTT devices, as processes: brokers of others, the site's own server, kills, and what is left."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ganglion.connectors.mqtt.client import Client
from ganglion.connectors.mqtt.packets import V3, V5
from ganglion.connectors.mqtt.settings import Settings
from ganglion.host.loopback import SystemPorts
from ganglion.host.system import SystemClock
from ganglion.kernels.c.toolchain import compilers
from tests.integration.processes import command_lines, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "sensors"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto (Debian: mosquitto) is not installed"
)
needs_clients = pytest.mark.skipif(
    shutil.which("mosquitto_sub") is None, reason="mosquitto_sub (Debian: mosquitto-clients) is not installed"
)
T0_MS = 1_700_000_000_000
STEP_MS = 10
KEPT = "qos: 1\n          sequence: time"
"""In the route: acknowledged when on disk, and repeats told by their time."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Compiled once for all nodes of this module."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def broker(tmp_path):
    """A mosquitto of its own; stopped by its process id."""
    port = SystemPorts().free()
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"
    )
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port))
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def flow_directory(tmp_path, **changes):
    """The example with some lines of its topology changed."""
    target = tmp_path / "flow"
    shutil.copytree(EXAMPLE, target, ignore=shutil.ignore_patterns("__pycache__"))
    text = (target / "topology.yaml").read_text()
    for old, new in changes.items():
        pattern = {"qos": "qos: 0   ", "broker": "broker: mqtt://127.0.0.1:1883", "version": 'version: "5"'}[
            old
        ]
        assert pattern in text
        text = text.replace(pattern, new)
    (target / "topology.yaml").write_text(text)
    return target


class Node:
    """``ganglion node run`` as a process."""

    def __init__(self, flow, directory, kernels, *options):
        self.flow, self.directory, self.options = flow, directory, options
        directory.mkdir(exist_ok=True)
        if not (directory / "kernels").exists():
            (directory / "kernels").symlink_to(kernels)
        self.process: Any = None

    def start(self):
        (self.directory / "report.json").unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "ganglion.cli",
            "node",
            "run",
            str(self.flow),
            "--dir",
            str(self.directory),
        ]
        with (self.directory.parent / "node.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log)
        wait_for(lambda: self.report().get("phase") == "ready" and self.report()["mqtt"]["connected"])
        return self

    def report(self):
        assert self.process.poll() is None, self.log_text()
        try:
            return json.loads((self.directory / "report.json").read_text())
        except FileNotFoundError:
            return {}

    def log_text(self):
        return (self.directory.parent / "node.log").read_text()

    def kill(self, *, server=False):
        """SIGKILL to the agent, and to its message server."""
        pid = self.report()["server_pid"]
        self.process.kill()
        self.process.wait()
        if server and pid in command_lines():
            os.kill(pid, signal.SIGKILL)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(30) == 0, self.log_text()

    def windows(self):
        """(device, start) -> rows of the newest revision, as the sink's file has it."""
        with pa.ipc.open_stream((self.directory / "sinks" / "windows.arrows").read_bytes()) as file:
            rows = file.read_all().to_pylist()
        return {(r["origin"], r["start_ns"]): (r["rows"], r["mean"]) for r in rows}


@pytest.fixture
def node(tmp_path, kernels):
    made = []

    def make(flow, *options):
        made.append(Node(flow, tmp_path / "node", kernels, *options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


async def publishing(port, level, messages, qos, *, sent=None, user=None):
    """Publishes as a device would; returns how many were acknowledged."""
    arrived: list[bool] = []

    async def ignore(_published):
        return None

    settings = Settings("127.0.0.1", port, level, f"device{random.getrandbits(32)}", sent_max=20_000)
    client = Client(settings, lambda t: t, ignore, SystemClock(), random.Random())
    running = asyncio.ensure_future(client.run())
    async with asyncio.timeout(60):
        while not client.subscribed:
            await asyncio.sleep(0.01)
        for topic, payload in messages:
            client.publish(topic, payload, qos=qos, within_ns=60 * 10**9, done=arrived.append)
            if sent is not None:
                sent.append(payload)
            if qos == 0:
                await asyncio.sleep(0)
        while qos and len(arrived) < len(messages):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2 if qos == 0 else 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return sum(arrived)


def readings(first, count, sensors=5):
    """In steps of 10 ms of event time, sensors in turn."""
    for n in range(first, first + count):
        payload = {"ts": T0_MS + n * STEP_MS, "sensor": f"s{n % sensors}", "temp": 20.0 + n % sensors, "q": 0}
        yield "in/readings", json.dumps(payload).encode()


@needs_mosquitto
@needs_clients
def test_a_foreign_broker_with_foreign_clients(broker, node, tmp_path):
    gateway = node(flow_directory(tmp_path), "--broker", f"mqtt://127.0.0.1:{broker}").start()
    output = tmp_path / "heard"
    with output.open("wb") as file:
        listener = subprocess.Popen(
            ["mosquitto_sub", "-p", str(broker), "-t", "out/#", "-F", "%t %p", "-C", "12", "-W", "40"],
            stdout=file,
        )
        try:
            time.sleep(0.5)
            lines = [payload for _, payload in readings(0, 310)]
            lines[33] = json.dumps({"ts": T0_MS + 330, "sensor": "s3", "temp": 150, "q": 0}).encode()
            lines[38] = json.dumps({"ts": T0_MS + 380, "sensor": "s3", "temp": 150, "q": 1}).encode()
            lines[44] = b"nonsense"
            lines[55] = b'{"ts": 1, "sensor": "s0", "temp": "hot", "q": 0}'
            subprocess.run(
                ["mosquitto_pub", "-p", str(broker), "-t", "in/readings", "-q", "1", "-l"],
                input=b"\n".join(lines) + b"\n",
                check=True,
                timeout=30,
            )
            wait_for(lambda: output.read_bytes().count(b"\n") >= 11)
        finally:
            listener.terminate()
            listener.wait()
    heard = [line.split(" ", 1) for line in output.read_text().splitlines()]
    (alarm,) = (json.loads(payload) for topic, payload in heard if topic == "out/alarm")
    assert (alarm["device"], alarm["verb"], alarm["row"]) == ("s3", "raise", {"temp": 150.0, "q": 0})
    windows = [json.loads(payload) for topic, payload in heard if topic == "out/windows"]
    means = {(w["device"], w["start_ns"]): (w["n"], w["mean"]) for w in windows}
    assert means["s0", T0_MS * 10**6] == (19.0, 20.0)  # one of its twenty was refused
    assert means["s1", (T0_MS + 1000) * 10**6] == (20.0, 21.0)
    wait_for(lambda: gateway.report()["mqtt"]["dead_letters"] == {"mqtt.payload": 1, "mqtt.value": 1})
    if compilers():
        assert gateway.report()["mqtt"]["decoder"]["routes"] == 1
    shown = subprocess.run(
        [sys.executable, "-m", "ganglion.cli", "node", "dead-letters", str(gateway.directory)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert "mqtt.value 'in/readings': temp is 'hot'" in shown
    assert "nonsense" in shown


def once_each(gateway, count):
    """Every reading in its window, exactly once: the last of each sensor closes the windows before it."""
    wait_for(lambda: gateway.report()["stages"]["in:readings"]["rows"] >= count)
    wait_for(lambda: gateway.report()["settled"])
    gateway.stop()
    windows = gateway.windows()
    expected: dict[tuple[str, int], int] = {}
    for n in range(count):
        start = (T0_MS + n * STEP_MS) // 1000 * 10**9
        key = (f"gw-sensor-s{n % 5}", start)
        expected[key] = expected.get(key, 0) + 1
    last = (T0_MS + (count - 1) * STEP_MS) // 1000 * 10**9
    expected = {k: v for k, v in expected.items() if k[1] < last}
    assert {k: rows for k, (rows, _) in windows.items() if k[1] < last} == expected


@needs_mosquitto
def test_killed_in_the_middle_each_reading_counts_once(broker, node, tmp_path):
    """QoS 1 and a persistent session: the broker gives again what was not acknowledged, and it is told by its time."""
    flow = flow_directory(tmp_path, qos=KEPT)
    gateway = node(flow, "--broker", f"mqtt://127.0.0.1:{broker}").start()
    total = 3000

    async def scenario():
        for part in range(3):
            task = asyncio.ensure_future(publishing(broker, V5, list(readings(part * 1000, 1000)), 1))
            if part == 1:
                await asyncio.sleep(0.15)
                gateway.kill()
                assert await task == 1000  # the broker has them, the gateway is not there
                await asyncio.to_thread(gateway.start)
            else:
                assert await task == 1000

    asyncio.run(scenario())
    once_each(gateway, total)


def quiet(gateway):
    """Until no more messages come."""
    before = -1
    while (now := gateway.report()["mqtt"]["client"]["messages"]) != before:
        before = now
        time.sleep(0.6)


def test_the_sites_own_server_keeps_what_it_acknowledged(node, tmp_path):
    """A device of QoS 1 is answered by the site's server: killed with it, nothing acknowledged is lost or doubled."""
    port = SystemPorts().free()
    flow = flow_directory(tmp_path, qos=KEPT, broker=f"listen: {port}\n      redelivery_s: 4", version="")
    gateway = node(flow).start()

    async def scenario():
        assert await publishing(port, V3, list(readings(0, 300)), 1) == 300
        gateway.kill(server=True)
        await asyncio.to_thread(gateway.start)
        assert await publishing(port, V3, list(readings(300, 300)), 1) == 300

    asyncio.run(scenario())
    once_each(gateway, 600)


def test_a_device_at_the_sites_own_server_may_do_nothing_but_its_topics(node, tmp_path):
    paho: Any = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
    port = SystemPorts().free()
    gateway = node(flow_directory(tmp_path, broker=f"listen: {port}", version="")).start()
    heard, granted = [], {}
    device = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="intruder")
    device.on_message = lambda _c, _u, m: heard.append((m.topic, json.loads(m.payload)))
    device.on_subscribe = lambda _c, _u, mid, reasons, _p: granted.update({mid: [r.value for r in reasons]})
    device.connect("127.0.0.1", port)
    device.loop_start()
    try:
        asked = {topic: device.subscribe(topic, 1)[1] for topic in ("out/alarm", "in/#", "$JS/#", "j/#")}
        wait_for(lambda: len(granted) == len(asked))
        assert [granted[asked[t]][0] < 0x80 for t in asked] == [True, False, False, False]
        before = gateway.report()["input_last"]
        for topic in ("j/readings/forged", "out/alarm", "$JS/API/STREAM/PURGE/JOURNAL_gw"):
            device.publish(topic, b"x", 0)
        payload = {"ts": T0_MS, "sensor": "s1", "temp": 200, "q": 0}
        device.publish("in/readings", json.dumps(payload), 1).wait_for_publish(20)
        wait_for(lambda: heard)
    finally:
        device.loop_stop()
        device.disconnect()
    assert [(t, v["device"]) for t, v in heard] == [("out/alarm", "s1")]
    quiet(gateway)
    report = gateway.report()
    assert report["mqtt"]["rows"] == 1
    assert report["bad_messages"] == 0
    assert report["input_last"] > before or report["mqtt"]["intake"]["stored_rows"] == 1
