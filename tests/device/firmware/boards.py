"""Boards in another process, as memory that a `Core` drives."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from ganglion.device.firmware.box import HEAD
from ganglion.device.firmware.build import Image


class Boards:
    """A process full of emulated boards with one image; use it as a context."""

    def __init__(self, image: Image) -> None:
        program = Path(__file__).with_name("emulated.py")
        self.process = subprocess.Popen(
            [sys.executable, program, image.elf, image.target, str(image.firmware.sizes["GD_IN_BYTES"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def device(self) -> BoardMemory:
        """One more board, from reset."""
        self._next += 1
        return BoardMemory(self, self._next)

    def ask(self, board: int, content: bytes) -> tuple[int, bytes]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(struct.pack("<II", board, len(content)) + content)
        self.process.stdin.flush()
        answer = self.process.stdout.read(12)
        assert len(answer) == 12, "the emulator ended"
        size, number = struct.unpack("<IQ", answer)
        return number, self.process.stdout.read(size)


class BoardMemory:
    """One board's memory; counts the instructions of each call."""

    def __init__(self, boards: Boards, number: int) -> None:
        self._boards = boards
        self._number = number
        self.calls: list[tuple[int, int]] = []
        """(operation, instructions) of each call."""

    @property
    def instructions(self) -> int:
        return sum(count for _, count in self.calls)

    def run(self, head: bytes, content: bytes) -> tuple[bytes, bytes]:
        instructions, answer = self._boards.ask(self._number, head + content)
        self.calls.append((head[0], instructions))
        return answer[: HEAD.size], answer[HEAD.size :]

    def stack_used(self) -> int:
        return self._boards.ask(self._number, b"")[0]

    def close(self) -> None:
        """The process ends with all its boards."""
