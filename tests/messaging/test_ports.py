"""What each door of a site's server asks for, what it tells strangers, and what the configuration holds it to."""

from __future__ import annotations

import asyncio
import json
import ssl

import pytest

from ganglion.host.private import PrivateDirectory
from ganglion.host.system import SystemClock
from ganglion.messaging.cluster import Place, member
from ganglion.messaging.security.authority import Authority
from ganglion.messaging.security.identity import SiteIdentity
from ganglion.messaging.server import ServerSettings, render
from tests.messaging.secured import secured


def shown(authority, certificate=None):
    """A client's side that takes the tree's servers, and shows a certificate or none."""
    context = ssl.create_default_context(cafile=authority / "authority.crt")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate is not None:
        context.load_cert_chain(certificate / "site.crt", certificate / "site.key")
    return context


async def knock(port, context, says=b""):
    """(the greeting, all that the server says once the connection is encrypted, until it hangs up)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    greeting = json.loads((await reader.readline()).partition(b" ")[2])
    try:
        await writer.start_tls(context, server_hostname="127.0.0.1")
        writer.write(says)
        async with asyncio.timeout(20):
            return greeting, await reader.read()
    except (ssl.SSLError, ConnectionError):
        return greeting, b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("door", ["clients", "children"])
def test_a_door_wants_a_certificate_of_the_tree_and_then_a_signed_user(tmp_path, door):
    async def test():
        async with secured(tmp_path, ("gwa",)) as tree:
            other = Authority(PrivateDirectory(tmp_path / "other"), tree.host.clock)
            other.init("other tree")
            other.join("hub", PrivateDirectory(tmp_path / "foreign"))
            port = tree.ports["hub"] if door == "clients" else tree.leaf_port
            says = b'CONNECT {"verbose":false,"name":"stranger"}\r\nPING\r\n'
            trusted = tmp_path / "authority"
            greeting, answer = await knock(port, shown(trusted), says)
            assert greeting["tls_required"]
            assert greeting["tls_verify"]
            assert answer == b"", "no certificate"
            _, answer = await knock(port, shown(trusted, tmp_path / "foreign"), says)
            assert answer == b"", "a certificate of another tree"
            _, answer = await knock(port, shown(trusted, tmp_path / "identities" / "gwa"), says)
            assert b"-ERR 'Authorization Violation'" in answer, "a certificate alone is nobody"

    asyncio.run(test())


def test_greetings_name_no_other_addresses(tmp_path):
    """A child that learned of others would go round the path that it was given."""

    async def test():
        async with secured(tmp_path, ("gwa",)) as tree:
            for port in (tree.ports["hub"], tree.leaf_port):
                greeting, _ = await knock(port, shown(tmp_path / "authority"), b"PING\r\n")
                assert not greeting.get("connect_urls")
                assert not greeting.get("leafnode_urls")

    asyncio.run(test())


def test_every_stream_of_a_site_has_a_cap_and_refuses_what_is_beyond_it(tmp_path):
    async def test():
        async with secured(tmp_path, ("gwa",)) as tree:
            for site, bus in tree.buses.items():
                streams = (await bus.ask("STREAM.LIST", {}))["streams"]
                assert len(streams) == 3, site
                for stream in streams:
                    config = stream["config"]
                    assert 0 < config["max_bytes"] <= 1 << 20, config
                    assert config["discard"] == "new"
                    assert config["max_age"] == 0

    asyncio.run(test())


def test_the_secured_configuration_holds_what_it_promises(tmp_path):
    """One server of a hub of three, which has all there is; a single server's differs by the routes."""
    authority = Authority(PrivateDirectory(tmp_path / "authority"), SystemClock())
    authority.init("tree")
    authority.join("hub", PrivateDirectory(tmp_path / "hub"))
    authority.equip("hub", PrivateDirectory(tmp_path / "one"), hosts=["h1"])
    places = [Place(f"hub-{n}", f"h{n}", 4222, 7422) for n in (1, 2, 3)]
    trust = SiteIdentity(PrivateDirectory(tmp_path / "one"), "hub").trust()
    one = member(places, 0, "0.0.0.0", tmp_path / "one")  # it is a text here
    text = render(
        ServerSettings("hub", 4222, 1 << 30, 7422, trust=trust, member=one), tmp_path, preload=False
    )
    assert text.count("verify: true") == text.count('min_version: "1.3"') == 3, "clients, children, routes"
    assert text.count("no_advertise: true") == 2, "children and routes"
    for line in (
        'ping_interval: "3s"',
        "ping_max: 2",
        "sync_interval: always",
        "max_file_store: 1073741824",
        'routes: ["nats-route://h2:6222", "nats-route://h3:6222"]',
        "type: full",
    ):
        assert line in text, line
    assert "resolver_preload" not in text, "older claims would be believed before newer ones"
    assert "seed" not in text.lower()
    alone = render(ServerSettings("hub", 4222, 1 << 30, 7422, "tls://p:1,tls://q:1", trust), tmp_path)
    assert 'urls: ["tls://p:1", "tls://q:1"]' in alone
    assert alone.count('ca_file: "') == 3, "clients, children, parent"
    assert "cluster {" not in alone
    assert "resolver_preload" in alone
