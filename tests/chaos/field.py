"""One world of real processes under faults: started, loaded, broken, healed, drained, judged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.agent.config import device_host_json
from ganglion.core.errors import MessagingError, RunError
from ganglion.core.topology import Topology
from ganglion.core.units import NS_PER_S
from ganglion.flow.load import load_flow
from ganglion.host.system import system_host
from ganglion.messaging import subjects
from ganglion.messaging.nats import NatsBus
from ganglion.placement import plan
from ganglion.sim import layout
from ganglion.sim.evidence import gather
from ganglion.sim.run import load_topology
from ganglion.sim.settings import Settings
from ganglion.sim.world import World
from tests.chaos.datagrams import DatagramRelay, Radio
from tests.chaos.judge import Row, judge

FLOW = Path(__file__).parent / "flow"
FAULTS = Path(__file__).parent / "faults"
PINS = {"level": "gateway", "trips": "gateway"}
PATIENCE_S = 120
GATEWAYS = ("gw1", "gw2")


def record(directory: Path) -> None:
    """Recordings for the flow: two bursts above the reflex's threshold among quiet noise; nothing is repeated."""
    directory.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(4)
    wave = noise.integers(-50, 50, (4, 2, 16 * 30), dtype=np.int16)
    wave[:2, :, 160:192] += np.int16(400)
    np.savez(directory / "events.npz", wave=wave)
    lines = ["row,event,is_fault,inception_sample"]
    lines += [f"{i},{'burst' if i < 2 else 'quiet'},{int(i < 2)},160" for i in range(4)]
    (directory / "labels.csv").write_text("\n".join(lines) + "\n")


