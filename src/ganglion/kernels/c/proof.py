"""Libraries that have shown that they give the reference's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.kernels.c.library import Library
from ganglion.kernels.c.toolchain import Compiler
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.ir.program import Program
from ganglion.kernels.vectors import differences, inputs, states

FRAMES = 600
"""Hostile frames a library is tried on: a hundred of each kind."""
SEED = 1


def subnormals_kept() -> bool:
    """False when this thread flushes subnormal numbers to zero: some library has set the processor so."""
    smallest = np.array([0x0080_0000, 0x0000_0001], np.uint32).view(np.float32)
    return bool(np.all(smallest * np.float32(0.75) != 0))


def wrong_frames(library: Library, frames: int = FRAMES, seed: int = SEED) -> int:
    """In how many hostile frames the library differs from the reference in any byte."""
    program = library.program
    given, held = inputs(program, frames, seed), states(program, frames, seed)
    table = library.fresh(frames)
    for name, values in held.items():
        table[name] = values
    return differences(interpret(program, given, held or None), library.compute(given, table))


def proven(program: Program, compilers: Sequence[Compiler], directory: Path) -> Library | None:
    """The library of the first compiler that gives the reference's bytes; None when none does, or there is none.

    What was proven is remembered beside the library. A compiler that fails is passed over: the next may do.
    Raises `KernelError` ``kernel.subnormals`` when this process flushes subnormal numbers.
    """
    if not subnormals_kept():
        raise KernelError(
            "kernel.subnormals",
            "this process flushes subnormal numbers to zero",
            why="a library that was loaded has set the processor so (often one built with -ffast-math)",
            next_step="find it by importing your modules one by one, and replace it by a build without fast-math",
        )
    for compiler in compilers:
        try:
            library = Library.build(program, compiler, directory)
        except KernelError:
            continue
        mark = library.path.with_suffix(".same-bits")
        if not mark.exists():
            if wrong_frames(library):
                continue
            mark.write_text(
                f"{program.name} {program.digest}: {FRAMES} frames, {compiler.version}\n", "utf-8"
            )
        return library
    return None
