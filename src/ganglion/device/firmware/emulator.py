"""Emulated Cortex-M boards with an image of ours, by pipes: ``python emulator.py IMAGE TARGET BOX_INPUT_BYTES MODE``.

A program of its own, since the emulator's licence (GPLv2) does not go with ours in one process. A request: board
(4 bytes), size (4), a box's head and content. An answer: size (4), instructions (8), the box's head, records. MODE is
``fast``, or ``count``, which counts instructions and takes many times as long.

One emulated processor serves all boards in turn, as a scheduler's processor serves its processes: flash is one and
never changes, each board has its registers and its RAM, which are put in when its turn comes. So code is translated
once for all of them (milliseconds per path through it), and a board takes the memory of its RAM, not of a processor.
"""

import ctypes
import io
import mmap
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
    UC_PROT_EXEC,
    UC_PROT_READ,
    UC_PROT_WRITE,
    Uc,
    UcError,
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

PAGE_BYTES = 4096
SYSTEM = 0xE000_E000
HEAD_BYTES = 88
BOARDS_MAX = 256
CANARY = 0xA5
REQUEST_BYTES_MAX = 1 << 16
MODELS = {
    "cortex-m0plus": UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": UC_CPU_ARM_CORTEX_M4,
    "cortex-m4f": UC_CPU_ARM_CORTEX_M4,
    "cortex-m7f": UC_CPU_ARM_CORTEX_M7,
    "cortex-m33f": UC_CPU_ARM_CORTEX_M33,
}


class Machine:
    """One emulated processor with an image in its flash, and whichever board's RAM is in it now."""

    def __init__(self, image: str, target: str, in_bytes: int, *, counting: bool) -> None:
        self.uc: Any = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        self.uc.ctl_set_cpu_model(MODELS[target])
        self.uc.mem_map(SYSTEM, 0x1000)
        self.instructions = 0
        self.lengths: dict[tuple[int, int], int] = {}
        self.inside: Board | None = None
        with Path(image).open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments():
                if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                    # Images are linked as one segment of flash and one of RAM.
                    self.flash = self._map(
                        segment["p_paddr"], segment["p_memsz"], UC_PROT_READ | UC_PROT_EXEC
                    )
                    self.flash[: segment["p_filesz"]] = segment.data()
                elif segment["p_type"] == "PT_LOAD":
                    self.ram_at = segment["p_vaddr"]
                    self.ram = self._map(self.ram_at, segment["p_memsz"], UC_PROT_READ | UC_PROT_WRITE)
            symbols = {s.name: s for s in elf.get_section_by_name(".symtab").iter_symbols()}  # type: ignore[union-attr] # always there
        self.box = symbols["board_box"]["st_value"] - self.ram_at
        self.out = self.box + HEAD_BYTES + in_bytes
        stack_at, stack_bytes = (
            symbols["board_stack"]["st_value"] - self.ram_at,
            symbols["board_stack"]["st_size"],
        )
        self.stack = slice(stack_at, stack_at + stack_bytes)
        self.stack_top, self.reset = struct.unpack("<II", self.flash[:8])
        if counting:
            self.uc.hook_add(UC_HOOK_BLOCK, self._block)
        self.new = self.uc.context_save()

    def _map(self, at: int, size: int, rights: int) -> memoryview:
        """Memory of ours in the processor's address space: reading and writing it needs no call of the emulator."""
        whole = mmap.mmap(-1, -(-size // PAGE_BYTES) * PAGE_BYTES)
        self.uc.mem_map_ptr(at, len(whole), rights, ctypes.addressof(ctypes.c_char.from_buffer(whole)))
        return memoryview(whole)

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

    def go(self, at: int) -> None:
        """Until it sleeps. Who asked waits for a bounded time, and ends this program when it has run away."""
        self.uc.emu_start(at | 1, 0xFFFF_FFFE)


class Board:
    """One board: its RAM and its registers while another one has the processor."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._ram = bytearray(len(machine.ram))
        self._ram[machine.stack] = bytes([CANARY]) * len(machine.ram[machine.stack])
        self._registers = machine.uc.context_save()
        self._enter(machine.new)
        machine.uc.reg_write(UC_ARM_REG_SP, machine.stack_top)
        machine.go(machine.reset)

    def _enter(self, registers: Any) -> None:
        """Has the processor: the one that had it is kept as it is."""
        machine = self._machine
        if machine.inside is not None:
            machine.inside._ram[:] = machine.ram
            machine.uc.context_update(machine.inside._registers)
        machine.ram[:] = self._ram
        machine.uc.context_restore(registers)
        machine.inside = self

    def run(self, box: memoryview) -> tuple[bytes, bytes, int]:
        """Wakes the board with a box; the box after it, its records, and the instructions it took."""
        machine = self._machine
        if machine.inside is not self:
            self._enter(self._registers)
        ram = machine.ram
        ram[machine.box : machine.box + len(box)] = box
        before = machine.instructions
        machine.go(machine.uc.reg_read(UC_ARM_REG_PC))
        head = bytes(ram[machine.box : machine.box + HEAD_BYTES])
        out_bytes = int.from_bytes(head[-4:], "little")
        return head, bytes(ram[machine.out : machine.out + out_bytes]), machine.instructions - before

    def stack_used(self) -> int:
        """Bytes of the stack that were ever written."""
        machine = self._machine
        ram = machine.ram if machine.inside is self else self._ram
        content = bytes(ram[machine.stack])
        return len(content.lstrip(bytes([CANARY])))


class Requests:
    """Whole requests from a pipe, read in as few calls as they came in."""

    def __init__(self, pipe: io.FileIO) -> None:
        self._pipe = pipe
        self._held = b""

    def next(self) -> tuple[int, memoryview] | None:
        """(board, content); None at the end of the input."""
        size = 8
        while True:
            if len(self._held) >= 8:
                size = 8 + int.from_bytes(self._held[4:8], "little")
            if len(self._held) >= size:
                break
            more = self._pipe.read(REQUEST_BYTES_MAX)
            if not more:
                return None
            self._held += more
        whole, self._held = self._held[:size], self._held[size:]
        return int.from_bytes(whole[:4], "little"), memoryview(whole)[8:]


def main(image: str, target: str, in_bytes: str, counting: str) -> int:
    """Answers until its input ends; 1 when a board did what no board may, with one line that says what."""
    machine = Machine(image, target, int(in_bytes), counting=counting == "count")
    boards: dict[int, Board] = {}
    # Unbuffered: a request comes whole or in a few pieces, and an answer goes at once.
    requests = Requests(io.FileIO(sys.stdin.fileno(), closefd=False))
    answers = io.FileIO(sys.stdout.fileno(), "w", closefd=False)
    while (request := requests.next()) is not None:
        number, content = request
        try:
            if number not in boards:
                if len(boards) >= BOARDS_MAX:
                    sys.stderr.write(f"one emulator has at most {BOARDS_MAX} boards\n")
                    return 1
                boards[number] = Board(machine)
            board = boards[number]
            if content:
                head, out, instructions = board.run(content)
                answer = struct.pack("<IQ", len(head) + len(out), instructions) + head + out
            else:
                answer = struct.pack("<IQ", 0, board.stack_used())
        except UcError as error:
            at = machine.uc.reg_read(UC_ARM_REG_PC)
            sys.stderr.write(f"board {number} stopped at {at:#x}: {error}\n")
            return 1
        at = 0
        while at < len(answer):
            at += answers.write(answer[at:])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
