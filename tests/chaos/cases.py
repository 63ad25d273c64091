"""The cases: each breaks one thing on a world under load and heals it; the table judges all alike."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from ganglion.core.errors import MessagingError
from ganglion.core.units import NS_PER_MS
from ganglion.messaging import subjects
from ganglion.messaging.provision import reaches, refill
from ganglion.sim.relay import Pipe
from tests.chaos.datagrams import Radio
from tests.chaos.field import GATEWAYS, Field, source_number

WARM_S = 3
"""Seconds of load before a fault; scaled like all waits."""
AFTER_S = 4
KILLS = 20
LEADERS = 5
DAY_NS = 86_400 * 10**9
TMPFS_MB = 48


@dataclass(frozen=True)
class Case:
    """``run`` gets a started field without load and leaves it loaded or unloaded, with all faults healed."""

    name: str
    run: Callable[[Field], Awaitable[None]]
    radio: Radio | None = None
    clustered: str = ""
    """The site that three servers store."""
    before: Callable[[Path], None] | None = None
    after: Callable[[Path], None] | None = None


def cut(seconds: float) -> Callable[[Field], Awaitable[None]]:
    async def run(field: Field) -> None:
        await field.load()
        await field.wait(WARM_S)
        relay = field.world.relays["gw1"]
        relay.cut()
        await field.wait(seconds)
        relay.heal()
        field.healed("gw1")
        await field.wait(AFTER_S)

    return run


async def dead_tcp(field: Field) -> None:
    """The connection is forgotten without a reset; new ones would pass. Counted from the fault itself."""
    await field.load()
    await field.wait(WARM_S)
    field.world.relays["gw1"].swallow()
    field.healed("gw1")
    await asyncio.sleep(14)  # not scaled: the pings of both servers take what they take


async def silent_link(field: Field) -> None:
    """For 20 s connections can be made and carry nothing."""
    await field.load()
    await field.wait(WARM_S)
    relay = field.world.relays["gw1"]
    relay.swallow(also_new=True)
    await field.wait(20)
    relay.heal()
    field.healed("gw1")
    await asyncio.sleep(14)


async def slow_link(field: Field) -> None:
    """100 ms there and back, 320 KB/s; with a cut of 5 s in it."""
    relay = field.world.relays["gw1"]
    relay.pipe = Pipe(50 * NS_PER_MS, 320_000)
    relay.cut()
    relay.heal()
    await field.load()
    await field.wait(WARM_S)
    relay.cut()
    await field.wait(5)
    relay.heal()
    field.healed("gw1")
    await field.wait(AFTER_S)


async def slow_link_with_backlog(field: Field) -> None:
    """After 60 s of cut a link of 100 ms and 16 KB/s: what is urgent comes at once, and the oldest drain beside it."""
    relay = field.world.relays["gw1"]
    await field.load()
    await field.wait(WARM_S)
    relay.pipe = Pipe(50 * NS_PER_MS, 16_000)
    relay.cut()
    await field.wait(60)
    watching = asyncio.ensure_future(_urgent_delays(field, 12))
    relay.heal()
    field.healed("gw1")
    took = await watching  # not scaled: some trips must come in it
    old, at_once = field.old_stored, field.old_in_2_s
    field.row.notes.append(f"{old} old messages in the first 12 s, {at_once} of them in 2 s")
    field.row.notes.append(f"{len(took)} trips meanwhile, the slowest took {max(took, default=0):.2f} s")
    assert old > 0, "the oldest have a share"
    relay.pipe = Pipe(50 * NS_PER_MS, 320_000)
    await field.wait(AFTER_S)


async def _urgent_delays(field: Field, seconds: float) -> list[float]:
    """Seconds from gw1's outbox to its parent's inbox of what is urgent and came within the next ``seconds``."""
    appended: dict[int, float] = {}
    stored: dict[int, float] = {}

    async def follow(site: str, stream: str, prefix: str, times: dict[int, float]) -> None:
        bus = field.bus(site)
        async for message in bus.read(stream, (await bus.state(stream)).last_seq):
            if message.subject.startswith(prefix):
                number = message.seq if site == "gw1" else source_number(message.headers)
                times[number] = time.monotonic()

    lane = subjects.URGENT.prefix
    following = [
        asyncio.ensure_future(follow("gw1", subjects.outbox("gw1"), f"{lane}.", appended)),
        asyncio.ensure_future(follow("edge1", subjects.inbox("edge1"), f"in.gw1.{lane}.", stored)),
    ]
    await asyncio.sleep(seconds)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    ended = time.monotonic()
    return [stored.get(n, ended) - at for n, at in appended.items() if n in stored or ended - at > 2]


def killed(sites: tuple[str, ...], what: str) -> Callable[[Field], Awaitable[None]]:
    async def run(field: Field) -> None:
        await field.load()
        await field.wait(WARM_S)
        done = 0
        while done < max(1, round(KILLS * field.scale)):
            site = field.chance.choice(sites)
            done += field.kill_server(site) if what == "server" else field.kill_agent(site)
            await asyncio.sleep(field.chance.uniform(0.05, 1.5))
        field.row.notes.append(f"{done} kills")
        field.healed(*(s for s in GATEWAYS))
        await field.wait(AFTER_S)

    return run


async def wiped_gateway(field: Field) -> None:
    """An empty disk, as after a repair: what was delivered stays delivered, what comes after arrives."""
    await field.load()
    await field.wait(WARM_S)
    await field.unload()
    await field.world.settle()
    field.kill_agent("gw1")
    field.wipe("gw1")
    field.healed("gw1")
    await field.until(lambda: field.report("gw1").get("phase") == "ready")
    await field.load()
    await field.wait(WARM_S + AFTER_S)


async def purged_hub(field: Field) -> None:
    """The hub's input is emptied after it was processed, and its server killed, while the edge is cut off."""
    await field.load()
    await field.wait(WARM_S)
    relay = field.world.relays["edge1"]
    relay.cut()
    await field.until(lambda: field.report("cloud").get("settled"))
    stream = subjects.inbox("cloud")
    await field.bus("cloud").purge(stream, (await field.bus("cloud").state(stream)).last_seq)
    field.kill_server("cloud")
    await field.wait(2)
    relay.heal()
    field.healed("edge1")
    await field.wait(AFTER_S)


