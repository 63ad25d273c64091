"""A program as a loaded library: frames in, outputs out, state kept by the caller as a NumPy structure."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.kernels.c.emission import emit
from ganglion.kernels.c.toolchain import Compiler, build_library
from ganglion.kernels.ir.interpret import Computed
from ganglion.kernels.ir.program import Program
from ganglion.kernels.ops.op import Array

SYMBOL = "gg_kernel"


class Library:
    """One program, compiled and loaded. Not for several threads at once: they would share working memory."""

    def __init__(self, program: Program, path: Path, state: np.dtype[np.void], workspace_bytes: int) -> None:
        self.program = program
        self.path = path
        self.state = state
        handle = ctypes.CDLL(str(path))
        self._rows = handle[f"{SYMBOL}_rows"]
        self._rows.argtypes = [ctypes.c_int32] + [ctypes.c_void_p] * 6
        self._rows.restype = None
        self._work = np.zeros(workspace_bytes + 64, np.uint8)
        self._work_at = (self._work.ctypes.data + 63) // 64 * 64
        self._inputs = [(name, program.nodes[n].type) for name, n in program.inputs]
        self._outputs = [(name, program.nodes[n].type) for name, n in program.outputs]

    @staticmethod
    def build(
        program: Program, compiler: Compiler, cache_directory: Path, flags: Sequence[str] = ("-O3",)
    ) -> Library:
        """Raises `KernelError` ``kernel.compile``."""
        emitted = emit(program, SYMBOL)
        path = build_library(emitted.source, compiler, cache_directory, flags)
        return Library(program, path, emitted.state, emitted.workspace_bytes)

    def fresh(self, keys: int) -> Array:
        """A table of first states."""
        table = np.zeros(max(1, keys), self.state)
        for field in self.program.state:
            table[field.name] = field.initial
        return table

    def rows(
        self, inputs: Mapping[str, Array], table: Array, keys: Array | None = None
    ) -> tuple[dict[str, Array], Array]:
        """Rows in turn: outputs by name, and for each row whether it is emitted. ``table`` is changed in place.

        ``inputs``: field -> (n, *shape) of the program's dtypes; ``keys``: int32[n] into the table, default 0.
        """
        n = next(iter(inputs.values())).shape[0]
        held = [np.ascontiguousarray(inputs[name], kind.numpy) for name, kind in self._inputs]
        out = {name: np.empty((n, *kind.shape), kind.numpy) for name, kind in self._outputs}
        emitted = np.empty(n, np.bool_)
        key = None if keys is None else np.ascontiguousarray(keys, np.int32)
        assert table.dtype == self.state or not self.program.state
        assert all(a.shape == (n, *k.shape) for a, (_, k) in zip(held, self._inputs, strict=True))
        assert key is None or (key.shape == (n,) and (not n or (key.min() >= 0 and key.max() < len(table))))
        self._rows(
            n,
            _pointers([a.ctypes.data for a in held]),
            None if key is None else key.ctypes.data,
            table.ctypes.data,
            _pointers([a.ctypes.data for a in out.values()]),
            emitted.ctypes.data,
            self._work_at,
        )
        return out, emitted

    def compute(self, inputs: Mapping[str, Array], table: Array) -> Computed:
        """Each frame with the state of its own number: the counterpart of `interpret`."""
        keys = np.arange(len(table), dtype=np.int32)
        out, emitted = self.rows(inputs, table, keys)
        return Computed(out, emitted, {f.name: table[f.name].copy() for f in self.program.state})


def _pointers(addresses: Sequence[int]) -> Any:
    return ctypes.cast((ctypes.c_void_p * len(addresses))(*addresses), ctypes.c_void_p)
