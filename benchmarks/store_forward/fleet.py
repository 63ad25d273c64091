"""What a hub and its gateways' message servers take when nothing happens: memory and processor time."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from benchmarks.store_forward.ways import broker
from ganglion.host.system import system_host
from ganglion.messaging import nats
from ganglion.messaging.provision import Caps, adopt_children, provision
from ganglion.messaging.server import ServerSettings, SiteServer
from ganglion.messaging.subjects import inbox, outbox

CAPS = Caps(1 << 20, 1 << 20, 8 << 20)
SETTLE_S, IDLE_S = 5.0, 20.0
AT_ONCE = 8


def memory_bytes(pid: int) -> int:
    """Proportional set size: what is shared counts by its share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024


def cpu_s(pid: int) -> float:
    """Processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def idle(pids: list[int], idle_s: float) -> dict[str, float]:
    """Memory of all, and the share of one processor that all take together."""
    await asyncio.sleep(SETTLE_S)
    before = sum(map(cpu_s, pids))
    await asyncio.sleep(idle_s)
    used = sum(map(cpu_s, pids)) - before
    total = sum(map(memory_bytes, pids))
    return {
        "servers": len(pids),
        "memory_bytes": total,
        "memory_bytes_each": total / len(pids),
        "idle_cpus": used / idle_s,
    }


async def of_nats(root: Path, gateways: int, *, plain: bool, idle_s: float = IDLE_S) -> dict[str, float]:
    """A hub and its gateways; ``plain``: sourced without consumers made beforehand."""
    hub_host = system_host(root / "hub")
    leaf = hub_host.ports.free()
    store = CAPS.sum_bytes + (64 << 20)
    hub = SiteServer(ServerSettings("hub", hub_host.ports.free(), store, leaf), hub_host)
    await hub.start()
    servers, buses = [hub], [await nats.connect(hub.url)]
    names = [f"gw{n}" for n in range(gateways)]
    url = f"nats-leaf://127.0.0.1:{leaf}"
    turn = asyncio.Semaphore(AT_ONCE)

    async def add(name: str) -> None:
        host = system_host(root / name)
        async with turn:
            server = SiteServer(ServerSettings(name, host.ports.free(), store, None, url), host)
            await server.start()
            servers.append(server)
            bus = await nats.connect(server.url)
            buses.append(bus)
            await provision(bus, name, CAPS, urgent=not plain)

    try:
        await asyncio.gather(*(add(name) for name in names))
        await provision(buses[0], "hub", CAPS, children=names, adopt_later=True, urgent=not plain)
        if plain:
            config = (await buses[0].ask(f"STREAM.INFO.{inbox('hub')}", {}))["config"]
            config["sources"] = [
                {"name": outbox(n), "external": {"api": f"$JS.{n}.API", "deliver": ""},
                 "subject_transforms": [{"src": ">", "dest": f"in.{n}.>"}]}
                for n in names
            ]  # fmt: skip
            await buses[0].ask(f"STREAM.UPDATE.{inbox('hub')}", config)
        else:
            await adopt_children(buses[0], "hub", CAPS, names, hub_host.clock, urgent=True)
        return await idle([s.pid for s in servers if s.pid is not None], idle_s)
    finally:
        for bus in buses:
            await bus.close()
        await asyncio.gather(*(s.stop() for s in reversed(servers)))


async def of_mosquitto(root: Path, gateways: int, idle_s: float = IDLE_S) -> dict[str, float]:
    """A hub and its gateways, bridged."""
    ports = system_host(root).ports
    hub = ports.free()
    processes: list[subprocess.Popen[bytes]] = [broker(root / "hub", hub)]
    try:
        processes += [broker(root / f"gw{n}", ports.free(), bridge=hub) for n in range(gateways)]
        return await idle([p.pid for p in processes], idle_s)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
