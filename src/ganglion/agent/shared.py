"""What a node whose stages run in several processes knows of them, in place of an engine of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from ganglion.agent.partitions import PartitionState, Saved, newest_saved
from ganglion.core.errors import MessagingError
from ganglion.core.partition import PARTITIONS
from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.engine.arrivals import Exported, Progress
from ganglion.engine.durable import Outbox
from ganglion.engine.operators import Counts
from ganglion.host.ports import Host
from ganglion.host.threads import to_its_end
from ganglion.messaging import pins, subjects
from ganglion.messaging.partitions import consumer, provision_partitions
from ganglion.messaging.provision import SiteBus

LOOK_EVERY_NS = 500 * NS_PER_MS
END_NS_MAX = 5 * NS_PER_S
"""How long a node that is to end waits for a server that is away."""
SEGMENTS = "segments.json"
"""Which files of which process hold the rows of the site's sinks: a list of [worker, sink, path, bytes, rows]."""


class Shared:
    """Looks after a site whose input several processes share (`Worker`), and says how far they are together.

    ``on_checkpoint`` is given the number up to which all of the input is in checkpoints.
    """

    holds = False

    def __init__(
        self,
        bus: SiteBus,
        site: str,
        outbox: Outbox | None,
        on_checkpoint: Callable[[int], None],
        host: Host,
        replicas: int = 1,
    ) -> None:
        self._replicas = replicas
        self.progress = Progress()
        self.caught_up = asyncio.Event()
        self.partitions: dict[int, Saved] = {}
        self._bus = bus
        self._site = site
        self._inbox = subjects.inbox(site)
        self._outbox = outbox
        self._on_checkpoint = on_checkpoint
        self._host = host

    async def run(self) -> None:
        """Looks again and again, for ever; a server that is away is waited out."""
        provisioned = False
        while True:
            try:
                if not provisioned:
                    await provision_partitions(self._bus, self._site, self._replicas)
                    provisioned = True
                await self._look()
                self.caught_up.set()
            except MessagingError as error:
                if error.code not in ("messaging.unavailable", "messaging.no-stream"):
                    raise
            await self._host.clock.sleep_ns(LOOK_EVERY_NS)

    async def _look(self) -> None:
        last_seq = (await self._bus.state(self._inbox)).last_seq
        floors = []
        for partition in range(PARTITIONS):
            found = await pins.standing(self._bus, self._inbox, consumer(partition))
            floors.append(found.floor_seq if found.owed else last_seq)
            saved = await newest_saved(self._bus, self._site, partition)
            if saved is not None:
                self.partitions[partition] = saved
        self.progress = self._sum(min(floors))
        if self._outbox is not None:
            self.progress.ordinal = await self._outbox.last_ordinal()
        self._on_checkpoint(self.progress.input_seq)

    def _sum(self, floor_seq: int) -> Progress:
        whole = Progress(input_seq=floor_seq)
        for saved in self.partitions.values():
            part = saved.progress
            whole.checkpoints += part["checkpoints"]
            whole.bad_messages += part["bad_messages"]
            whole.duplicated_rows += part["duplicated_rows"]
            whole.out_of_order_rows += part["out_of_order_rows"]
            whole.missing.join(part["missing"])
            for stage, size_bytes in part["state_bytes"].items():
                whole.state_bytes[stage] = whole.state_bytes.get(stage, 0) + size_bytes
            for stream, sent in part["exported"].items():
                known = whole.exported.setdefault(stream, Exported())
                known.rows += sent["rows"]
                known.messages += sent["messages"]
                known.payload_bytes += sent["payload_bytes"]
        return whole

    def counts(self) -> dict[str, Counts]:
        """Per stage and incoming stream, of all processes."""
        whole: dict[str, dict[str, int]] = {}
        for saved in self.partitions.values():
            for stage, counts in saved.progress["stages"].items():
                known = whole.setdefault(stage, {})
                for name, value in counts.items():
                    known[name] = known.get(name, 0) + value
        return {stage: Counts(**counts) for stage, counts in whole.items()}

    def owners(self) -> dict[str, list[int]]:
        """Process -> the partitions whose newest checkpoint it wrote."""
        found: dict[str, list[int]] = {}
        for partition, saved in sorted(self.partitions.items()):
            found.setdefault(saved.worker, []).append(partition)
        return found

    async def checkpoint(self) -> None:
        """At the end: writes down where the rows of the site's sinks are, unless no server says so in time."""
        segments: list[list[Any]] = []
        try:
            async with asyncio.timeout(END_NS_MAX / 1e9):
                for partition in range(PARTITIONS):
                    state = PartitionState(self._bus, self._site, partition, "", self._host.clock)
                    await state.load()
                    segments += state.segments
                await self._look()
        except TimeoutError:
            return
        except MessagingError as error:
            if error.code not in ("messaging.unavailable", "messaging.no-stream"):
                raise
            return
        await to_its_end(self._host.disk.replace, SEGMENTS, orjson.dumps(segments))
