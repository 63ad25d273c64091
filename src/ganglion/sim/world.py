"""The local world: every site of a topology as real processes on this machine, with links that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganglion.agent.config import WorkerConfig, device_host_json
from ganglion.core.errors import MessagingError, RunError
from ganglion.core.topology import Topology
from ganglion.device.emulation import DeviceHostConfig
from ganglion.flow.spec import FlowSpec
from ganglion.host.ports import Host
from ganglion.host.private import PrivateDirectory
from ganglion.messaging import subjects
from ganglion.messaging.nats import ANSWER_WITHIN_NS, NatsBus, connect
from ganglion.messaging.security.identity import SiteIdentity
from ganglion.placement import Plan
from ganglion.sim.layout import (
    choose_ports,
    identity_dir,
    make_identities,
    node_config,
    start_order,
    worker_configs,
)
from ganglion.sim.processes import Keeper
from ganglion.sim.relay import Relay
from ganglion.sim.servers import LocalCluster
from ganglion.sim.settings import Cut, Settings

SETTLE_NS_MAX = 120 * 10**9
DEVICES_STOP_NS_MAX = 70 * 10**9
POLL_NS = 50_000_000
LINK_UP_NS_MAX = 20 * 10**9
FAR_NICENESS = 10
"""Sites above the gateways are other machines in truth: they must not take the processor from those that stay near."""


@dataclass(slots=True)
class CutRecord:
    """A cut as it was made: monotonic times, the backlog at the heal, and when the parent had all of it."""

    site: str
    cut_ns: int = 0
    healed_ns: int = 0
    backlog: int = 0
    drained_ns: int = 0

    @property
    def heal_to_drained_s(self) -> float | None:
        return (self.drained_ns - self.healed_ns) / 1e9 if self.drained_ns else None


@dataclass(slots=True)
class WorldState:
    """What a watcher may show while the world runs.

    ``reports``: the nodes' reports when all links were up, when play began and when it ended.
    """

    phase: str = "starting"
    play_started_ns: int = 0
    cuts: list[CutRecord] = field(default_factory=list)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)


class World:
    """Start, play, stop. `close` ends everything from any state and must always be called."""

    def __init__(
        self, settings: Settings, host: Host, spec: FlowSpec, topology: Topology, plan: Plan
    ) -> None:
        self.state = WorldState()
        self.relays: dict[str, Relay] = {}
        self.workers: dict[str, list[str]] = {}
        self.clusters: dict[str, LocalCluster] = {}
        self.keeper = Keeper(host)
        self._settings = settings
        self._host = host
        self._spec = spec
        self._topology = topology
        self._plan = plan
        self._ports = choose_ports(topology, host.ports)
        self._buses: dict[str, NatsBus] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def duration_ns(self) -> int:
        """How long the devices are to play."""
        return self._settings.duration_ns

    @property
    def coap_ports(self) -> dict[str, int]:
        """Where the devices of each gateway send to."""
        return {site: p.coap for site, p in self._ports.items() if p.coap}

    async def connect(self, site: str, answer_within_ns: int = ANSWER_WITHIN_NS) -> NatsBus:
        """A connection to a site's message server, as the site's own agent has one; the caller closes it."""
        identity = SiteIdentity(PrivateDirectory(identity_dir(self._settings, site)), site)
        url = ",".join(self._ports[site].urls)
        return await connect(
            url, name="ganglion-run", access=identity.access(), answer_within_ns=answer_within_ns
        )

    def node_directory(self, site: str) -> Path:
        """Where a site's node keeps its state, below the run directory."""
        return self._settings.run_dir.resolve() / "nodes" / self._topology.node_id(site)

    def devices_directory(self, name: str) -> Path:
        """Where a device host keeps its logs."""
        return self._settings.run_dir.resolve() / "devices" / name

    async def start(self) -> None:
        """Starts every site, parents first, and waits until each is ready and every link is up."""
        await asyncio.to_thread(make_identities, self._settings, self._topology, self._host.clock)
        self.state.phase = "starting sites"
        for site in start_order(self._topology):
            parent = self._topology.sites[site].parent
            up: tuple[int, ...] = ()
            if parent is not None:
                relay = self.relays[site] = Relay(self._topology.uplink_id(site), *self._ports[parent].leaves)
                await relay.open()
                up = relay.ports
            config = node_config(self._settings, self._topology, self._plan, site, self._ports[site], up)
            if config.servers:
                cluster = self.clusters[site] = LocalCluster(
                    self._settings, self._host, site, self._ports[site], config.parent_url
                )
                await cluster.start()
            await self.keeper.start(
                site,
                self.node_directory(site),
                config.to_json(),
                restart=True,
                niceness=0 if config.coap_port else FAR_NICENESS,
            )
            await self._start_workers(site, worker_configs(config))
        for site in start_order(self._topology):
            for name in (site, *self.workers.get(site, ())):
                await self.keeper.until_ready(self.keeper.all[name])
        await self._links_up()

    async def _start_workers(self, site: str, workers: list[WorkerConfig]) -> None:
        """The processes that share a site's work are kept like its node, each in a directory of its own."""
        self.workers[site] = [w.name for w in workers]
        for worker in workers:
            directory = self.node_directory(site) / "workers" / worker.name
            await self.keeper.start(
                worker.name, directory, worker.to_json(), restart=True, niceness=FAR_NICENESS
            )

    async def _links_up(self) -> None:
        """A link is up when the parent has begun to draw from the child's outbox (it binds the consumer)."""
        self.state.phase = "connecting sites"
        for site in self.relays:
            self._buses[site] = await self.connect(site)
        deadline_ns = self._host.clock.monotonic_ns() + LINK_UP_NS_MAX
        for site, bus in self._buses.items():
            while not await bus.drawn(subjects.outbox(site)):
                self.keeper.check()
                if self._host.clock.monotonic_ns() > deadline_ns:
                    raise RunError(
                        "run.link",
                        f"the link {self._topology.uplink_id(site)} did not come up",
                        why="the parent does not draw from the site's outbox",
                        next_step=f"look at {self.node_directory(site)}/messaging/server.log",
                    )
                await self._host.clock.sleep_ns(POLL_NS)

    async def play(self, devices: Mapping[str, DeviceHostConfig]) -> None:
        """Runs the device hosts for the settings' time, with the cuts in it; then lets them end and send the rest."""
        self.state.phase = "playing"
        await self._host.clock.sleep_ns(self._settings.rest_ns // 4)  # what starting takes is over then
        self.state.reports["up"] = self._reports()
        await self._host.clock.sleep_ns(self._settings.rest_ns - self._settings.rest_ns // 4)
        for name, config in devices.items():
            directory = self.devices_directory(name)
            await self.keeper.start(name, directory, device_host_json(config), restart=False)
        while not all(self.keeper.all[name].report() for name in devices):
            self.keeper.check()
            await self._host.clock.sleep_ns(POLL_NS)
        started_ns = self.state.play_started_ns = self._host.clock.monotonic_ns()
        self.state.reports["began"] = self._reports()
        self._tasks = [asyncio.ensure_future(self._cut(c, started_ns)) for c in self._settings.cuts]
        while self._host.clock.monotonic_ns() < started_ns + self._settings.duration_ns:
            self.keeper.check()
            for task in self._tasks:
                if task.done():
                    task.result()
            await self._host.clock.sleep_ns(POLL_NS)
        self.state.reports["ended"] = self._reports()
        self.state.phase = "stopping devices"
        await asyncio.gather(*(self.keeper.stop(name, DEVICES_STOP_NS_MAX) for name in devices))

    def _reports(self) -> dict[str, Any]:
        """Node -> its latest report, at most a quarter of a second old."""
        return {self._topology.node_id(s): self.keeper.all[s].report() for s in self._topology.sites}

    async def _cut(self, cut: Cut, started_ns: int) -> None:
        clock, relay = self._host.clock, self.relays[cut.site]
        record = CutRecord(cut.site)
        await clock.sleep_until_ns(started_ns + cut.from_ns)
        self.state.cuts.append(record)
        relay.cut()
        record.cut_ns = clock.monotonic_ns()
        await clock.sleep_until_ns(started_ns + cut.to_ns)
        bus, outbox = self._buses[cut.site], subjects.outbox(cut.site)
        owed = (await bus.state(outbox)).last_seq
        record.backlog = owed - await bus.delivered(outbox)
        relay.heal()
        record.healed_ns = clock.monotonic_ns()
        while await self._delivered(bus, outbox) < owed:
            await clock.sleep_ns(POLL_NS)
        record.drained_ns = clock.monotonic_ns()

    async def _delivered(self, bus: NatsBus, outbox: str) -> int:
        try:
            return await bus.delivered(outbox)
        except MessagingError:
            return -1  # the site's server is restarting

    async def settle(self) -> None:
        """Returns when no node owes anything: all input processed and saved, all output with the parent.

        Raises `RunError` ``run.unsettled`` after two minutes, naming who still owes what.
        """
        self.state.phase = "draining"
        deadline_ns = self._host.clock.monotonic_ns() + SETTLE_NS_MAX
        for site in reversed(start_order(self._topology)):
            since_ns = self._host.clock.monotonic_ns()
            while not _settled(report := self.keeper.all[site].report(), since_ns):
                self.keeper.check()
                if self._host.clock.monotonic_ns() > deadline_ns:
                    raise RunError(
                        "run.unsettled",
                        f"{site} still owes after {SETTLE_NS_MAX / 1e9:g} s",
                        why=f"its last report: {_owes(report)}",
                        next_step=f"look at {self.node_directory(site)}/log.txt",
                    )
                await self._host.clock.sleep_ns(POLL_NS)
        for task in self._tasks:
            await task

    async def stop(self) -> None:
        """Ends the nodes, children first, each after its last checkpoint."""
        self.state.phase = "stopping sites"
        await self._let_go()
        for site in reversed(start_order(self._topology)):
            await asyncio.gather(*(self.keeper.stop(worker) for worker in self.workers.get(site, ())))
            await self.keeper.stop(site)
            if site in self.clusters:
                await self.clusters[site].close()
        self.state.phase = "stopped"

    async def close(self) -> None:
        """Ends everything at once; does nothing after `stop`."""
        for task in self._tasks:
            task.cancel()
        await self._let_go()
        await self.keeper.stop_all()
        for cluster in self.clusters.values():
            await cluster.close()
        for relay in self.relays.values():
            await relay.close()

    async def _let_go(self) -> None:
        buses, self._buses = self._buses, {}
        for bus in buses.values():
            await bus.close()


def _settled(report: dict[str, Any] | None, since_ns: int) -> bool:
    return report is not None and report["at_ns"] > since_ns and bool(report["settled"])


def _owes(report: dict[str, Any] | None) -> str:
    if report is None:
        return "none"
    keys = ("phase", "input_seq", "input_last", "checkpoint_seq", "ordinal", "delivered", "trouble")
    return ", ".join(f"{k} {report[k]}" for k in keys)
