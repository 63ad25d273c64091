"""A hub of three servers that outgrew one machine, run as the command says: its deaths, its doors, its keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import stat

import pytest
from cryptography import x509

from ganglion.agent.config import NodeConfig, load_config
from ganglion.core.errors import DataError, GanglionError, MessagingError
from ganglion.flow.assignment import Assignment
from ganglion.host.private import PrivateDirectory
from ganglion.messaging import nats
from ganglion.messaging.cluster import ClusterServers
from ganglion.messaging.security import claims
from ganglion.messaging.security.identity import Access, SiteIdentity
from ganglion.sim.virtual.clock import VirtualClock
from ganglion.sim.virtual.loop import run as virtual_run
from tests.core.test_topology_text import GOOD
from tests.messaging.hubs import NAMES, Hub, ganglion, hub_of_three
from tests.messaging.sites import until

IN, OUT = "IN_cloud", "OUT_gwa"


def reading(number):
    """Origin, sequence and digest: whoever has one knows whether it is whole."""
    body = f"gwa {number}"
    return f"{body} {hashlib.sha256(body.encode()).hexdigest()}".encode()


async def send_without_end(bus):
    """Readings one after the other, until cancelled between two of them; returns how many."""
    number = 0
    try:
        while True:
            await bus.append(OUT, "out.readings.gwa", reading(number), expect_last=number)
            number += 1
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        return (await bus.state(OUT)).last_seq


async def grows(bus):
    """Returns once the inbox, whoever leads it, has taken something more."""
    first = None

    async def more():
        nonlocal first
        last = (await bus.state(IN)).last_seq
        first = last if first is None else first
        return last > first

    await until(more)


def test_a_leader_and_then_the_quorum_die_and_nothing_is_lost_doubled_or_reordered(tmp_path):
    async def test():
        async with hub_of_three(tmp_path) as (hub, up, down):
            sending = asyncio.create_task(send_without_end(down))
            await grows(up)
            stored = await up.replicas(IN)
            assert stored.leader in NAMES
            assert (await up.ask(f"STREAM.INFO.{IN}", {}))["config"]["num_replicas"] == 3
            await hub.kill(stored.leader)
            await grows(up)
            await (await hub.connect()).close()  # whoever comes anew finds the living
            second = await up.replicas(IN)
            assert second.leader in set(NAMES) - {stored.leader}
            assert second.behind == (stored.leader,)
            last = next(n for n in NAMES if n not in (stored.leader, second.leader))
            await hub.kill(second.leader)
            before = await down.delivered(OUT)
            sending.cancel()
            count = await sending
            with pytest.raises(MessagingError) as caught:
                await up.state(IN)
            assert caught.value.code == "messaging.unavailable"
            # A parent that has all acknowledges within a second of silence; one of three has nothing for sure.
            await asyncio.sleep(2.5)
            assert await down.delivered(OUT) == before < count
            await hub.start(second.leader)
            await until(lambda: delivered(down, count))
            await hub.start(stored.leader)
            await until(lambda: whole(up))
            messages = up.read(IN, 0)
            found = [await anext(messages) for _ in range(count)]
            await messages.aclose()
            assert [m.payload for m in found] == [reading(n) for n in range(count)]
            assert {m.subject for m in found} == {"in.gwa.out.readings.gwa"}
            assert (await up.state(IN)).last_seq == count
            assert last in hub.processes

    async def delivered(down, count):
        return await down.delivered(OUT) == count

    async def whole(up):
        found = await up.replicas(IN)
        return bool(found.leader) and not found.behind

    asyncio.run(test())


def test_the_doors_of_a_hub_open_for_members_children_and_its_agent_only(tmp_path):
    async def route(hub, keys):
        """Whether a server that shows these files gets a route."""
        context = ssl.create_default_context(cafile=hub.out / "cloud-1" / "routes-authority.crt")
        context.load_cert_chain(keys[0], keys[1])
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", hub.ports[2][0], ssl=context)
        except (ssl.SSLError, ConnectionError):
            return False
        try:
            async with asyncio.timeout(5):
                return (await reader.readline()).startswith(b"INFO ")
        except (ssl.SSLError, ConnectionError):
            return False
        finally:
            writer.transport.abort()

    async def test():
        async with hub_of_three(tmp_path) as (hub, up, down):
            own, child = hub.out / "cloud-2", tmp_path / "identities" / "gwa"
            assert await route(hub, (own / "routes.crt", own / "routes.key"))
            for keys in (child, own, hub.out / "agent"):
                assert not await route(hub, (keys / "site.crt", keys / "site.key")), keys
            for access in (None, uplink_user(child)):
                with pytest.raises(MessagingError):
                    await nats.connect(hub.urls[0], access=access, within_ns=1_000_000_000)
            # A revoked child is cut off wherever it is linked, though one server only was told, and stays so.
            hub.authority.revoke("gwa")
            steward = await nats.connect(hub.urls[0], access=hub.authority.steward())
            await steward.renew_claims(hub.authority.account_claims())
            await steward.close()

            async def gone():
                return not await down.drawn(OUT)

            await until(gone)
            for name in NAMES:
                await hub.kill(name)
                await hub.start(name)
            await down.append(OUT, "out.readings.gwa", b"after")

            async def led():
                return bool((await up.replicas(IN)).leader)

            await until(led)
            await asyncio.sleep(1.5)
            assert not await down.drawn(OUT)
            assert (await up.state(IN)).last_seq == 0

    def uplink_user(child):
        own = SiteIdentity(PrivateDirectory(child), "gwa").access()
        leaf = claims.parse_credentials((child / "leaf.creds").read_bytes())
        return Access(*leaf, own.tls)  # a link's user at the clients' door

    asyncio.run(test())


def test_what_the_command_writes_is_for_its_owner_and_shows_no_secret(tmp_path):
    hub = Hub(tmp_path)
    said = hub.write()
    for path in [hub.out / "agent", *(hub.out / n for n in NAMES), *hub.out.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    secrets = [
        line for p in tmp_path.rglob("*.key") for line in p.read_text().splitlines() if "-" not in line
    ]
    secrets += [p.read_text().split()[-1] for p in (tmp_path / "authority").glob("*.seed")]
    secrets += [claims.parse_credentials(p.read_bytes())[1].seed() for p in tmp_path.rglob("*.creds")]
    assert len(secrets) > 20
    for text in (said, *((hub.out / n / "server.conf").read_text() for n in NAMES)):
        assert not [s for s in secrets if s in text]
    assert not list(hub.out.rglob("*.seed"))
    assert not [p for n in NAMES for p in (hub.out / n).glob("*.creds")], "the top of the tree has no uplink"


def test_a_server_is_named_as_each_of_its_peers_reaches_it(tmp_path):
    hub = Hub(tmp_path)
    hub.authority.init("tree")
    file = tmp_path / "topology.yaml"
    lists = '    servers: ["nats://a:1", "nats://b:1", "nats://[fd00::3]:1"]\n'
    lists += "    leaf_servers: [nats://la:2, nats://lb:2, nats://lc:2]\n"
    file.write_text(GOOD.replace("  edge1:\n", f"  edge1:\n{lists}"))
    words = ("--topology", file, "--out", hub.out, "--listen", "::", "--parent", "tls://p:7422")
    routes = ("--route", "ra:3", "--route", "rb:3", "--route", "[fd00::9]:3")
    done = ganglion("cluster", tmp_path / "authority", "edge1", *words, *routes)
    assert done.exit_code == 0, done.exception
    for name, hosts in (("edge1-1", ["a", "la", "ra"]), ("edge1-3", ["fd00::3", "lc", "fd00::9"])):
        for file in ("site.crt", "routes.crt"):
            found = x509.load_pem_x509_certificate((hub.out / name / file).read_bytes())
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert [str(n.value) for n in names] == ["127.0.0.1", "localhost", *hosts]
    text = (hub.out / "edge1-1" / "server.conf").read_text()
    for line in (
        'listen: "[::]:1"',
        'listen: "[::]:3"',
        'routes: ["nats-route://rb:3", "nats-route://[fd00::9]:3"]',
        'url: "tls://p:7422"',
        'credentials: "leaf.creds"',
    ):
        assert line in text, line
    assert (hub.out / "edge1-1" / "leaf.creds").exists()


def test_wrong_uses_of_the_command_are_explained(tmp_path):
    authority, out = tmp_path / "authority", tmp_path / "out"
    file, plain = tmp_path / "topology.yaml", tmp_path / "plain.yaml"
    three = "    servers: [nats://a:4222, nats://b:4222, nats://c:4222]\n"
    file.write_text(GOOD.replace("  edge1:\n", f"  edge1:\n{three}"))
    plain.write_text(GOOD)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for site, topology, words, code, part in (
        ("edge1", tmp_path / "none.yaml", (), "cli.cluster", "cannot be read"),
        ("edge1", plain, (), "cli.cluster", "its agent starts one"),
        ("cloud", file, (), "cli.cluster", "name one that has: edge1"),
        ("nobody", file, (), "cli.cluster", "no such site"),
        ("edge1", file, (), "cli.cluster", "--parent tls://HOST:PORT"),
        ("edge1", file, ("--parent", "tls://p:7422", "--route", "a:1"), "cli.cluster", "--route"),
        (
            "edge1",
            file,
            ("--parent", "tls://p:7422", "--route", "[::1:6222", "--route", "b:1", "--route", "c:\u00b2"),
            "cli.cluster",
            "--route",
        ),
        ("edge1", file, ("--parent", "tls://p:7422", "--out", tmp_path / "full"), "cli.site-out", "already"),
        ("edge1", file, ("--parent", "tls://p:7422", "--store", "much"), "unit.size", "much"),
        ("edge1", file, ("--parent", "tls://p:7422"), "messaging.authority", "holds no authority"),
    ):
        done = ganglion("cluster", authority, site, "--topology", topology, "--out", out, *words)
        assert isinstance(done.exception, GanglionError), done
        assert done.exception.code == code, done.exception
        assert part in str(done.exception), done.exception
        assert done.exception.next_step


def test_a_hub_that_nobody_reaches_is_named():
    async def test(loop):
        servers = ClusterServers("cloud", ["nats://a:1", "nats://b:1", "nats://c:1"], clock(loop))
        with pytest.raises(MessagingError) as caught:
            await servers.start()
        assert caught.value.code == "messaging.cluster-away"
        assert "nats://b:1" in caught.value.why
        assert set((await servers.look()).items()) == {("a:1", False), ("b:1", False), ("c:1", False)}

    def clock(loop):
        return VirtualClock(loop.virtual_time)

    virtual_run(test)


def test_an_agent_has_a_server_of_its_own_or_those_of_others(tmp_path):
    base = {
        "kind": "node",
        "assignment": {},
        "flow_dir": "f",
        "nats_port": 0,
        "leaf_port": 0,
        "parent_url": "",
        "children": {},
        "coap_port": 0,
        "paths": [],
        "kernel_dir": "k",
        "limits": {},
    }
    example = Assignment("cloud", "cloud", "cloud", "0" * 64, {}, {}).to_json()
    path = tmp_path / "config.json"
    for changes, part in (
        ({"nats_port": 4222, "servers": ["nats://a:4222"]}, "one of the two must go"),
        ({"leaf_port": 7422, "servers": ["nats://a:4222"]}, "one of the two must go"),
        ({}, "neither a port"),
    ):
        path.write_text(json.dumps({**base, "assignment": example, **changes}))
        with pytest.raises(DataError) as caught:
            load_config(path)
        assert caught.value.code == "agent.config"
        assert part in caught.value.why
    path.write_text(json.dumps({**base, "assignment": example, "servers": ["nats://a:4222"]}))
    read = load_config(path)
    assert isinstance(read, NodeConfig)
    assert read.servers == ("nats://a:4222",)
