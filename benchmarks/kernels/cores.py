"""Instructions of one frame on emulated Cortex-M cores, beside the C that emx-onnx-cgen makes of the same kernel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.device.firmware.calls import Calls, Room
from ganglion.device.firmware.stepping import step
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c.emission import emit
from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import Compiler, build_image, compilers
from tests.kernels import zoo

CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4f", "cortex-m7f", "cortex-m33f")
PEER, PEER_CORE = "emx-onnx-cgen", "cortex-m4f"
FLASH, RAM = 0x10000, 0x2000_0000
ROOM_BYTES = 1 << 16
HEADERS = """
#include <stddef.h>
#include <stdint.h>
#define NAN __builtin_nanf("")
#define INFINITY __builtin_inff()
#define isnan __builtin_isnan
#define isinf __builtin_isinf
#define isfinite __builtin_isfinite
#define signbit __builtin_signbit
#define fabsf __builtin_fabsf
#define sqrtf __builtin_sqrtf
float expf(float); float logf(float); float sinf(float); float cosf(float); float fmaxf(float, float);
float fminf(float, float); float floorf(float); float roundf(float); float nearbyintf(float); float rintf(float);
float powf(float, float); float fmodf(float, float); float tanhf(float); float ceilf(float); float truncf(float);
double sqrt(double); double exp(double); double log(double); double fabs(double); double floor(double);
double round(double); double rint(double); double nearbyint(double); long lrintf(float); double fmax(double, double);
double fmin(double, double); double sin(double); double cos(double); double pow(double, double);
double fmod(double, double);
double tanh(double); double ceil(double); double trunc(double);
float nearbyintf(float x) { float m = x < 0 ? -0x1p23f : 0x1p23f; return fabsf(x) < 0x1p23f ? (x + m) - m : x; }
double nearbyint(double x) { double m = x < 0 ? -0x1p52 : 0x1p52; return __builtin_fabs(x) < 0x1p52 ? (x + m) - m : x; }
double rint(double x) { return nearbyint(x); }
long long llrint(double x) { return (long long)nearbyint(x); }
void *memcpy(void *, const void *, size_t); void *memset(void *, int, size_t);
void *memmove(void *, const void *, size_t);
"""
"""What the peer's C takes from a C library: zig's run-time library has it, but for rounding, here in few steps."""


def instructions(names: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each kernel, printed and returned."""
    missing = [m for m in ("ziglang", "unicorn", "elftools") if find_spec(m) is None]
    if missing:
        raise SystemExit(
            f"{', '.join(missing)} is not installed; next: pip install 'ganglion[device,emulator]'"
        )
    zig = next(c for c in compilers() if c.kind == "zig")
    peer = shutil.which(PEER)
    if peer is None:
        print(f"{PEER} is not installed: its column stays empty; next: pip install {PEER}")
    print(
        f"{'instructions':15}"
        + "".join(f"{core:>15}" for core in CORES)
        + f"{f'{PEER} (M4F)':>22}{'theirs/ours':>13}"
    )
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        for name in names:
            found: dict[str, Any] = {core: ours(name, core, zig, room) for core in CORES}
            found[PEER] = theirs(name, peer, zig, room) if peer else "not installed"
            lines.append(shown(name, found))
        if peer and (found := network(peer, zig, room)):
            lines.append(shown("kws int8", found))
    return lines