async def restored_hub(field: Field) -> None:
    """The hub dies and comes back with the disk it had 6 s before; its child sends again what it kept."""
    await field.load()
    await field.wait(WARM_S)
    home, backup = field.world.node_directory("cloud"), field.root / "backup"
    with field.frozen("cloud"):
        await asyncio.to_thread(shutil.copytree, home, backup)
    await field.wait(6)
    pid = field.report("cloud")["server_pid"]
    field.kill_agent("cloud")
    field.wipe("cloud")
    shutil.copytree(backup, home, dirs_exist_ok=True)
    await field.until(lambda: field.report("cloud")["server_pid"] not in (None, pid))
    await field.until(lambda: reaches(field.bus("cloud"), "edge1"))
    await refill(field.bus("cloud"), "edge1")
    field.healed("edge1")
    await field.wait(AFTER_S)


def clock_jump(days: int) -> Callable[[Field], Awaitable[None]]:
    async def run(field: Field) -> None:
        jump = field.world.node_directory("gw1") / "clock_jump_ns"
        await field.load()
        await field.wait(WARM_S)
        jump.write_text(str(days * DAY_NS))
        await field.wait(WARM_S)
        field.world.relays["gw1"].cut()
        await field.wait(3)
        jump.write_text(str(-days * DAY_NS))
        field.world.relays["gw1"].heal()
        field.healed("gw1")
        await field.wait(AFTER_S)
        jump.unlink()
        field.row.notes.append("the agent's wall clock; nats-server's cannot be reached without the system's")

    return run


