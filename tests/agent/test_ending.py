"""A node that is told to end ends: before it has caught up, and on a disk that takes nothing any more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson

from ganglion.agent.config import Limits, NodeConfig
from ganglion.agent.node import REPORT, Node
from ganglion.core.block import Block
from ganglion.core.wire import encode
from ganglion.engine.checkpoints import CHECKPOINT
from ganglion.messaging import subjects
from ganglion.messaging.bus import unavailable
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.chance import SeededChances
from ganglion.sim.virtual.machine import LIFE, Machine, MachinesOutside
from ganglion.sim.virtual.network import Network
from ganglion.sim.virtual.paths import Weather
from ganglion.sim.virtual.servers import Servers
from ganglion.sim.virtual.trace import Trace
from tests.engine.flows import GATEWAY, LONG_HISTORY, SPEC, items_of

ENDS_WITHIN_S = 60
"""Of virtual time."""


def told(story: Any) -> None:
    async def main(loop: Any) -> None:
        loop.outside = MachinesOutside()
        await story(Place(loop))

    virtual.run(main)


class Place:
    """A gateway's machine, and one node after another on it."""

    def __init__(self, loop: Any) -> None:
        chances, trace = SeededChances(1, "ending"), Trace()
        network = Network(lambda: loop.virtual_time.now_ns, chances, trace, Weather())
        self.machine = Machine("gw1", loop, network, Servers(network), chances, trace)
        port = network.free_port()
        self.config = NodeConfig(
            GATEWAY, Path("flow"), port, 0, "nats-leaf://127.0.0.1:1", {}, 0, (), Path("kernels"), Limits()
        )

    def start(self, connect: Any = None) -> Node:
        self.machine.platter.files.pop(REPORT, None)  # it would tell of the life before
        life = self.machine.boot()
        self.node = Node(
            self.config,
            life.host,
            connect=connect or life.connect,
            load_kernels=lambda *_: {},
            flow=SPEC,
        )

        async def lived() -> None:
            LIFE.set(life)
            life.adopt_current()
            await self.node.run()

        self.running = asyncio.ensure_future(lived())
        return self.node

    async def until(self, phase: str) -> None:
        async with asyncio.timeout(ENDS_WITHIN_S):
            while self.report().get("phase") != phase:
                await asyncio.sleep(0.1)
                if self.running.done():
                    self.running.result()

    def report(self) -> dict[str, Any]:
        content = self.machine.platter.files.get(REPORT)
        return dict(orjson.loads(bytes(content.content))) if content else {}

    async def ends(self) -> None:
        """Told to end, it does, by itself."""
        self.node.stop()
        await asyncio.wait({self.running}, timeout=ENDS_WITHIN_S)
        assert self.running.done()
        self.running.result()
        self.machine.kill()

    async def bus(self) -> Any:
        life = self.machine.life
        assert life is not None
        return await life.connect(f"nats://127.0.0.1:{self.config.nats_port}", "test")


async def devices_send(place: Place) -> int:
    """Rows of which the engine makes messages for the parent; how many entries they are."""
    bus, items = await place.bus(), items_of(LONG_HISTORY)
    for item in items:
        assert not isinstance(item, Block)
        subject = subjects.journal_subject(item.stream, item.origin)
        await bus.append(subjects.journal("gw1"), subject, encode(item))
    return len(items)


def test_a_node_whose_last_checkpoint_finds_no_room_ends_and_goes_on_from_the_one_before(caplog):
    async def story(place: Place) -> None:
        place.start()
        await place.until("ready")
        sent = await devices_send(place)
        while place.report()["checkpoint_seq"] < sent:
            await asyncio.sleep(0.1)
        kept = bytes(place.machine.platter.files[CHECKPOINT].content)
        place.machine.platter.full = True
        await place.ends()
        assert bytes(place.machine.platter.files[CHECKPOINT].content) == kept
        assert [r.getMessage() for r in caplog.records if "host.disk-full" in r.getMessage()]
        place.machine.platter.full = False
        place.start()
        await place.until("ready")
        assert place.report()["input_seq"] >= sent
        await place.ends()
        assert place.report()["phase"] == "stopped"

    told(story)


def test_a_node_that_has_not_caught_up_ends_when_it_is_told_to():
    async def story(place: Place) -> None:
        place.start()
        await place.until("ready")
        # Entries that no checkpoint covers, and an outbox that takes nothing: the next node can only wait.
        await devices_send(place)
        place.machine.kill()
        await asyncio.sleep(1)
        place.machine.store.full = True
        place.start()
        await place.until("starting")
        await asyncio.sleep(5)
        assert place.report()["phase"] == "starting"
        await place.ends()
        assert place.report()["phase"] == "stopped"

    told(story)


def test_a_node_ends_while_its_message_server_does_not_answer():
    async def story(place: Place) -> None:
        async def nobody(_url: str, _name: str) -> Any:
            raise unavailable("JOURNAL_gw1", "no answer")

        place.start(connect=nobody)
        await asyncio.sleep(5)
        await place.ends()

    told(story)
