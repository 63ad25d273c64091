"""Kernels on one processor: compiled, in ONNX Runtime, and in NumPy over the whole batch, in interleaved rounds.

python benchmarks/kernels/run.py [--quick] [--json FILE]

Per call in microseconds, medians over the rounds with their range, at batches of 1, 100 and 10,000 frames; then keyed
state: 10,000 rows of 1,000 devices in random order. ONNX Runtime runs the kernels' own export on one thread, with its
default optimisation; the transform is a matrix product there. Both have their inputs and outputs bound beforehand.
NumPy runs the best batch form that we know how to
write, on one thread. Ratios are taken within a round. One JSON line per kernel and batch is appended to
benchmarks/results/kernels.jsonl.
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
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 # the number of threads is read at import

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))
RESULTS = REPOSITORY / "benchmarks" / "results" / "kernels.jsonl"

from ganglion.kernels.c.library import Library  # noqa: E402 # see above
from ganglion.kernels.c.toolchain import compilers  # noqa: E402 # see above
from ganglion.kernels.onnx_export import export  # noqa: E402 # see above
from tests.kernels import zoo  # noqa: E402 # see above

F = np.float32
HANN256, HANN512 = zoo.HANN256.astype(F), zoo.HANN512.astype(F)
MEL, WAVES = zoo.MEL.T.astype(F), zoo.WAVES.astype(F)
NAMES = ("vibration", "bands", "distortion", "log_mel", "trip", "deadband", "z_score")
BATCHES = {1: 400, 100: 40, 10_000: 1}
DEVICES = 1000
TYPES = {"tensor(float)": F, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
Run = Callable[[], Any]


def vibration(x: Any) -> Any:
    """As the zoo's, over a batch."""
    rms, peak = np.sqrt(np.mean(x * x, axis=1)), np.max(np.abs(x), axis=1)
    return rms, peak, peak / np.maximum(rms, F(1e-9))


def bands(x: Any) -> Any:
    """As the zoo's, over a batch."""
    return np.mean(np.abs(np.fft.rfft(x * HANN256, axis=1))[:, 1:129].reshape(-1, 16, 8), axis=2)


def distortion(x: Any) -> Any:
    """As the zoo's, over a batch."""
    c = (x @ WAVES).reshape(-1, 5, 2)
    power = np.sum(c * c, axis=2)
    root = np.sqrt(power[:, 0])
    return root * F(2 / 256), np.sqrt(np.sum(power[:, 1:], axis=1)) / np.maximum(root, F(1e-9))


def log_mel(x: Any) -> Any:
    """As the zoo's, over a batch."""
    s = np.fft.rfft(x * HANN512, axis=1)
    return np.log(np.maximum((s.real * s.real + s.imag * s.imag) @ MEL, F(1e-10)))


IN_NUMPY = {"vibration": vibration, "bands": bands, "distortion": distortion, "log_mel": log_mel}


def z_score(x: Any, mean: Any, var: Any, n: Any) -> tuple[Any, ...]:
    """As the zoo's, over a batch of different devices."""
    d = x - mean
    z = d / np.sqrt(var + F(1e-6))
    emit = (n >= 20) & np.any(np.abs(z) > 3, axis=1)
    return z, emit, mean + F(0.05) * d, F(0.95) * (var + F(0.05) * d * d), np.minimum(n + 1, 20)


def session(program: Any) -> Any:
    """The kernel's export in ONNX Runtime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        export(program).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def stateless(name: str, batch: int, directory: Path) -> dict[str, Run]:
    """What computes a batch of frames; a kernel with state starts each call from its first state."""
    program = zoo.program_of(name)
    library = Library.build(program, compilers()[0], directory)
    kind = program.nodes[program.inputs[0][1]].type
    x = np.random.default_rng(1).normal(0, 1, (batch, *kind.shape)).astype(F)
    bound = library.bind(batch, np.arange(batch) if program.state else None)
    bound.inputs[program.inputs[0][0]][:] = x
    runs: dict[str, Run] = {"compiled": bound.call}
    if name in IN_NUMPY:
        runs["numpy"] = lambda: IN_NUMPY[name](x)
    try:
        from onnxruntime import OrtValue

        onnx = session(program)
    except ImportError:
        return runs
    feeds = {f"v{program.inputs[0][1]}": x}
    for field in program.state:
        feeds[f"v{field.node}"] = np.repeat(field.initial[np.newaxis], batch, axis=0)
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
        "numpy": lambda: in_rounds(z_score),
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
            begun = time.perf_counter()
            for _ in range(calls):
                runs[name]()
            row[name] = (time.perf_counter() - begun) / calls * 1e6
        found.append(row)
    return found


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    return {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count(),
            "numpy": np.__version__, "compiler": compilers()[0].version}  # fmt: skip


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and how many times as long the others take, within a round."""
    others = [n for n in rows[0] if n != "compiled"]
    result: dict[str, Any] = {n: statistics.median(r[n] for r in rows) for n in rows[0]}
    for name in others:
        result[f"{name}_ratio"] = statistics.median(r[name] / r["compiled"] for r in rows)
    result["best_ratio"] = statistics.median(min(r[n] for n in others) / r["compiled"] for r in rows)
    result["compiled_range"] = [min(r["compiled"] for r in rows), max(r["compiled"] for r in rows)]
    return result


def main() -> None:
    """Runs, prints a table, appends the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three rounds instead of eleven")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    rounds = 3 if options.quick else 11
    RESULTS.parent.mkdir(exist_ok=True)
    lines = []
    print(
        f"{'kernel':12}{'batch':>8}{'compiled':>26}{'numpy':>10}{'onnxruntime':>13}{'ORT/ours':>10}{'best/ours':>11}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        cases = [(n, b, stateless(n, b, Path(scratch)), c) for n in NAMES for b, c in BATCHES.items()]
        cases.append(("keyed", 10_000, keyed(Path(scratch), 10_000), 2))
        for name, batch, runs, calls in cases:
            found = summary(measured(runs, calls, rounds))
            low, high = found["compiled_range"]
            cells = f"{found['compiled']:.1f} ({low:.1f} .. {high:.1f})".rjust(26)
            cells += "".join(
                f"{found[n]:.1f}".rjust(w) if n in found else "-".rjust(w)
                for n, w in (("numpy", 10), ("onnxruntime", 13))
            )
            ratio = f"{found['onnxruntime_ratio']:.1f}" if "onnxruntime_ratio" in found else "-"
            print(f"{name:12}{batch:>8}{cells}{ratio:>10}{found['best_ratio']:>11.2f}", flush=True)
            lines.append({"at": datetime.now(UTC).isoformat(timespec="seconds"), "kernel": name, "batch": batch,
                          "rounds": rounds, **machine(), **found})  # fmt: skip
    with RESULTS.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    if options.json:
        Path(options.json).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
