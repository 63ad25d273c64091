"""Programs that are long, deep or wide: they compile to the reference's bits, in bounded time and memory."""

import os
import tracemalloc

import numpy as np
import pytest

import ganglion as gg
from ganglion.core.errors import KernelError
from ganglion.core.schema import TensorType
from ganglion.kernels.c import toolchain
from ganglion.kernels.c.emission import emit
from ganglion.kernels.c.grouped import group_of
from ganglion.kernels.c.library import Library
from ganglion.kernels.c.proof import MARK, proven, wrong_frames
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.vectors import inputs

COMPILERS = toolchain.compilers()


def filtered(turns):
    """Element by element, each step read once by the next: one expression, if nobody stops it."""

    def steps(x):
        y = x
        for _ in range(turns):
            y = y * np.float32(0.9) + x
        return {"y": np.roll(y, 1)}

    return gg.kernel(x=gg.f32[5])(steps)


def viewed(turns):
    def steps(x):
        y = x
        for _ in range(turns):
            y = y[::-1].T
        return {"y": y + 1}

    return gg.kernel(x=gg.f32[3, 2])(steps)


def viewed_by_a_scan(turns):
    def steps(x):
        y = x * 2
        for _ in range(turns):
            y = y[::-1]
        (total,), ys = gg.scan(lambda c, v: ((c[0] + v,), c[0]), (0.0,), y)
        return {"y": ys, "total": total}

    return gg.kernel(x=gg.f32[4])(steps)


def beside_a_scan(turns):
    """What hangs on state cannot be computed side by side, and so neither can the long chain that shares its source."""

    def steps(x, s):
        twice = x * 2
        (level,), _ = gg.scan(lambda c, v: ((c[0] * 0.5 + v,), None), (s.level,), twice)
        total = twice[0]
        for k in range(turns):
            total = total * np.float32(0.99) + twice[k % 4]
        return {"y": total, "level": level}, True, {"level": level}

    return gg.kernel(x=gg.f32[4], state={"level": 0.0})(steps)


def of_one_number(x, s):
    """A scan along an axis that one number was given, and one that takes such a value in."""
    total = np.sum(x) * s.level
    (last,), ys = gg.scan(
        lambda c, v: ((c[0] * 0.5 + v,), c[0] - total.reshape(1, 1)), (0.0,), total.reshape(1)
    )
    return {"y": ys, "last": last}, True, {"level": last + 1}


def delayed(x, s):
    """What comes in is only kept: nothing else reads it."""
    y = np.sin(s.last)
    for _ in range(40):
        y = np.tanh(y + s.last)
    return {"y": y}, True, {"last": x}


DEEP = {
    "a delay": gg.kernel(x=gg.f32[4], state={"last": np.zeros(4)})(delayed),
    "one number along an axis": gg.kernel(x=gg.f32[4], state={"level": 0.5})(of_one_number),
    "nested": filtered(150),
    "views of views": viewed(300),
    "views that a scan reads": viewed_by_a_scan(300),
}


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda c: c.kind)
@pytest.mark.parametrize("name", DEEP)
def test_a_deep_program_gives_the_bits_of_the_reference(name, compiler, tmp_path):
    assert wrong_frames(Library.build(DEEP[name].program, compiler, tmp_path), 120) == 0


KEEPING = gg.kernel(x=gg.f32, state={"limit": np.array([0.5, np.nan]), "n": 0})(
    lambda x, s: ({"y": x > s.limit[0]}, True, {"limit": s.limit, "n": s.n + 1})
)


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
def test_state_that_stays_what_it_was_keeps_no_build_from_being_proven(tmp_path):
    assert proven(KEEPING.program, COMPILERS, tmp_path) is not None


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
def test_a_folder_that_takes_no_file_is_said(tmp_path):
    library = Library.build(KEEPING.program, COMPILERS[0], tmp_path)
    library.path.with_suffix(f"{MARK}.{os.getpid()}").mkdir()  # where the mark is drafted
    with pytest.raises(KernelError) as caught:
        proven(KEEPING.program, COMPILERS[:1], tmp_path)
    assert caught.value.code == "kernel.directory"
    assert str(tmp_path) in caught.value.what
    assert caught.value.why and caught.value.next_step


def test_a_first_state_has_the_one_nan_whoever_wrote_it():
    odd = np.array([0xFFC00001], np.uint32).view(np.float32)
    made = gg.kernel(x=gg.f32, state={"a": odd})(lambda x, s: ({"y": s.a}, True, {"a": s.a}))
    assert made.program.state[0].initial.view(np.uint32).tolist() == [0x7FC00000]


def test_a_deep_program_is_nested_within_what_compilers_read():
    """clang stops at 256 brackets. (The long chain is only written: compilers take a minute for it.)"""
    for made in (*DEEP.values(), beside_a_scan(700)):
        for line in emit(made.program, "k", group_of).source.splitlines():
            depth = deepest = 0
            for sign in line:
                depth += (sign == "(") - (sign == ")")
                deepest = max(deepest, depth)
            assert deepest < 200


def peak_bytes(program, frames):
    given = inputs(program, frames, 1)
    tracemalloc.start()
    try:
        interpret(program, given)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_reference_keeps_only_the_values_that_are_still_read():
    """A gateway tries a library on hundreds of frames at once."""

    def steps(x):
        y = x
        for _ in range(60):
            y = np.sqrt(y * y) + 1
        return {"y": np.sum(y)}

    program, frames = gg.kernel(x=gg.f32[1024])(steps).program, 64
    assert peak_bytes(program, frames) < 12 * frames * 1024 * 4


def test_counting_into_bins_takes_no_more_memory_than_values_and_bins():
    program = gg.kernel(x=TensorType("i32", (64,)))(lambda x: {"y": np.bincount(x, minlength=4096)}).program
    frames = 64
    assert peak_bytes(program, frames) < 3 * frames * (64 + 4096) * 8
    given = np.array([[-1, 0, 4095, 4096], [5, 5, 5, -(1 << 31)]], np.int32)
    small = gg.kernel(x=TensorType("i32", (4,)))(lambda x: {"y": np.bincount(x, minlength=4096)}).program
    bins = interpret(small, {"frame": given}).outputs["y"]
    assert [np.flatnonzero(row).tolist() for row in bins] == [[0, 4095], [5]]
    assert bins[1, 5] == 3
