"""Runs a linked kernel on an emulated processor: ``python emulated.py JOB.npz RESULT.npz``.

A program of its own, since the emulator's licence (GPLv2) does not go with ours in one process.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from elftools.elf.elffile import ELFFile
from unicorn import (  # type: ignore[attr-defined] # its stubs forget Uc
    UC_ARCH_ARM,
    UC_ARCH_ARM64,
    UC_ARCH_RISCV,
    UC_MODE_ARM,
    UC_MODE_MCLASS,
    UC_MODE_RISCV32,
    UC_MODE_THUMB,
    Uc,
)
from unicorn.arm64_const import UC_ARM64_REG_CPACR_EL1, UC_ARM64_REG_SP, UC_ARM64_REG_X0, UC_ARM64_REG_X30
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
from unicorn.riscv_const import UC_RISCV_REG_A0, UC_RISCV_REG_RA, UC_RISCV_REG_SP

FLASH_BYTES, RAM_BYTES, STACK_BYTES = 4 << 20, 64 << 20, 1 << 20
END = 0x0F00_0000
MODELS = {
    "cortex-m0plus": UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": UC_CPU_ARM_CORTEX_M4,
    "cortex-m4f": UC_CPU_ARM_CORTEX_M4,
    "cortex-m7f": UC_CPU_ARM_CORTEX_M7,
    "cortex-m33f": UC_CPU_ARM_CORTEX_M33,
}


class Processor:
    """One emulated processor with an image in flash."""

    def __init__(self, target, image, flash, ram):
        self.target, self.next, self.ram = target, ram, ram
        if target.startswith("cortex"):
            self.machine = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
            self.machine.ctl_set_cpu_model(MODELS[target])
        elif target.startswith("riscv32"):
            self.machine = Uc(UC_ARCH_RISCV, UC_MODE_RISCV32)
        else:
            self.machine = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
            self.machine.reg_write(UC_ARM64_REG_CPACR_EL1, 3 << 20)
        self.machine.mem_map(flash, FLASH_BYTES)
        self.machine.mem_map(ram, RAM_BYTES)
        self.machine.mem_map(END, 0x1000)
        with Path(image).open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments():
                if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                    self.machine.mem_write(segment["p_paddr"], segment.data())
                end = segment["p_vaddr"] + segment["p_memsz"]
                if segment["p_type"] == "PT_LOAD" and ram <= end < ram + RAM_BYTES:
                    self.next = max(self.next, (end + 63) // 64 * 64)
            symbols = elf.get_section_by_name(".symtab").iter_symbols()  # type: ignore[union-attr] # always there
            self.symbols = {s.name: s["st_value"] for s in symbols}

    def put(self, content):
        """Copies bytes into memory; returns where."""
        at = self.next
        self.machine.mem_write(at, bytes(content))
        self.next = (at + len(content) + 63) // 64 * 64
        assert self.next < self.ram + RAM_BYTES - STACK_BYTES, "out of memory"
        return at

    def pointers(self, addresses):
        """An array of pointers."""
        return self.put(
            struct.pack(f"<{len(addresses)}{'Q' if self.target == 'aarch64' else 'I'}", *addresses)
        )

    def call(self, symbol, *arguments):
        """Calls a C function with integers and pointers."""
        stack = self.ram + RAM_BYTES - 256
        if self.target.startswith("cortex"):
            for k, value in enumerate(arguments[:4]):
                self.machine.reg_write(UC_ARM_REG_R0 + k, value)
            self.machine.mem_write(stack, struct.pack(f"<{len(arguments) - 4}I", *arguments[4:]))
            self.machine.reg_write(UC_ARM_REG_SP, stack)
            self.machine.reg_write(UC_ARM_REG_LR, END | 1)
            start = self.symbols[symbol] | 1
        elif self.target.startswith("riscv32"):
            for k, value in enumerate(arguments):
                self.machine.reg_write(UC_RISCV_REG_A0 + k, value)
            self.machine.reg_write(UC_RISCV_REG_SP, stack)
            self.machine.reg_write(UC_RISCV_REG_RA, END)
            start = self.symbols[symbol]
        else:
            for k, value in enumerate(arguments):
                self.machine.reg_write(UC_ARM64_REG_X0 + k, value)
            self.machine.reg_write(UC_ARM64_REG_SP, stack)
            self.machine.reg_write(UC_ARM64_REG_X30, END)
            start = self.symbols[symbol]
        self.machine.emu_start(start, END)


def main(job_file, result_file):
    with np.load(job_file) as job:
        about = json.loads(str(job["about"]))
        given = [job[f"in{k}"] for k in range(about["inputs"])]
        table = job["table"]
    processor = Processor(about["target"], about["image"], about["flash"], about["ram"])
    n = len(given[0])
    inputs = processor.pointers([processor.put(a.tobytes()) for a in given])
    places = [processor.put(bytes(n * size)) for size in about["output_bytes"]]
    outputs = processor.pointers(places)
    keys = processor.put(np.arange(n, dtype=np.int32).tobytes())
    states = processor.put(table.tobytes() or bytes(8))
    emit = processor.put(bytes(n))
    work = processor.put(bytes(about["workspace_bytes"] + 64))
    processor.call(about["symbol"], n, inputs, keys, states, outputs, emit, work)
    read = processor.machine.mem_read
    results: dict[str, Any] = {
        f"out{k}": np.frombuffer(bytes(read(p, n * s)), np.uint8)
        for k, (p, s) in enumerate(zip(places, about["output_bytes"], strict=True))
    }
    np.savez(
        result_file,
        emit=np.frombuffer(bytes(read(emit, n)), np.uint8),
        table=np.frombuffer(bytes(read(states, max(1, table.nbytes))), np.uint8),
        **results,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
