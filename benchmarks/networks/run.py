"""Instructions and memory of four int8 networks on an emulated Cortex-M4F, beside TFLM's with CMSIS-NN.

python benchmarks/networks/run.py [--json FILE] [--target cortex-m4f] [NAME ...]

The networks are MLPerf Tiny's: keyword spotting with the reference weights (where its folder is at hand) and without
its softmax, the other three with random weights of the same shapes. Every frame's integers are compared with the NumPy
reference before anything is counted. Instructions are counted by blocks in Unicorn; they are not cycles. RAM is working
memory, input and output, as in TFLM's arena; the stack is beside it, as there. The same within a kernel is all working
memory of one that quantises, calls the network and dequantises.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

import ganglion as gg  # noqa: E402 # after the path that finds the tests
from ganglion.host.system import SystemProcesses  # noqa: E402 # see above
from ganglion.kernels import KernelNetwork  # noqa: E402 # see above
from ganglion.kernels.c.emission import emit  # noqa: E402 # see above
from ganglion.kernels.c.targets import TARGETS  # noqa: E402 # after the path that finds the tests
from ganglion.kernels.networks.emission import emit_network  # noqa: E402 # see above
from ganglion.kernels.networks.layers import Network  # noqa: E402 # see above
from ganglion.kernels.networks.onnx_reader import read_onnx  # noqa: E402 # see above
from ganglion.kernels.networks.operations import lower  # noqa: E402 # see above
from ganglion.learning.footprint import footprint  # noqa: E402 # see above
from tests.kernels.networks import mlperf  # noqa: E402 # see above
from tests.kernels.networks.sketches import frames_for  # noqa: E402 # see above

NETWORKS = {
    # name: (network, instructions and bytes that may be used, those of TFLM + CMSIS-NN)
    "keyword spotting": (mlperf.keyword_spotting, 6.3e6, 16_500, 7_845_320, 22_820),
    "resnet-8": (mlperf.resnet8, 29.9e6, 55_000, 29_872_400, 54_996),
    "mobilenet 0.25": (mlperf.mobilenet, 24.7e6, 100_700, 24_720_520, 100_708),
    "autoencoder": (mlperf.autoencoder, 0.58e6, 2_600, 582_320, 2_580),
}
FRAMES = 3


def measured(name: str, target: str, room: Path) -> dict[str, Any]:
    """One network built, run, compared with the reference and counted."""
    network = lower(read_onnx(NETWORKS[name][0]()))
    frames = frames_for(network, np.random.default_rng(1), FRAMES)
    found = footprint(network, frames, TARGETS[target], room, SystemProcesses())
    if found.missing:
        raise SystemExit(
            f"missing: {', '.join(found.missing)}; next: pip install 'ganglion[device,emulator,models]'"
        )
    written = emit_network(network, "gg_network")
    return {
        "network": name,
        "target": target,
        "products": network.products,
        "instructions": found.instructions,
        "ram_bytes": found.ram_bytes,
        "workspace_bytes": written.workspace_bytes,
        "kernel_bytes": within_a_kernel(network),
        "stack_bytes": found.stack_bytes,
        "flash_bytes": found.flash_bytes,
    }


def within_a_kernel(network: Network) -> int:
    """Working memory of a kernel with the network between real numbers, in bytes."""
    called = KernelNetwork(network)
    scale, zero, dtype = np.float32(0.1), np.int32(3), np.uint8 if network.unsigned else np.int8

    def real(x: Any) -> Any:
        if called.input.dtype == "f32":
            return {"y": called(x)}
        return {"y": gg.dequantize(called(gg.quantize(x, scale, zero, dtype)), scale, zero)}

    return emit(gg.kernel(x=gg.f32[called.input.shape])(real).program, "gg_kernel").workspace_bytes


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=[], metavar="NAME")
    parser.add_argument(
        "--target", default="cortex-m4f", choices=[t for t in TARGETS if t.startswith("cortex")]
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="as the other benchmarks; changes nothing here")
    arguments = parser.parse_args()
    print(
        f"{'network':18}{'products':>12}{'instructions':>14}{'limit':>12}{'TFLM':>12}{'RAM':>9}{'in kernel':>11}"
        f"{'limit':>9}{'stack':>7}{'flash':>9}"
    )
    lines = []
    with tempfile.TemporaryDirectory() as room:
        for name, (_, most, most_bytes, other, _) in NETWORKS.items():
            if arguments.names and name not in arguments.names:
                continue
            if name == "keyword spotting" and not mlperf.DATA.exists():
                print(f"{name:18} left out: {mlperf.DATA} is not there")
                continue
            found = measured(name, arguments.target, Path(room))
            lines.append(found)
            held = (
                found["instructions"] <= most and max(found["ram_bytes"], found["kernel_bytes"]) <= most_bytes
            )
            print(
                f"{name:18}{found['products']:12,}{found['instructions']:14,}{int(most):12,}{other:12,}"
                f"{found['ram_bytes']:9,}{found['kernel_bytes']:11,}{most_bytes:9,}{found['stack_bytes']:7,}{found['flash_bytes']:9,}"
                f"  {'held' if held else 'MISSED'}"
            )
    if arguments.json:
        stamp = {"time": datetime.now(UTC).isoformat(timespec="seconds")}
        with Path(arguments.json).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(stamp | line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
