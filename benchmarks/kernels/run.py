"""Kernels on one processor: compiled, in ONNX Runtime, and in NumPy over the whole batch, in interleaved rounds.

python benchmarks/kernels/run.py [--quick] [--json FILE] [--mcu] [NAME ...]

Microseconds of the thread's own time per call, so that other programs on the machine do not count; medians over the
rounds with their range, at batches of 1, 100 and 10,000 frames (with state: each of another device, as ONNX Runtime and
NumPy compute them); then keyed state: 10,000 rows of 1,000 devices in random order. ONNX Runtime runs the kernels' own
export on one thread, with its default optimisation; the transform is a matrix product there. Both have their inputs and
outputs bound beforehand. NumPy runs the best batch form that we know to write (`batches`), on one thread. Ratios are
taken within a round. One JSON line per kernel and batch is appended to benchmarks/results/kernels.jsonl.

``--mcu`` counts instructions of one frame on emulated Cortex-M (Unicorn) instead, beside the C that emx-onnx-cgen makes
of the same kernel's ONNX export, if that program is found.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 # the number of threads is read at import

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))
RESULTS = REPOSITORY / "benchmarks" / "results" / "kernels.jsonl"

from benchmarks.kernels.batches import ALONE, IN_NUMPY, program_of  # noqa: E402 # see above
from benchmarks.kernels.cores import instructions  # noqa: E402 # see above
from ganglion.core.errors import KernelError  # noqa: E402 # see above
from ganglion.kernels.c.library import Library  # noqa: E402 # see above
from ganglion.kernels.c.toolchain import compilers  # noqa: E402 # see above
from ganglion.kernels.onnx_export import export  # noqa: E402 # see above
from tests.kernels import zoo  # noqa: E402 # see above

F = np.float32
NAMES = tuple(IN_NUMPY)
BATCHES = {1: 400, 100: 40, 10_000: 1}
DEVICES = 1000
AT_ONE, AT_MOST = 5.0, 1.0
"""The bars: so many times as long as ours takes ONNX Runtime at 1 frame, and the better of both at 10,000."""
TYPES = {"tensor(float)": F, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
Run = Callable[[], Any]


def session(program: Any) -> Any:
    """The kernel's export in ONNX Runtime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        export(program).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def frames_of(program: Any, batch: int) -> Any:
    """Ordinary frames: noise, or small whole numbers."""
    kind = program.nodes[program.inputs[0][1]].type
    rng = np.random.default_rng(1)
    shape = (batch, *kind.shape)
    return (
        rng.normal(0, 1, shape).astype(F) if kind.dtype == "f32" else rng.integers(1, 1000, shape, np.int32)
    )


def batched(name: str, batch: int, directory: Path) -> dict[str, Run]:
    """What computes a batch of frames; where a kernel keeps state, each of another device."""
    program = program_of(name)
    library = Library.build(program, compilers()[0], directory)
    x = np.abs(frames_of(program, batch)) if name == "log" else frames_of(program, batch)
    bound = library.bind(batch, np.arange(batch) if program.state else None)
    bound.inputs["frame"][:] = x
    held = [np.repeat(field.initial[np.newaxis], batch, axis=0) for field in program.state]
    runs: dict[str, Run] = {"compiled": bound.call, "numpy": lambda: IN_NUMPY[name](x, *held)}
    try:
        from onnxruntime import OrtValue

        onnx = session(program)
    except (ImportError, KernelError):  # ONNX has no counterpart of some operations
        return runs
    feeds = {f"v{program.inputs[0][1]}": x}
    feeds |= {f"v{field.node}": values for field, values in zip(program.state, held, strict=True)}
    binding = onnx.io_binding()
    for given, value in feeds.items():
        binding.bind_cpu_input(given, value)
    for output in onnx.get_outputs():
        shape = [batch, *output.shape[1:]]
        binding.bind_ortvalue_output(
            output.name, OrtValue.ortvalue_from_shape_and_type(shape, TYPES[output.type])
        )
    runs["onnxruntime"] = lambda: onnx.run_with_iobinding(binding)
    return runs


