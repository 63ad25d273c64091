"""Each condition is provoked, on a real server where one can be broken; the diagnosis restarts only what that helps."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from dataclasses import replace

import pytest

from ganglion.agent.health import Condition, Observed, StreamUse, conditions, read_conditions
from ganglion.agent.supervisor import LINK_ONLY, Diagnosis, Patience, Supervisor
from ganglion.core.units import NS_PER_S
from ganglion.host.system import SystemDisk, system_host
from ganglion.messaging import nats
from ganglion.messaging.greeting import answers
from ganglion.messaging.provision import Caps, provision
from ganglion.messaging.server import ServerSettings, SiteServer
from ganglion.messaging.subjects import inbox, journal, outbox
from tests.messaging.sites import until

WELL = Observed("gw1", "server.log", drawn=True, streams={"OUT_gw1": StreamUse(0, 100)})
GB = 1 << 30


def codes(seen):
    return [c.code for c in conditions(seen)]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, []),
        ({"answers": False}, ["health.server-away"]),
        ({"drawn": False, "uplink_answers": False}, ["health.uplink-away"]),
        ({"drawn": False, "uplink_answers": True}, ["health.uplink-refused"]),
        ({"drawn": None}, []),
        ({"missing": ("OUT_gw1",)}, ["health.stream-missing"]),
        ({"streams": {"OUT_gw1": StreamUse(79, 100)}}, []),
        ({"streams": {"OUT_gw1": StreamUse(80, 100)}}, ["health.stream-filling"]),
        ({"streams": {"OUT_gw1": StreamUse(98, 100)}}, ["health.stream-full"]),
        ({"disk_free_bytes": 1 << 20}, ["health.disk-full"]),
        ({"disk_free_bytes": 32 << 20}, ["health.disk-low"]),
        ({"refused": "no space left"}, ["health.server-stuck"]),
        ({"refused": "no space left", "disk_free_bytes": 0}, ["health.disk-full"]),
        ({"server_restarts": 1}, ["health.server-restarted"]),
        ({"servers": {"a:1": True, "b:1": True, "c:1": True}}, []),
        ({"servers": {"a:1": True, "b:1": True, "c:1": False}}, ["health.cluster-member-away"]),
        (
            {"servers": {"a:1": True, "b:1": True, "c:1": False}, "behind": ("c",)},
            ["health.cluster-member-away"],
        ),
        (
            {"servers": {"a:1": True, "b:1": True, "c:1": True}, "behind": ("c",)},
            ["health.cluster-member-behind"],
        ),
        (
            {"servers": {"a:1": True, "b:1": True, "c:1": True}, "answers": False, "leaderless": ("IN_gw1",)},
            ["health.cluster-no-leader"],
        ),
        (
            {"servers": {"a:1": True, "b:1": True, "c:1": False}, "leaderless": ("IN_gw1",)},
            ["health.cluster-no-leader", "health.cluster-member-away"],
        ),
        (
            {"servers": {"a:1": True, "b:1": False, "c:1": False}, "answers": False},
            ["health.cluster-no-quorum"],
        ),
        (
            {"servers": dict.fromkeys(("a:1", "b:1", "c:1"), False), "answers": False, "disk_free_bytes": 0},
            ["health.cluster-no-quorum", "health.disk-full"],
        ),
        (
            {"server_restarts": 1, "disk_free_bytes": 0, "drawn": False},
            ["health.disk-full", "health.uplink-away", "health.server-restarted"],
        ),
    ],
)
def test_what_was_observed_becomes_conditions_the_gravest_first(changes, expected):
    found = conditions(replace(WELL, **changes))
    assert [c.code for c in found] == expected
    assert all(c.text and c.command for c in found)
    assert read_conditions([c.to_json() for c in found]) == found


PATIENCE = Patience()


def judged(observations):
    """(seconds, cause) of every restart for observations one second apart."""
    diagnosis = Diagnosis(PATIENCE)
    causes = [(s, diagnosis.judge(seen, s * NS_PER_S)) for s, seen in enumerate(observations)]
    return [(s, c) for s, c in causes if c]


def test_a_server_is_restarted_for_what_lasts_and_for_nothing_else():
    silent, islanded = replace(WELL, answers=False), replace(WELL, drawn=False, uplink_answers=False)
    assert judged([WELL] * 100) == []
    assert judged([islanded] * 5000) == [], "an island is the normal state"
    assert judged([silent] * 9 + [WELL] + [silent] * 9) == []
    assert [s for s, _ in judged([silent] * 12)] == [10]
    unlinked = replace(WELL, drawn=False, uplink_answers=True)
    assert [s for s, _ in judged([unlinked] * 30)] == [20]


def test_restarts_that_do_not_help_come_ever_more_rarely():
    unlinked = replace(WELL, drawn=False, uplink_answers=True)
    at = [s for s, _ in judged([unlinked] * 8000)]
    gaps = [b - a for a, b in itertools.pairwise(at)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= PATIENCE.pause_max_ns // NS_PER_S
    assert len(at) < 25


def test_a_disk_that_was_full_means_a_restart_once_there_is_room_and_not_before():
    full = replace(WELL, disk_free_bytes=0, refused="[messaging.refused] no space left")
    found = judged([WELL] + [full] * 50 + [WELL] * 50)
    assert [s for s, _ in found] == [51]
    assert "full" in found[0][1]


CAPS = Caps(1 << 20, 1 << 20, 1 << 20)


class Fixed(SystemDisk):
    """A disk with as many free bytes as the test says."""

    def __init__(self, root):
        super().__init__(root)
        self.bytes = GB

    def free_bytes(self):
        return self.bytes


@contextlib.asynccontextmanager
async def supervised(tmp_path, parent_url="", patience=None, born_s=0):
    """A real server with its supervisor; yields (supervisor, server, bus, disk)."""
    host = system_host(tmp_path)
    server = SiteServer(ServerSettings("gw1", host.ports.free(), CAPS.sum_bytes + (64 << 20)), host)
    await server.start()
    bus = await nats.connect(server.url, answer_within_ns=NS_PER_S)
    disk = Fixed(tmp_path)

    async def repair():
        await provision(bus, "gw1", CAPS, born_s=born_s)

    async def uplink():
        return await answers(parent_url)

    await repair()
    caps = {journal("gw1"): 1 << 20, outbox("gw1"): 1 << 20, inbox("gw1"): 1 << 20}
    supervisor = Supervisor(
        "gw1",
        server,
        bus,
        disk,
        host.clock,
        caps=caps,
        outbox=outbox("gw1"),
        uplink_answers=uplink,
        troubles=lambda: (),
        repair=repair,
        patience=patience,
    )
    tasks = [asyncio.create_task(server.run()), asyncio.create_task(supervisor.run())]
    try:
        yield supervisor, server, bus, disk
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.close()
        await server.stop()


def test_a_server_that_hangs_is_replaced_and_has_what_it_had(tmp_path):
    async def test():
        async with supervised(tmp_path, patience=Patience(silent_ns=NS_PER_S)) as (
            supervisor,
            server,
            bus,
            _,
        ):
            await bus.append(outbox("gw1"), "out.a.b", b"kept")
            first = server.pid
            os.kill(first, signal.SIGSTOP)

            async def away():
                return "health.server-away" in codes(supervisor.seen)

            await until(away)

            async def back():
                return server.pid not in (None, first) and (await bus.state(outbox("gw1"))).last_seq == 1

            await until(back)

            async def told():
                return "health.server-restarted" in codes(supervisor.seen)

            await until(told)
            assert "does not answer" in conditions(supervisor.seen)[-1].text

    asyncio.run(test())


def test_a_link_that_stays_away_though_the_parent_answers_is_made_anew(tmp_path):
    async def greet(_reader, writer):
        """A parent that is there and will not link, as one whose other end forgot the connection."""
        writer.write(b'INFO {"server_name":"edge1"}\r\n')
        await writer.drain()
        writer.close()

    async def test():
        parent = await asyncio.start_server(greet, "127.0.0.1", 0)
        url = f"tls://127.0.0.1:{parent.sockets[0].getsockname()[1]}"
        patience = Patience(unlinked_ns=2 * NS_PER_S, pause_first_ns=60 * NS_PER_S)
        async with supervised(tmp_path, url, patience, 1_800_000_000) as (
            supervisor,
            server,
            bus,
            _disk,
        ):
            await bus.append(outbox("gw1"), "out.a.b", b"owed")

            async def refused():
                return "health.uplink-refused" in codes(supervisor.seen) and supervisor.seen.backlog == 1

            await until(refused)

            async def restarted():
                return server.restarts == 1

            await until(restarted)
            assert "link" in supervisor.cause
            parent.close()

            async def island():
                return "health.uplink-away" in codes(supervisor.seen)

            await until(island)

    asyncio.run(test())


def test_an_uplink_consumer_and_a_stream_that_were_deleted_are_made_again(tmp_path):
    async def test():
        async with supervised(tmp_path) as (supervisor, server, bus, _disk):
            await bus.ask(f"CONSUMER.DELETE.{outbox('gw1')}.up", {})
            await bus.ask(f"STREAM.DELETE.{inbox('gw1')}", {})

            async def told():
                return codes(supervisor.seen).count("health.stream-missing") == 2

            await until(told)

            async def mended():
                await bus.drawn(outbox("gw1"))
                return (await bus.state(inbox("gw1"))).last_seq == 0 and not supervisor.seen.missing

            await until(mended)
            assert server.restarts == 0

    asyncio.run(test())


def test_a_disk_without_room_is_told_and_the_server_is_restarted_when_there_is_some(tmp_path):
    async def test():
        async with supervised(tmp_path) as (supervisor, server, bus, disk):
            disk.bytes = 1 << 20

            async def full():
                return "health.disk-full" in codes(supervisor.seen)

            await until(full)
            assert server.restarts == 0
            disk.bytes = GB

            async def restarted():
                return server.restarts == 1 and (await bus.state(outbox("gw1"))).last_seq == 0

            await until(restarted)

    asyncio.run(test())


def test_a_stream_near_its_cap_is_told(tmp_path):
    async def test():
        async with supervised(tmp_path) as (supervisor, _server, bus, _disk):
            for _ in range(9):
                await bus.append(outbox("gw1"), "out.a.b", bytes(100_000))

            async def told():
                return "health.stream-filling" in codes(supervisor.seen)

            await until(told)

    asyncio.run(test())


def test_pauses_are_short_again_after_a_disk_was_full_where_that_causes_no_restart():
    diagnosis, now_s = Diagnosis(LINK_ONLY), 0
    stuck = replace(WELL, drawn=False, uplink_answers=True)

    def restarts(seen, for_s):
        """The seconds at which it is restarted."""
        nonlocal now_s
        found = []
        for _ in range(for_s):
            now_s += 1
            found += [now_s] if diagnosis.judge(seen, now_s * NS_PER_S) else []
        return found

    for _ in range(5):
        assert len(restarts(stuck, 30)) == 1
        assert restarts(replace(WELL, disk_free_bytes=0), 5) == []
        assert restarts(WELL, 700) == []
    first, second = restarts(stuck, 60)
    assert second - first < 2 * LINK_ONLY.pause_first_ns // NS_PER_S


def test_conditions_of_another_form_are_not_taken_for_health():
    with pytest.raises(KeyError):
        read_conditions([{"code": "health.x"}])
    good = Condition("health.x", "info", "text", "look").to_json()
    for wrong in ({"severity": ["info"]}, {"severity": "grave"}, {"code": 1}, {"text": None}):
        with pytest.raises(TypeError):
            read_conditions([good | wrong])
    assert read_conditions([]) == []
    assert isinstance(conditions(replace(WELL, answers=False))[0], Condition)