async def repeated_datagrams(field: Field) -> None:
    await field.load()
    await field.wait(3 * WARM_S)
    relay = field.world.relays["gw1"]
    relay.cut()
    await field.wait(2)
    relay.heal()
    field.healed("gw1")
    await field.wait(AFTER_S)


async def cold_boot(field: Field) -> None:
    """A gateway starts with an empty disk and no uplink while its devices measure: its reflexes work at once."""
    field.world.relays["gw1"].cut()
    kept = field.world.keeper.all["gw1"]
    field.kill_agent("gw1")
    loading = asyncio.ensure_future(field.load(("gw1",)))
    while not loading.done():  # held down until the devices measure: it must not acknowledge before the wipe
        field.kill_agent("gw1")
        await asyncio.sleep(0.4)
    await loading
    field.kill_agent("gw1")
    held = kept.restarts
    field.wipe("gw1")
    await field.until(lambda: kept.restarts > held and kept.process is not None and kept.process.alive())
    began_ns = time.monotonic_ns()
    commands = field.world.devices_directory("devices-gw1") / "commands.jsonl"
    await field.until(lambda: _first_after(commands, began_ns) is not None)
    first_ns = _first_after(commands, began_ns)
    assert first_ns is not None
    field.row.notes.append(f"first reflex {(first_ns - began_ns) / 1e9:.2f} s after the process was started")
    await field.wait(AFTER_S)
    field.world.relays["gw1"].heal()
    field.healed("gw1")
    await field.wait(AFTER_S)


def _first_after(path: Path, began_ns: int) -> int | None:
    import orjson

    if not path.exists():
        return None
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return min((c["arrived_ns"] for c in lines if c["arrived_ns"] > began_ns), default=None)


SMALL = ("nodes", "gw1")
SMALL_HUB = ("servers", "cloud-2")
"""Whose file system is small, below the run's directory."""


def _mount(small: tuple[str, str]) -> Callable[[Path], None]:
    def mount(root: Path) -> None:
        target = root.joinpath("run", *small)
        target.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "ganglion-chaos", str(target)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            raise CannotRunError("disk full: this user may not mount a tmpfs")

    return mount


def _unmount(small: tuple[str, str]) -> Callable[[Path], None]:
    def unmount(root: Path) -> None:
        subprocess.run(["umount", str(root.joinpath("run", *small))], capture_output=True, check=False)

    return unmount


class CannotRunError(Exception):
    """This machine does not allow the case; the message says which and why."""


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def disk_full(field: Field) -> None:
    """The gateway's file system has no byte left for a while; then there is room again."""
    await field.load()
    await field.wait(WARM_S)
    ballast = field.world.node_directory("gw1") / "ballast"
    _fill(ballast)
    await field.wait(12)
    ballast.unlink()
    field.healed("gw1")
    await field.wait(2 * AFTER_S)
    field.row.notes += [
        c["text"] for c in field.report("gw1")["health"] if c["code"] == "health.server-restarted"
    ]


def leader_killed(site: str, child: str) -> Callable[[Field], Awaitable[None]]:
    async def run(field: Field) -> None:
        """Who leads a hub's inbox dies again and again; the two others go on, and it comes back to what it missed."""
        cluster = field.world.clusters[site]
        await field.load()
        await field.wait(WARM_S)
        seconds = []
        for _ in range(max(1, round(LEADERS * field.scale))):
            leader = await field.leader(site)
            await cluster.hold_down(leader)
            seconds.append(await field.stored_again(site))
            await field.until(lambda: field.conditions(site) == ["health.cluster-member-away"])
            await field.wait(2)
            await cluster.raise_up(leader)
            await field.until(lambda: field.conditions(site) == [])
        seconds.sort()
        field.row.notes.append(
            f"{len(seconds)} leaders killed, the inbox went on after {statistics.median(seconds):.1f} s"
            f" ({seconds[0]:.1f} to {seconds[-1]:.1f})"
        )
        field.healed(child)
        await field.wait(AFTER_S)

    return run


