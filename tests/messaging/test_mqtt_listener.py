"""The MQTT listener of a site's server: topics as subjects, and what signed claims let devices do there."""

import asyncio

import pytest

from ganglion.connectors.mqtt.packets import V3
from ganglion.connectors.mqtt.settings import Settings
from ganglion.core.errors import MessagingError
from ganglion.host.private import PrivateDirectory
from ganglion.host.system import system_host
from ganglion.messaging.mqtt import Listener, listening, subjects_of
from ganglion.messaging.security.authority import Authority
from ganglion.messaging.security.identity import SiteIdentity
from ganglion.messaging.server import ServerSettings, SiteServer
from tests.connectors.mqtt.clients import running
from tests.messaging.sites import CAPS, until


@pytest.mark.parametrize(
    "topic, subjects",
    [
        ("a/b", ("a.b",)),
        ("a/+/c", ("a.*.c",)),
        ("a/#", ("a", "a.>")),
        ("#", (">",)),
        ("v1.0/x", ("v1//0.x",)),
        ("/a", ("/.a",)),
        ("a//b", ("a./.b",)),
    ],
)
def test_topics_as_subjects(topic, subjects):
    assert subjects_of(topic) == subjects


def test_without_trust_devices_are_a_user_of_their_own():
    text = "\n".join(listening(Listener(1883, ("in/+",), ("out/#",)), trusted=False))
    assert 'no_auth_user: "device"' in text
    assert '"in.*"' in text
    assert '"out.>"' in text
    assert "authorization" not in "\n".join(listening(Listener(1883), trusted=True))


async def ignore(_published):
    return None


def connected(port, name, password, *topics, deliver=ignore):
    settings = Settings("127.0.0.1", port, V3, name, tuple((t, 1) for t in topics), "any", password)
    return running(settings, deliver)


def test_claims_let_devices_do_what_their_topics_say(tmp_path):
    host = system_host(tmp_path / "site")
    port = host.ports.free()
    authority = Authority(PrivateDirectory(tmp_path / "authority"), host.clock)
    identities = PrivateDirectory(tmp_path / "identity")
    authority.init("tree")
    listener = Listener(port, send=("in/+",), hear=("out/+",))
    authority.join("gw", identities, mqtt=listener)
    identity = SiteIdentity(identities, "gw")
    member = authority.member("gw")
    assert member is not None
    assert len(member.users) == 4
    settings = ServerSettings("gw", host.ports.free(), CAPS.sum_bytes, trust=identity.trust(), mqtt=listener)
    server = SiteServer(settings, host)
    devices = (tmp_path / "identity" / "mqtt-devices.jwt").read_bytes()
    taken: list[tuple[str, bytes]] = []
    commands: list[tuple[str, bytes]] = []
    denied: list[str] = []

    async def take(published):
        taken.extend(zip(published.topics, published.payloads, strict=True))

    async def command(published):
        commands.extend(zip(published.topics, published.payloads, strict=True))

    async def test():
        await server.start()
        try:
            async with (
                connected(port, "gateway", identity.mqtt(), "in/+", deliver=take) as gateway,
                connected(port, "device", devices, "out/+", deliver=command) as device,
                connected(port, "curious", devices, "in/+") as curious,
                connected(port, "stranger", b"guessed") as stranger,
            ):
                await until(lambda: at_once(gateway.subscribed and device.subscribed))
                device.publish("in/a", b"reading", qos=1)
                device.publish("out/a", b"forged", qos=0)
                device.publish("j/readings/gw", b"forged", qos=0)
                gateway.publish("out/a", b"command", qos=1)
                await until(lambda: at_once(taken and commands))
                await until(lambda: at_once("mqtt.subscription" in curious.trouble))
                await until(lambda: at_once("mqtt.refused" in stranger.trouble))
                denied.extend((curious.trouble, stranger.trouble))
        finally:
            await server.stop()

    asyncio.run(test())
    assert taken == [("in/a", b"reading")]
    assert commands == [("out/a", b"command")]
    assert "0x80" in denied[0]


async def at_once(value):
    return bool(value)


def test_an_identity_without_mqtt_says_what_to_do(tmp_path):
    host = system_host(tmp_path / "site")
    authority = Authority(PrivateDirectory(tmp_path / "authority"), host.clock)
    authority.init("tree")
    authority.join("gw", PrivateDirectory(tmp_path / "identity"))
    with pytest.raises(MessagingError) as caught:
        SiteIdentity(PrivateDirectory(tmp_path / "identity"), "gw").mqtt()
    assert caught.value.code == "messaging.identity"
