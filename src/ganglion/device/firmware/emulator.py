"""Emulated processors with an image of ours, by pipes: ``python emulator.py IMAGE TARGET BOX_INPUT_BYTES MODE``.

A program of its own, since the emulator's licence (GPLv2) does not go with ours in one process. A request: number
(4 bytes), size (4), content. MODE is ``fast``, or ``count``, which counts instructions and takes many times as long.

Number 0 calls a function of the image, several times if asked: content as in `CALL`. The answer: size (4), instructions
of all calls (8), those of each call (8 each), and what was to be read.

Any other number is a board, from reset on: content is a box's head and content. The answer: size (4), instructions (8),
the box's head, records. Boards are Cortex-M, and BOX_INPUT_BYTES is how much a box takes; 0 where there are none.

One emulated processor serves all boards in turn, as a scheduler's processor serves its processes: flash is one and
never changes, each board has its registers and its RAM, which are put in when its turn comes. So code is translated
once for all of them (milliseconds per path through it), and a board takes the memory of its RAM, not of a processor.
"""

import ctypes
import io
import mmap
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from unicorn import (  # type: ignore[attr-defined] # its stubs forget Uc
    UC_ARCH_ARM,
    UC_ARCH_ARM64,
    UC_ARCH_RISCV,
    UC_HOOK_BLOCK,
    UC_MODE_ARM,
    UC_MODE_MCLASS,
    UC_MODE_RISCV32,
    UC_MODE_THUMB,
    UC_PROT_EXEC,
    UC_PROT_READ,
    UC_PROT_WRITE,
    Uc,
    UcError,
)
from unicorn.arm64_const import UC_ARM64_REG_CPACR_EL1, UC_ARM64_REG_SP, UC_ARM64_REG_X0, UC_ARM64_REG_X30
from unicorn.arm_const import (
    UC_ARM_REG_LR,
    UC_ARM_REG_PC,
    UC_ARM_REG_R0,
    UC_ARM_REG_SP,
    UC_CPU_ARM_CORTEX_M0,
    UC_CPU_ARM_CORTEX_M3,
    UC_CPU_ARM_CORTEX_M4,
    UC_CPU_ARM_CORTEX_M7,
    UC_CPU_ARM_CORTEX_M33,
)
from unicorn.riscv_const import UC_RISCV_REG_A0, UC_RISCV_REG_RA, UC_RISCV_REG_SP

PAGE_BYTES = 4096
SYSTEM = 0xE000_E000
HEAD_BYTES = 88
BOARDS_MAX = 256
CANARY = 0xA5
REQUEST_BYTES_MAX = 1 << 16
ROOM_AT, ROOM_BYTES = 0x6000_0000, 128 << 20
"""Memory beside the image's own, for what called functions read and write, and at its end for their stack."""
RETURN_AT = ROOM_AT + ROOM_BYTES
CALL = struct.Struct("<IIIII")
"""Bytes of a symbol's name, arguments of a call, calls, pieces to write, pieces to read. Then the name; each call's
arguments (8 bytes each); of each piece to write its place and size (8 and 4) and content, of each to read the same."""
PIECE = struct.Struct("<QI")
MODELS = {
    "cortex-m0plus": UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": UC_CPU_ARM_CORTEX_M4,
    "cortex-m4f": UC_CPU_ARM_CORTEX_M4,
    "cortex-m7f": UC_CPU_ARM_CORTEX_M7,
    "cortex-m33f": UC_CPU_ARM_CORTEX_M33,
}


@dataclass(frozen=True)
class Convention:
    """How a function is called: registers of its first arguments (the others lie on the stack), stack, return."""

    arguments: tuple[int, ...]
    stack: int
    link: int
    thumb: int = 0


CORTEX = Convention(tuple(range(UC_ARM_REG_R0, UC_ARM_REG_R0 + 4)), UC_ARM_REG_SP, UC_ARM_REG_LR, 1)
RISCV = Convention(tuple(range(UC_RISCV_REG_A0, UC_RISCV_REG_A0 + 8)), UC_RISCV_REG_SP, UC_RISCV_REG_RA)
ARM64 = Convention(tuple(range(UC_ARM64_REG_X0, UC_ARM64_REG_X0 + 8)), UC_ARM64_REG_SP, UC_ARM64_REG_X30)


def processor(target: str) -> tuple[Any, Convention]:
    """A new one, with its floating-point unit on where it has one."""
    if target in MODELS:
        uc = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        uc.ctl_set_cpu_model(MODELS[target])
        uc.mem_map(SYSTEM, PAGE_BYTES)
        return uc, CORTEX
    if target.startswith("riscv32"):
        return Uc(UC_ARCH_RISCV, UC_MODE_RISCV32), RISCV
    uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    uc.reg_write(UC_ARM64_REG_CPACR_EL1, 3 << 20)
    return uc, ARM64


