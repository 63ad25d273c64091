"""One world: sites, devices and faults on one virtual clock, from a scenario and a seed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import orjson

from ganglion.agent.config import Limits, NodeConfig
from ganglion.agent.node import REPORT, Node
from ganglion.core.batch import Batch
from ganglion.core.topology import Topology
from ganglion.core.units import NS_PER_S
from ganglion.flow.assignment import Assignment, origin_name
from ganglion.flow.spec import FlowSpec
from ganglion.messaging.bus import Stored
from ganglion.placement.below import paths_below
from ganglion.sim.virtual.chance import SeededChances
from ganglion.sim.virtual.device import VirtualDevice
from ganglion.sim.virtual.faults import Faults
from ganglion.sim.virtual.loop import VirtualLoop
from ganglion.sim.virtual.machine import LIFE, Life, Machine, MachinesOutside
from ganglion.sim.virtual.mqtt_sites import MqttSites, broker_of
from ganglion.sim.virtual.network import Network
from ganglion.sim.virtual.paths import Path, Weather
from ganglion.sim.virtual.reflexes import ReflexWatch
from ganglion.sim.virtual.scenario import BROKER, Loaded
from ganglion.sim.virtual.sensor import VirtualSensor
from ganglion.sim.virtual.servers import Servers
from ganglion.sim.virtual.trace import Trace

START_S = 3.0
"""Sites have this long before devices begin."""
RESTART_AFTER_FAILURE_S = 0.2
REPORT_EVERY_NS = 5 * NS_PER_S
POLL_S = 2.0
PURGED_WITHIN_S = 3.0
"""What is settled is purged at the janitor's next round."""
FAILURES_MAX = 20


class _Errors(logging.Handler):
    """What programs log as errors, a handler that failed for one, is a failure that they got over."""

    def __init__(self, truth: Truth) -> None:
        super().__init__(logging.ERROR)
        self._truth = truth

    def emit(self, record: logging.LogRecord) -> None:
        life = LIFE.get(None)
        if life is None or life.alive:
            error = record.exc_info[1] if record.exc_info else None
            self._truth.fail(f"{record.getMessage()}: {_words(error)}")


@dataclass(frozen=True, slots=True)
class Ground:
    """What is the same for every seed of a scenario."""

    loaded: Loaded
    spec: FlowSpec
    assignments: dict[str, Assignment]

    @property
    def topology(self) -> Topology:
        return self.loaded.topology


