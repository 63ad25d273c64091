"""One site's node: every subsystem is listed and wired here, and nowhere else.

Profiles differ only in what is listed: a gateway has an ingest and a reflex, the cloud has no outbox. A cut uplink
changes nothing here: the engine goes on, the outbox grows, and the parent draws it down when it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from typing import Any

import orjson

from ganglion.agent.backlog import SheddingOutbox
from ganglion.agent.collecting import Collecting
from ganglion.agent.config import NodeConfig
from ganglion.agent.ending import before, first, last_checkpoint
from ganglion.agent.health import Condition, conditions
from ganglion.agent.ingest import Ingest
from ganglion.agent.inputs import InputRecorder
from ganglion.agent.metering import meters
from ganglion.agent.mqtt import mqtt_door
from ganglion.agent.recorded import record
from ganglion.agent.servers import message_servers, unwatched
from ganglion.agent.shared import Shared
from ganglion.agent.streams import BusJournal, BusOutbox, PassingJournal, answered, ticking
from ganglion.agent.subsystems import Subsystems
from ganglion.agent.supervisor import Supervisor, supervised
from ganglion.agent.watch import ServerWatch
from ganglion.core.batch import Batch
from ganglion.core.errors import HostError, MessagingError
from ganglion.core.units import NS_PER_S
from ganglion.core.wire import End
from ganglion.engine.durable import Durable
from ganglion.engine.graph import Graph
from ganglion.engine.meter import Meter
from ganglion.engine.warming import warm
from ganglion.flow.keyed import check_keyed
from ganglion.flow.load import check_planned, load_flow
from ganglion.flow.spec import FlowSpec
from ganglion.host.ports import Host
from ganglion.host.private import PrivateDirectory
from ganglion.kernels.loading import load
from ganglion.kernels.running import Libraries, claims
from ganglion.messaging import nats, subjects
from ganglion.messaging.cluster import REPLICAS, ClusterServers
from ganglion.messaging.janitor import Janitor, Tail
from ganglion.messaging.pacing import Pacer
from ganglion.messaging.provision import Caps, SiteBus, provision
from ganglion.messaging.security.identity import SiteIdentity
from ganglion.messaging.server import SiteServer

REPORT = "report.json"
REACTIONS = "reactions.json"
METERED_EVERY = 8
_LOG = logging.getLogger(__name__)


Connect = Callable[[str, str], Awaitable[SiteBus]]
"""(the server's URL, the client's name) -> a bus on it."""


class Node:
    """Runs one assignment until `stop`; any subsystem that fails for good ends `run` with its error.

    ``connect`` and ``load_kernels`` are where code leaves Python: a client of the message server, a compiler. ``flow``:
    what ``config.flow_dir`` holds, when it was loaded already.
    """

    def __init__(
        self,
        config: NodeConfig,
        host: Host,
        *,
        server_binary: str | None = None,
        connect: Connect | None = None,
        load_kernels: Callable[..., Libraries] = load,
        flow: FlowSpec | None = None,
    ) -> None:
        self.config = config
        self._host = host
        self._binary = server_binary
        keys = config.identity_dir
        self._identity = None if keys is None else SiteIdentity(PrivateDirectory(keys), config.site)
        self._real = connect is None  # else a twin, that knows no first numbers and has no ports to ask
        self._connect = connect or self._nats
        self._load_kernels = load_kernels
        self._phase = "starting"
        self._stop = asyncio.Event()
        self._parts: Subsystems | None = None
        self._checkpoint_seq = 0
        self._last_known = (0, 0)
        self._libraries: Libraries = {}
        self._builds: dict[str, str] = {}
        self._meter = Meter(host.clock.cpu_ns, METERED_EVERY)
        self._collecting: Collecting | None = None
        self._spec = self._load(flow)
        self._door = mqtt_door(config, self._spec, host, self._identity)

    def _load(self, flow: FlowSpec | None) -> FlowSpec:
        config = self.config
        spec = check_planned(flow or load_flow(config.flow_dir), config.flow_dir, config.assignment)
        check_keyed(spec, config.processes, config.assignment)
        return spec

    async def _nats(self, url: str, name: str) -> nats.NatsBus:
        access = self._identity.access() if self._identity is not None else None
        return await nats.connect(url, name=name, access=access)

    def stop(self) -> None:
        """Ends `run` after a last checkpoint, which is given up when the disk takes none for a while."""
        self._stop.set()

    async def run(self) -> None:
        """Starts every subsystem, keeps them running, ends them in reverse order."""
        runs = self.config.assignment.runs
        kernels, folds = self._spec.kernels(runs), self._spec.folds(runs)
        self._libraries = await asyncio.to_thread(self._load_kernels, kernels, self.config.kernel_dir, folds)
        self._builds = claims(self._libraries, self._spec.computed_by(self.config.assignment.runs))
        if self._door is not None and self._real:
            await asyncio.to_thread(self._door.compile, self.config.kernel_dir)
        if self._real:
            warm(self._spec, self.config.assignment, self._libraries, self._host.disk)
        trust = self._identity.trust() if self._identity is not None and not self.config.servers else None
        server = message_servers(self.config, self._host, trust, self._binary)
        await server.start()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(server.run())]
                opened = await before(self._stop.wait(), self._open(server))
                if opened is not None:
                    await self._work(opened[0], group, tasks)
                for task in tasks:
                    task.cancel()
            if opened is not None:
                await self._close(opened[0])
        finally:
            await server.stop()

    async def _work(
        self, parts: Subsystems, group: asyncio.TaskGroup, tasks: list[asyncio.Task[None]]
    ) -> None:
        """Until `stop`, which may come before the engine has caught up; what is to be ended then is in ``tasks``."""
        self._parts = parts
        engine = group.create_task(parts.engine.run())
        tasks += [group.create_task(self._report()), engine, group.create_task(parts.janitor.run())]
        beside = [p.run() for p in (parts.watch, parts.supervisor, parts.pacer) if p is not None]
        tasks += [group.create_task(running) for running in beside]
        await first(engine, parts.engine.caught_up, self._stop)
        if not self._stop.is_set():
            tasks += [group.create_task(serving) for serving in await self._serving(parts)]
            self._phase = "ready"
            await first(engine, self._stop)
        self._phase = "stopping"
        if parts.ingest is not None:
            await parts.ingest.close()

    async def _serving(self, parts: Subsystems) -> list[Coroutine[Any, Any, None]]:
        """Opens the door to devices; gives what is to run from then on."""
        running: list[Coroutine[Any, Any, None]] = []
        if parts.ingest is not None:
            assert isinstance(parts.engine, Durable)
            await self._accept(parts.ingest, parts.engine)
            if parts.recorder is not None:
                running.append(parts.recorder.run())
        if self.config.is_gateway:
            running.append(self._tick())
        if self._door is not None:
            assert isinstance(parts.engine, Durable)
            running.append(self._door.run(self._reflex(), parts.journal, parts.engine, self.config))
        if self._real:
            engine = parts.engine
            collecting = self._collecting = Collecting(self._host.clock, lambda: engine.progress.input_seq)
            running.append(collecting.run())
        return running

    async def _open(self, server: SiteServer | ClusterServers) -> Subsystems:
        config, site = self.config, self.config.site
        limits = config.limits
        clock = self._host.clock
        bus = await answered(lambda: self._connect(server.url, config.assignment.node), clock)
        replicas = REPLICAS if config.servers else 1
        caps = Caps(limits.journal_bytes_max, limits.outbox_bytes_max, limits.inbox_bytes_max, replicas)
        born_s = clock.wall_ns() // NS_PER_S if self._real else 0

        async def provisioned() -> int:
            return await provision(
                bus,
                site,
                caps,
                children=config.children,
                born_s=born_s,
                urgent=bool(self._spec.urgent),
            )

        offset = await answered(provisioned, clock)
        source = subjects.journal(site) if config.is_gateway else subjects.inbox(site)
        tail = Tail(limits.outbox_tail_bytes if self._real else 0, limits.outbox_bytes_max)
        shared = config.processes > 1  # whose processes purge the outbox themselves, each its own partitions
        purged = "" if shared else subjects.outbox(site)
        janitor = Janitor(bus, clock, source=source, outbox=purged, tail=tail)
        watch = None
        if isinstance(server, SiteServer):  # the servers of others are for others to restart
            watch = ServerWatch(server, bus, source, self._host.disk, clock)
        wrote = watch.wrote if watch is not None else unwatched
        outbox = self._outbox(bus, wrote, offset) if config.parent_url else None

        def checkpointed(seq: int) -> None:
            self._checkpoint_seq = seq
            janitor.processed(seq)

        kept = limits.durable or not config.is_gateway
        journal = BusJournal(bus, source, clock, wrote) if kept else PassingJournal(clock)
        recorder = await self._recorder()
        journal.encodes |= recorder is not None
        engine: Durable | Shared
        if shared:
            engine = Shared(bus, site, outbox, checkpointed, self._host, replicas)
        else:
            engine = self._engine(journal, outbox, recorder, checkpointed)
        ingest = self._ingest(journal, engine) if isinstance(engine, Durable) else None
        supervisor: Supervisor | None = None
        if isinstance(bus, nats.NatsBus):
            supervisor = supervised(config, server, bus, self._host, janitor, provisioned)
            if outbox is not None:
                supervisor.shed = lambda: {s: c.rows for s, c in outbox.shed.items()}
        urgent = bool(self._spec.urgent)
        pacer = None
        if outbox is not None:
            pacer = Pacer(bus, site, clock, outbox.mean_bytes, urgent=urgent, offset=offset)
        return Subsystems(
            server, bus, engine, outbox, janitor, ingest, recorder, watch, supervisor, pacer, journal
        )

    def _outbox(self, bus: SiteBus, wrote: Callable[[str, bool], None], offset: int) -> SheddingOutbox:
        """What goes to the parent, each stream as the flow declared it."""
        host, name = self._host, subjects.outbox(self.config.site)
        box = BusOutbox(bus, name, host.clock, wrote, offset, self._spec.urgent)
        declared = {stream: self._spec[stream].backlog for stream in self.config.assignment.exports}
        cap_bytes = self.config.limits.outbox_bytes_max
        return SheddingOutbox(box, bus, name, declared, cap_bytes, clock=host.clock, disk=host.disk)

    def _engine(
        self,
        journal: BusJournal | PassingJournal,
        outbox: SheddingOutbox | None,
        recorder: InputRecorder | None,
        checkpointed: Callable[[int], None],
    ) -> Durable:
        return Durable(
            self._spec,
            self.config.assignment,
            journal if recorder is None else recorder.journal(journal),
            outbox if recorder is None or outbox is None else recorder.outbox(outbox),
            disk=self._host.disk,
            clock=self._host.clock,
            gather=self.config.is_gateway,
            on_checkpoint=checkpointed,
            libraries=self._libraries,
            meter=self._meter,
            on_sink=self._door.gave if self._door else None,
            divide=self.config.parent_processes > 1,
            below=None if self.config.is_gateway else self.config.children,
        )

    async def _recorder(self) -> InputRecorder | None:
        """Gateways that are told to record their inputs do."""
        bytes_max = self.config.limits.recording_bytes_max
        if not bytes_max or not self.config.is_gateway:
            return None
        recorder = InputRecorder(self._host.disk, self._host.clock, bytes_max)
        await recorder.open()
        return recorder

    def _ingest(self, journal: BusJournal | PassingJournal, engine: Durable) -> Ingest | None:
        config = self.config
        if not config.coap_port:
            return None
        above = config.assignment

        async def append(item: Batch | End, payload: bytes) -> None:
            await journal.append(subjects.journal_subject(item.stream, item.origin), payload, (item,))

        return Ingest(
            self._spec,
            above,
            self._reflex(),
            append,
            streams=above.wanted(self._spec),
            paths=frozenset(config.paths),
            last_seq=engine.progress.last_seq,
            clock=self._host.clock,
        )

    def _reflex(self) -> Graph:
        return Graph(self._spec, self.config.assignment, "reflex", self._libraries, self._meter)

    async def _accept(self, ingest: Ingest, engine: Durable) -> None:
        """Opens the door to devices, with the reflex in the state the journal left it in."""
        ingest.take_over(engine.graph.snapshot())
        if self._parts is not None and self._parts.recorder is not None:
            record(self._parts.recorder, ingest, engine, self.config, self._host.clock)
        await ingest.open(self.config.coap_port, self._host.chances.stream("coap"))

    async def _tick(self) -> None:
        parts, host = self._parts, self._host
        assert parts is not None
        first = host.chances.stream("tick").random()
        tick_ns, site = self.config.limits.tick_ns, self.config.site
        await ticking(parts.journal, lambda: parts.engine.holds, site, host.clock, tick_ns, first)

    async def _close(self, parts: Subsystems) -> None:
        if not await last_checkpoint(parts.engine, self._host.clock):
            why = parts.engine.progress.disk_trouble or "it took too long"
            _LOG.warning("ended without a last checkpoint, the one before stays: %s", why)
        if parts.recorder is not None:
            await parts.recorder.write()
        self._phase = "stopped"
        await self._write_report(parts)
        if parts.ingest is not None:
            reactions = orjson.dumps([asdict(r) for r in parts.ingest.reactions])
            try:
                await asyncio.to_thread(self._host.disk.replace, REACTIONS, reactions)
            except HostError as error:
                _LOG.warning("%s is not written: %s", REACTIONS, error)
        await parts.bus.close()

    async def _report(self) -> None:
        parts = self._parts
        assert parts is not None
        while True:
            await self._write_report(parts)
            await self._host.clock.sleep_ns(self.config.limits.report_ns)

    async def _write_report(self, parts: Subsystems) -> None:
        try:
            report = await self._state(parts)
            await asyncio.to_thread(self._host.disk.replace, REPORT, orjson.dumps(report))
        except HostError:
            return  # a report that cannot be made now is made next time; its age tells

    def _conditions(self, parts: Subsystems) -> list[Condition]:
        found = conditions(parts.supervisor.seen) if parts.supervisor else []
        return [*found, *(self._door.conditions(self._host.disk.root) if self._door else ())]

    async def _state(self, parts: Subsystems) -> dict[str, Any]:
        """What the node runs and how far it is; ``settled`` when it owes nobody anything."""
        config, engine = self.config, parts.engine
        source = subjects.journal(config.site) if config.is_gateway else subjects.inbox(config.site)
        known, (input_last, delivered), progress = True, self._last_known, engine.progress
        try:
            input_last = (
                (await parts.bus.state(source)).last_seq if parts.journal.keeps else progress.input_seq
            )
            delivered = await parts.outbox.delivered() if parts.outbox else engine.progress.ordinal
        except MessagingError:
            known = False  # as they were last; what is wrong with the server is told by ``health``
        self._last_known, progress = (input_last, delivered), engine.progress
        settled = (
            known
            and progress.input_seq == input_last == self._checkpoint_seq
            and not engine.holds
            and delivered == progress.ordinal
        )
        return {
            "node": config.assignment.node,
            "tier": config.assignment.tier,
            "phase": self._phase,
            "at_ns": self._host.clock.monotonic_ns(),
            "server_pid": parts.server.pid,
            "server_restarts": parts.server.restarts,
            "runs": sorted(config.assignment.runs),
            "kernels": self._spec.ran_as(config.assignment.runs, self._libraries),
            "kernel_builds": self._builds,
            "input_seq": progress.input_seq,
            "input_last": input_last,
            "checkpoint_seq": self._checkpoint_seq,
            "ordinal": progress.ordinal,
            "delivered": delivered,
            "settled": settled,
            "bad_messages": progress.bad_messages,
            "duplicated_rows": progress.duplicated_rows,
            "out_of_order_rows": progress.out_of_order_rows,
            "health": [c.to_json() for c in self._conditions(parts)],
            "trouble": [t for t in (*parts.troubles, *(self._door.troubles if self._door else ())) if t],
            "stages": {s: c.to_json() for s, c in engine.counts().items()},
            "ingest": asdict(parts.ingest.counts) if parts.ingest else None,
            "mqtt": self._door.to_json() if self._door else None,
            "shed": parts.outbox.counts() if parts.outbox else {},
            "shed_below": progress.missing.to_json(),
            "exported": {s: asdict(e) for s, e in progress.exported.items()},
            "works": self._meter.to_json(),
            "process_cpu_ns": self._host.clock.process_cpu_ns(),
            **meters(self._spec, engine, parts.journal, self._host.clock),
            "collected": asdict(self._collecting.collected) if self._collecting else None,
            "partitions": engine.owners() if isinstance(engine, Shared) else {},
        }
