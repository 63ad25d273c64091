"""One program, the same bytes: the reference interpreter and every C compiler of this machine, on hostile frames."""

import gc
import platform
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import ganglion as gg
from ganglion.kernels.c import toolchain
from ganglion.kernels.c.emission import emit, runtime_header
from ganglion.kernels.c.library import Library
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.vectors import differences, inputs
from tests.kernels import zoo

FRAMES = 10_000
SEED = 20_261_125
COMPILERS = toolchain.compilers()


def cpu_features():
    """What the processor can do, as Linux names it; empty where that is not known."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].split(":", 1)[1].split()) if lines else frozenset()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


def reference(name):
    return zoo.reference(name, FRAMES, SEED)


def is_float(given, state):
    return state is None and getattr(given, "dtype", "") == "f32"


def computed(library, given, held):
    table = library.fresh(FRAMES)
    for name, values in held.items():
        table[name] = values
    return library.compute(given, table)


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("name", zoo.ZOO)
@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda c: c.kind)
def test_every_compiler_gives_the_bytes_of_the_reference(name, compiler, cache):
    program, given, held, wanted = reference(name)
    got = computed(Library.build(program, compiler, cache), given, held)
    assert differences(wanted, got) == 0, f"seed {SEED}, {compiler.version}"


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("flags", [("-O0",), ("-Os",)], ids=" ".join)
@pytest.mark.parametrize("name", ["bands", "z_score", "mathematics", "feeder_decide", "shapes"])
def test_the_optimiser_changes_nothing(name, flags, cache):
    program, given, held, wanted = reference(name)
    got = computed(Library.build(program, COMPILERS[0], cache, flags), given, held)
    assert differences(wanted, got) == 0, f"seed {SEED}"


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.skipif("fma" not in cpu_features(), reason="this processor has no fused multiply-add to plant")
def test_fused_multiply_add_is_noticed(cache, monkeypatch):
    monkeypatch.setattr(toolchain, "EXACT", ("-ffp-contract=fast", *toolchain.EXACT[1:]))
    program, given, held, wanted = reference("z_score")
    got = computed(Library.build(program, COMPILERS[0], cache), given, held)
    assert differences(wanted, got) > 0


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
def test_a_nan_that_is_not_made_canonical_is_noticed(cache, monkeypatch):
    program, given, held, wanted = reference("vibration")
    header = re.sub(
        r"gg_canonical\(float x\) \{.*\}\n", "gg_canonical(float x) { return x; }\n", runtime_header()
    )
    assert header != runtime_header()
    monkeypatch.setattr(toolchain, "runtime_header", lambda: header)
    got = computed(Library.build(program, COMPILERS[0], cache), given, held)
    assert differences(wanted, got) > 0


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("name", ["trip", "z_score", "tumbling", "swap", "quaternion", "ring", "classified"])
def test_rows_with_keys_are_each_key_s_frames_in_turn(name, cache):
    program = zoo.program_of(name)
    library = Library.build(program, COMPILERS[0], cache)
    rng = np.random.default_rng(SEED)
    given, keys = inputs(program, 600, SEED), rng.integers(0, 7, 600)
    table = library.fresh(7)
    out, emitted = library.rows(given, table, keys)
    for key in range(7):
        state = None
        for row in np.flatnonzero(keys == key):
            one = interpret(program, {n: v[row : row + 1] for n, v in given.items()}, state)
            state = one.state
            assert emitted[row] == one.emit[0]
            for field, value in one.outputs.items():
                assert out[field][row].tobytes() == value[0].tobytes(), (name, key, row, field)
        assert state is not None
        assert all(table[n][key].tobytes() == v[0].tobytes() for n, v in state.items())


STATEFUL = [name for name, (_, _, state) in zoo.ZOO.items() if state is not None]
KEYS = {
    "one device": lambda rng, n: np.zeros(n, np.int32),
    "each another": lambda rng, n: rng.permutation(n).astype(np.int32),
    "mixed": lambda rng, n: np.where(np.arange(n) // 16 % 2, np.arange(n) % 16, rng.integers(0, 20, n)),
}


def rows_in_turn(program, given, keys):
    """What the reference makes of rows one after the other, and the states it ends with."""
    states: dict = {}
    results = []
    for row, key in enumerate(keys):
        one = interpret(program, {n: v[row : row + 1] for n, v in given.items()}, states.get(key))
        states[key] = one.state
        results.append(one)
    return results, states


def wrong_rows(name, keys, cache):
    program = zoo.program_of(name)
    library = Library.build(program, COMPILERS[0], cache)
    given = inputs(program, len(keys), SEED)
    table = library.fresh(max(keys) + 1)
    out, emitted = library.rows(given, table, keys)
    results, states = rows_in_turn(program, given, keys)
    wrong = sum(
        emitted[row] != one.emit[0]
        or any(out[field][row].tobytes() != value[0].tobytes() for field, value in one.outputs.items())
        for row, one in enumerate(results)
    )
    return wrong + sum(
        table[field][key].tobytes() != value[0].tobytes()
        for key, state in states.items()
        for field, value in state.items()
    )


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("name", STATEFUL)
def test_rows_in_groups_are_the_rows_in_turn(name, kind, cache):
    """77 rows: groups of 16 or 8 and a rest, where all keys of a group differ and where some come twice."""
    keys = KEYS[kind](np.random.default_rng(SEED), 77).astype(np.int32)
    assert wrong_rows(name, keys, cache) == 0


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
def test_a_device_that_comes_twice_in_a_group_is_noticed(cache, monkeypatch):
    header = runtime_header().replace("return !same;", "return 1;")
    assert header != runtime_header()
    monkeypatch.setattr(toolchain, "runtime_header", lambda: header)
    assert wrong_rows("z_score", np.arange(77, dtype=np.int32) % 5, cache) > 0


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("wide", [8, 32])
@pytest.mark.parametrize("name", ["bands", "shapes", "biquad", "checksum", "feeder_decide", "trip"])
def test_the_size_of_a_group_changes_nothing(name, wide, cache):
    program, given, held, wanted = reference(name)
    library = Library.build(program, COMPILERS[0], cache, (*toolchain.SPEED, f"-DGG_WIDE={wide}"))
    assert differences(wanted, computed(library, given, held)) == 0, f"seed {SEED}"


@pytest.mark.parametrize("name", [n for n, (_, given, state) in zoo.ZOO.items() if is_float(given, state)])
def test_the_reference_is_near_numpy_in_double_precision(name):
    """Ordinary signals only: on hostile ones double precision has another range."""
    function, _, _ = zoo.ZOO[name]
    program = zoo.program_of(name)
    given = inputs(program, 600, SEED)["frame"][0::6]
    got = interpret(program, {"frame": given})
    for row, frame in enumerate(given.astype(np.float64)):
        with np.errstate(all="ignore"):
            wanted = function(frame)
        for field, value in wanted.items():
            mine, exact = got.outputs[field][row].astype(np.float64), np.asarray(value, np.float64)
            if name == "mathematics" and field in ("sin", "cos"):
                bound = 2e-6
            elif name == "goertzel":  # the recursion adds large numbers that cancel
                bound = 3e-3 * np.max(np.abs(exact))
            else:
                bound = 3e-5 * np.max(np.abs(exact), initial=0, where=np.isfinite(exact)) + 1e-30
            close = np.isclose(mine, exact, rtol=3e-5, atol=bound, equal_nan=True)
            overflowed = ~np.isfinite(mine) & (np.abs(exact) > 3.4e38)
            assert np.all(close | overflowed), (name, field, row, mine, exact)


HELD = np.full((3, 5), 0.5, np.float32)
EACH = np.arange(15, dtype=np.float32).reshape(3, 5)
PLACED = {
    # One element from those of the same place, so all rows are one loop:
    "whole": lambda x: {"i": x.astype(np.int32) % 7, "b": np.isnan(x) | (x > 1), "f": np.tanh(x) + np.exp(x)},
    "reshaped": lambda x: {"y": np.reshape(x * HELD, 15) + 1, "z": np.reshape(np.sin(x), (5, 3)), "x": x},
    # and where the place matters:
    "a number for each": lambda x: {"y": x * EACH},
    "turned": lambda x: {"y": x.T + 1, "z": np.roll(x, 1)},
    "along an axis": lambda x: {"y": x - x[:1], "z": x[0, 0] + x},
    "summed": lambda x: {"y": x - np.sum(x), "z": np.exp(x)},
}


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda c: c.kind)
def test_rows_in_one_loop_are_the_rows_in_turn(name, compiler, cache):
    """Fewer elements than a vector, vectors and a rest, and more than one call takes."""
    program = gg.kernel(x=gg.f32[3, 5])(PLACED[name]).program
    library = Library.build(program, compiler, cache)
    given = inputs(program, 9_001, SEED)
    wanted = interpret(program, given).outputs
    for n in (1, 2, 16, 33, 9_001):
        out, emitted = library.rows({k: v[:n] for k, v in given.items()}, library.fresh())
        assert emitted.all() and len(emitted) == n
        for field, values in wanted.items():
            assert out[field].tobytes() == values[:n].tobytes(), f"seed {SEED}, {n} rows, {field}"


def test_the_source_is_the_same_every_time():
    for name in zoo.ZOO:
        first, second = (emit(zoo.program_of(name), "k") for _ in range(2))
        assert first == second


@pytest.mark.skipif(not COMPILERS or platform.machine() != "x86_64", reason="needs a compiler and an x86-64")
def test_a_process_that_flushes_subnormals_is_refused(tmp_path):
    """A library built with fast-math sets the processor so, for everybody; here on purpose, in another process."""
    rude = "void rude(void) { __builtin_ia32_ldmxcsr(0x9fc0); }"
    library = str(toolchain.build_library(rude, COMPILERS[0], tmp_path))
    code = f"""
import ctypes
from pathlib import Path
from ganglion.kernels.c.proof import shown
from ganglion.core.errors import KernelError
ctypes.CDLL({library!r}).rude()
try:
    shown(Path("none"), [], None)
except KernelError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "kernel.subnormals"


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
def test_a_bound_call_keeps_its_arrays_when_it_outlives_them(cache):
    bound = Library.build(zoo.program_of("vibration"), COMPILERS[0], cache).bind(3)
    kept = [weakref.ref(array) for array in (*bound.inputs.values(), *bound.outputs.values(), bound.emitted)]
    call = bound.call
    del bound
    gc.collect()
    assert all(one() is not None for one in kept)
    call()
