"""The compiled kernels of a node, by digest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ganglion.kernels.c.library import Library
from ganglion.kernels.c.proof import proven
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.kernel import Kernel


def load(kernels: Iterable[Kernel], directory: Path) -> dict[str, Library]:
    """A library for each kernel that some compiler of this machine builds with the reference's bits.

    Blocks: compiling takes a fraction of a second per kernel, unless ``directory`` has it already. A kernel that is
    missing in the result runs in NumPy. Raises `KernelError` ``kernel.compile`` when GANGLION_CC cannot be run.
    """
    found = compilers()
    libraries = {}
    for kernel in kernels:
        library = proven(kernel.program, found, directory)
        if library is not None:
            libraries[kernel.digest] = library
    return libraries
