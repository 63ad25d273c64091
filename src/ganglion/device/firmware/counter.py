"""Counts a kernel's instructions, frame by frame: ``python counter.py IMAGE TARGET SYMBOL FLASH RAM``.

A program of its own, since the emulator's licence (GPLv2) does not go with ours in one process. On its input: the size
of a JSON text (4 bytes), the text, and each input's frames, one input after the other. Its answer: 8 bytes per frame.
The text says ``frames``, ``inputs`` and ``outputs`` (bytes of one frame of each), ``state`` and ``workspace`` (bytes).
"""

import json
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
    UC_ARM_REG_LR,
    UC_ARM_REG_R0,
    UC_ARM_REG_SP,
    UC_CPU_ARM_CORTEX_M0,
    UC_CPU_ARM_CORTEX_M3,
    UC_CPU_ARM_CORTEX_M4,
    UC_CPU_ARM_CORTEX_M7,
    UC_CPU_ARM_CORTEX_M33,
)

FLASH_BYTES, RAM_BYTES, STACK_BYTES = 4 << 20, 16 << 20, 1 << 20
END = 0x0F00_0000
INSTRUCTIONS_MAX = 200_000_000
MODELS = {
    "cortex-m0plus": UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": UC_CPU_ARM_CORTEX_M4,
    "cortex-m4f": UC_CPU_ARM_CORTEX_M4,
    "cortex-m7f": UC_CPU_ARM_CORTEX_M7,
    "cortex-m33f": UC_CPU_ARM_CORTEX_M33,
}


class Processor:
    """One emulated processor with a kernel in its flash, whose calls are counted."""

    def __init__(self, image: str, target: str, flash: int, ram: int) -> None:
        self.machine: Any = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        self.machine.ctl_set_cpu_model(MODELS[target])
        for at, size in ((flash, FLASH_BYTES), (ram, RAM_BYTES), (END, 0x1000)):
            self.machine.mem_map(at, size)
        self.next, self.top = ram, ram + RAM_BYTES - 256
        self.count = 0
        self.lengths: dict[tuple[int, int], int] = {}
        with Path(image).open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments():
                if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                    self.machine.mem_write(segment["p_paddr"], segment.data())
                end = segment["p_vaddr"] + segment["p_memsz"]
                if segment["p_type"] == "PT_LOAD" and ram <= end < self.top:
                    self.next = max(self.next, (end + 63) // 64 * 64)
            symbols = elf.get_section_by_name(".symtab").iter_symbols()  # type: ignore[union-attr] # always there
            self.symbols = {s.name: s["st_value"] for s in symbols}
        self.machine.hook_add(UC_HOOK_BLOCK, self._block)

    def _block(self, machine: Any, address: int, size: int, _data: object) -> None:
        length = self.lengths.get((address, size))
        if length is None:
            code = machine.mem_read(address, size)
            length = at = 0
            while at < size:  # halfwords that begin with 11101, 11110 or 11111 begin a 32-bit instruction
                at += 4 if code[at + 1] >> 3 in (0b11101, 0b11110, 0b11111) else 2
                length += 1
            self.lengths[address, size] = length
        self.count += length

    def put(self, content: bytes) -> int:
        """Copies bytes into memory; returns where."""
        at = self.next
        self.machine.mem_write(at, content)
        self.next = (at + len(content) + 63) // 64 * 64
        assert self.next < self.top - STACK_BYTES, "out of memory"
        return at

    def call(self, symbol: str, *arguments: int) -> int:
        """Calls a C function; the instructions it took."""
        for k, value in enumerate(arguments[:4]):
            self.machine.reg_write(UC_ARM_REG_R0 + k, value)
        self.machine.mem_write(self.top, struct.pack(f"<{len(arguments) - 4}I", *arguments[4:]))
        self.machine.reg_write(UC_ARM_REG_SP, self.top)
        self.machine.reg_write(UC_ARM_REG_LR, END | 1)
        self.count = 0
        self.machine.emu_start(self.symbols[symbol] | 1, END, count=INSTRUCTIONS_MAX)
        return self.count


def main(image: str, target: str, symbol: str, flash: str, ram: str) -> None:
    """Answers one request."""
    pipe = sys.stdin.buffer
    about = json.loads(pipe.read(struct.unpack("<I", pipe.read(4))[0]))
    frames, sizes = about["frames"], about["inputs"]
    given = [pipe.read(frames * size) for size in sizes]
    processor = Processor(image, target, int(flash), int(ram))
    places = [processor.put(bytes(size)) for size in sizes]
    inputs = processor.put(struct.pack(f"<{len(places)}I", *places))
    results = [processor.put(bytes(size)) for size in about["outputs"]]
    outputs = processor.put(struct.pack(f"<{len(results)}I", *results))
    state = processor.put(pipe.read(about["state"]) or bytes(8))
    emitted, work = processor.put(bytes(8)), processor.put(bytes(about["workspace"] + 64))
    for frame in range(frames):
        for place, size, content in zip(places, sizes, given, strict=True):
            processor.machine.mem_write(place, content[frame * size : (frame + 1) * size])
        count = processor.call(symbol, 1, inputs, 0, state, outputs, emitted, work)
        sys.stdout.buffer.write(struct.pack("<Q", count))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