async def quorum_lost(field: Field) -> None:
    """Two of three die, the leader among them: nothing is acknowledged any more, until one is back."""
    cluster = field.world.clusters["cloud"]
    await field.load()
    await field.wait(WARM_S)
    leader = await field.leader("cloud")
    other = field.chance.choice([name for name in cluster.servers if name != leader])
    await asyncio.gather(cluster.hold_down(leader), cluster.hold_down(other))
    await field.until(lambda: "health.cluster-no-quorum" in field.conditions("cloud"))
    before = (await field.owed("edge1"))[1]
    await field.wait(12)
    await field.unload()
    await asyncio.sleep(4)  # a parent acknowledges what it has once nothing more comes for a second
    owed, after = await field.owed("edge1")
    assert after == before, "a single server acknowledged"
    assert owed > after, "there was nothing to acknowledge"
    field.healed("edge1")
    await cluster.raise_up(other)
    await field.load()
    await field.wait(AFTER_S)
    await cluster.raise_up(leader)
    await field.until(lambda: field.conditions("cloud") == [])
    await field.wait(AFTER_S)


async def leaders_disk_full(field: Field) -> None:
    """The disk of the hub's leader has no byte left: the others go on, and it comes back once it is started anew."""
    cluster, name = field.world.clusters["cloud"], SMALL_HUB[1]
    ballast = field.root.joinpath("run", *SMALL_HUB, "ballast")
    await field.load()
    await field.wait(WARM_S)

    async def leads() -> bool:
        if await field.leader("cloud") == name:
            return True
        wish = {"placement": {"preferred": name}}
        await field.bus("cloud").ask(f"STREAM.LEADER.STEPDOWN.{subjects.inbox('cloud')}", wish)
        return False

    await field.until(leads, every_s=2)
    _fill(ballast)
    seconds = await field.stored_again("cloud")
    field.row.notes.append(f"the inbox went on after {seconds:.1f} s")
    await field.wait(12)
    field.row.notes.append(f"told: {', '.join(field.conditions('cloud')) or 'nothing'}")
    ballast.unlink()
    field.healed("edge1")
    await field.wait(AFTER_S)
    await cluster.hold_down(name)  # as the person does whom a condition tells to
    await cluster.raise_up(name)
    await field.until(lambda: field.conditions("cloud") == [])
    await field.wait(AFTER_S)


CASES = (
    Case("cut 2 s", cut(2)),
    Case("cut 20 s", cut(20)),
    Case("cut 120 s", cut(120)),
    Case("dead TCP", dead_tcp),
    Case("silent link 20 s", silent_link),
    Case("100 ms, 320 KB/s", slow_link),
    Case("slow link, backlog", slow_link_with_backlog),
    Case("kill gateway server", killed(GATEWAYS, "server")),
    Case("kill edge server", killed(("edge1",), "server")),
    Case("kill hub server", killed(("cloud",), "server")),
    Case("kill agents", killed((*GATEWAYS, "edge1", "cloud"), "agent")),
    Case("disk full", disk_full, before=_mount(SMALL), after=_unmount(SMALL)),
    Case("wiped gateway", wiped_gateway),
    Case("purged hub", purged_hub),
    Case("restored hub", restored_hub),
    Case("clock +1 day", clock_jump(1)),
    Case("clock -1 day", clock_jump(-1)),
    Case("repeated datagrams", repeated_datagrams, radio=Radio(lost=0.1, repeated=0.5)),
    Case("cold boot, no uplink", cold_boot),
    Case("leader of 3 hubs killed", leader_killed("cloud", "edge1"), clustered="cloud"),
    Case("leader of 3 edge servers killed", leader_killed("edge1", "gw1"), clustered="edge1"),
    Case("2 of 3 hubs killed", quorum_lost, clustered="cloud"),
    Case(
        "leader of 3 hubs, disk full",
        leaders_disk_full,
        clustered="cloud",
        before=_mount(SMALL_HUB),
        after=_unmount(SMALL_HUB),
    ),
)

__all__ = ["CASES", "CannotRunError", "Case", "MessagingError"]