class Machine:
    """One emulated processor with an image in its flash, and whichever board's RAM is in it now."""

    def __init__(self, image: str, target: str, in_bytes: int, *, counting: bool) -> None:
        self.uc, self._convention = processor(target)
        self.instructions = 0
        self.lengths: dict[tuple[int, int], int] = {}
        self.inside: Board | None = None
        self._room: memoryview | None = None
        self._mapped: list[mmap.mmap] = []
        with Path(image).open("rb") as file:
            elf = ELFFile(file)
            # Images are linked as one segment of flash and one of RAM, if they have variables.
            for segment in elf.iter_segments():
                if segment["p_type"] == "PT_LOAD" and segment["p_memsz"]:
                    self._load(segment)
            symbols = {s.name: s for s in elf.get_section_by_name(".symtab").iter_symbols()}  # type: ignore[union-attr] # always there
        self.symbols = {name: symbol["st_value"] for name, symbol in symbols.items()}
        if in_bytes:
            self.box = self.symbols["board_box"] - self.ram_at
            self.out = self.box + HEAD_BYTES + in_bytes
            stack_at = self.symbols["board_stack"] - self.ram_at
            self.stack = slice(stack_at, stack_at + symbols["board_stack"]["st_size"])
            self.stack_top, self.reset = struct.unpack("<II", self.flash[:8])
        if counting:
            self.uc.hook_add(UC_HOOK_BLOCK, self._block)
        self.new = self.uc.context_save()

    def _load(self, segment: Any) -> None:
        at, is_flash = segment["p_paddr"], not segment["p_flags"] & 2
        first = at // PAGE_BYTES * PAGE_BYTES
        rights = UC_PROT_READ | (UC_PROT_EXEC if is_flash else UC_PROT_WRITE)
        memory = self._map(first, at + segment["p_memsz"] - first, rights)[at - first :]
        memory[: segment["p_filesz"]] = segment.data()
        if is_flash:
            self.flash = memory
        else:
            self.ram_at, self.ram = at, memory

    def _map(self, at: int, size: int, rights: int) -> memoryview:
        """Memory of ours in the processor's address space: reading and writing it needs no call of the emulator."""
        whole = mmap.mmap(-1, -(-size // PAGE_BYTES) * PAGE_BYTES)
        self._mapped.append(whole)  # it goes when nobody holds it
        self.uc.mem_map_ptr(at, len(whole), rights, ctypes.addressof(ctypes.c_char.from_buffer(whole)))
        return memoryview(whole)

    def _block(self, machine: Any, address: int, size: int, _data: object) -> None:
        """Adds the Thumb instructions of a block, which hooks for each instruction would miss some of."""
        count = self.lengths.get((address, size))
        if count is None:
            code = machine.mem_read(address, size)
            count = at = 0
            while at < size:  # halfwords that begin with 11101, 11110 or 11111 begin a 32-bit instruction
                at += 4 if code[at + 1] >> 3 in (0b11101, 0b11110, 0b11111) else 2
                count += 1
            self.lengths[address, size] = count
        self.instructions += count

    def go(self, at: int) -> None:
        """Until it sleeps. Who asked waits for a bounded time, and ends this program when it has run away."""
        self.uc.emu_start(at | 1, 0xFFFF_FFFE)

    def leave(self) -> None:
        """Takes out the board that is in: it is kept as it is."""
        if self.inside is not None:
            self.inside.kept[:] = self.ram
            self.uc.context_update(self.inside.registers)
            self.inside = None

    def call(self, content: memoryview) -> tuple[bytes, int]:
        """Writes, calls a function so many times, and reads; what was read behind each call's instructions."""
        self.leave()
        room = self._room = self._room or self._room_of_calls()
        name_bytes, arguments_n, calls_n, writes_n, reads_n = CALL.unpack_from(content)
        at = CALL.size + name_bytes
        start = self.symbols[bytes(content[CALL.size : at]).decode()] | self._convention.thumb
        calls = struct.Struct(f"<{arguments_n}Q")
        given = [calls.unpack_from(content, at + k * calls.size) for k in range(calls_n)]
        at += calls_n * calls.size
        for _ in range(writes_n):
            place, size = PIECE.unpack_from(content, at)
            at += PIECE.size + size
            room[place - ROOM_AT : place - ROOM_AT + size] = content[at - size : at]
        counts = [self._call(start, arguments) for arguments in given]
        parts = [struct.pack(f"<{calls_n}Q", *counts)]
        for k in range(reads_n):
            place, size = PIECE.unpack_from(content, at + k * PIECE.size)
            parts.append(bytes(room[place - ROOM_AT : place - ROOM_AT + size]))
        return b"".join(parts), sum(counts)

    def _room_of_calls(self) -> memoryview:
        self._map(RETURN_AT, PAGE_BYTES, UC_PROT_READ | UC_PROT_EXEC)
        return self._map(ROOM_AT, ROOM_BYTES, UC_PROT_READ | UC_PROT_WRITE)

    def _call(self, start: int, arguments: tuple[int, ...]) -> int:
        here, room = self._convention, self._room
        assert room is not None
        for register, value in zip(here.arguments, arguments, strict=False):
            self.uc.reg_write(register, value)
        rest = arguments[len(here.arguments) :]
        top = ROOM_BYTES - 256  # in the room
        room[top : top + 4 * len(rest)] = struct.pack(f"<{len(rest)}I", *rest)
        self.uc.reg_write(here.stack, ROOM_AT + top)
        self.uc.reg_write(here.link, RETURN_AT | here.thumb)
        before = self.instructions
        self.uc.emu_start(start, RETURN_AT)
        return self.instructions - before


class Board:
    """One board: its RAM and its registers while another one has the processor."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.kept = bytearray(len(machine.ram))
        self.kept[machine.stack] = bytes([CANARY]) * len(machine.ram[machine.stack])
        self.registers = machine.uc.context_save()
        self._enter(machine.new)
        machine.uc.reg_write(UC_ARM_REG_SP, machine.stack_top)
        machine.go(machine.reset)

    def _enter(self, registers: Any) -> None:
        """Has the processor: the one that had it is kept as it is."""
        machine = self._machine
        machine.leave()
        machine.ram[:] = self.kept
        machine.uc.context_restore(registers)
        machine.inside = self

    def run(self, box: memoryview) -> tuple[bytes, bytes, int]:
        """Wakes the board with a box; the box after it, its records, and the instructions it took."""
        machine = self._machine
        if machine.inside is not self:
            self._enter(self.registers)
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
        ram = machine.ram if machine.inside is self else self.kept
        content = bytes(ram[machine.stack])
        return len(content.lstrip(bytes([CANARY])))


class Requests:
    """Whole requests from a pipe, read in as few calls as they came in."""

    def __init__(self, pipe: io.FileIO) -> None:
        self._pipe = pipe
        self._held = bytearray()

    def __iter__(self) -> Iterator[tuple[int, memoryview]]:
        """(number, content), until the input ends."""
        held = self._held
        while True:
            size = 8 + int.from_bytes(held[4:8], "little")
            if len(held) < max(8, size):
                more = self._pipe.read(REQUEST_BYTES_MAX)
                if not more:
                    return
                held += more
                continue
            whole = bytes(held[:size])
            del held[:size]
            yield int.from_bytes(whole[:4], "little"), memoryview(whole)[8:]


def answer_of(machine: Machine, boards: dict[int, Board], number: int, content: memoryview) -> bytes:
    """A whole answer. Raises ``OverflowError`` when there is one board too many, ``UcError`` when one stops."""
    if number == 0:
        out, instructions = machine.call(content)
        return struct.pack("<IQ", len(out), instructions) + out
    if number not in boards:
        if len(boards) >= BOARDS_MAX:
            raise OverflowError(f"one emulator has at most {BOARDS_MAX} boards")
        boards[number] = Board(machine)
    board = boards[number]
    if not content:
        return struct.pack("<IQ", 0, board.stack_used())
    head, out, instructions = board.run(content)
    return struct.pack("<IQ", len(head) + len(out), instructions) + head + out


def main(image: str, target: str, in_bytes: str, counting: str) -> int:
    """Answers until its input ends; 1 when a board did what no board may, with one line that says what."""
    machine = Machine(image, target, int(in_bytes), counting=counting == "count")
    boards: dict[int, Board] = {}
    # Unbuffered: a request comes whole or in a few pieces, and an answer goes at once.
    answers = io.FileIO(sys.stdout.fileno(), "w", closefd=False)
    for number, content in Requests(io.FileIO(sys.stdin.fileno(), closefd=False)):
        try:
            answer = answer_of(machine, boards, number, content)
        except UcError as error:
            where = f" at {machine.uc.reg_read(UC_ARM_REG_PC):#x}" if target in MODELS else ""
            what = f"board {number}" if number else "a call"
            sys.stderr.write(f"{what} stopped{where}: {error}\n")
            return 1
        except OverflowError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        at = 0
        while at < len(answer):
            at += answers.write(answer[at:])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
