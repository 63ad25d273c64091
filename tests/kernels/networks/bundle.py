"""Several networks in one C source with one entry, of the form that a kernel's rows have."""

import ctypes

import numpy as np

from ganglion.device.firmware.calls import Calls, Room
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import build_image, build_library
from ganglion.kernels.networks.emission import emit_network

ENTRY = "gg_bundle_rows"
FLASH, RAM = 0x10000, 0x2000_0000


class Bundle:
    """``networks`` with frames for each; every build gives all results at once."""

    def __init__(self, networks, frames):
        self.networks, self.frames = networks, [np.ascontiguousarray(f) for f in frames]
        written = [emit_network(n, f"gg_n{k}") for k, n in enumerate(networks)]
        calls = "".join(f"  gg_n{k}_rows(n, in[{k}], out[{k}], work);\n" for k in range(len(networks)))
        entry = (
            f"\nvoid {ENTRY}(int32_t n, const void *const *in, const int32_t *key, void *table, void *const *out,\n"
            f"    uint8_t *emit, void *work) {{\n  (void)key; (void)table; (void)emit;\n{calls}}}\n"
        )
        self.source = "\n".join(w.source for w in written) + entry
        self.workspace_bytes = max(w.workspace_bytes for w in written)

    def _shaped(self, results):
        return [
            np.asarray(r).view(np.int8).reshape(-1, *n.output_shape)
            for r, n in zip(results, self.networks, strict=True)
        ]

    def on_host(self, compiler, directory, flags=("-O2",)):
        """The results of a library for this machine."""
        library = ctypes.CDLL(str(build_library(self.source, compiler, directory, flags)))
        results = [
            np.zeros((len(f), n.elements(n.output)), np.int8)
            for f, n in zip(self.frames, self.networks, strict=True)
        ]
        work = np.zeros(self.workspace_bytes // 8 + 1, np.float64)
        pointers = ctypes.c_void_p * len(results)
        given = pointers(*(f.ctypes.data for f in self.frames))
        out = pointers(*(r.ctypes.data for r in results))
        getattr(library, ENTRY)(
            ctypes.c_int32(len(self.frames[0])),
            given,
            None,
            None,
            out,
            None,
            ctypes.c_void_p(work.ctypes.data),
        )
        return self._shaped(results)

    def emulated(self, target, zig, directory):
        """The results of an image on an emulated processor, in a process of its own."""
        image = build_image(self.source, TARGETS[target], zig, directory, entry=ENTRY, flash=FLASH, ram=RAM)
        with Calls(image, target, SystemProcesses(), directory / "emulator.txt") as calls:
            room = Room(calls.pointer_bytes)
            given = room.pointers([room.put(f.tobytes()) for f in self.frames])
            sizes = [len(f) * n.elements(n.output) for f, n in zip(self.frames, self.networks, strict=True)]
            places = [room.place(size) for size in sizes]
            out, work = room.pointers(places), room.place(self.workspace_bytes)
            row = (len(self.frames[0]), given, 0, 0, out, 0, work)
            done = calls.call(ENTRY, [row], room.given, list(zip(places, sizes, strict=True)))
        return self._shaped([np.frombuffer(content, np.int8) for content in done.read])
