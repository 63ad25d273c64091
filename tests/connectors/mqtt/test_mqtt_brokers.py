"""The client against mosquitto: users, TLS, sessions that outlive a connection, and other people's clients."""

import asyncio
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest

from ganglion.connectors.mqtt.settings import settings_of
from ganglion.core.declarations import declaration
from ganglion.core.topology_mqtt import Mqtt
from ganglion.host.loopback import SystemPorts
from ganglion.host.system import SystemClock
from ganglion.messaging.security import certificates
from tests.connectors.mqtt.clients import running, until

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
pytestmark = [
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto (Debian: mosquitto) is not installed"),
    pytest.mark.skipif(
        shutil.which("mosquitto_pub") is None,
        reason="mosquitto_pub (Debian: mosquitto-clients) is not installed",
    ),
    pytest.mark.parametrize("version", ["3.1.1", "5"]),
]
ROUTE = {"topic": "in/{sensor}", "devices": "s", "stream": "r", "device": "{sensor}"}


@contextmanager
def mosquitto(directory, *lines):
    port = SystemPorts().free()
    (directory / "mosquitto.conf").write_text("\n".join((f"listener {port} 127.0.0.1", *lines, "")))
    process = subprocess.Popen(
        [str(MOSQUITTO), "-c", str(directory / "mosquitto.conf")], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(400):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


def connected(directory, deliver, **declared):
    made = settings_of(declaration(Mqtt, {"routes": [ROUTE], **declared}), "gw", directory)
    return running(made, deliver)


def publish(port, *words):
    subprocess.run(["mosquitto_pub", "-p", str(port), "-i", "foreign", *words], check=True, timeout=20)


async def ignore(_published):
    return None


def test_a_session_keeps_what_was_missed(tmp_path, version):
    taken = []

    async def take(published):
        taken.extend(published.payloads)

    async def scenario(port):
        declared = {"broker": f"mqtt://127.0.0.1:{port}", "version": version}
        async with connected(tmp_path, take, **declared) as client:
            await until(lambda: client.subscribed)
            await asyncio.to_thread(publish, port, "-t", "in/a", "-m", "1", "-q", "1")
            await until(lambda: taken == [b"1"])
        await asyncio.to_thread(publish, port, "-t", "in/a", "-m", "2", "-q", "1")
        await asyncio.to_thread(publish, port, "-t", "in/a", "-m", "old", "-q", "1", "-r")
        async with connected(tmp_path, take, **declared) as client:
            await until(lambda: client.subscribed and b"2" in taken)
            await asyncio.to_thread(publish, port, "-t", "in/a", "-m", "3", "-q", "2")
            await until(lambda: b"3" in taken)
        assert [t for t in taken if t != b"old"] == [b"1", b"2", b"3"]
        assert taken.count(b"old") == 1  # it was news to the session; the copy that is kept is not

    with mosquitto(tmp_path, "allow_anonymous true", "persistence false") as port:
        asyncio.run(scenario(port))


def test_what_was_not_acknowledged_comes_again(tmp_path, version):
    async def scenario(port):
        declared = {"broker": f"mqtt://127.0.0.1:{port}", "version": version}
        never, taken = [], []

        async def hold(published):
            never.append(asyncio.get_running_loop().create_future())
            return never[-1]

        async def take(published):
            taken.extend(published.payloads)

        async with connected(tmp_path, hold, **declared) as client:
            await until(lambda: client.subscribed)
            await asyncio.to_thread(publish, port, "-t", "in/a", "-m", "1", "-q", "1")
            await until(lambda: never)
        async with connected(tmp_path, take, **declared) as client:
            await until(lambda: taken == [b"1"])
            assert client.counts.repeated == 1

    with mosquitto(tmp_path, "allow_anonymous true", "persistence false") as port:
        asyncio.run(scenario(port))


def test_tls_and_users(tmp_path, version):
    clock = SystemClock()
    key, authority = certificates.make_authority("test", clock.wall_ns() // 10**9)
    own_key, own = certificates.make_site_certificate(
        key, authority, "broker", ("127.0.0.1",), clock.wall_ns() // 10**9
    )
    for name, content in (("ca.crt", authority), ("broker.crt", own), ("broker.key", own_key)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "secret").write_text("word\n")
    (tmp_path / "wrong").write_text("guess\n")
    subprocess.run(
        ["mosquitto_passwd", "-c", "-b", str(tmp_path / "users"), "gateway", "word"], check=True, timeout=20
    )

    async def scenario(port):
        declared = {
            "broker": f"mqtts://127.0.0.1:{port}",
            "version": version,
            "user": "gateway",
            "password_file": "secret",
            "ca_file": "ca.crt",
        }
        async with connected(tmp_path, ignore, **declared) as client:
            await until(lambda: client.subscribed)
        async with connected(tmp_path, ignore, **{**declared, "password_file": "wrong"}) as client:
            await until(lambda: "mqtt.refused" in client.trouble)
        async with connected(tmp_path, ignore, **{**declared, "ca_file": None}) as client:
            await until(lambda: "mqtt.unreachable" in client.trouble)
            assert "certificate" in client.trouble

    lines = [
        f"{name} {tmp_path / file}" for name, file in (("certfile", "broker.crt"), ("keyfile", "broker.key"))
    ]
    users = ["allow_anonymous false", f"password_file {tmp_path / 'users'}", "user root"]
    with mosquitto(tmp_path, *lines, *users) as port:
        asyncio.run(scenario(port))
