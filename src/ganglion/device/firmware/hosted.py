"""Firmware as a library loaded into this process: the same C, one piece of memory per device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import numpy as np

from ganglion.device.firmware.box import HEAD
from ganglion.device.firmware.generate import Firmware
from ganglion.device.firmware.trial import differs
from ganglion.kernels.c.library import Library
from ganglion.kernels.c.proof import claim, shown
from ganglion.kernels.c.toolchain import Compiler, build_library

_FFI = cffi.FFI()
_FFI.cdef(
    """
    void gd_box_run(void *flow, void *box);
    extern uint32_t gd_flow_bytes;
    extern uint32_t gd_box_bytes;
    extern uint32_t gd_in_bytes;
    """
)
_ALIGNMENT_BYTES = 64
# Its stubs know `bytes` and `array`, but no NumPy arrays.
_buffer: Callable[[Any], Any] = _FFI.from_buffer


class HostedFirmware:
    """One device class, compiled for this machine. `device` gives memory for one more device of it."""

    def __init__(self, firmware: Firmware, path: Path) -> None:
        self.firmware = firmware
        self.claim = claim(path)
        loaded: Any = _FFI.dlopen(str(path))
        self._loaded = loaded
        assert int(loaded.gd_in_bytes) == firmware.sizes["GD_IN_BYTES"], "built from another flow"

    @staticmethod
    def build(firmware: Firmware, compiler: Compiler, directory: Path) -> HostedFirmware:
        """Compiles, or finds in ``directory`` what was compiled before.

        Raises `KernelError` ``kernel.compile``, and ``kernel.bits`` when a kernel in it differs from the reference.
        """
        path = build_library(firmware.source, compiler, directory, ("-O2",))
        libraries = [Library(program, path, symbol) for symbol, program in firmware.kernels]
        if not shown(path, libraries, compiler):
            raise differs(firmware, compiler.label)
        return HostedFirmware(firmware, path)

    @property
    def device_bytes(self) -> int:
        """Memory of one device on this machine."""
        return int(self._loaded.gd_flow_bytes)

    def device(self) -> HostedMemory:
        """Memory for one device; it is nothing before `Core.start`."""
        return HostedMemory(self._loaded, self.firmware.sizes["GD_IN_BYTES"])


class HostedMemory:
    """One device's memory and its box."""

    instructions = 0

    def __init__(self, loaded: Any, in_bytes: int) -> None:
        self._loaded = loaded
        self._in_bytes = in_bytes
        self._flow = _aligned(int(loaded.gd_flow_bytes))
        self._box = _aligned(int(loaded.gd_box_bytes))
        self._arguments = _buffer(self._flow), _buffer(self._box)
        self._bytes = memoryview(self._box)  # type: ignore[arg-type] # NumPy's arrays are buffers

    def run(self, head: bytes, content: bytes) -> tuple[bytes, bytes]:
        """See `Memory`."""
        box = self._bytes
        box[: HEAD.size] = head
        box[HEAD.size : HEAD.size + len(content)] = content
        self._loaded.gd_box_run(*self._arguments)
        after = bytes(box[: HEAD.size])
        start = HEAD.size + self._in_bytes
        return after, bytes(box[start : start + HEAD.unpack(after)[-1]])

    def close(self) -> None:
        """Nothing to do: the memory goes with the object."""


def _aligned(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    room = np.zeros(size + _ALIGNMENT_BYTES, np.uint8)
    shift = -room.ctypes.data % _ALIGNMENT_BYTES
    return room[shift : shift + size]
