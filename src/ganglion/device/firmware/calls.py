"""Functions of an image, called on an emulated processor: what a build is tried on, and what it is counted by."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ganglion.core.errors import HostError
from ganglion.host.ports import Processes

PROGRAM = Path(__file__).with_name("emulator.py")
ROOM_AT, ROOM_BYTES, STACK_BYTES = 0x6000_0000, 128 << 20, 1 << 20
CALL = struct.Struct("<IIIII")
PIECE = struct.Struct("<QI")
"""As the program at `PROGRAM` has them, which nobody imports."""
ANSWER_NS_MAX = 300_000_000_000


@dataclass(frozen=True, slots=True)
class Called:
    """``instructions``: of each call, 0 where they are not counted; ``read``: the pieces of memory asked for."""

    instructions: tuple[int, ...]
    read: tuple[bytes, ...]


def lacks_emulator() -> str | None:
    """Why nothing can be emulated here; None when it can."""
    missing = [name for name in ("unicorn", "elftools") if find_spec(name) is None]
    return f"{' and '.join(missing)} is not installed" if missing else None


def needs_emulator(what: str) -> None:
    """Raises `HostError` ``firmware.emulator`` when the extra ``emulator`` is not installed."""
    if (lacking := lacks_emulator()) is not None:
        raise HostError(
            "firmware.emulator",
            what,
            why=lacking,
            next_step="pip install 'ganglion[emulator]', or run devices as firmware",
        )


class Calls:
    """An emulated processor with an image, in a process of its own. Raises ``firmware.emulator``, ``host.process``.

    ``counting``: instructions are counted, on a Cortex-M only; it takes several times as long. ``box_bytes``: what the
    box of a board's image takes; the board then runs from reset to its first sleep, and calls find what it left.
    """

    def __init__(
        self,
        image: Path,
        target: str,
        processes: Processes,
        log: Path,
        *,
        counting: bool = False,
        box_bytes: int = 0,
    ) -> None:
        needs_emulator("functions of an image cannot be called")
        self.pointer_bytes = 8 if target == "aarch64" else 4
        command = [sys.executable, str(PROGRAM), str(image), target, str(box_bytes)]
        command.append("count" if counting else "fast")
        self._child = processes.converse(command, log=log, answer_ns_max=ANSWER_NS_MAX)
        if box_bytes:
            self._child.write(struct.pack("<II", 1, 0))
            self._child.read(12)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()

    def call(
        self,
        symbol: str,
        arguments: Sequence[Sequence[int]],
        given: Mapping[int, bytes],
        wanted: Sequence[tuple[int, int]] = (),
    ) -> Called:
        """Puts pieces of memory, calls ``symbol`` once for each row of arguments, reads ``wanted`` (place, bytes).

        Raises `HostError` ``host.process`` when the processor stops in the call, or runs on without end.
        """
        name = symbol.encode()
        head = CALL.pack(len(name), len(arguments[0]), len(arguments), len(given), len(wanted))
        words = np.asarray(arguments, "<u8").tobytes()
        pieces = (PIECE.pack(at, len(content)) + content for at, content in given.items())
        content = b"".join((head, name, words, *pieces, *(PIECE.pack(at, size) for at, size in wanted)))
        self._child.write(struct.pack("<II", 0, len(content)) + content)
        size, _ = struct.unpack("<IQ", self._child.read(12))
        answer = self._child.read(size)
        counts = np.frombuffer(answer, "<u8", len(arguments)).tolist()
        read, at = [], 8 * len(arguments)
        for _, length in wanted:
            read.append(answer[at : at + length])
            at += length
        return Called(tuple(counts), tuple(read))


class Room:
    """Places for arrays in the memory beside an image, and what is to be put there."""

    def __init__(self, pointer_bytes: int) -> None:
        self.given: dict[int, bytes] = {}
        self._next = ROOM_AT
        self._pointer = f"<u{pointer_bytes}"

    def place(self, size: int) -> int:
        """Room for so many bytes, which are zero at first."""
        at = self._next
        self._next += -(-max(size, 8) // 64) * 64
        assert self._next <= ROOM_AT + ROOM_BYTES - STACK_BYTES, "more than there is room for"
        return at

    def put(self, content: bytes) -> int:
        """Room with this in it."""
        at = self.place(len(content))
        self.given[at] = content
        return at

    def pointers(self, places: Iterable[int]) -> int:
        """Room with pointers to these places."""
        return self.put(np.array(list(places), self._pointer).tobytes())
