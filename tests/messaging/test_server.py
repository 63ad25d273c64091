"""The site's nats-server: found, started, told apart from others, kept, ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ganglion.core.errors import HostError, MessagingError
from ganglion.host.system import system_host
from ganglion.messaging import nats
from ganglion.messaging.provision import Caps, adopt_children, provision
from ganglion.messaging.server import ServerSettings, SiteServer, find_binary, render
from ganglion.messaging.subjects import inbox, journal, outbox
from tests.messaging.sites import CAPS, until


def settings_of(host, **changes):
    return replace(ServerSettings("edge-1", host.ports.free(), CAPS.sum_bytes + (64 << 20)), **changes)


@asynccontextmanager
async def running(host, **changes):
    server = SiteServer(settings_of(host, **changes), host)
    await server.start()
    bus = await nats.connect(server.url)
    try:
        yield server, bus
    finally:
        await bus.close()
        await server.stop()


def test_a_server_that_dies_is_started_again_on_the_same_store(tmp_path):
    async def test():
        async with running(system_host(tmp_path)) as (server, bus):
            keeping = asyncio.create_task(server.run())
            await provision(bus, "edge-1", CAPS)
            await bus.append(outbox("edge-1"), "out.a.b", b"kept")
            first = server.pid
            os.kill(first, signal.SIGKILL)

            async def back():
                return (await bus.state(outbox("edge-1"))).last_seq == 1 and server.pid not in (None, first)

            await until(back)
            assert server.restarts == 1
            await server.stop()
            await keeping
            assert server.pid is None

    asyncio.run(test())


def test_a_taken_port_is_named(tmp_path):
    async def test():
        host = system_host(tmp_path)
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            for changes in ({"port": port}, {"leaf_port": port}):
                with pytest.raises(MessagingError) as caught:
                    await SiteServer(settings_of(host, **changes), host).start()
                assert caught.value.code == "messaging.port-taken"
                assert str(port) in caught.value.what

    asyncio.run(test())


def test_a_missing_binary_is_named(tmp_path, monkeypatch):
    with pytest.raises(MessagingError) as caught:
        find_binary(str(tmp_path / "no-such-program"))
    assert caught.value.code == "messaging.no-server"
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MessagingError) as caught:
        find_binary(None)
    assert caught.value.code == "messaging.no-server"


def test_the_packaged_server_is_found_beside_the_interpreter(tmp_path, monkeypatch):
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert find_binary(None) == str(program)


def test_a_server_that_cannot_start_says_why(tmp_path):
    async def test():
        host = system_host(tmp_path)
        store = tmp_path / "messaging" / "store"
        store.parent.mkdir()
        store.write_text("not a directory")
        with pytest.raises(MessagingError) as caught:
            await SiteServer(settings_of(host), host).start()
        assert caught.value.code == "messaging.server-start"
        assert "jetstream" in caught.value.why.lower() or "store" in caught.value.why.lower()

    asyncio.run(test())


def test_a_server_left_by_a_crashed_run_is_ended_first(tmp_path):
    async def test():
        host = system_host(tmp_path)
        left = SiteServer(settings_of(host), host)
        await left.start()
        pid = left.pid
        async with running(host) as (server, _bus):
            assert server.pid != pid
            assert left.pid is None

    asyncio.run(test())


def test_another_process_with_the_recorded_number_is_left_alone(tmp_path):
    async def test():
        host = system_host(tmp_path)
        other = await host.processes.start(
            [sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "other.out"
        )
        try:
            host.disk.replace("messaging/server.pid", str(other.pid).encode())
            async with running(host):
                assert other.alive()
        finally:
            other.kill()
            await other.wait()

    asyncio.run(test())


def test_the_configuration_is_safe_by_default():
    text = render(ServerSettings("on", 4222, 1 << 30, 7422, "nats-leaf://127.0.0.1:7423"), Path('/a "b"'))
    assert 'server_name: "on"' in text  # unquoted it would be a truth value
    assert "sync_interval: always" in text
    assert "no_advertise: true" in text
    assert json.dumps('/a "b"/store') in text
    assert "http" not in text
    assert "0.0.0.0" not in text
    lone = render(ServerSettings("on", 4222, 1 << 30), Path("/a"))
    assert "leafnodes" not in lone


def test_a_site_id_that_is_none_is_refused():
    with pytest.raises(MessagingError) as caught:
        render(ServerSettings("Edge 1", 4222, 1 << 30), Path("/a"))
    assert caught.value.code == "messaging.site"


def test_provisioning_again_changes_what_is_asked_and_keeps_the_data(tmp_path):
    async def test():
        host = system_host(tmp_path)
        async with running(host) as (_server, bus):
            streams = [journal("edge-1"), outbox("edge-1"), inbox("edge-1")]
            await provision(bus, "edge-1", CAPS, children=["gw-1"])
            await bus.append(streams[0], "j.a.b", b"kept")
            before = [await config_of(bus, s) for s in streams]
            await provision(bus, "edge-1", CAPS, children=["gw-1"])
            assert [await config_of(bus, s) for s in streams] == before
            caps = Caps(2 << 20, 3 << 20, 4 << 20)
            await provision(bus, "edge-1", caps, children=["gw-2", "gw-1"])
            after = [await config_of(bus, s) for s in streams]
            assert [c["max_bytes"] for c in after] == [2 << 20, 3 << 20, 4 << 20]
            assert sorted(s["name"] for s in after[2]["sources"]) == ["OUT_gw-1", "OUT_gw-2"]
            await provision(bus, "edge-1", caps, children=["gw-2"])
            assert [s["name"] for s in (await config_of(bus, streams[2]))["sources"]] == ["OUT_gw-2"]
            await provision(bus, "edge-1", caps, children=["gw-2", "gw-3"], adopt_later=True)
            assert [s["name"] for s in (await config_of(bus, streams[2]))["sources"]] == ["OUT_gw-2"]
            assert (await bus.state(streams[0])).messages == 1

    asyncio.run(test())


async def config_of(bus, stream):
    return (await bus.ask(f"STREAM.INFO.{stream}", {}))["config"]


def test_caps_above_the_servers_space_are_refused(tmp_path):
    async def test():
        async with running(system_host(tmp_path)) as (_server, bus):
            with pytest.raises(MessagingError) as caught:
                await provision(bus, "edge-1", Caps(1 << 40, 1 << 20, 1 << 20))
            assert caught.value.code == "messaging.refused"
            assert "storage" in caught.value.why

    asyncio.run(test())


def test_adoption_waits_for_children_and_ends_when_all_are_there(tmp_path):
    async def test():
        cloud_host, edge_host = system_host(tmp_path / "cloud"), system_host(tmp_path / "edge")
        leaf_port = cloud_host.ports.free()
        async with running(cloud_host, site="cloud", leaf_port=leaf_port) as (_server, cloud):
            await provision(cloud, "cloud", CAPS, children=["edge-1"], adopt_later=True)
            adopting = asyncio.create_task(adopt_children(cloud, "cloud", CAPS, ["edge-1"], cloud_host.clock))
            await asyncio.sleep(0.3)
            assert not adopting.done()
            assert not (await config_of(cloud, inbox("cloud"))).get("sources")
            url = f"nats-leaf://127.0.0.1:{leaf_port}"
            async with running(edge_host, parent_url=url) as (_edge_server, edge):
                await provision(edge, "edge-1", CAPS)
                await adopting
                await edge.append(outbox("edge-1"), "out.a.b", b"")

                async def arrived():
                    return (await cloud.state(inbox("cloud"))).messages == 1 and await edge.drawn(
                        outbox("edge-1")
                    )

                await until(arrived)

    asyncio.run(test())


def test_nobody_at_the_address_is_unavailable(tmp_path):
    async def test():
        host = system_host(tmp_path)
        with pytest.raises(MessagingError) as caught:
            await nats.connect(f"nats://127.0.0.1:{host.ports.free()}", within_ns=300_000_000)
        assert caught.value.code == "messaging.unavailable"

    asyncio.run(test())


def test_a_server_whose_configuration_is_there_starts_on_a_full_disk(tmp_path, monkeypatch):
    """A gateway that starts again on a full disk has reflexes to run."""

    async def test():
        host = system_host(tmp_path)
        settings = settings_of(host)
        server = SiteServer(settings, host)
        await server.start()
        await server.stop()

        def full(name, content):
            raise HostError("host.disk-full", f"no space left for {name}", why="a test", next_step="go on")

        monkeypatch.setattr(host.disk, "replace", full)
        again = SiteServer(settings, host)
        await again.start()
        await again.stop()
        with pytest.raises(HostError):
            await SiteServer(replace(settings, store_max_bytes=settings.store_max_bytes + 1), host).start()

    asyncio.run(test())
