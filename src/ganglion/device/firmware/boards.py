"""Boards in another process, as memory that a `Core` drives: the emulator's licence does not go with ours in one."""

from __future__ import annotations

import struct
import sys
from importlib.util import find_spec
from pathlib import Path

from ganglion.core.errors import HostError
from ganglion.device.firmware.box import HEAD
from ganglion.device.firmware.build import Image
from ganglion.host.ports import Processes

BOARD = "cortex-m4f"
"""The processor that is emulated."""
_PROGRAM = Path(__file__).with_name("emulator.py")


class Boards:
    """A process full of emulated boards with one image. Raises ``host.process`` when it cannot start, or ends,
    and ``firmware.emulator`` when the extra ``emulator`` is not installed.

    ``counting``: instructions are counted, which takes many times as long.
    """

    def __init__(self, image: Image, processes: Processes, log: Path, *, counting: bool = False) -> None:
        for name in ("unicorn", "elftools"):
            if find_spec(name) is None:
                raise HostError(
                    "firmware.emulator",
                    "boards cannot be emulated",
                    why=f"{name} is not installed",
                    next_step="pip install 'ganglion[emulator]', or run devices as firmware",
                )
        self.firmware = image.firmware
        in_bytes = str(image.firmware.sizes["GD_IN_BYTES"])
        command = [sys.executable, str(_PROGRAM), str(image.elf), image.target, in_bytes]
        command.append("count" if counting else "fast")
        self._child = processes.converse(command, log=log)
        self._next = 0

    def close(self) -> None:
        """Ends the process with all its boards."""
        self._child.close()

    def device(self) -> BoardMemory:
        """One more board, from reset."""
        self._next += 1
        return BoardMemory(self, self._next)

    def ask(self, board: int, content: bytes) -> tuple[int, bytes]:
        """The emulator's answer: a number, and what the box holds; nothing asked gives the stack that was used."""
        self._child.write(struct.pack("<II", board, len(content)) + content)
        size, number = struct.unpack("<IQ", self._child.read(12))
        return number, self._child.read(size)


class BoardMemory:
    """One board's memory; counts the instructions of its calls."""

    def __init__(self, boards: Boards, number: int) -> None:
        self._boards = boards
        self._number = number
        self.calls: list[tuple[int, int]] = []
        """(operation, instructions) of the latest calls, at most `CALLS_MAX`."""
        self.instructions = 0

    def run(self, head: bytes, content: bytes) -> tuple[bytes, bytes]:
        """See `Memory`."""
        instructions, answer = self._boards.ask(self._number, head + content)
        self.instructions += instructions
        if len(self.calls) >= CALLS_MAX:
            del self.calls[: CALLS_MAX // 2]
        self.calls.append((head[0], instructions))
        return answer[: HEAD.size], answer[HEAD.size :]

    def stack_used(self) -> int:
        """Bytes of the stack that were ever written."""
        return self._boards.ask(self._number, b"")[0]

    def close(self) -> None:
        """The process ends with all its boards."""


CALLS_MAX = 4096
