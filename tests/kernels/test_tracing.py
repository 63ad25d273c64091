"""What tracing makes of NumPy's less usual calls: NumPy's own result, or an error with the line; never another one."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ganglion as gg
from ganglion.core.errors import KernelError
from ganglion.core.schema import TensorType
from ganglion.kernels import Record, kernel
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.running import NumpyRunner


def declared(function, kind, **options):
    def one(x):
        return {"y": function(x)}

    return kernel(x=kind, **options)(one)


def ramp(kind):
    """Whole numbers, so that every order of adding gives the same, and one that is not symmetric in any axes."""
    places = np.arange(kind.elements).reshape(kind.shape)
    return (places % 7 - 2 + places % 3).astype(kind.numpy)


SQUARE, CUBE = gg.f32[3, 3], gg.f32[2, 3, 4]
ONE: Any = 1  # mypy knows keepdims as a truth value; NumPy takes what is true
ROWS: Any = "rows"
SAME = {
    "inner of matrices": (SQUARE, lambda x: np.inner(x, x + np.eye(3, dtype=np.float32))),
    "inner with a wide constant": (SQUARE, lambda x: np.inner(x, np.arange(6.0).reshape(2, 3))),
    "inner of a vector and a matrix": (gg.f32[3], lambda x: np.inner(x, np.arange(6.0).reshape(2, 3))),
    "inner of vectors": (gg.f32[3], lambda x: np.inner(x, x)),
    "dot of matrices": (SQUARE, lambda x: np.dot(x, x + np.eye(3, dtype=np.float32))),
    "keepdims as a number": (CUBE, lambda x: np.sum(x, axis=1, keepdims=ONE)),
    "keepdims along several axes": (CUBE, lambda x: np.max(x, axis=(0, 2), keepdims=ONE)),
    "the last axes": (CUBE, lambda x: np.sum(x, axis=(-1, -3))),
    "the place of the largest": (CUBE, lambda x: np.argmax(x, axis=-2)),
    "a stack at the end": (SQUARE, lambda x: np.stack([x, -x], axis=-1)),
    "an axis of one": (SQUARE, lambda x: np.expand_dims(x, -2)),
    "turned round": (CUBE, lambda x: np.roll(np.flip(x, -1), 3, axis=-2)),
    "differences": (CUBE, lambda x: np.diff(x, axis=0)),
    "joined": (CUBE, lambda x: np.concatenate([x, x[:, :, :2]], axis=-1)),
    "a fraction's power of whole numbers": (gg.i32[4], lambda x: (x + 65_536) ** 2.0),
    "a dense matrix": (gg.f32[8], lambda x: x @ np.eye(8)),
}


@pytest.mark.parametrize("name", SAME)
def test_a_traced_call_gives_numpy_s_result(name):
    kind, function = SAME[name]
    made, frame = declared(function, kind), ramp(kind)
    wanted = np.asarray(function(frame))
    got = interpret(made.program, {"frame": frame[np.newaxis]}).outputs["y"][0]
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


REFUSED = {
    "an axis too far": ("kernel.shape", CUBE, lambda x: np.sum(x, axis=3)),
    "an axis too far back": ("kernel.shape", CUBE, lambda x: np.max(x, axis=-4)),
    "an axis of a number": ("kernel.shape", gg.f32, lambda x: np.sum(x, axis=0)),
    "an axis twice": ("kernel.shape", CUBE, lambda x: np.mean(x, axis=(0, -3))),
    "an axis that is computed": ("kernel.shape", CUBE, lambda x: np.sum(x, axis=x[0, 0, 0])),
    "an axis that is no number": ("kernel.shape", CUBE, lambda x: np.sum(x, axis=ROWS)),
    "argmax along an axis too far": ("kernel.shape", CUBE, lambda x: np.argmax(x, axis=3)),
    "joined along an axis too far": ("kernel.shape", SQUARE, lambda x: np.concatenate([x, x], axis=2)),
    "stacked along an axis too far": ("kernel.shape", SQUARE, lambda x: np.stack([x, x], axis=3)),
    "rolled along an axis too far": ("kernel.shape", SQUARE, lambda x: np.roll(x, 1, axis=2)),
    "differences along an axis too far": ("kernel.shape", SQUARE, lambda x: np.diff(x, axis=2)),
    "an axis of one too far": ("kernel.shape", SQUARE, lambda x: np.expand_dims(x, 3)),
    "a sparse matrix of fewer rows": ("kernel.shape", gg.f32[10], lambda x: x @ np.eye(8)),
    "a sparse matrix of more rows": ("kernel.shape", gg.f32[6], lambda x: x @ np.eye(8)[:, :4]),
    "an option beyond the set": ("kernel.unsupported", CUBE, lambda x: np.std(x, ddof=1)),
    "an option of a method": ("kernel.unsupported", CUBE, lambda x: x.sum(axis=0, dtype=np.float64)),
    "a place too many": ("kernel.unsupported", CUBE, lambda x: np.squeeze(x, 0)),
    "a cast to 8 bits": ("kernel.unsupported", gg.i32[4], lambda x: x.astype(np.uint8)),
    "a cast to 16 bits": ("kernel.unsupported", gg.f32[4], lambda x: x.astype("int16")),
    "a cast to half a float": ("kernel.unsupported", gg.f32[4], lambda x: x.astype(np.float16)),
    "a cast to nothing known": ("kernel.unsupported", gg.f32[4], lambda x: x.astype("number")),
    "an array as a power": ("kernel.unsupported", gg.f32[3], lambda x: x ** np.array([1, 2, 3])),
    "an array as an index": ("kernel.index", gg.f32[4], lambda x: x[np.array([0, 2])]),
    "round()": ("kernel.form", gg.f32[4], lambda x: round(x[0])),
    "an extent that is not there": ("kernel.form", gg.f32[4], lambda x: x.shape[7]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_numpy_s_result_is_refused_with_its_line(name):
    code, kind, function = REFUSED[name]
    with pytest.raises(KernelError) as caught:
        declared(function, kind)
    assert caught.value.code == code
    line = function.__code__.co_firstlineno
    assert re.search(rf"at test_tracing\.py:{line}: \S", caught.value.what), caught.value.what
    assert caught.value.why
    assert caught.value.next_step


@pytest.mark.parametrize("first", [1 << 40, -(1 << 31) - 1, np.uint32(1 << 31), np.array([1, 1 << 33]), 1e39])
def test_a_first_state_that_does_not_fit_is_refused(first):
    with pytest.raises(KernelError) as caught:
        kernel(x=gg.f32, state={"n": first})(lambda x, s: ({"y": x}, True, {"n": s.n}))
    assert caught.value.code == "kernel.constant"
    assert "state n" in caught.value.what
    assert caught.value.why and caught.value.next_step


@pytest.mark.parametrize("first", [(1 << 31) - 1, -(1 << 31), np.int64(5), np.inf, np.nan, 3.4e38, True])
def test_a_first_state_that_fits_is_kept(first):
    held = kernel(x=gg.f32, state={"n": first})(lambda x, s: ({"y": x}, True, {"n": s.n})).fresh_state()["n"]
    np.testing.assert_equal(held, np.asarray(first).astype(held.dtype))


def test_a_wrong_return_is_said_with_the_kernel_s_line():
    with pytest.raises(KernelError) as caught:
        kernel(x=gg.f32)(lambda x: [x])
    assert re.search(r"at test_tracing\.py:\d+", caught.value.what)


@kernel(x=TensorType("i32", (5,)), state={"n": 0})
def histogram(x, s):
    bins = np.bincount(x, minlength=4)
    return {"bins": bins}, bins[0] > 0, {"n": s.n + bins[1]}


@kernel(f=histogram)
def within_a_scan(f):
    (count,), _ = gg.scan(
        lambda c, v: ((c[0] + np.bincount(f.bins, minlength=2)[1] + v * 0,), None), (0,), f.bins
    )
    return {"n": count}


whole = st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-2, 5)


@given(st.lists(whole, min_size=5, max_size=5))
def test_without_a_compiler_bins_leave_out_what_the_program_leaves_out(values):
    """NumPy's own bincount refuses negative numbers and grows with large ones: a frame must stop no gateway."""
    frame = np.array(values, np.int32)
    outputs, emit, after = histogram.step(frame, {"n": np.int32(7)})
    wanted = [int(np.sum(frame == k)) for k in range(4)]
    assert outputs["bins"].tolist() == wanted
    assert emit is (wanted[0] > 0)
    assert after["n"] == 7 + wanted[1]
    runner = NumpyRunner(histogram)
    ran = runner.rows({"frame": np.stack([frame, frame])}, runner.fresh())
    assert ran.columns["bins"].tolist() == [wanted, wanted][: 2 if wanted[0] else 0]
    assert within_a_scan.step(Record(bins=frame[:4]), {})[0]["n"] == 4 * int(np.sum(frame[:4] == 1))


def test_a_whole_number_carried_through_a_scan_wraps_round_untraced_too():
    def congruential(x):
        (last,), _ = gg.scan(lambda c, v: ((c[0] * 1_103_515_245 + 12_345,), None), (1,), x)
        return {"y": last}

    made = kernel(x=gg.f32[40])(congruential)
    frame = np.zeros(40, np.float32)
    wanted = interpret(made.program, {"frame": frame[np.newaxis]}).outputs["y"][0]
    assert made.step(frame, {})[0]["y"] == wanted
