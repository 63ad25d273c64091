"""Several networks in one C source with one entry of the form that ``tests/kernels/emulated.py`` calls."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

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
        about = {
            "target": target,
            "image": str(image),
            "flash": FLASH,
            "ram": RAM,
            "symbol": ENTRY,
            "inputs": len(self.networks),
            "output_bytes": [n.elements(n.output) for n in self.networks],
            "workspace_bytes": self.workspace_bytes,
        }
        job, result = directory / "job.npz", directory / "result.npz"
        columns: dict[str, Any] = {
            f"in{k}": f.view(np.uint8).reshape(len(f), -1) for k, f in enumerate(self.frames)
        }
        np.savez(job, about=json.dumps(about), table=np.zeros(0, np.uint8), **columns)
        script = Path(__file__).parents[1] / "emulated.py"
        subprocess.run([sys.executable, script, job, result], check=True)
        with np.load(result) as done:
            return self._shaped([done[f"out{k}"] for k in range(len(self.networks))])
