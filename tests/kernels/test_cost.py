"""Counting what a kernel computes: exact on known functions, the same on every run, and what counting cannot see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ganglion as gg
from ganglion.kernels.cost import Cost

MATRIX = np.ones((64, 3), np.float32)
VECTOR = np.ones(64, np.float32)


def cost_of(function, given=gg.f32[6, 64], **declared):
    return gg.kernel(x=given, **declared)(function).cost


def looped(x):
    total = x[0, 0]
    for value in x[0]:
        total = total + value * value
    return {"y": total}


def unrolled(x):
    a, b, *_ = x
    return {"y": a + b}


KNOWN = [
    ("nothing", lambda x: {"y": x[0, 0]}, 0, 0),
    ("a product", lambda x: {"y": x * x}, 1, 6 * 64),
    ("a sum over everything", lambda x: {"y": np.sum(x)}, 1, 6 * 64),
    ("a mean over an axis", lambda x: {"y": np.mean(x, axis=1)}, 1, 6 * 64),
    ("a chain", lambda x: {"y": np.sqrt(np.mean(x * x, axis=1))}, 3, 2 * 6 * 64 + 6),
    ("where", lambda x: {"y": np.where(x > 0, x, 0)}, 2, 2 * 6 * 64),
    ("broadcasting", lambda x: {"y": x[:, :1] + x[:1, :]}, 1, 6 * 64),
    ("where that broadcasts", lambda x: {"y": np.where(True, x[:, :1], x[:1, :])}, 1, 6 * 64),
    ("a slice", lambda x: {"y": x[3] + 1}, 1, 64),
    ("every second sample", lambda x: {"y": x[:, ::2] * 2}, 1, 6 * 32),
    ("one element", lambda x: {"y": x[0, 0] + x[1, 1] * 2}, 2, 2),
    ("rows", unrolled, 1, 64),
    ("a loop", looped, 128, 128),
    ("matmul", lambda x: {"y": x @ MATRIX}, 1, 6 * 64 * 3),
    ("matmul from the left", lambda x: {"y": MATRIX.T @ x.T}, 1, 6 * 64 * 3),
    ("dot", lambda x: {"y": np.dot(x, MATRIX)}, 1, 6 * 64 * 3),
    ("dot of vectors", lambda x: {"y": np.dot(x[0], x[1])}, 1, 64),
    ("a filter", lambda x: {"y": np.convolve(x[0], VECTOR[:5])}, 1, 64 * 5),
    ("a spectrum", lambda x: {"y": np.abs(np.fft.rfft(x[0]))}, 2, 64 * 6 + 33),
    ("stacking", lambda x: {"y": np.concatenate([x, x])}, 1, 2 * 6 * 64),
]


@pytest.mark.parametrize("function, calls, elements", [k[1:] for k in KNOWN], ids=[k[0] for k in KNOWN])
def test_what_is_counted(function, calls, elements):
    assert cost_of(function) == Cost(calls, elements)


@pytest.mark.parametrize(
    "function, least",
    [
        (lambda x: {"y": x.mean()}, 384),
        (lambda x: {"y": x.max(axis=0)}, 384),
        (lambda x: {"y": x.sum()}, 384),
        (lambda x: {"y": x.astype(np.float32) + 1}, 384),
        (lambda x: {"y": x.reshape(-1) * 2}, 384),
    ],
)
def test_methods_of_arrays_count_too(function, least):
    assert cost_of(function).elements >= least


@given(st.integers(1, 40), st.integers(1, 40))
def test_elements_grow_with_the_frame_and_calls_do_not(rows, samples):
    cost = cost_of(lambda x: {"y": np.max(np.abs(x - np.mean(x)))}, gg.f32[rows, samples])
    assert cost == Cost(4, 4 * rows * samples)


def test_counting_is_the_same_every_time():
    assert len({cost_of(k[1]) for k in KNOWN for _ in range(2)}) == len({cost_of(k[1]) for k in KNOWN})


def test_outputs_of_other_kernels_and_state_count():
    first = gg.kernel(x=gg.f32[8])(lambda x: {"rms": np.sqrt(np.mean(x * x)), "wave": x * 2})

    def second(f, s):
        level = s.level * 0.9 + f.rms
        return {"y": f.wave * level}, level > 1, {"level": level}

    cost = gg.kernel(f=first, state={"level": 0.0})(second).cost
    assert cost == Cost(4, 1 + 1 + 8 + 1)


def particular(x):
    y = x * 2
    if type(x) is not np.ndarray:
        raise AttributeError("only plain arrays here")
    return {"y": y}


def test_a_function_that_counting_cannot_follow_is_a_lower_bound_not_an_error():
    assert cost_of(particular) == Cost(2, 6 * 64)


def test_counting_leaves_results_as_they_are():
    plain = gg.kernel(x=gg.f32[6, 64])(looped)
    outputs, _, _ = plain.step(np.ones((6, 64), np.float32), {})
    assert outputs["y"] == 65
    assert type(outputs["y"]) is np.float32
