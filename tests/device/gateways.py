"""A gateway as devices see it: a real CoAP endpoint on loopback that can be deaf, busy or against it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ganglion.connectors.batch_senml import decode
from ganglion.connectors.coap import Code, Endpoint, Request, Response, Settings
from ganglion.connectors.coap.reliable import Address
from ganglion.core.batch import Batch
from ganglion.core.schema import Schema
from ganglion.flow.load import load_flow
from ganglion.flow.spec import FlowSpec
from ganglion.host.system import SystemClock

BAY = Path(__file__).parent / "bay"
QUICK = Settings(ack_timeout_ns=5_000_000, max_retransmit=1, nstart=8, datagram_bytes_max=4096)
"""Gives up an unanswered message after some milliseconds; nothing that is tested depends on how many."""
_T = TypeVar("_T")


def bay() -> FlowSpec:
    """The flow of one feeder bay: frames -> level -> trips -> breaker_open, and levels kept."""
    return load_flow(BAY)


def run(story: Coroutine[Any, Any, _T]) -> _T:
    """The story's own loop, with a limit that only a hang reaches; nothing may be left running in it."""

    async def whole() -> _T:
        wrong: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: wrong.append(str(context)))
        result = await asyncio.wait_for(story, 60)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks were left"
        assert wrong == []
        return result

    return asyncio.run(whole())


async def until(condition: Callable[[], object]) -> None:
    """Waits for what must happen."""
    while not condition():
        await asyncio.sleep(0.001)


async def rounds(count: int = 30) -> None:
    """The loop turns some times: what needs no waiting has happened afterwards."""
    for _ in range(count):
        await asyncio.sleep(0)


class HastyClock(SystemClock):
    """The real time, but what a device waits for before it tries again or writes its log is shorter."""

    async def sleep_ns(self, duration_ns: int) -> None:
        await super().sleep_ns(duration_ns // 20)


@dataclass(frozen=True, slots=True)
class Heard:
    """One request as it reached the handler, and what was answered."""

    path: tuple[str, ...]
    payload: bytes
    content_format: int | None
    answer: int

    @property
    def is_end(self) -> bool:
        return self.path[-1] == "end"


class Deafening(Endpoint):
    """An endpoint to which some datagrams do not come through."""

    lost: Callable[[bytes], bool] = staticmethod(lambda _data: False)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if not self.lost(data):
            super().datagram_received(data, addr)


class Gateway:
    """Hears everything, answers with `answer` (2.04 unless told otherwise) and remembers it."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self.schemas = schemas
        self.heard: list[Heard] = []
        self.answer: Callable[[Request], int] = lambda _request: Code.CHANGED
        self.deaf = False
        self.unheard = 0
        self.lost: Callable[[bytes], bool] = lambda _data: False
        self.peers: list[Address] = []
        self.endpoint: Endpoint

    async def open(self) -> Gateway:
        endpoint = await Deafening.open(handler=self._handle, random=random.Random(5), settings=QUICK)
        endpoint.lost = self._is_lost
        self.endpoint = endpoint
        return self

    @property
    def address(self) -> tuple[str, int]:
        return self.endpoint.address

    async def close(self) -> None:
        await self.endpoint.close()

    def _is_lost(self, data: bytes) -> bool:
        gone = self.deaf or self.lost(data)
        self.unheard += gone
        return gone

    def _handle(self, request: Request) -> Response:
        code = self.answer(request)
        self.peers.append(request.peer)
        self.heard.append(Heard(request.path, request.payload, request.content_format, code))
        return Response(code)

    def batches(self, stream: str, answers: Iterable[int] = (Code.CHANGED,)) -> list[Batch]:
        """The messages of a stream that were answered so, decoded, in the order in which they came."""
        return [
            decode(h.payload, stream, self.schemas[stream])
            for h in self.heard
            if h.path == ("s", stream) and h.answer in answers
        ]

    def rows(self, stream: str, answers: Iterable[int] = (Code.CHANGED,)) -> list[tuple[str, int, int]]:
        """(origin, sequence number, digest) of every row that was answered so."""
        return [row for batch in self.batches(stream, answers) for row in rows_of(batch)]

    def ends(self, stream: str) -> list[Heard]:
        return [h for h in self.heard if h.path == ("s", stream, "end")]


def rows_of(batch: Batch) -> list[tuple[str, int, int]]:
    """(origin, sequence number, digest) of each row."""
    return [(batch.origin, s, d) for s, d in zip(batch.seq.tolist(), batch.row_digests(), strict=True)]