class Field:
    """What a case may look at and break. ``scale`` shortens waits; ``chance`` is the case's own."""

    def __init__(
        self,
        root: Path,
        case: str,
        seed: int,
        scale: float,
        *,
        radio: Radio | None = None,
        clustered: str = "",
    ) -> None:
        self.row = Row(case)
        self.scale = scale
        self.seed = seed
        self.chance = random.Random(f"{seed}/{case}")
        self.root = root
        data = root / "data"
        record(data)
        settings = Settings(
            FLOW, root / "run", 3600 * NS_PER_S, data_dir=data, pins=PINS, seed=seed, devices_as="python"
        )
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        self.host = system_host(settings.run_dir, seed)
        self.spec = load_flow(FLOW)
        self.topology = load_topology(FLOW)
        if clustered:
            self.topology = with_servers(self.topology, clustered)
        self.plan = plan(self.spec, self.topology, pins=PINS)
        self.world = World(settings, self.host, self.spec, self.topology, self.plan)
        self.settings = settings
        self._radio = radio
        self._relays: list[DatagramRelay] = []
        self._devices: list[str] = []
        self._buses: dict[str, NatsBus] = {}
        self._watching: list[asyncio.Task[None]] = []
        self._found: list[dict[str, float]] = []
        self.old_stored = self.old_in_2_s = 0
        """Messages that waited at a heal and are with the parent: in all, and within two seconds of it."""

    # ------------------------------------------------------------------------------------- life
    async def start(self) -> None:
        await self.world.start()
        for site in self.topology.sites:
            self._buses[site] = await self.world.connect(site, 2 * NS_PER_S)

    async def load(self, gateways: tuple[str, ...] = GATEWAYS) -> None:
        """Devices begin to measure and send."""
        ports = dict(self.world.coap_ports)
        if self._radio is not None:
            for site, port in ports.items():
                relay = DatagramRelay(("127.0.0.1", port), self.chance, self._radio)
                ports[site] = await relay.open()
                self._relays.append(relay)
        events = await asyncio.to_thread(layout_events, self)
        data = self.settings.data_dir or FLOW
        hosts = layout.device_hosts(
            self.settings, self.topology, self.spec, self.plan, data, events, ports, "python"
        )
        for name, config in hosts.items():
            if name.removeprefix("devices-") in gateways:
                directory = self.world.devices_directory(name)
                await self.world.keeper.start(name, directory, device_host_json(config), restart=False)
                self._devices.append(name)
        await self.until(lambda: all(self.world.keeper.all[name].report() for name in self._devices))

    async def unload(self) -> None:
        """Devices stop measuring and send what they hold."""
        names, self._devices = self._devices, []
        await asyncio.gather(*(self.world.keeper.stop(name, 70 * NS_PER_S) for name in names))

    async def finish(self) -> Row:
        """Drains and stops everything, and judges."""
        devices = sorted(p.name for p in (self.settings.run_dir / "devices").iterdir())
        await self.unload()
        await self.world.settle()
        await self._timed()
        await self._let_go()
        await self.world.stop()
        if self._relays:
            repeated, lost = sum(r.repeated for r in self._relays), sum(r.lost for r in self._relays)
            self.row.notes.append(f"{repeated} datagrams repeated, {lost} lost")
        self.row.restarts = sum(k.restarts for k in self.world.keeper.all.values())
        self.row.restarts += sum((k.report() or {}).get("server_restarts", 0) for k in self._nodes())
        return judge(self.row, self.spec, await asyncio.to_thread(self.evidence, devices))

    def evidence(self, devices: list[str]) -> Any:
        nodes = {self.topology.node_id(s): self.world.node_directory(s) for s in self.topology.sites}
        return gather(self.spec, nodes, [self.world.devices_directory(name) for name in devices])

    async def close(self) -> None:
        for task in self._watching:
            task.cancel()
        await self._let_go()
        for relay in self._relays:
            relay.close()
        await self.world.close()

    async def _let_go(self) -> None:
        buses, self._buses = self._buses, {}
        for bus in buses.values():
            await bus.close()

    def _nodes(self) -> list[Any]:
        return [k for name, k in self.world.keeper.all.items() if name in self.topology.sites]

    # ------------------------------------------------------------------------------------- looking
    async def until(
        self, condition: Callable[[], Any], patience_s: float = PATIENCE_S, *, every_s: float = 0.05
    ) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            with contextlib.suppress(MessagingError):
                found = condition()
                if await found if isinstance(found, Awaitable) else found:
                    return
            self.world.keeper.check()
            assert time.monotonic() < deadline, "it did not happen"
            await asyncio.sleep(every_s)

    def report(self, site: str) -> dict[str, Any]:
        return self.world.keeper.all[site].report() or {}

    def conditions(self, site: str) -> list[str]:
        """What is wrong with a site by its own account, but for what is information only."""
        return [c["code"] for c in self.report(site).get("health", ()) if c["severity"] != "info"]

    def bus(self, site: str) -> NatsBus:
        return self._buses[site]

    async def owed(self, site: str) -> tuple[int, int]:
        """(last number, acknowledged number) of a site's outbox."""
        bus, name = self._buses[site], subjects.outbox(site)
        state = await bus.state(name)
        return state.last_seq, max(await bus.delivered(name), state.first_seq - 1)

    def healed(self, *sites: str) -> None:
        """Now is the heal: from here the row's seconds are counted, the slowest of ``sites`` counts."""
        began = time.monotonic()
        for site in sites:
            found: dict[str, float] = {}
            self._found.append(found)
            self._watching.append(asyncio.ensure_future(self._watch(site, began, found)))

    async def _watch(self, site: str, began: float, found: dict[str, float]) -> None:
        """Reads the parent's inbox: what counts is when a message is stored there, not when that is acknowledged."""
        parent = self.topology.sites[site].parent
        assert parent is not None
        stream, end, owed = subjects.inbox(parent), None, None
        while end is None or owed is None:
            with contextlib.suppress(MessagingError):
                end = (await self._buses[parent].state(stream)).last_seq if end is None else end
                owed, delivered = await self.owed(site)
                self.row.backlog += owed - delivered
                if delivered >= owed:
                    found["drained_s"] = 0.0
        while len(found) < 3:
            with contextlib.suppress(MessagingError):
                async for stored in self._buses[parent].read(stream, end):
                    end = stored.seq
                    if not stored.subject.startswith(f"in.{site}."):
                        continue
                    now, number = time.monotonic() - began, source_number(stored.headers)
                    urgent = stored.subject.startswith(f"in.{site}.{subjects.URGENT.prefix}.")
                    found.setdefault("flowing_s", now)
                    if not urgent:
                        self.old_stored += number <= owed
                        self.old_in_2_s += number <= owed and now <= 2
                    if number >= owed and not urgent:
                        found.setdefault("drained_s", now)
                    if number > owed:
                        found.setdefault("live_s", now)
                    if len(found) == 3:
                        break

    async def _timed(self) -> None:
        """Puts the slowest site's seconds into the row; what was not seen before all was drained is left out."""
        if self._watching:
            await asyncio.wait(self._watching, timeout=2)
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for name in ("flowing_s", "drained_s", "live_s"):
            seconds = [found[name] for found in self._found if name in found]
            setattr(self.row, name, max(seconds, default=None))

    # ------------------------------------------------------------------------------------- breaking
    async def wait(self, seconds: float) -> None:
        """Time under load, shortened by the scale."""
        until = time.monotonic() + seconds * self.scale
        while time.monotonic() < until:
            self.world.keeper.check()
            await asyncio.sleep(0.05)

    def kill_server(self, site: str) -> bool:
        """SIGKILL to the site's nats-server; False when it is down already."""
        pid = self.report(site).get("server_pid")
        return pid is not None and _kill(int(pid), "nats-server")

    async def leader(self, site: str) -> str:
        """The server that leads the inbox of a site with several."""
        return (await self.bus(site).replicas(subjects.inbox(site))).leader

    async def stored_again(self, site: str) -> float:
        """Seconds until the site's inbox holds a message more than when it first answered."""
        began, stream, first = time.monotonic(), subjects.inbox(site), None
        bus = await self.world.connect(site, NS_PER_S // 4)

        async def more() -> bool:
            nonlocal first
            last = (await bus.state(stream)).last_seq
            first = last if first is None else first
            return last > first

        try:
            await self.until(more, every_s=0.01)
            return time.monotonic() - began
        finally:
            await bus.close()

    def kill_agent(self, site: str) -> bool:
        """SIGKILL to the site's agent, which takes its server along; False when it is down already."""
        process = self.world.keeper.all[site].process
        if process is None or not process.alive():
            return False
        process.kill()
        return True

    @contextlib.contextmanager
    def frozen(self, site: str) -> Iterator[None]:
        """The site's agent and server stand still, as for a snapshot of their disk."""
        process, server = self.world.keeper.all[site].process, self.report(site)["server_pid"]
        assert process is not None
        pids = (process.pid, int(server))
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def wipe(self, site: str) -> None:
        """The site's disk is replaced by an empty one; only what it is told at start remains."""
        for entry in self.world.node_directory(site).iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in ("config.json", "log.txt"):
                entry.unlink()


def with_servers(topology: Topology, site: str) -> Topology:
    """The same with a site that three servers store; a run puts them on loopback ports of its own."""
    urls = tuple(f"nats://hub{n}.example.net:4222" for n in (1, 2, 3))
    several = topology.sites[site].model_copy(update={"servers": urls})
    return topology.model_copy(update={"sites": {**topology.sites, site: several}})


def source_number(headers: Mapping[str, str]) -> int:
    """The number a sourced message had in the child's outbox."""
    return next(int(word) for word in headers["Nats-Stream-Source"].split() if word.isdigit())


def layout_events(field: Field) -> Any:
    from ganglion.device.recording import load_recording

    assert field.settings.data_dir is not None
    return load_recording(field.settings.data_dir, field.spec.sources[0].schema.fields[0].type)


def _kill(pid: int, program: str) -> bool:
    try:
        if program.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return False
    return True


@contextlib.asynccontextmanager
async def field_of(
    root: Path,
    case: str,
    seed: int,
    scale: float,
    *,
    radio: Radio | None = None,
    clustered: str = "",
) -> AsyncIterator[Field]:
    """A field that is always closed."""
    field = Field(root, case, seed, scale, radio=radio, clustered=clustered)
    try:
        yield field
    finally:
        await field.close()


__all__ = ["Field", "RunError", "field_of"]
