"""A program as a loaded library: frames in, outputs out, state kept by the caller as a NumPy structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import cffi
import numpy as np

from ganglion.kernels.c.emission import emit
from ganglion.kernels.c.grouped import group_of
from ganglion.kernels.c.layout import state_dtype
from ganglion.kernels.c.toolchain import SPEED, Compiler, build_library
from ganglion.kernels.ir.interpret import Computed
from ganglion.kernels.ir.program import Program
from ganglion.kernels.ops.op import Array

SYMBOL = "gg_kernel"
_FFI = cffi.FFI()


@cache
def _interface(symbol: str) -> cffi.FFI:
    ffi = cffi.FFI()
    ffi.cdef(
        f"""
        void {symbol}_rows(int32_t n, void **in, void *key, void *table, void **out, void *emit, void *work);
        extern uint32_t {symbol}_workspace_bytes;
        extern uint32_t {symbol}_state_bytes;
        """
    )
    return ffi


_ALIGNMENT_BYTES = 64
# Its stubs know `bytes` and `array`, but no NumPy arrays.
_buffer: Callable[[Any], Any] = _FFI.from_buffer


class _Call(partial[None]):
    """A call that keeps what its arguments point to, also when it outlives who made it."""

    held: tuple[Any, ...]


class Bound:
    """Arrays of ``n`` rows that a library reads and writes in place: fill ``inputs``, `call`, read the others.

    ``inputs``, ``outputs``: field -> (n, *shape); ``emitted``: bool[n]; ``table``: states, one for all rows, or as
    many as ``keys`` (int32[n]: each row's place in it) asks for.
    """

    __slots__ = ("_arguments", "_call", "_held", "call", "emitted", "inputs", "outputs", "table")

    def __init__(self, library: Library, n: int, keys: Array | None = None) -> None:
        # Filled, not zeros of the system: NumPy asks for large pages only where it allocates itself.
        self.inputs = {name: np.full((n, *shape), 0, dtype) for name, dtype, shape in library._inputs}
        self.outputs = {name: np.full((n, *shape), 0, dtype) for name, dtype, shape in library._outputs}
        self.emitted = np.zeros(n, np.bool_)
        chosen = None if keys is None else np.ascontiguousarray(keys, np.int32)
        assert chosen is None or (chosen.shape == (n,) and chosen.min() >= 0)
        self.table = library.fresh(1 if chosen is None else int(chosen.max()) + 1)
        given = _FFI.new("void *[]", [_buffer(a) for a in self.inputs.values()])
        out = _FFI.new("void *[]", [_buffer(a) for a in self.outputs.values()])
        states = _buffer(self.table) if library.state.itemsize else _FFI.NULL
        self._call = library._call
        self._held = (library, given, out)
        key = _FFI.NULL if chosen is None else _buffer(chosen)
        self._arguments = (n, given, key, states, out, _buffer(self.emitted), library._work)
        self.call = _Call(self._call, *self._arguments)
        """Computes all rows in turn: nothing of Python's between the caller and the C."""
        self.call.held = (self.inputs, self.outputs, self.emitted, self.table, self._held)

    def call_with(self, table: Array) -> None:
        """The same with the first state of ``table`` instead of its own."""
        n, given, key, states, out, emitted, work = self._arguments
        if states != _FFI.NULL:
            states = _buffer(table)
        self._call(n, given, key, states, out, emitted, work)


class Library:
    """One program, compiled and loaded. Not for several threads at once: calls share working memory.

    ``symbol``: the prefix of its functions' names in the file at ``path``.
    """

    def __init__(self, program: Program, path: Path, symbol: str = SYMBOL) -> None:
        self.program = program
        self.path = path
        self.state = state_dtype(program)
        loaded: Any = _interface(symbol).dlopen(str(path))
        self._loaded = loaded  # keeps it in memory
        self._call = getattr(loaded, f"{symbol}_rows")
        assert getattr(loaded, f"{symbol}_state_bytes") == self.state.itemsize, "built from another program"
        room = int(getattr(loaded, f"{symbol}_workspace_bytes")) + _ALIGNMENT_BYTES
        self._room = np.zeros(room, np.uint8)
        shift = -self._room.ctypes.data % _ALIGNMENT_BYTES
        self._work = _buffer(self._room[shift:])
        self._inputs = [
            (name, program.nodes[n].type.numpy, program.nodes[n].type.shape) for name, n in program.inputs
        ]
        self._outputs = [
            (name, program.nodes[n].type.numpy, program.nodes[n].type.shape) for name, n in program.outputs
        ]
        self._single: Bound | None = None
        self._in = _FFI.new("void *[]", len(self._inputs))
        self._out = _FFI.new("void *[]", len(self._outputs))

    @staticmethod
    def build(program: Program, compiler: Compiler, directory: Path, flags: Sequence[str] = SPEED) -> Library:
        """Compiles, or finds in ``directory`` what was compiled before. Raises `KernelError` ``kernel.compile``."""
        return Library(
            program, build_library(emit(program, SYMBOL, group_of).source, compiler, directory, flags)
        )

    def fresh(self, keys: int = 1) -> Array:
        """A table of first states."""
        table = np.zeros(max(1, keys), self.state)
        for field in self.program.state:
            table[field.name] = field.initial
        return table

    def rows(
        self, inputs: Mapping[str, Array], table: Array, keys: Array | None = None
    ) -> tuple[dict[str, Array], Array]:
        """Rows in turn: outputs by name, and for each row whether it is emitted. ``table`` is changed in place.

        ``inputs``: field -> (n, *shape), n at least 1; ``keys``: int32[n], places in the table (all 0 without).
        """
        if keys is None and len(next(iter(inputs.values()))) == 1:
            return self._row(inputs, table)
        buffer = _buffer
        held = []  # arrays must outlive the call
        n = 0
        for k, (name, dtype, shape) in enumerate(self._inputs):
            array = np.ascontiguousarray(inputs[name], dtype)
            n = array.shape[0]
            assert n > 0 and array.shape[1:] == shape, (name, array.shape)
            held.append(array)
            self._in[k] = buffer(array)
        out: dict[str, Array] = {}
        for k, (name, dtype, shape) in enumerate(self._outputs):
            out[name] = array = np.empty((n, *shape), dtype)
            self._out[k] = buffer(array)
        emitted = np.empty(n, np.bool_)
        key = _FFI.NULL
        if keys is not None:
            chosen = np.ascontiguousarray(keys, np.int32)
            assert chosen.shape == (n,) and chosen.min() >= 0 and chosen.max() < len(table)
            key = buffer(chosen)
        states = buffer(table) if self.state.itemsize else _FFI.NULL
        self._call(n, self._in, key, states, self._out, buffer(emitted), self._work)
        return out, emitted

    def _row(self, inputs: Mapping[str, Array], table: Array) -> tuple[dict[str, Array], Array]:
        """One row: copying a few numbers is faster than handing over the address of each array."""
        bound = self._single
        if bound is None:
            bound = self._single = self.bind(1)
        for name, place in bound.inputs.items():
            given = inputs[name]
            assert given.shape == place.shape, (name, given.shape)
            place[:] = given
        bound.call_with(table)
        return {name: array.copy() for name, array in bound.outputs.items()}, bound.emitted.copy()

    def bind(self, n: int = 1, keys: Array | None = None) -> Bound:
        """A call whose arrays are made once: for callers with one frame after another."""
        return Bound(self, n, keys)

    def compute(self, inputs: Mapping[str, Array], table: Array) -> Computed:
        """Each frame with the state of its own number: the counterpart of `interpret`."""
        out, emitted = self.rows(inputs, table, np.arange(len(table), dtype=np.int32))
        return Computed(out, emitted, {f.name: table[f.name].copy() for f in self.program.state})
