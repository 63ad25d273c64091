"""Emulated Cortex-M boards with an image of ours, by pipes: ``python emulator.py IMAGE TARGET BOX_INPUT_BYTES MODE``.

A program of its own, since the emulator's licence (GPLv2) does not go with ours in one process. A request: board
(4 bytes), size (4), a box's head and content. An answer: size (4), instructions (8), the box's head, records. MODE is
``fast``, or ``count``, which counts instructions and takes many times as long.
"""

import struct
import sys
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from unicorn import (  # type: ignore[attr-defined] # its stubs forget Uc
    UC_ARCH_ARM,
    UC_HOOK_BLOCK,
    UC_MODE_MCLASS,
    UC_MODE_THUMB,
    Uc,
)
from unicorn.arm_const import (
    UC_ARM_REG_PC,
    UC_ARM_REG_SP,
    UC_CPU_ARM_CORTEX_M0,
    UC_CPU_ARM_CORTEX_M3,
    UC_CPU_ARM_CORTEX_M4,
    UC_CPU_ARM_CORTEX_M7,
    UC_CPU_ARM_CORTEX_M33,
)

FLASH_BYTES, RAM_BYTES = 1 << 20, 1 << 20
SYSTEM = 0xE000_E000
HEAD_BYTES = 88
INSTRUCTIONS_MAX = 200_000_000
CANARY = 0xA5
MODELS = {
    "cortex-m0plus": UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": UC_CPU_ARM_CORTEX_M4,
    "cortex-m4f": UC_CPU_ARM_CORTEX_M4,
    "cortex-m7f": UC_CPU_ARM_CORTEX_M7,
    "cortex-m33f": UC_CPU_ARM_CORTEX_M33,
}


class Board:
    """One emulated board, from reset."""

    def __init__(self, image: str, target: str, in_bytes: int, *, counting: bool) -> None:
        self.machine: Any = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        self.machine.ctl_set_cpu_model(MODELS[target])
        self.machine.mem_map(SYSTEM, 0x1000)
        self.instructions = 0
        self.counting = counting
        self.lengths: dict[tuple[int, int], int] = {}
        flash = 0
        with Path(image).open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments():
                if segment["p_type"] != "PT_LOAD":
                    continue
                at = segment["p_paddr"]
                if segment["p_filesz"]:
                    self.machine.mem_map(at & ~0xFFFF, FLASH_BYTES)
                    self.machine.mem_write(at, segment.data())
                    flash = at
                else:
                    self.machine.mem_map(segment["p_vaddr"] & ~0xFFFF, RAM_BYTES)
            symbols = {s.name: s for s in elf.get_section_by_name(".symtab").iter_symbols()}  # type: ignore[union-attr] # always there
        self.box = symbols["board_box"]["st_value"]
        self.stack = symbols["board_stack"]["st_value"], symbols["board_stack"]["st_size"]
        self.out = self.box + HEAD_BYTES + in_bytes
        self.machine.mem_write(self.stack[0], bytes([CANARY]) * self.stack[1])
        stack, reset = struct.unpack("<II", self.machine.mem_read(flash, 8))
        self.machine.reg_write(UC_ARM_REG_SP, stack)
        if counting:
            self.machine.hook_add(UC_HOOK_BLOCK, self._block)
        self._go(reset)

    def _block(self, machine: Any, address: int, size: int, _data: object) -> None:
        count = self.lengths.get((address, size))
        if count is None:
            code = machine.mem_read(address, size)
            count = at = 0
            while at < size:
                at += 4 if code[at + 1] >> 3 in (0b11101, 0b11110, 0b11111) else 2
                count += 1
            self.lengths[address, size] = count
        self.instructions += count

    def _go(self, at: int) -> None:
        """Until it sleeps; one that runs away is stopped where instructions are counted, which takes time."""
        self.machine.emu_start(at | 1, 0xFFFF_FFFE, count=INSTRUCTIONS_MAX if self.counting else 0)

    def run(self, head: bytes, content: bytes) -> tuple[bytes, bytes, int]:
        """Wakes the board with a box; the box after it, its records, and the instructions it took."""
        self.machine.mem_write(self.box, head + content)
        before = self.instructions
        self._go(self.machine.reg_read(UC_ARM_REG_PC))
        head = bytes(self.machine.mem_read(self.box, HEAD_BYTES))
        out_bytes = int.from_bytes(head[-4:], "little")
        return head, bytes(self.machine.mem_read(self.out, out_bytes)), self.instructions - before

    def stack_used(self) -> int:
        """Bytes of the stack that were ever written."""
        content = bytes(self.machine.mem_read(*self.stack))
        return len(content.lstrip(bytes([CANARY])))


def main(image: str, target: str, in_bytes: str, counting: str) -> None:
    """Answers until its input ends."""
    boards: dict[int, Board] = {}
    pipe, answers = sys.stdin.buffer, sys.stdout.buffer
    while request := pipe.read(8):
        number, size = struct.unpack("<II", request)
        content = pipe.read(size)
        if number not in boards:
            boards[number] = Board(image, target, int(in_bytes), counting=counting == "count")
        board = boards[number]
        if not content:
            answers.write(struct.pack("<IQ", 0, board.stack_used()))
        else:
            head, out, instructions = board.run(content[:HEAD_BYTES], content[HEAD_BYTES:])
            answers.write(struct.pack("<IQ", len(head) + len(out), instructions) + head + out)
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
