"""What a hostile gateway sends in the name of another's devices, through the bus that stamps it with its own name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ganglion.agent.streams import BusJournal
from ganglion.core.block import Block
from ganglion.core.shed import Shed, wrap
from ganglion.core.wire import End, encode
from ganglion.engine.durable import Durable
from ganglion.messaging import subjects
from ganglion.messaging.memory import MemorySites
from ganglion.messaging.provision import Caps
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.clock import VirtualClock
from tests.engine.flows import SPEC, assignment, items_of
from tests.engine.stores import MemoryDisk, MemoryOutbox

CAPS = Caps(1 << 20, 1 << 20, 1 << 20)
BELOW = {"gw1": ("gw1-relay",), "gw2": ("gw2-relay",)}
EDGE = assignment("edge", "level trips incident incidents tens tens_kept", "tens trips")
VICTIM = "gw1-relay-00"
FRAMES = [encode(item) for item in items_of([(VICTIM, 0, [0, 1, 5, 9, 0, 0, 0, 8, 2, 3, 9, 0, 1, 6])])]


def mixed() -> Block:
    """Its own row, and one of the victim's."""
    seq = np.zeros(2, np.int64)
    return Block(
        "frames",
        ("gw2-relay-00", VICTIM),
        np.array([0, 1], np.int32),
        seq,
        seq,
        {"frame": np.full((2, 2), 9, np.float32)},
    )


FORGED = {
    "batch": encode(items_of([(VICTIM, 0, [9, 9, 9, 0, 9])])[0]),
    "block": encode(mixed()),
    "end": encode(End("frames", VICTIM)),
    "claim": wrap([Shed("tens", VICTIM, 0, 99, 100, 1, 1)], None),
    "claim beside rows of its own": wrap(
        [Shed("tens", VICTIM, 0, 99, 100, 1, 1)], encode(End("frames", "gw2-relay-00"))
    ),
    "rows merged over origins": encode(items_of([("all", 0, [9])])[0]),
    "the name of a gateway that is none": encode(items_of([("gw3-relay-00", 0, [9])])[0]),
}


@dataclass
class Edge:
    """The edge's engine, its disk and outbox, which outlive it."""

    bus: Any
    clock: VirtualClock
    disk: MemoryDisk
    outbox: MemoryOutbox

    async def life(self, *, saves: bool = True) -> Durable:
        """Takes all there is."""
        engine = Durable(
            SPEC,
            EDGE,
            BusJournal(self.bus, subjects.inbox("edge"), self.clock),
            self.outbox,
            disk=self.disk,
            clock=self.clock,
            gather=False,
            below=BELOW,
        )
        running = asyncio.ensure_future(engine.run())
        await asyncio.wait(
            {running, asyncio.ensure_future(engine.caught_up.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        running.cancel()
        await asyncio.wait({running})
        if saves:
            await engine.checkpoint()
        return engine


async def until_there(bus: Any, count: int) -> None:
    async with asyncio.timeout(60):
        while (await bus.state(subjects.inbox("edge"))).last_seq < count:
            await asyncio.sleep(0.1)


def outcome(sent: list[tuple[str, bytes]], lives: tuple[bool, ...] = (True,)) -> tuple[Any, Durable]:
    """What the edge makes of (child, message), in this order: (outbox, incidents), and its last engine.

    ``lives``: one after the other, whether each saves at its end.
    """

    async def main(loop: Any) -> tuple[Any, Durable]:
        sites = MemorySites()
        bus = await sites.add("edge", CAPS, children=list(BELOW))
        buses = {child: await sites.add(child, CAPS, parent="edge") for child in BELOW}
        for count, (child, payload) in enumerate(sent, 1):
            # The subject is the child's to choose: it names its victim there too.
            subject = subjects.outbox_subject("frames", VICTIM)
            await buses[child].append(subjects.outbox(child), subject, payload)
            await until_there(bus, count)
        edge = Edge(bus, VirtualClock(loop.virtual_time), MemoryDisk(), MemoryOutbox())
        for saves in lives[:-1]:
            await edge.life(saves=saves)
        engine = await edge.life(saves=lives[-1])
        kept = pa.ipc.open_stream(edge.disk.files[engine.sinks["incidents"].path]).read_all().to_pylist()
        return (edge.outbox.messages, kept), engine

    return virtual.run(main)


def told(forged: list[bytes]) -> list[tuple[str, bytes]]:
    """The victim's messages, and what the hostile gateway sends before them."""
    return [*(("gw2", payload) for payload in forged), *(("gw1", payload) for payload in FRAMES)]


@pytest.mark.parametrize("what", FORGED)
def test_what_a_gateway_sends_of_anothers_devices_is_counted_and_never_used(what):
    expected, _ = outcome(told([]))
    assert expected[0] and expected[1]
    found, engine = outcome(told([FORGED[what]]))
    assert found == expected
    progress = engine.progress
    assert progress.bad_messages == 1
    assert progress.missing.to_json() == {}
    assert not [origin for _, origin in progress.seen if origin != VICTIM]


def test_a_gateways_own_rows_are_used_also_beside_forged_ones():
    own = encode(items_of([("gw2-relay-01", 0, [0, 9])])[0])
    _, engine = outcome(told([FORGED["batch"], own]))
    assert engine.progress.last_seq("frames", "gw2-relay-01") == 1
    assert engine.progress.bad_messages == 1


def test_a_replay_refuses_what_was_refused_before():
    forged = list(FORGED.values())
    expected, engine = outcome(told(forged))
    found, again = outcome(told(forged), lives=(False, True, True))
    assert found == expected
    assert again.progress.bad_messages == engine.progress.bad_messages == len(FORGED)