def shown(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Prints a row; returns it as a result."""
    cells = "".join(f"{found[core]:,}".rjust(15) if core in found else "-".rjust(15) for core in CORES)
    other = found[PEER]
    if isinstance(other, int):
        cells += f"{other:,}".rjust(22) + f"{other / found[PEER_CORE]:.2f}".rjust(13)
    else:
        cells += f"  {other}"
    print(f"{name:15}{cells}", flush=True)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": at, "kernel": name, "instructions": found}


def count(image: Path, core: str, symbol: str, buffers: Sequence[bytes], room: Path) -> int:
    """The second of two calls of a function that takes pointers to these buffers."""
    memory = Room(4)
    row = [memory.put(content) for content in buffers]
    with Calls(image, core, SystemProcesses(), room / "emulator.txt", counting=True) as calls:
        return calls.call(symbol, [row, row], memory.given).instructions[1]


def frame_of(program: Any) -> bytes:
    kind = program.nodes[program.inputs[0][1]].type
    rng = np.random.default_rng(1)
    frame = rng.normal(0, 1, kind.shape) if kind.dtype == "f32" else rng.integers(1, 1000, kind.shape)
    return np.asarray(frame, kind.numpy).tobytes()


def image(text: str, core: str, zig: Compiler, room: Path, entry: str) -> Path:
    return build_image(text, TARGETS[core], zig, room, entry=entry, flash=FLASH, ram=RAM)


def ours(name: str, core: str, zig: Compiler, room: Path) -> int:
    """The second of two frames, alike, through our step function."""
    program = zoo.program_of(name)
    written = emit(program, "gg_kernel")
    state = np.zeros(1, written.state)
    for field in program.state:
        state[field.name] = field.initial
    field, number = program.inputs[0]
    kind = program.nodes[number].type
    frame = np.frombuffer(frame_of(program), kind.numpy).reshape(kind.shape)
    built = image(written.source, core, zig, room, "gg_kernel_step")
    given = {field: np.stack([frame, frame])}
    with Calls(built, core, SystemProcesses(), room / "emulator.txt", counting=True) as calls:
        return step(calls, program, "gg_kernel", written.workspace_bytes, given, state).instructions[1]


def theirs(name: str, peer: str, zig: Compiler, room: Path) -> int | str:
    """One frame through the peer's C of our export; why not where there is none."""
    from ganglion.kernels.onnx_export import export

    program = zoo.program_of(name)
    try:
        model = export(program)
    except KernelError as error:
        return f"- ({error.code}: {error.what})" if hasattr(error, "what") else f"- ({error.code})"
    given = [frame_of(program), *(np.asarray(f.initial).tobytes() for f in program.state)]
    return foreign(model.SerializeToString(), given, len(model.graph.output), peer, zig, room)


def foreign(
    model: bytes,
    given: list[bytes],
    outputs: int,
    peer: str,
    zig: Compiler,
    room: Path,
    *,
    batched: bool = True,
) -> int | str:
    """Generates, compiles and counts the peer's C; the reason in a few words where one of these fails.

    ``batched``: the model has a batch axis B of no fixed extent.
    """
    (room / "model.onnx").write_bytes(model)
    wanted = ["--fp32-accumulation-strategy", "simple"] + (["--input-dim", "B=1"] if batched else [])
    large = ["--large-weight-threshold", "0", "--large-temp-threshold", "0"]
    done = subprocess.run(
        [peer, "compile", *wanted, *large, "model.onnx", "model.c"],
        cwd=room,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return "- (does not read it)"
    text = (room / "model.c").read_text("utf-8")
    text = HEADERS + re.sub(r"#include <(math|float|string|stdio|stdlib)\.h>\n", "", text)
    buffers = given + [bytes(ROOM_BYTES)] * outputs
    try:
        built = image(text, PEER_CORE, zig, room, "model")
    except KernelError as error:
        print(error, file=sys.stderr)
        return "- (does not compile)"
    return count(built, PEER_CORE, "model", buffers, room)


def network(peer: str, zig: Compiler, room: Path) -> dict[str, Any]:
    """The keyword network of benchmarks/networks; empty where its weights are not at hand."""
    import onnx
    from onnx import shape_inference

    from benchmarks.networks.run import measured
    from tests.kernels.networks import mlperf
    from tests.kernels.networks.sketches import QDQ

    if not mlperf.DATA.exists():
        print(f"keyword spotting is left out: {mlperf.DATA} is not there")
        return {}
    # The peer reads operators of ONNX itself, and wants the shape of every value written into the file.
    model = onnx.load_from_string(mlperf.keyword_spotting(QDQ))
    for axis, extent in zip(model.graph.output[0].type.tensor_type.shape.dim, (1, 12), strict=True):
        axis.dim_value = extent
    model = shape_inference.infer_shapes(model)
    frame = np.random.default_rng(1).normal(0, 30, 490).astype(np.float32).tobytes()
    return {
        PEER_CORE: measured("keyword spotting", PEER_CORE, room)["instructions"],
        PEER: foreign(model.SerializeToString(), [frame], 1, peer, zig, room, batched=False),
    }
