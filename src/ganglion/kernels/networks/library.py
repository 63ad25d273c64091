"""A network as a loaded library: rows of int8 in, rows of int8 out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cffi
import numpy as np

from ganglion.kernels.c.toolchain import Compiler, build_library
from ganglion.kernels.networks.emission import emit_network
from ganglion.kernels.networks.layers import Array, Network

SYMBOL = "gg_network"
_FFI = cffi.FFI()
_FFI.cdef(
    f"""
    void {SYMBOL}_rows(int32_t n, void *in, void *out, void *work);
    extern uint32_t {SYMBOL}_workspace_bytes;
    """
)
_ALIGNMENT_BYTES = 64
# Its stubs know `bytes` and `array`, but no NumPy arrays.
_buffer: Callable[[Any], Any] = _FFI.from_buffer


class NetworkLibrary:
    """One network, compiled and loaded. Not for several threads at once: calls share working memory."""

    def __init__(self, network: Network, path: Path) -> None:
        self.network = network
        self.path = path
        loaded = _FFI.dlopen(str(path))
        self._loaded = loaded  # keeps it in memory
        self._call = getattr(loaded, f"{SYMBOL}_rows")
        room = int(getattr(loaded, f"{SYMBOL}_workspace_bytes")) + _ALIGNMENT_BYTES
        self._room = np.zeros(room, np.uint8)
        self._work = _buffer(self._room[-self._room.ctypes.data % _ALIGNMENT_BYTES :])

    @staticmethod
    def build(
        network: Network, compiler: Compiler, directory: Path, flags: Sequence[str] = ("-O3",)
    ) -> NetworkLibrary:
        """Compiles, or finds in ``directory`` what was compiled before. Raises `KernelError` ``kernel.compile``."""
        source = emit_network(network, SYMBOL).source
        return NetworkLibrary(network, build_library(source, compiler, directory, flags))

    def compute(self, frames: Array) -> Array:
        """int8 (n, *input shape) to int8 (n, *output shape): the counterpart of `reference.compute`."""
        assert frames.dtype == np.int8 and frames.shape[1:] == self.network.input_shape, frames.shape
        given = np.ascontiguousarray(frames)
        out = np.empty((len(given), *self.network.output_shape), np.int8)
        if len(given):
            self._call(len(given), _buffer(given), _buffer(out), self._work)
        return out
