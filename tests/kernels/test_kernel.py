"""The decorator and the step: what a kernel must be at definition, and what it gives on every frame."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ganglion as gg
from ganglion.core.errors import FlowError, GanglionError, KernelError
from ganglion.core.schema import Field, Schema, TensorType
from ganglion.kernels import Kernel, Record, kernel
from ganglion.kernels.cost import Cost


@kernel(x=gg.f32[4], units={"rms": "A"})
def features(x):
    """Root mean square and the largest magnitude."""
    return {"rms": np.sqrt(np.mean(x * x)), "peak": np.max(np.abs(x)), "first": x[:2]}


@kernel(f=features, state={"on": False, "n": 0, "level": 0.0, "last": np.zeros(2)})
def held(f, s):
    on = np.where(f.rms > 1, True, s.on)
    after = {"on": on, "n": s.n + 1, "level": s.level / 2 + f.rms, "last": f.first}
    return {"on": on, "n": after["n"]}, f.rms > 0, after


def test_a_kernel_knows_its_form():
    assert isinstance(features, Kernel)
    assert (features.name, features.input, features.stateful, features.initial) == (
        "features",
        gg.f32[4],
        False,
        None,
    )
    assert features.output == Schema(
        (Field("rms", gg.f32, "A"), Field("peak", gg.f32), Field("first", gg.f32[2]))
    )
    assert held.input == features.output
    assert [str(f.type) for f in held.output.fields] == ["bool", "i32"]
    assert (features.state_bytes, held.state_bytes) == (0, 1 + 4 + 4 + 8)
    assert features.source.startswith("test_kernel.py:")


def test_a_kernel_can_be_called_as_the_plain_function():
    assert features(np.array([3.0, 4, 0, 0]))["peak"] == 4
    outputs, emit, _ = held(
        Record(rms=2.0, peak=2.0, first=np.zeros(2)), Record(on=False, n=0, level=0.0, last=0)
    )
    assert outputs["on"]
    assert emit


def test_a_fresh_state_is_the_declared_one_in_the_types_of_kernels():
    state = held.fresh_state()
    assert {k: v.dtype.name for k, v in state.items()} == {
        "on": "bool",
        "n": "int32",
        "level": "float32",
        "last": "float32",
    }
    assert state["last"].shape == (2,)
    state["last"][0] = 5
    assert held.fresh_state()["last"][0] == 0


frames = hnp.arrays(np.float32, 4, elements=st.floats(width=32))


@given(st.lists(frames, max_size=6))
def test_every_step_gives_the_declared_types_and_counts_on(sequence):
    state = held.fresh_state()
    for i, frame in enumerate(sequence, 1):
        outputs, emit, _ = features.step(frame, {})
        assert emit is True
        typed(features.output, outputs)
        outputs, emit, state = held.step(Record(**outputs), state)
        assert type(emit) is bool
        typed(held.output, outputs)
        assert outputs["n"] == state["n"] == i
        for name, value in held.fresh_state().items():
            assert (state[name].dtype, state[name].shape) == (value.dtype, value.shape)


def typed(schema, outputs):
    assert tuple(outputs) == schema.names
    for field in schema.fields:
        assert (outputs[field.name].dtype, outputs[field.name].shape) == (field.type.numpy, field.type.shape)


@given(st.lists(frames, min_size=1, max_size=4))
def test_a_step_is_a_function_it_changes_neither_frame_nor_state(sequence):
    state = held.fresh_state()
    for frame in sequence:
        copy, kept = frame.copy(), {k: v.copy() for k, v in state.items()}
        row = Record(**features.step(frame, {})[0])
        first, second = held.step(row, state), held.step(row, state)
        assert frame.tobytes() == copy.tobytes()
        assert all(state[k].tobytes() == kept[k].tobytes() for k in kept)
        assert [repr(p) for p in first] == [repr(p) for p in second]
        state = first[2]


def define(function, *, state=None, units=None, **inputs):
    return kernel(state=state, units=units, **(inputs or {"x": gg.f32[4]}))(function)


LOOSE: Any = kernel  # mypy would refuse it before we can


def one(x):
    return {"y": x[0]}


def changing(x):
    x *= 2
    return {"y": x}


def assigning(x):
    x[0] = 2
    return {"y": x}


def counting(x, s):
    s.n += 1
    return {"y": x[0]}, True, {"n": s.n}


def branching(x):
    if x[0] > 0:
        return {"y": x[0]}
    return {"y": -x[0]}


WRONG = [
    ("kernel.input", lambda: kernel()(one)),
    ("kernel.input", lambda: kernel(x=gg.f32, y=gg.f32)(one)),
    ("kernel.input", lambda: kernel(x=4)(one)),
    ("kernel.input", lambda: kernel(x=one)(one)),
    ("kernel.input", lambda: kernel(x=TensorType("f64"))(one)),
    ("kernel.input", lambda: LOOSE(one)),
    ("kernel.signature", lambda: define(one, y=gg.f32)),
    ("kernel.signature", lambda: define(lambda: {"y": 1})),
    ("kernel.signature", lambda: define(lambda x, s: {"y": 1})),
    ("kernel.signature", lambda: define(one, state={"n": 0})),
    ("kernel.signature", lambda: define(lambda *x: {"y": x[0][0]})),
    ("kernel.signature", lambda: define(lambda *, x: {"y": x[0]})),
    ("kernel.signature", lambda: define(np.sqrt)),
    ("kernel.form", lambda: define(lambda x: x)),
    ("kernel.form", lambda: define(lambda x: {})),
    ("kernel.form", lambda: define(lambda x: None)),
    ("kernel.form", lambda: define(lambda x: ({"y": 1}, True, {}))),
    ("kernel.form", lambda: define(lambda x: {"y": x[0] + undefined})),  # type: ignore[name-defined] # noqa: F821 # the mistake
    ("kernel.form", lambda: define(lambda x, s: {"y": 1}, state={"n": 0})),
    ("kernel.form", lambda: define(lambda x, s: ({"y": 1}, True), state={"n": 0})),
    ("kernel.form", lambda: define(lambda x, s: ({"y": 1}, True, None), state={"n": 0})),
    ("kernel.form", lambda: define(lambda x, s: ({}, True, {"n": 0}), state={"n": 0})),
    ("kernel.form", lambda: define(lambda x, s: ({"y": 1}, x > 0, {"n": 0}), state={"n": 0})),
    ("kernel.form", lambda: define(lambda x, s: ({"y": 1}, True, {}), state={"n": 0})),
    ("kernel.form", lambda: define(lambda x, s: ({"y": 1}, True, {"n": 0, "m": 0}), state={"n": 0})),
    ("kernel.form", lambda: define(lambda x, s: ({"y": 1}, True, {"n": x}), state={"n": 0.0})),
    ("kernel.form", lambda: define(lambda x, s: ({"y": 1}, True, {"n": x[:1]}), state={"n": 0.0})),
    ("kernel.form", lambda: define(lambda x, s: ({"y": 1}, True, {"n": s.n + 0.5}), state={"n": 0})),
    ("kernel.form", lambda: define(lambda x, s: ({"y": 1}, True, {"n": 1}), state={"n": False})),
    ("kernel.constant", lambda: define(lambda x, s: ({"y": 1}, True, {"n": "x"}), state={"n": 0})),
    ("kernel.constant", lambda: define(lambda x: {"y": "text"})),
    ("kernel.constant", lambda: define(lambda x: {"y": x[0] + 1j})),
    ("kernel.constant", lambda: define(lambda x: {"y": 1 << 40})),
    ("kernel.constant", lambda: define(lambda x: {"y": None})),
    ("kernel.branch", lambda: define(branching)),
    ("kernel.branch", lambda: define(lambda x: {"y": x[0] and x[1]})),
    ("kernel.branch", lambda: define(lambda x: {"y": 0 < x[0] < 1})),
    ("kernel.branch", lambda: define(lambda x: {"y": max(x[0], x[1])})),
    ("kernel.scalar", lambda: define(lambda x: {"y": 1 / int(x[0])})),
    ("kernel.scalar", lambda: define(lambda x: {"y": math.sqrt(x[0])})),
    ("kernel.scalar", lambda: define(lambda x: {"y": sum(range(x[0]))})),
    ("kernel.index", lambda: define(lambda x: {"y": x[4]})),
    ("kernel.index", lambda: define(lambda x: {"y": x[x[0]]})),
    ("kernel.index", lambda: define(lambda x: {"y": x[x > 0]})),
    ("kernel.index", lambda: define(lambda x: {"y": x[: x[0]]})),
    ("kernel.index", lambda: define(lambda x: {"y": x[1.0]})),
    ("kernel.index", lambda: define(lambda x: {"y": x[0, 0]})),
    ("kernel.index", lambda: define(lambda x: {"y": x[:0]})),
    ("kernel.assign", lambda: define(changing)),
    ("kernel.assign", lambda: define(assigning)),
    ("kernel.assign", lambda: define(counting, state={"n": 0})),
    ("kernel.shape", lambda: define(lambda x: {"y": x + np.ones(3)})),
    ("kernel.shape", lambda: define(lambda x: {"y": x @ np.ones((5, 2))})),
    ("kernel.shape", lambda: define(lambda x: {"y": np.ones((2, 5)) @ x})),
    ("kernel.shape", lambda: define(lambda x: {"y": x.reshape(3)})),
    ("kernel.shape", lambda: define(lambda x: {"y": np.concatenate([x, x.reshape(2, 2)])})),
    ("kernel.shape", lambda: define(lambda x: {"y": abs(np.fft.rfft(x[:3]))})),
    ("kernel.shape", lambda: define(lambda x: {"y": list(x[0])})),
    (
        "kernel.form",
        lambda: define(lambda x: {"y": gg.scan(lambda c, v: ((c[0], v), None), (0.0,), x)[0][0]}),
    ),
    (
        "kernel.form",
        lambda: define(lambda x: {"y": gg.scan(lambda c, v: ((c[0] > v,), None), (0.0,), x)[0][0]}),
    ),
    ("kernel.form", lambda: define(lambda x: {"y": gg.scan(lambda c, v: ((x,), None), (0.0,), x)[0][0]})),
    ("kernel.shape", lambda: define(lambda x: {"y": gg.scan(lambda c, v: (c, None), (0.0,), x[0])[0][0]})),
    ("kernel.size", lambda: define(lambda x: {"y": sum(x[0] for _ in range(30_000))})),
    ("kernel.unsupported", lambda: define(lambda x: {"y": np.sort(x)})),
    ("kernel.unsupported", lambda: define(lambda x: {"y": np.arctan(x)})),
    ("kernel.unsupported", lambda: define(lambda x: {"y": np.asarray(x)})),
    ("kernel.unsupported", lambda: define(lambda x: {"y": x.cumsum()})),
    ("kernel.unsupported", lambda: define(lambda x: {"y": x**2.5})),
    ("kernel.unsupported", lambda: define(lambda x: {"y": x // 2})),
    ("kernel.unsupported", lambda: define(lambda x: {"y": np.where(x > 0)})),
    ("kernel.unsupported", lambda: define(lambda x: {"y": np.add.reduce(x)})),
    ("kernel.unsupported", lambda: define(lambda x: {"y": x.astype(complex)})),
    ("schema.dtype", lambda: define(one, state={"n": None})),
    ("schema.field-name", lambda: define(lambda x: {"Y": 1})),
    ("schema.unknown-field", lambda: define(one, units={"z": "A"})),
]


@pytest.mark.parametrize("code, declare", WRONG, ids=[f"{i}-{w[0]}" for i, w in enumerate(WRONG)])
def test_a_wrong_kernel_fails_at_definition_with_what_why_and_next(code, declare):
    with pytest.raises(GanglionError) as caught:
        declare()
    error = caught.value
    assert isinstance(error, KernelError if code.startswith("kernel.") else FlowError)
    assert error.code == code
    assert error.what
    assert error.why
    assert error.next_step


TRACED = [w for w in WRONG if w[0].split(".")[1] in ("branch", "scalar", "index", "assign", "unsupported")]


@pytest.mark.parametrize("code, declare", TRACED, ids=[f"{i}-{w[0]}" for i, w in enumerate(TRACED)])
def test_what_cannot_be_traced_is_shown_with_its_line(code, declare):
    with pytest.raises(KernelError) as caught:
        declare()
    assert re.search(r"at test_kernel\.py:\d+: \S", caught.value.what)


def test_a_kernel_s_digest_is_what_it_computes():
    def again(x):  # another name of the parameters' file, line and helpers; the same computation
        square = x * x
        mean = np.mean(square)
        return {"rms": np.sqrt(mean), "peak": np.max(np.abs(x)), "first": x[0:2]}

    again.__name__ = "features"
    assert define(again, units={"rms": "A"}).digest == features.digest
    assert define(lambda x: {"y": x * 2}).digest != define(lambda x: {"y": x * 3}).digest
    assert define(one, state=None).digest != define(one, x=gg.f32[5]).digest


def test_the_cost_is_counted_in_operations():
    assert define(lambda x: {"y": x * x}, x=gg.f32[64]).cost == Cost(1, 64 + 64 + 64)
    assert features.cost.operations < define(lambda x: {"y": np.exp(x)}, x=gg.f32[64]).cost.operations


def test_divisions_by_zero_and_nans_pass_without_a_warning():
    ratio = define(lambda x: {"y": x[0] / x[1], "z": np.sqrt(x[2])})
    outputs, _, _ = ratio.step(np.array([1, 0, -1, np.nan], np.float32), {})
    assert outputs["y"] == np.inf
    assert np.isnan(outputs["z"])


def test_a_kernel_takes_the_outputs_of_another_that_are_there_in_any_order():
    row, state = (
        Record(first=np.ones(2, np.float32), peak=np.float32(2), rms=np.float32(2)),
        held.fresh_state(),
    )
    assert held.step(row, state)[0]["on"]


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Kernel)])
def test_kernels_are_frozen(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(features, name, None)


def test_a_scalar_input_will_do():
    double = define(lambda x: {"y": x * 2}, x=TensorType("i32"))
    assert double.step(np.int32(4), {})[0]["y"] == 8
