"""Libraries that have shown that they give the reference's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ganglion.core.errors import KernelError
from ganglion.kernels.c.library import Library
from ganglion.kernels.c.toolchain import Compiler
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.ir.program import Program
from ganglion.kernels.vectors import differences, inputs, states

FRAMES = 600
"""Hostile frames a library is tried on: a hundred of each kind."""
SEED = 1


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
    """
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
