"""Libraries that have shown that they give the reference's bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def shown(path: Path, libraries: Sequence[Library]) -> bool:
    """True when all the programs in the file at ``path`` give the reference's bytes; remembered beside it.

    Raises `KernelError` ``kernel.subnormals`` when this process flushes subnormal numbers.
    """
    if not subnormals_kept():
        raise KernelError(
            "kernel.subnormals",
            "this process flushes subnormal numbers to zero",
            why="a library that was loaded has set the processor so (often one built with -ffast-math)",
            next_step="find it by importing your modules one by one, and replace it by a build without fast-math",
        )
    mark = path.with_suffix(".same-bits")
    if mark.exists():
        return True
    if any(wrong_frames(library) for library in libraries):
        return False
    names = ", ".join(f"{one.program.name} {one.program.digest}" for one in libraries)
    mark.write_text(f"{names}: {FRAMES} frames\n", "utf-8")
    return True


def proven(program: Program, compilers: Iterable[Compiler], directory: Path) -> Library | None:
    """The library of the first compiler that gives the reference's bytes; None when none does, or there is none.

    A compiler that fails is passed over: the next may do. Raises as `shown`.
    """
    for compiler in compilers:
        try:
            library = Library.build(program, compiler, directory)
        except KernelError:
            continue
        if shown(library.path, [library]):
            return library
    return None
