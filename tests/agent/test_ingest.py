"""A gateway's side of the devices: reflex before disk, acknowledgement after it, each row once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

import ganglion as gg
from ganglion.agent import ingest
from ganglion.agent.ingest import Ingest
from ganglion.connectors.batch_senml import encode
from ganglion.connectors.coap import Endpoint, Request, Response
from ganglion.connectors.coap.message import Code
from ganglion.core.batch import Batch
from ganglion.core.errors import MessagingError
from ganglion.core.packing import unpack
from ganglion.core.wire import End, Item, decode
from ganglion.engine.graph import Graph
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.host.system import SystemClock

ORIGIN = "gw1-relay-00"


@gg.kernel(x=gg.f32[4])
def level(x: Any) -> dict[str, Any]:
    return {"rms": np.sqrt(np.mean(x * x))}


def flow() -> FlowSpec:
    made = gg.Flow("guarded")
    levels = made.source("frames", gg.Frame(4), every="10ms").map(level)
    levels.where(lambda t: t.rms > 1, id="trips").act("breaker", "open", within="20ms")
    levels.sink("levels")
    return made.spec()


SPEC = flow()
PATHS = frozenset({"gw1-relay"})
ASSIGNMENT = Assignment(
    "gw1", "gw1", "gateway", SPEC.digest, {"trips": PATHS, "breaker_open": PATHS}, {"level": PATHS}
)


def rows(first: int, *levels: float, origin: str = ORIGIN) -> Batch:
    seq = first + np.arange(len(levels), dtype=np.int64)
    return Batch("level", origin, seq, seq * 10_000_000, {"rms": np.array(levels, np.float32)})


class Site:
    """A gateway's ingest with a journal in memory, and a device with a breaker."""

    def __init__(self, last_seq: int = -1) -> None:
        self.journal: list[Item] = []
        self.commands: list[dict[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusals = 0
        reflex = Graph(SPEC, ASSIGNMENT, "reflex")
        self.ingest = Ingest(
            SPEC,
            ASSIGNMENT,
            reflex,
            self.append,
            streams=frozenset({"level"}),
            paths=PATHS,
            clock=SystemClock(),
            last_seq=lambda _stream, _origin: last_seq,
        )
        self.device: Endpoint
        self.address = ("127.0.0.1", 0)

    async def append(self, item: Item, payload: bytes) -> None:
        await self.gate.wait()
        if self.refusals:
            self.refusals -= 1
            raise MessagingError("messaging.unavailable", "the server is restarting")
        assert type(decode(payload)) is type(item)
        self.journal.append(item)

    def obey(self, request: Request) -> Response:
        assert request.path == ("a", "breaker")
        self.commands.append(unpack(request.payload))
        return Response(Code.CHANGED)

    async def open(self) -> None:
        chance = random.Random(1)
        await self.ingest.open(0, chance)
        self.address = self.ingest.address
        self.device = await Endpoint.open(handler=self.obey, random=chance)

    async def send(self, batch: Batch) -> Response:
        return await self.device.request(
            self.address, Code.POST, f"s/{batch.stream}", encode(batch, SPEC["level"].schema), 112
        )

    async def close(self) -> None:
        await self.device.close()
        await self.ingest.close()

    async def commanded(self, count: int) -> None:
        while len(self.commands) < count:
            await asyncio.sleep(0.001)


def scenario(story: Callable[[Site], Awaitable[None]], last_seq: int = -1) -> Site:
    async def whole() -> Site:
        site = Site(last_seq)
        await site.open()
        try:
            await asyncio.wait_for(story(site), 30)
        finally:
            await site.close()
        return site

    return asyncio.run(whole())


def numbers(site: Site) -> list[int]:
    return [s for item in site.journal if isinstance(item, Batch) for s in item.seq.tolist()]


def test_a_reflex_waits_for_no_disk_and_an_acknowledgement_does() -> None:
    async def story(site: Site) -> None:
        site.gate.clear()
        sending = asyncio.ensure_future(site.send(rows(5, 0.5, 2.0)))
        await site.commanded(1)
        assert not sending.done(), "nothing may be acknowledged before it is on disk"
        assert site.journal == []
        site.gate.set()
        assert (await sending).ok

    site = scenario(story)
    assert site.commands == [{"verb": "open", "id": f"breaker_open:{ORIGIN}:6", "seq": 6}]
    assert numbers(site) == [5, 6]


def test_a_row_sent_again_is_stored_once_and_acted_on_once() -> None:
    async def story(site: Site) -> None:
        assert (await site.send(rows(0, 2.0, 0.5))).ok
        assert (await site.send(rows(0, 2.0, 0.5))).ok
        assert (await site.send(rows(1, 0.5, 3.0))).ok
        await site.commanded(2)

    site = scenario(story)
    assert numbers(site) == [0, 1, 2]
    assert [c["seq"] for c in site.commands] == [0, 2]
    assert site.ingest.counts.duplicated_rows == 3


def test_a_journal_that_is_away_is_said_and_the_reflex_is_not_repeated() -> None:
    async def story(site: Site) -> None:
        site.refusals = 2
        for _ in range(2):
            response = await site.send(rows(0, 2.0))
            assert response.status == "5.03"
            assert b"restarting" in response.payload
        assert (await site.send(rows(0, 2.0))).ok
        await site.commanded(1)

    site = scenario(story)
    assert numbers(site) == [0]
    assert len(site.commands) == 1
    assert site.ingest.counts.unavailable == 2


def test_after_a_restart_rows_that_the_journal_has_are_not_new() -> None:
    async def story(site: Site) -> None:
        assert (await site.send(rows(8, 2.0, 2.0, 2.0))).ok
        await site.commanded(1)

    site = scenario(story, last_seq=9)
    assert numbers(site) == [10]
    assert [c["seq"] for c in site.commands] == [10]


def test_an_end_mark_is_stored_once_and_last() -> None:
    async def story(site: Site) -> None:
        assert (await site.send(rows(0, 0.1))).ok
        for _ in range(2):
            answer = await site.device.request(site.address, Code.POST, "s/level/end", ORIGIN.encode())
            assert answer.ok

    site = scenario(story)
    assert isinstance(site.journal[0], Batch)
    assert site.journal[1:] == [End("level", ORIGIN)]


def test_a_device_that_comes_back_after_its_end_may_end_again() -> None:
    async def story(site: Site) -> None:
        for first in (0, 10):
            assert (await site.send(rows(first, 0.1))).ok
            assert (await site.device.request(site.address, Code.POST, "s/level/end", ORIGIN.encode())).ok

    site = scenario(story)
    assert [isinstance(item, End) for item in site.journal] == [False, True, False, True]


@pytest.mark.parametrize(
    "path, payload, status, counter",
    [
        ("s/unknown", b"", "4.04", "refused"),
        ("elsewhere", b"", "4.04", "refused"),
        ("s/level", b"no cbor", "4.00", "bad"),
        ("s/level", encode(rows(0, 1.0, origin="gw2-relay-00"), SPEC["level"].schema), "4.03", "refused"),
        ("s/level/end", b"\xff\xfe", "4.03", "refused"),
        ("s/level/end/more", b"", "4.04", "refused"),
        ("s/level/end", b"gw1-relay-0 0", "4.00", "bad"),
        ("s/level/end", b"gw1-relay->", "4.00", "bad"),
    ],
)
def test_what_does_not_belong_here_is_refused_and_counted(
    path: str, payload: bytes, status: str, counter: str
) -> None:
    async def story(site: Site) -> None:
        answer = await site.device.request(site.address, Code.POST, path, payload)
        assert answer.status == status
        assert answer.payload

    site = scenario(story)
    assert site.journal == []
    assert getattr(site.ingest.counts, counter) == 1


def test_origins_beyond_the_limit_are_refused_and_those_that_are_known_go_on(monkeypatch) -> None:
    monkeypatch.setattr(ingest, "LINES_MAX", 2)

    async def story(site: Site) -> None:
        for number in (0, 1):
            assert (await site.send(rows(0, 0.1, origin=f"gw1-relay-0{number}"))).ok
        answer = await site.send(rows(0, 0.1, origin="gw1-relay-02"))
        assert answer.status == "4.03"
        assert (await site.send(rows(1, 0.2))).ok
        assert (await site.device.request(site.address, Code.POST, "s/level/end", ORIGIN.encode())).ok

    site = scenario(story)
    assert [item.origin for item in site.journal if isinstance(item, Batch | End)] == [
        ORIGIN,
        "gw1-relay-01",
        ORIGIN,
        ORIGIN,
    ]
    assert site.ingest.counts.refused == 1


def test_a_breaker_that_does_not_answer_is_counted() -> None:
    async def story(site: Site) -> None:
        await site.device.close()
        deaf = await Endpoint.open(handler=lambda _request: Response(Code.NOT_FOUND), random=random.Random(2))
        site.device = deaf
        assert (await site.send(rows(0, 2.0))).ok
        while not site.ingest.counts.commands_failed:
            await asyncio.sleep(0.001)

    assert scenario(story).ingest.counts.commands == 1
