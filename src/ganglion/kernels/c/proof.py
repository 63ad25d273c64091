"""Libraries that have shown that they give the reference's bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.kernels.c.layout import state_dtype
from ganglion.kernels.c.library import Library
from ganglion.kernels.c.toolchain import Compiler, unkept
from ganglion.kernels.ir.interpret import Computed, interpret
from ganglion.kernels.ir.program import Program
from ganglion.kernels.ops.op import Array
from ganglion.kernels.vectors import differences, inputs, states

FRAMES = 600
"""Hostile frames a library is tried on: a hundred of each kind."""
SEED = 1
MARK = ".same-bits"


def subnormals_kept() -> bool:
    """False when this thread flushes subnormal numbers to zero: some library has set the processor so."""
    smallest = np.array([0x0080_0000, 0x0000_0001], np.uint32).view(np.float32)
    return bool(np.all(smallest * np.float32(0.75) != 0))


def wrong_frames(library: Library, frames: int = FRAMES, seed: int = SEED) -> int:
    """In how many hostile frames the library differs from the reference in any byte."""
    return wrong_frames_of(library.program, library.compute, frames, seed)


def wrong_frames_of(
    program: Program,
    compute: Callable[[Mapping[str, Array], Array], Computed],
    frames: int = FRAMES,
    seed: int = SEED,
) -> int:
    """The same for whatever computes a program: ``compute`` takes its inputs, and a table with each frame's state."""
    given, held = inputs(program, frames, seed), states(program, frames, seed)
    table = np.zeros(frames, state_dtype(program))
    for name, values in held.items():
        table[name] = values
    return differences(interpret(program, given, held or None), compute(given, table))


def require_subnormals() -> None:
    """Raises `KernelError` ``kernel.subnormals`` when this process flushes them: its reference would be wrong."""
    if not subnormals_kept():
        raise KernelError(
            "kernel.subnormals",
            "this process flushes subnormal numbers to zero",
            why="a library that was loaded has set the processor so (often one built with -ffast-math)",
            next_step="find it by importing your modules one by one, and replace it by a build without fast-math",
        )


def claim(path: Path) -> str:
    """What the build at ``path`` has shown, by which compiler and where; empty when it was not tried."""
    mark = path.with_suffix(MARK)
    return mark.read_text("utf-8").strip() if mark.exists() else ""


def frames_of(programs: Iterable[Program]) -> str:
    """What builds of these programs are tried on, for a claim."""
    return f"{FRAMES} hostile frames each of {', '.join(f'{p.name} {p.digest[:12]}' for p in programs)}"


def keep_claim(path: Path, build: str, tried: str) -> str:
    """Remembers beside ``path`` that this ``build`` gave the reference's bytes on what it was ``tried`` on.

    Raises `KernelError` ``kernel.directory`` where that cannot be written.
    """
    text = f"{build} ({path.stem[:12]}): {tried}"
    draft = path.with_suffix(f"{MARK}.{os.getpid()}")
    try:
        draft.write_text(text + "\n", "utf-8")
        draft.replace(path.with_suffix(MARK))
    except OSError as error:
        raise unkept(path.parent, error) from error
    return text


def shown(path: Path, libraries: Sequence[Library], compiler: Compiler) -> bool:
    """True when all the programs in the file at ``path`` give the reference's bytes; remembered beside it.

    Raises `KernelError` ``kernel.subnormals`` when this process flushes subnormal numbers, ``kernel.directory`` where
    that cannot be remembered.
    """
    require_subnormals()
    if claim(path):
        return True
    if any(wrong_frames(library) for library in libraries):
        return False
    what = f"library for this machine by {compiler.label}"
    keep_claim(path, what, frames_of(one.program for one in libraries))
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
        if shown(library.path, [library], compiler):
            return library
    return None
