"""What a server does when its disk is full, and after: the same of the twin and of nats-server."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from ganglion.agent.watch import ServerWatch
from ganglion.core.errors import MessagingError
from ganglion.host.system import SystemClock, SystemDisk, system_host
from ganglion.messaging import nats
from ganglion.messaging.memory import MemorySites
from ganglion.messaging.provision import Caps, provision
from ganglion.messaging.server import ServerSettings, SiteServer
from ganglion.messaging.subjects import inbox, journal, journal_subject, outbox, outbox_subject
from ganglion.sim.virtual.loop import run as virtual_run
from tests.messaging.sites import until

CAPS = Caps(60 << 20, 60 << 20, 60 << 20)
J, OUT = journal("gw-1"), outbox("gw-1")


@contextmanager
def small_file_system(path):
    """48 MB of memory as a file system, where this user may mount one."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if sys.platform != "linux" or os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("mounting a small file system needs root on Linux")
    command = [mount, "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run([umount, str(path)], check=True)


class Twin:
    """The twin, with its flag."""

    def __init__(self):
        self.sites = MemorySites(store_reserve_bytes=64 << 20)

    async def open(self):
        return await self.sites.add("gw-1", CAPS)

    async def fill(self, _bus):
        self.sites.server("gw-1").store.full = True

    def empty(self):
        self.sites.server("gw-1").store.full = False

    async def restart(self):
        self.sites.stop("gw-1")
        self.sites.start("gw-1")

    async def close(self):
        pass


class Real:
    """A server on a small file system, most of which a ballast takes."""

    def __init__(self, root):
        self.ballast = root / "ballast"
        self.ballast.write_bytes(bytes(40 << 20))
        host = system_host(root / "site")
        self.server = SiteServer(ServerSettings("gw-1", host.ports.free(), CAPS.sum_bytes + (64 << 20)), host)

    async def open(self):
        await self.server.start()
        self.keeping = asyncio.create_task(self.server.run())
        self.bus = await nats.connect(self.server.url, answer_within_ns=1_000_000_000)
        await provision(self.bus, "gw-1", CAPS)
        return self.bus

    async def fill(self, bus):
        async def forever():
            while True:
                await bus.append(J, journal_subject("a", "b"), os.urandom(100_000))

        with pytest.raises(MessagingError) as caught:
            await forever()
        assert caught.value.code == "messaging.unavailable"

    def empty(self):
        self.ballast.unlink()

    async def restart(self):
        before = self.server.pid
        self.server.restart()

        async def back():
            return self.server.pid not in (None, before) and await self.bus.state(J)

        await until(back)

    async def close(self):
        await self.bus.close()
        await self.server.stop()
        await self.keeping


async def story(world):
    bus = await world.open()
    try:
        for _ in range(3):
            await bus.append(J, journal_subject("a", "b"), b"kept")
        await bus.append(OUT, outbox_subject("a", "b"), b"kept")
        await world.fill(bus)

        async def refused(call):
            with pytest.raises(MessagingError) as caught:
                await call
            return caught.value.code

        assert await refused(bus.append(J, journal_subject("a", "b"), b"x")) == "messaging.unavailable"
        before = await bus.state(J)
        assert before.messages >= 3, "questions are answered"
        world.empty()
        assert await refused(bus.append(J, journal_subject("a", "b"), b"x")) == "messaging.unavailable"
        assert await refused(bus.purge(J, 2)) == "messaging.refused"
        assert await bus.append(OUT, outbox_subject("a", "b"), b"other streams go on") == 2
        await provision(bus, "gw-1", CAPS)
        await world.restart()
        assert await bus.append(J, journal_subject("a", "b"), b"x") == before.last_seq + 1
        await bus.purge(J, 2)
        assert (await bus.state(J)).first_seq == 3
    finally:
        await world.close()


def test_the_twin_stays_broken_until_it_is_restarted():
    virtual_run(lambda _loop: story(Twin()))


def test_a_server_stays_broken_until_it_is_restarted(tmp_path):
    with small_file_system(tmp_path) as root:
        asyncio.run(story(Real(root)))


def test_a_watched_server_is_restarted_when_there_is_room_and_not_before(tmp_path):
    async def watched(world, root):
        bus = await world.open()
        watch = ServerWatch(world.server, bus, J, SystemDisk(root), SystemClock())
        watching = asyncio.create_task(watch.run())

        async def writes():
            try:
                await bus.append(J, journal_subject("a", "b"), b"x")
            except MessagingError:
                watch.wrote(J, answered=False)
                return False
            watch.wrote(J, answered=True)
            return True

        try:
            assert await writes()
            await world.fill(bus)
            for _ in range(4):
                assert not await writes()
            assert watch.restarts == 0, "there is no room yet"
            world.empty()
            await until(writes)
            assert watch.restarts == 1
        finally:
            watching.cancel()
            await asyncio.wait({watching})
            await world.close()

    with small_file_system(tmp_path) as root:
        asyncio.run(watched(Real(root), root))


async def parents_story(up, down, fill, empty, restart):
    """A parent that could not store what it drew answers nothing, and says to writers that it has no streams."""

    async def code(call):
        with pytest.raises(MessagingError) as caught:
            await call
        return caught.value.code

    await down.append(DOWN_OUT, outbox_subject("a", "b"), b"first")
    await until(lambda: arrived(up, 1))
    fill()
    count = 1
    for _ in range(120):
        await down.append(DOWN_OUT, outbox_subject("a", "b"), os.urandom(100_000))
        count += 1

    async def shut():
        try:
            await up.state(UP_IN)
        except MessagingError:
            return True
        return False

    await until(shut)
    assert await code(up.append(outbox("up"), outbox_subject("a", "b"), b"x")) == "messaging.no-stream"
    empty()
    await asyncio.sleep(3)
    assert await shut(), "room alone does not help"
    assert not await down.drawn(DOWN_OUT)
    await restart()
    await until(lambda: arrived(up, count))
    assert await up.append(outbox("up"), outbox_subject("a", "b"), b"x") == 1


DOWN_OUT, UP_IN = outbox("down"), inbox("up")


async def arrived(up, count):
    return (await up.state(UP_IN)).last_seq == count


def test_the_twin_of_a_parent_shuts_its_streams():
    async def whole():
        sites = MemorySites(store_reserve_bytes=64 << 20)
        up = await sites.add("up", CAPS, children=["down"])
        down = await sites.add("down", CAPS, parent="up")

        def full(value):
            sites.server("up").store.full = value

        async def restart():
            sites.stop("up")
            sites.start("up")

        await parents_story(up, down, lambda: full(True), lambda: full(False), restart)

    virtual_run(lambda _loop: whole())


def test_a_parent_shuts_its_streams(tmp_path):
    async def whole(root):
        child_host, host = system_host(tmp_path / "child"), system_host(root / "parent")
        leaf, most = host.ports.free(), CAPS.sum_bytes + (64 << 20)
        parent = SiteServer(ServerSettings("up", host.ports.free(), most, leaf), host)
        child = SiteServer(
            ServerSettings("down", host.ports.free(), most, None, f"nats-leaf://127.0.0.1:{leaf}"), child_host
        )
        ballast = root / "ballast"
        await parent.start()
        await child.start()
        keeping = [asyncio.create_task(s.run()) for s in (parent, child)]
        up, down = [await nats.connect(s.url, answer_within_ns=1_000_000_000) for s in (parent, child)]

        async def restart():
            parent.restart()

        try:
            await provision(down, "down", CAPS)
            await provision(up, "up", CAPS, children=["down"])
            await parents_story(
                up, down, lambda: ballast.write_bytes(bytes(40 << 20)), ballast.unlink, restart
            )
        finally:
            for bus in (up, down):
                await bus.close()
            for server in (child, parent):
                await server.stop()
            await asyncio.gather(*keeping)

    (tmp_path / "small").mkdir()
    with small_file_system(tmp_path / "small") as root:
        asyncio.run(whole(root))
