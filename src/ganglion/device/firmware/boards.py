"""Boards in another process, as memory that a `Core` drives: the emulator's licence does not go with ours in one."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from ganglion.core.errors import HostError
from ganglion.device.firmware.box import HEAD
from ganglion.device.firmware.build import Image
from ganglion.device.firmware.calls import PROGRAM, needs_emulator
from ganglion.host.ports import ANSWER_NS_MAX, Processes
from ganglion.kernels.c.proof import claim

BOARD = "cortex-m4f"
"""The processor that is emulated."""
BOARDS_MAX = 256
"""Boards of one emulator, each with its RAM."""


class Boards:
    """A process full of emulated boards with one image. Raises ``host.process`` when it cannot start, and
    ``firmware.emulator`` when the extra ``emulator`` is not installed.

    ``counting``: instructions are counted, which takes many times as long. ``answer_ns_max``: how long a board may run
    without going to sleep.
    """

    def __init__(
        self,
        image: Image,
        processes: Processes,
        log: Path,
        *,
        counting: bool = False,
        answer_ns_max: int = ANSWER_NS_MAX,
    ) -> None:
        needs_emulator("boards cannot be emulated")
        self.firmware = image.firmware
        self.claim = claim(image.elf)
        in_bytes = str(image.firmware.sizes["GD_IN_BYTES"])
        command = [sys.executable, str(PROGRAM), str(image.elf), image.target, in_bytes]
        command.append("count" if counting else "fast")
        self._log = log
        self._child = processes.converse(command, log=log, answer_ns_max=answer_ns_max)
        self._failed: HostError | None = None
        self._next = 0

    def close(self) -> None:
        """Ends the process with all its boards."""
        self._child.close()

    def device(self) -> BoardMemory:
        """One more board, from reset. At most `BOARDS_MAX`."""
        assert self._next < BOARDS_MAX, "one emulator has no more boards"
        self._next += 1
        return BoardMemory(self, self._next)

    def ask(self, board: int, content: bytes) -> tuple[int, bytes]:
        """The emulator's answer: a number, and what the box holds; nothing asked gives the stack that was used.

        Raises ``firmware.board`` when the emulator ended or hangs, and from then on.
        """
        if self._failed is not None:
            raise self._failed
        try:
            self._child.write(struct.pack("<II", board, len(content)) + content)
            size, number = struct.unpack("<IQ", self._child.read(12))
            return number, self._child.read(size)
        except HostError as error:
            self._failed = _stopped(board, error, self._log)
            raise self._failed from error


def _stopped(board: int, error: HostError, log: Path) -> HostError:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return HostError(
        "firmware.board",
        f"emulated board {board} no longer runs, nor do the others of its emulator",
        why=lines[-1] if lines else f"{error.what}: {error.why}",
        next_step=f"read {log}; devices run without an emulator with --devices-as firmware",
    )


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