def keyed(directory: Path, rows: int) -> dict[str, Run]:
    """Rows of many devices in random order; the others have to go in rounds in which no device comes twice."""
    program = zoo.program_of("z_score")
    library = Library.build(program, compilers()[0], directory)
    rng = np.random.default_rng(2)
    x, keys = rng.normal(0, 1, (rows, 4)).astype(F), rng.integers(0, DEVICES, rows).astype(np.int32)
    turn = np.zeros(rows, np.int64)
    for key in range(DEVICES):
        turn[keys == key] = np.arange(np.sum(keys == key))
    rounds = [np.flatnonzero(turn == t) for t in range(turn.max() + 1)]
    table = library.fresh(DEVICES)
    mean, var = np.zeros((DEVICES, 4), F), np.ones((DEVICES, 4), F)
    n = np.zeros(DEVICES, np.int32)

    def in_rounds(step: Callable[..., Any]) -> None:
        for chosen in rounds:
            k = keys[chosen]
            _, _, mean[k], var[k], n[k] = step(x[chosen], mean[k], var[k], n[k])

    runs: dict[str, Run] = {
        "compiled": lambda: library.rows({"frame": x}, table, keys),
        "numpy": lambda: in_rounds(IN_NUMPY["z_score"]),
    }
    try:
        onnx = session(program)
    except ImportError:
        return runs
    named = {s.name: f"v{s.node}" for s in program.state}
    outputs = ["out_z", "out_emit", "out_mean_after", "out_var_after", "out_n_after"]

    def step(frames: Any, *held: Any) -> Any:
        feeds = dict(zip((named["mean"], named["var"], named["n"]), held, strict=True))
        return onnx.run(outputs, feeds | {f"v{program.inputs[0][1]}": frames})

    runs["onnxruntime"] = lambda: in_rounds(step)
    return runs


def measured(runs: dict[str, Run], calls: int, rounds: int) -> list[dict[str, float]]:
    """Microseconds per call of each, round by round; the order turns."""
    names = list(runs)
    for run in runs.values():
        run()
    found = []
    for turn in range(rounds):
        row = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.thread_time()
            for _ in range(calls):
                runs[name]()
            row[name] = (time.thread_time() - begun) / calls * 1e6
        found.append(row)
    return found


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    return {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count(),
            "numpy_version": np.__version__, "compiler": compilers()[0].version}  # fmt: skip


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and how many times as long the others take, within a round."""
    others = [n for n in rows[0] if n != "compiled"]
    result: dict[str, Any] = {n: statistics.median(r[n] for r in rows) for n in rows[0]}
    for name in others:
        result[f"{name}_ratio"] = statistics.median(r[name] / r["compiled"] for r in rows)
    result["best_ratio"] = statistics.median(min(r[n] for n in others) / r["compiled"] for r in rows)
    for name in rows[0]:
        result[f"{name}_range"] = [min(r[name] for r in rows), max(r[name] for r in rows)]
    return result


def held(found: dict[str, Any], batch: int) -> bool | None:
    """True when the bar for this batch is held; None where there is none."""
    if batch == 1:
        return found["onnxruntime_ratio"] >= AT_ONE if "onnxruntime_ratio" in found else None
    return found["best_ratio"] >= AT_MOST if batch == max(BATCHES) else None


def row(name: str, batch: int, found: dict[str, Any]) -> str:
    """A line of the table."""
    low, high = found["compiled_range"]
    cells = f"{found['compiled']:.1f} ({low:.1f} .. {high:.1f})".rjust(28)
    for other, width in (("numpy", 10), ("onnxruntime", 13)):
        cells += (f"{found[other]:.1f}" if other in found else "-").rjust(width)
    ratio = f"{found['onnxruntime_ratio']:.1f}" if "onnxruntime_ratio" in found else "-"
    mark = {True: "held", False: "MISSED", None: ""}[held(found, batch)]
    return f"{name:15}{batch:>7}{cells}{ratio:>10}{found['best_ratio']:>11.2f}  {mark}".rstrip()


def main() -> None:
    """Runs, prints a table, appends the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three rounds instead of eleven")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--mcu", action="store_true", help="count instructions on emulated Cortex-M instead")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these kernels")
    options = parser.parse_args()
    names = options.names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no kernel {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    lines = (
        instructions([n for n in names if n not in ALONE])
        if options.mcu
        else timed(names, 3 if options.quick else 11)
    )
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    if options.json:
        Path(options.json).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def timed(names: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Microseconds per call of all, printed and returned."""
    lines = []
    print(
        f"{'kernel':15}{'batch':>7}{'compiled':>28}{'numpy':>10}{'onnxruntime':>13}{'ORT/ours':>10}{'best/ours':>11}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        cases = [(n, b, c) for n in names for b, c in BATCHES.items()]
        if "z_score" in names:
            cases.append(("keyed", 10_000, 2))
        for name, batch, calls in cases:
            runs = keyed(Path(scratch), batch) if name == "keyed" else batched(name, batch, Path(scratch))
            found = summary(measured(runs, calls, rounds))
            print(row(name, batch, found), flush=True)
            lines.append({"at": datetime.now(UTC).isoformat(timespec="seconds"), "kernel": name, "batch": batch,
                          "rounds": rounds, **machine(), **found})  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
