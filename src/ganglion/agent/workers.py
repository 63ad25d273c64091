"""One of the processes that share a site's input: it runs the site's stages for the partitions it is pinned to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from ganglion.agent.config import WorkerConfig
from ganglion.agent.partitions import Below, PartitionOutbox, PartitionState, PinnedJournal
from ganglion.agent.streams import answered
from ganglion.core.errors import HostError, MessagingError
from ganglion.core.partition import PARTITIONS, home, partition_of
from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.engine.durable import Durable
from ganglion.engine.meter import Meter
from ganglion.engine.warming import warm
from ganglion.flow.load import load_planned
from ganglion.flow.spec import FlowSpec
from ganglion.host.ports import Host
from ganglion.host.private import PrivateDirectory
from ganglion.kernels.loading import load
from ganglion.kernels.running import Libraries
from ganglion.messaging import nats, pins, subjects
from ganglion.messaging.cluster import REPLICAS
from ganglion.messaging.janitor import NO_TAIL, Tail, purge_up_to
from ganglion.messaging.partitions import PartitionBus, consumer, provision_partitions
from ganglion.messaging.security.identity import SiteIdentity

REPORT = "report.json"
LOOK_EVERY_NS = NS_PER_S
ORPHANED_LOOKS = 3
"""So often in turn nobody is pinned to a partition that has messages before one takes it that it is no home of."""
CLEAN_EVERY_NS = 500 * NS_PER_MS
GIVE_BACK_NS_MAX = 5 * NS_PER_S
HOME_WAIT_NS = 60 * NS_PER_S
Connect = Callable[[str, str], Awaitable[PartitionBus]]


@dataclass(slots=True)
class Owned:
    """A partition that this process has now."""

    engine: Durable
    state: PartitionState
    outbox: PartitionOutbox | None
    pin: pins.Pin
    saved_seq: int = 0
    done_seq: int = 0


class Worker:
    """Takes partitions, runs them, gives them back at `stop`; see `WorkerConfig`. ``connect``: see `Node`."""

    def __init__(
        self,
        config: WorkerConfig,
        host: Host,
        *,
        connect: Connect | None = None,
        load_kernels: Callable[..., Libraries] = load,
        flow: FlowSpec | None = None,
    ) -> None:
        self.config = config
        self.owned: dict[int, Owned] = {}
        self.troubles: dict[int, str] = {}
        """Why partitions that we could have wait."""
        self._host = host
        self._clock = host.clock
        self._connect = connect or self._nats
        self._real = connect is None
        self._load_kernels = load_kernels
        self._spec = flow or load_planned(config.node.flow_dir, config.node.assignment)
        self._libraries: Libraries = {}
        self._meter = Meter(host.clock.cpu_ns)
        self._phase = "starting"
        self._stop = asyncio.Event()
        self.taken_over = 0
        site = config.node.site
        self._inbox, self._outbox = subjects.inbox(site), subjects.outbox(site)

    @property
    def home(self) -> list[int]:
        """The partitions that are ours while we run."""
        return home(self.config.index, self.config.node.processes)

    async def _nats(self, url: str, name: str) -> nats.NatsBus:
        keys = self.config.node.identity_dir
        access = (
            SiteIdentity(PrivateDirectory(keys), self.config.node.site).access() if keys is not None else None
        )
        return await nats.connect(url, name=name, access=access)

    def stop(self) -> None:
        """Ends `run` after a last checkpoint of each partition."""
        self._stop.set()

    async def run(self) -> None:
        """Goes on until `stop`; raises what ends it for good."""
        node = self.config.node
        runs = node.assignment.runs
        kernels, folds = self._spec.kernels(runs), self._spec.folds(runs)
        self._libraries = await asyncio.to_thread(self._load_kernels, kernels, node.kernel_dir, folds)
        if self._real:
            warm(self._spec, node.assignment, self._libraries, self._host.disk)
        url = ",".join(node.servers) or f"nats://127.0.0.1:{node.nats_port}"
        connecting = asyncio.ensure_future(
            answered(lambda: self._connect(url, self.config.name), self._clock)
        )
        if not await self._before_stop(connecting):
            return
        bus = connecting.result()
        try:
            if await self._before_stop(asyncio.ensure_future(self._provisioned(bus))):
                await self._work(bus)
            self._phase = "stopped"
            await self._write_report()
        finally:
            await bus.close()

    async def _before_stop(self, doing: asyncio.Future[Any]) -> bool:
        """Waits until it is done; False when `stop` came first."""
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not doing.done():
            doing.cancel()
            return False
        doing.result()
        return True

    async def _work(self, bus: PartitionBus) -> None:
        self._phase = "ready"
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._keep(bus, p)) for p in range(PARTITIONS)]
            tasks += [group.create_task(self._clean(bus)), group.create_task(self._report())]
            await self._stop.wait()
            self._phase = "stopping"
            for task in tasks:
                task.cancel()

    async def _provisioned(self, bus: PartitionBus) -> None:
        """Waits for the node to have made the site's streams; what partitions need is made by whoever comes first."""
        while True:
            try:
                await bus.state(self._inbox)
                replicas = REPLICAS if self.config.node.servers else 1
                await provision_partitions(bus, self.config.node.site, replicas)
                return
            except MessagingError as error:
                if error.code not in ("messaging.unavailable", "messaging.no-stream"):
                    raise
            await self._clock.sleep_ns(LOOK_EVERY_NS // 5)

    async def _keep(self, bus: PartitionBus, partition: int) -> None:
        """Has the partition whenever it is ours to have, for ever."""
        ours = partition in self.home
        reclaiming = asyncio.ensure_future(self._reclaim(bus, partition)) if ours else None
        try:
            while True:
                try:
                    if ours or await self._orphaned(bus, partition):
                        wait_ns = HOME_WAIT_NS if ours else LOOK_EVERY_NS
                        pin = await pins.pin(bus, self._inbox, consumer(partition), wait_ns)
                        if pin is not None:
                            self.taken_over += not ours
                            await self._own(bus, partition, pin)
                except MessagingError as error:
                    if error.code not in (
                        "messaging.unavailable",
                        "messaging.no-stream",
                        "messaging.unpinned",
                    ):
                        raise
                    await self._clock.sleep_ns(LOOK_EVERY_NS // 5)
        finally:
            if reclaiming is not None:
                reclaiming.cancel()

    async def _reclaim(self, bus: PartitionBus, partition: int) -> None:
        """Once, at the start: whoever has a home partition of ours meanwhile is to let go of it, for we wait for it."""
        await self._clock.sleep_ns(LOOK_EVERY_NS // 2)
        name = consumer(partition)
        found = await answered(lambda: pins.standing(bus, self._inbox, name), self._clock)
        if found.pinned and partition not in self.owned:
            await answered(lambda: pins.unpin(bus, self._inbox, name), self._clock)

    async def _orphaned(self, bus: PartitionBus, partition: int) -> bool:
        """True when there is work that nobody has been doing for a while. Takes its time."""
        for _ in range(ORPHANED_LOOKS):
            await self._clock.sleep_ns(LOOK_EVERY_NS)
            found = await pins.standing(bus, self._inbox, consumer(partition))
            if found.pinned or not found.owed:
                return False
        return True

    async def _own(self, bus: PartitionBus, partition: int, pin: pins.Pin) -> None:
        """Runs a partition until it is somebody else's, or until we stop."""
        node = self.config.node
        state = PartitionState(bus, node.site, partition, self.config.name, self._clock)
        if not await self._claimed(state, partition, pin):
            return
        outbox = (
            PartitionOutbox(bus, self._outbox, partition, self._clock, self._spec.urgent)
            if node.parent_url
            else None
        )
        engine = Durable(
            self._spec,
            node.assignment,
            PinnedJournal(bus, self._inbox, pin, self._clock),
            outbox,
            disk=Below(self._host.disk, state.directory),
            clock=self._clock,
            gather=False,
            on_checkpoint=lambda seq: self._checkpointed(partition, seq),
            libraries=self._libraries,
            meter=self._meter,
            checkpoints=state,
            takes=lambda origin: partition_of(origin) == partition,
            divide=True,
            below=node.children,
        )
        owned = self.owned[partition] = Owned(engine, state, outbox, pin)
        state.progress = lambda: engine_progress(engine)
        try:
            await engine.run()
        except asyncio.CancelledError:
            await self._give_back(bus, partition, owned)
            raise
        except MessagingError as error:
            if error.code == "messaging.unpinned":
                await self._keep_progress(owned)
            raise
        finally:
            del self.owned[partition]
            await pin.close()

    async def _claimed(self, state: PartitionState, partition: int, pin: pins.Pin) -> bool:
        """False after a while when there is no room for the claim: the partition waits, as for a full disk."""
        claimed = False
        try:
            await state.claim()
            claimed = True
            self.troubles.pop(partition, None)
        except HostError as error:
            self.troubles[partition] = str(error)
            await self._clock.sleep_ns(LOOK_EVERY_NS)
        finally:
            if not claimed:
                await pin.close()
        return claimed

    def _checkpointed(self, partition: int, seq: int) -> None:
        self.owned[partition].saved_seq = seq

    async def _keep_progress(self, owned: Owned) -> None:
        """Of a partition that was taken from us: what we did is saved unless somebody has claimed it already.

        So work gets on even where processes are too busy to keep a partition from one checkpoint to the next.
        """
        with contextlib.suppress(TimeoutError, MessagingError):
            async with asyncio.timeout(GIVE_BACK_NS_MAX / 1e9):
                await owned.engine.checkpoint()

    async def _give_back(self, bus: PartitionBus, partition: int, owned: Owned) -> None:
        """At the end: the last checkpoint, and the way is free for another at once."""
        try:
            # A server that is away is not waited for: whoever comes next goes on from the checkpoint before.
            async with asyncio.timeout(GIVE_BACK_NS_MAX / 1e9):
                await owned.engine.checkpoint()
                await owned.pin.done(owned.saved_seq)
                await pins.unpin(bus, self._inbox, consumer(partition))
        except TimeoutError:
            return
        except MessagingError as error:
            if error.code not in ("messaging.unavailable", "messaging.no-stream", "messaging.unpinned"):
                raise

    async def _clean(self, bus: PartitionBus) -> None:
        """Tells the server what checkpoints cover, and gives the outbox's disk back."""
        limits = self.config.node.limits
        tail = Tail(limits.outbox_tail_bytes, limits.outbox_bytes_max) if self._real else NO_TAIL
        while True:
            await self._clock.sleep_ns(CLEAN_EVERY_NS)
            try:
                for owned in tuple(self.owned.values()):
                    if owned.saved_seq > owned.done_seq:
                        await owned.pin.done(owned.saved_seq)
                        owned.done_seq = owned.saved_seq
                if self.config.node.parent_url:
                    await self._purge(bus, tail)
            except MessagingError:
                continue  # next time

    async def _purge(self, bus: PartitionBus, tail: Tail) -> None:
        state = await bus.state(self._outbox)
        done = min(await bus.delivered(self._outbox), state.last_seq)
        up_to = purge_up_to(state.first_seq, done, tail.messages(state, done))
        for owned in tuple(self.owned.values()):
            if owned.outbox is not None and up_to:
                await owned.outbox.purge(up_to)

    async def _report(self) -> None:
        while True:
            await self._write_report()
            await self._clock.sleep_ns(self.config.node.limits.report_ns)

    async def _write_report(self) -> None:
        report = {
            "worker": self.config.name,
            "phase": self._phase,
            "at_ns": self._clock.monotonic_ns(),
            "home": self.home,
            "taken_over": self.taken_over,
            "trouble": sorted(set(self.troubles.values())),
            "partitions": {
                str(p): {"epoch": o.state.epoch, **engine_progress(o.engine)}
                for p, o in sorted(self.owned.items())
            },
            "kernels": self._spec.ran_as(self.config.node.assignment.runs, self._libraries),
            "works": self._meter.to_json(),
            "process_cpu_ns": self._clock.process_cpu_ns(),
        }
        try:
            await asyncio.to_thread(self._host.disk.replace, REPORT, orjson.dumps(report))
        except HostError:
            return  # a report that cannot be made now is made next time; its age tells


def engine_progress(engine: Durable) -> dict[str, Any]:
    """What one partition's engine has done, as `Progress` has it, and what its stages took."""
    p = engine.progress
    return {
        "input_seq": p.input_seq,
        "ordinal": p.ordinal,
        "checkpoints": p.checkpoints,
        "bad_messages": p.bad_messages,
        "duplicated_rows": p.duplicated_rows,
        "out_of_order_rows": p.out_of_order_rows,
        "missing": p.missing.snapshot(),
        "state_bytes": dict(p.state_bytes),
        "trouble": p.disk_trouble,
        "exported": {stream: asdict(e) for stream, e in p.exported.items()},
        "stages": {stage: c.to_json() for stage, c in engine.counts().items()},
    }
