"""The compiled kernels and folds of a node, by digest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ganglion.kernels.c.library import Library
from ganglion.kernels.c.proof import proven
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.folds.compiled import CompiledFolder, compiled
from ganglion.kernels.folds.fold import Fold
from ganglion.kernels.kernel import Kernel


def load(
    kernels: Iterable[Kernel], directory: Path, folds: Iterable[Fold] = ()
) -> dict[str, Library | CompiledFolder]:
    """A library for each kernel and fold that some compiler of this machine builds with the reference's bits.

    Blocks: compiling takes a fraction of a second per kernel, unless ``directory`` has it already. What is missing in
    the result runs in NumPy. Raises `KernelError` ``kernel.compile`` when GANGLION_CC cannot be run, and as `proven`
    does.
    """
    found = compilers()
    libraries: dict[str, Library | CompiledFolder] = {}
    for kernel in kernels:
        library = proven(kernel.program, found, directory)
        if library is not None:
            libraries[kernel.digest] = library
    for fold in folds:
        folder = compiled(fold, found, directory)
        if folder is not None:
            libraries[fold.digest] = folder
    return libraries