@dataclass(slots=True)
class Truth:
    """What the world saw for itself. ``acknowledged``: (stream, origin) -> {sequence number: digest}."""

    acknowledged: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    stored: dict[str, list[Stored]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    settled_ns: int = 0

    def acknowledge(self, batch: Batch) -> None:
        """A device was told that these rows are safe."""
        rows = self.acknowledged.setdefault((batch.stream, batch.origin), {})
        rows.update(zip(batch.seq.tolist(), batch.row_digests(), strict=True))

    def fail(self, text: str) -> None:
        """Something ended that nobody ended."""
        if len(self.failures) < FAILURES_MAX:
            self.failures.append(text)


class World:
    """Runs once. Afterwards `truth` and the machines' disks tell what happened."""

    def __init__(self, ground: Ground, seed: int, loop: VirtualLoop, trace: Trace) -> None:
        self.scenario = ground.loaded.scenario
        self.ground = ground
        self.truth = Truth()
        self.trace = trace
        self.loop = loop
        self.chances = SeededChances(seed, ground.loaded.name)
        air = self.scenario.network
        calm = Weather(air.loss, air.duplication, *air.delay)
        self.network = Network(lambda: loop.virtual_time.now_ns, self.chances, trace, calm)
        self.servers = Servers(self.network)
        self.servers.on_stored = self._stored
        self.mqtt = MqttSites(ground.spec, self.scenario.workload, self.network, self._acknowledged)
        self.machines: dict[str, Machine] = {}
        self.devices: dict[str, VirtualDevice | VirtualSensor] = {}
        self.coap_ports: dict[str, int] = {}
        self.faults = Faults(self)
        self._configs: dict[str, NodeConfig] = {}
        self._above: dict[str, str] = {}
        self._ending = False
        loop.outside = MachinesOutside()
        loop.on_task = _adopt
        loop.set_exception_handler(self._mishap)
        self._make_sites()
        self._make_devices()
        by_port = {
            port: ground.assignments[ground.topology.node_id(s)] for s, port in self.coap_ports.items()
        }
        self.reflexes = ReflexWatch(ground.spec, by_port)
        self.network.taps.append(self.reflexes.tap)
        for config in self._configs.values():
            if config.mqtt is not None:
                self.mqtt.watch(config, self.reflexes)

    # --- making it ---

    def _machine(self, name: str) -> Machine:
        machine = Machine(name, self.loop, self.network, self.servers, self.chances, self.trace)
        self.machines[name] = machine
        return machine

    def _make_sites(self) -> None:
        topology = self.ground.topology
        ports = {s: [self.network.free_port() for _ in range(3)] for s in topology.sites}
        for site_id, site in topology.sites.items():
            nats, leaf, coap = ports[site_id]
            self._machine(site_id)
            paths = [p for p in topology.paths() if p.gateway == site_id]
            mqtt = self.mqtt.begin(site_id, site.mqtt) if site.mqtt is not None else None
            if mqtt is not None:
                self._machine(broker_of(site_id))
                self._above[broker_of(site_id)] = site_id
            spoken = {r.devices for r in mqtt.routes} if mqtt is not None else set()
            by_coap = site.tier == "gateway" and any(p.group not in spoken for p in paths)
            if site.parent is not None:
                self._above[site_id] = site.parent
            self._configs[site_id] = NodeConfig(
                assignment=self.ground.assignments[topology.node_id(site_id)],
                flow_dir=self.ground.loaded.flow_dir,
                nats_port=nats,
                leaf_port=leaf if topology.children(site_id) else 0,
                parent_url=f"nats-leaf://127.0.0.1:{ports[site.parent][1]}" if site.parent else "",
                children=paths_below(topology, self.ground.assignments, site_id),
                coap_port=coap if by_coap else 0,
                paths=tuple(p.id for p in paths),
                mqtt=mqtt,
                mqtt_devices={p.group: p.count for p in paths if p.group in spoken},
                kernel_dir=FilePath("/virtual/kernels"),
                limits=Limits(
                    self.scenario.journal_bytes_max,
                    self.scenario.outbox_bytes_max,
                    self.scenario.inbox_bytes_max,
                    report_ns=REPORT_EVERY_NS,
                    recording_bytes_max=self.scenario.recording_bytes_max,
                ),
            )
            if by_coap:
                self.coap_ports[site_id] = coap

    def _make_devices(self) -> None:
        topology = self.ground.topology
        for path in topology.paths():
            mqtt = self._configs[path.gateway].mqtt
            route = next((r for r in mqtt.routes if r.devices == path.group), None) if mqtt else None
            for number in range(path.count):
                origin = origin_name(path.id, number)
                self._machine(origin)
                if route is None:
                    self._above[origin] = path.gateway
                    self.devices[origin] = self._device_at(origin, path.id, path.gateway, path.group)
                else:
                    self._above[origin] = broker_of(path.gateway)
                    self.devices[origin] = self.mqtt.sensor(origin, route, path.gateway)

    def _device_at(self, origin: str, path: str, gateway: str, group: str) -> VirtualDevice:
        return VirtualDevice(
            origin,
            self.ground.spec,
            self.ground.assignments[f"device:{path}"],
            self.scenario.workload,
            ("127.0.0.1", self.coap_ports[gateway]),
            frozenset(self.ground.topology.devices[group].actuators),
            self._acknowledged,
        )

    def places(self, names: Iterable[str]) -> list[str]:
        """The machines that sites, tiers and ``device`` stand for."""
        topology = self.ground.topology
        found = []
        for name in names:
            if name == "device":
                found += list(self.devices)
            elif name == BROKER:
                found += list(self.mqtt.brokers)
            else:
                found += [s for s, site in topology.sites.items() if name in (s, site.tier)]
        return list(dict.fromkeys(found))

    def uplink(self, name: str) -> tuple[Path, str]:
        """The path from a site or device to what is above it, and its name; the cloud has a path to itself."""
        above = self._above.get(name, name)
        return self.network.path(name, above), above

    # --- running it ---

    async def run(self) -> None:
        """Everything from the first boot until nothing is owed any more."""
        errors, logger = _Errors(self.truth), logging.getLogger("ganglion")
        logger.addHandler(errors)
        try:
            await self._run()
        finally:
            logger.removeHandler(errors)

    async def _run(self) -> None:
        for name in (*self.mqtt.brokers, *self._configs):
            self._launch(name)
        await asyncio.sleep(START_S)
        for origin in self.devices:
            self._launch(origin)
        self.faults.begin()
        await asyncio.sleep(self.scenario.workload.lasts / 1e9)
        await self.faults.end()
        for device in self.devices.values():
            device.stop.set()
        await self._settle()
        await asyncio.sleep(PURGED_WITHIN_S)
        self.truth.settled_ns = self.loop.virtual_time.now_ns
        self._ending = True
        for machine in self.machines.values():
            machine.kill()
        await asyncio.sleep(1.0)

    def _launch(self, name: str) -> None:
        machine = self.machines[name]
        life = machine.boot()
        kinds = ((self.devices, self._device), (self.mqtt.brokers, self._broker))
        program = next((run for names, run in kinds if name in names), self._node)
        task = self.loop.create_task(self._alive(life, program), name=name)
        task.add_done_callback(lambda t: self._ended(life, t))

    async def _alive(self, life: Life, program: Callable[[Life], Awaitable[None]]) -> None:
        LIFE.set(life)
        life.adopt_current()
        await program(life)

    async def _node(self, life: Life) -> None:
        ground = self.ground
        node = Node(
            self._configs[life.name],
            life.host,
            connect=life.connect,
            load_kernels=_in_numpy,
            flow=ground.spec,
        )
        await node.run()

    async def _broker(self, life: Life) -> None:
        await self.mqtt.brokers[life.name].run(life)

    async def _device(self, life: Life) -> None:
        await self.devices[life.name].run(life)

    def _ended(self, life: Life, task: asyncio.Task[None]) -> None:
        """A program that ended by itself has failed, unless it is a device that was told to; it is started again."""
        error = None if task.cancelled() else task.exception()
        if not life.alive or self._ending:
            return
        if error is None and life.name in self.devices:
            life.machine.note("has ended")
            life.end(None)
            return
        self.truth.fail(f"{life.name} ended: {_words(error)}")
        life.machine.note("failed")
        life.end(None)
        if len(self.truth.failures) < FAILURES_MAX:
            self.loop.call_later(RESTART_AFTER_FAILURE_S, self._again, life.name)

    def _again(self, name: str) -> None:
        machine = self.machines[name]
        if not self._ending and (machine.life is None or not machine.life.alive):
            self._launch(name)

    async def restart(self, name: str, after_s: float) -> None:
        """Starts a machine's program again after a while, if it is still away then."""
        await asyncio.sleep(after_s)
        self._again(name)

    def _mishap(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        life = LIFE.get(None)
        if life is None or life.alive:
            self.truth.fail(f"{context.get('message')}: {_words(error)}")

    # --- watching it ---

    def _acknowledged(self, batch: Batch) -> None:
        self.truth.acknowledge(batch)
        self.trace.add(
            self.loop.virtual_time.now_ns,
            batch.origin,
            f"acked {batch.stream} {batch.first_seq}-{batch.last_seq}",
        )

    def _stored(self, site: str, message: Stored) -> None:
        self.truth.stored.setdefault(site, []).append(message)
        self.trace.add(
            self.loop.virtual_time.now_ns,
            site,
            f"stored {message.subject} {message.seq} {len(message.payload)}",
        )

    def report(self, site: str) -> dict[str, Any] | None:
        """What a node last wrote about itself; None when there is nothing that can be read."""
        file = self.machines[site].platter.files.get(REPORT)
        try:
            found: dict[str, Any] | None = None if file is None else orjson.loads(bytes(file.content))
        except orjson.JSONDecodeError:
            return None
        return found

    async def _settle(self) -> None:
        """Returns when devices have ended and no node owes anything, or when the scenario's time for it is over."""
        until_ns = self.loop.virtual_time.now_ns + self.scenario.settle
        since_ns = self.loop.virtual_time.now_ns
        while True:
            self.truth.unsettled = self._owing(since_ns)
            if not self.truth.unsettled or self.loop.virtual_time.now_ns > until_ns:
                return
            await asyncio.sleep(POLL_S)

    def _owing(self, since_ns: int) -> list[str]:
        """Who still has something to do: children first, as each waits for those below."""
        owing = [o for o in self.devices if (life := self.machines[o].life) is not None and life.alive]
        owing += [name for name, broker in self.mqtt.brokers.items() if broker.owes]
        if owing:
            return owing
        for site_id in self._configs:
            report = self.report(site_id)
            if report is None or report["at_ns"] < since_ns or not report["settled"]:
                owing.append(site_id)
        return owing


def _adopt(task: asyncio.Task[Any]) -> None:
    life = LIFE.get(None)
    if life is not None and life.alive:
        life.adopt(task)


def _in_numpy(*_given: Any) -> dict[str, Any]:
    """No compiler enters the world: kernels run in NumPy, whose bits the compiled ones have."""
    return {}


def _words(error: BaseException | None) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_words(e) for e in error.exceptions)
    return f"{type(error).__name__}: {error}" if error is not None else "without an error"
