"""What came in and could not be taken, with the reason: counted, and the newest kept in a ring of files.

A letter is one line of JSON. Nothing here grows: files are written over, letters beyond what one write may hold are
only counted, and of a payload only its beginning is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from ganglion.connectors.mqtt.mapping import Letter
from ganglion.core.errors import HostError
from ganglion.host.ports import Clock, Disk
from ganglion.host.threads import to_its_end

DIRECTORY = "dead-letters"
FILES = 4
FILE_BYTES_MAX = 1 << 20
LETTERS_MAX = 500
"""Letters kept of one write; the others are counted."""
PAYLOAD_BYTES_MAX = 256
TEXT_CHARS_MAX = 300
WRITE_EVERY_NS = 50_000_000


class DeadLetters:
    """`run` it as a task; `put` gives what is done when the letters are on disk, or were found to be too many."""

    def __init__(self, disk: Disk, clock: Clock) -> None:
        self.counts: dict[str, int] = {}
        self.left_out = 0
        self.trouble = ""
        self._disk = disk
        self._clock = clock
        self._waiting: list[bytes] = []
        self._written: asyncio.Future[None] | None = None
        self._news = asyncio.Event()
        self._number = 0
        self._size_bytes = FILE_BYTES_MAX  # so that the first write begins a file

    def put(self, letters: Sequence[Letter]) -> asyncio.Future[None]:
        """Counts the letters by reason, and keeps them."""
        time_ns = self._clock.wall_ns()
        for letter in letters:
            self.counts[letter.code] = self.counts.get(letter.code, 0) + 1
            if len(self._waiting) < LETTERS_MAX:
                self._waiting.append(_line(letter, time_ns))
            else:
                self.left_out += 1
        if self._written is None or self._written.done():
            self._written = asyncio.get_running_loop().create_future()
        self._news.set()
        return self._written

    async def run(self) -> None:
        """Writes what waits, at most every 50 ms, for ever."""
        content = await asyncio.to_thread(_newest_number, self._disk)
        self._number = content
        while True:
            await self._news.wait()
            self._news.clear()
            await self.write()
            await self._clock.sleep_ns(WRITE_EVERY_NS)

    async def write(self) -> None:
        """Writes what waits; on a full disk it is left out, and said."""
        waiting, written = self._waiting, self._written
        self._waiting, self._written = [], None
        content = b"".join(waiting)
        try:
            if waiting and self._size_bytes + len(content) > FILE_BYTES_MAX:
                self._number += 1
                content = orjson.dumps({"number": self._number}) + b"\n" + content
                await to_its_end(self._disk.replace, _name(self._number % FILES), content)
                self._size_bytes = len(content)
            elif waiting:
                self._size_bytes = await to_its_end(self._disk.append, _name(self._number % FILES), content)
            self.trouble = ""
        except HostError as error:
            self.trouble = str(error)
            self.left_out += len(waiting)
        if written is not None and not written.done():
            written.set_result(None)


def read_letters(disk: Disk) -> list[dict[str, Any]]:
    """All letters that are kept, the oldest first; a torn last line is left out."""
    files = [(number, lines) for index in range(FILES) for number, lines in _file(disk, index)]
    return [letter for _, lines in sorted(files, key=lambda f: f[0]) for letter in lines]


def _file(disk: Disk, index: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    content = disk.read(_name(index))
    if not content:
        return
    lines = []
    for line in content.split(b"\n"):
        try:
            lines.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            break
    if lines and "number" in lines[0]:
        yield int(lines[0]["number"]), lines[1:]


def _newest_number(disk: Disk) -> int:
    return max((number for index in range(FILES) for number, _ in _file(disk, index)), default=0)


def _name(index: int) -> str:
    return f"{DIRECTORY}/{index}.jsonl"


def _line(letter: Letter, time_ns: int) -> bytes:
    begin = letter.payload[:PAYLOAD_BYTES_MAX]
    try:
        shown = {"payload": begin.decode()}
    except UnicodeDecodeError:
        shown = {"payload_hex": begin.hex()}
    value = {
        "time_ns": time_ns,
        "topic": letter.topic[:TEXT_CHARS_MAX],
        "code": letter.code,
        "why": letter.why[:TEXT_CHARS_MAX],
        "payload_bytes": len(letter.payload),
        **shown,
    }
    return orjson.dumps(value) + b"\n"
