"""Lines: a pseudo-terminal of this machine and the twin in memory pass one suite."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from ganglion.core.errors import HostError
from ganglion.host.line import HELD_BYTES_MAX, SerialLine, memory_line
from ganglion.host.ports import Line
from tests.device.gateways import run


class FarEnd:
    """The other side of a pseudo-terminal, with the calls of a line."""

    def __init__(self, file: int) -> None:
        self._file = file
        os.set_blocking(file, False)

    async def read(self) -> bytes:
        while True:
            try:
                return os.read(self._file, 4096)
            except BlockingIOError:
                await asyncio.sleep(0.001)

    def write(self, content: bytes) -> bool:
        return os.write(self._file, content) == len(content)

    def close(self) -> None:
        os.close(self._file)


def pseudo_terminal() -> tuple[Line, FarEnd]:
    master, slave = os.openpty()
    line = SerialLine(os.ttyname(slave))
    os.close(slave)
    return line, FarEnd(master)


Pair = Callable[[], tuple[Line, Any]]


@pytest.fixture(params=[pseudo_terminal, memory_line])
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.param


async def exactly(line: Any, size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = await line.read()
        assert piece, "the line has ended"
        content += piece
    return content


def test_every_byte_goes_both_ways_as_it_is(pair: Pair) -> None:
    async def story() -> None:
        line, far = pair()
        every = bytes(range(256)) * 4
        assert line.write(every)
        assert await exactly(far, len(every)) == every, "nothing is echoed, translated or taken as control"
        assert far.write(every)
        assert await exactly(line, len(every)) == every
        line.close()
        if isinstance(far, FarEnd):
            far.close()

    run(story())


def test_an_ended_line_gives_what_was_left_and_then_nothing(pair: Pair) -> None:
    async def story() -> None:
        line, far = pair()
        far.write(b"last words")
        assert await exactly(line, 10) == b"last words"
        far.close()
        assert await line.read() == b""
        assert await line.read() == b""
        assert not line.write(b"nobody hears this")
        line.close()

    run(story())


def test_a_reader_that_waits_is_told_of_the_end(pair: Pair) -> None:
    async def story() -> None:
        line, far = pair()
        reading = asyncio.ensure_future(line.read())
        await asyncio.sleep(0)
        line.close()
        line.close()
        assert await reading == b""
        if isinstance(far, FarEnd):
            far.close()

    run(story())


def test_what_nobody_reads_is_refused_at_the_limit(pair: Pair) -> None:
    async def story() -> None:
        line, far = pair()
        piece = bytes(1000)
        taken = 0
        while line.write(piece):
            taken += 1
            assert taken * 1000 < 10 * HELD_BYTES_MAX, "it takes without end"
        assert taken * 1000 > HELD_BYTES_MAX - 2000
        got = len(await exactly(far, taken * 1000))
        assert got == taken * 1000, "what was taken arrives"
        line.close()
        if isinstance(far, FarEnd):
            far.close()

    run(story())


@pytest.mark.parametrize(
    "path, speed, why",
    [
        ("/dev/does-not-exist", 115200, "No such file"),
        ("/dev/null", 115200, "not a serial port"),
        ("/dev/null", 123, "no port runs at 123"),
    ],
)
def test_what_is_no_line_is_refused(path: str, speed: int, why: str) -> None:
    async def story() -> None:
        with pytest.raises(HostError) as raised:
            SerialLine(path, speed)
        assert raised.value.code == "host.line" and why in str(raised.value)

    run(story())
