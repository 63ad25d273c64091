"""gg.quantize and gg.dequantize are ONNX's QuantizeLinear and DequantizeLinear, compiled and in NumPy."""

import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ganglion as gg
from ganglion.core.errors import KernelError
from ganglion.kernels.c import toolchain
from ganglion.kernels.c.emission import runtime_header
from ganglion.kernels.c.library import Library
from ganglion.kernels.c.proof import wrong_frames
from ganglion.kernels.ir.interpret import interpret
from tests.kernels import zoo

COMPILERS = toolchain.compilers()
DTYPES = (np.int8, np.uint8)
values = hnp.arrays(np.float32, (3, 21), elements=st.floats(width=32))
scales = st.floats(2.0**-40, 2.0**40, width=32)


@cache
def onnx_runtime(operator, dtype, axis):
    """A session of one operator; scale and zero point are inputs, so that one will do for all."""
    helper = pytest.importorskip("onnx", reason="onnx is not installed").helper
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    whole = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    real = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
    first, last = (real, whole) if operator == "QuantizeLinear" else (whole, real)
    ends = [] if axis is None else [3]
    graph = helper.make_graph(
        [
            helper.make_node(
                operator, ["x", "scale", "zero"], ["y"], **({} if axis is None else {"axis": axis})
            )
        ],
        "one",
        [
            helper.make_tensor_value_info("x", first, [3, 21]),
            helper.make_tensor_value_info("scale", real, ends),
            helper.make_tensor_value_info("zero", whole, ends),
        ],
        [helper.make_tensor_value_info("y", last, [3, 21])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x, scale, zero: session.run(None, {"x": x, "scale": scale, "zero": zero})[0]


def drawn(data, dtype, each_row):
    """Scale and zero point as ONNX takes them, and as they broadcast."""
    ends, count = np.iinfo(dtype), 3 if each_row else 1
    scale = np.array([data.draw(scales) for _ in range(count)], np.float32)
    zero = np.array([data.draw(st.integers(int(ends.min), int(ends.max))) for _ in range(count)], dtype)
    if each_row:
        return (scale, zero), (scale[:, None], zero[:, None].astype(np.int32))
    return (scale.reshape(()), zero.reshape(())), (scale[0], int(zero[0]))


@pytest.mark.parametrize("each_row", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), x=values)
def test_quantize_gives_the_integers_of_onnx_runtime(dtype, each_row, data, x):
    """NaN, infinities, subnormals, halves: whatever is drawn."""
    theirs, ours = drawn(data, dtype, each_row)
    halves = np.float32(np.rint(data.draw(st.floats(-200, 200))) + 0.5) * ours[0]
    x = np.where(np.arange(21) < 5, halves, x).astype(np.float32)
    wanted = onnx_runtime("QuantizeLinear", dtype, 0 if each_row else None)(x, *theirs)
    scale, zero = ours
    got = gg.quantize(x, scale, zero, dtype)
    assert got.dtype == np.int32
    assert got.tolist() == wanted.tolist()


@pytest.mark.parametrize("each_row", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_dequantize_gives_the_numbers_of_onnx_runtime(dtype, each_row, data):
    theirs, ours = drawn(data, dtype, each_row)
    q = data.draw(hnp.arrays(dtype, (3, 21)))
    wanted = onnx_runtime("DequantizeLinear", dtype, 0 if each_row else None)(q, *theirs)
    assert gg.dequantize(q.astype(np.int32), *ours).tobytes() == wanted.tobytes()


@given(q=hnp.arrays(np.int8, 40), scale=scales, zero=st.integers(-128, 127))
def test_what_was_dequantized_comes_back(q, scale, zero):
    assert gg.quantize(gg.dequantize(q, scale, zero), scale, zero).tolist() == q.tolist()


@given(
    x=hnp.arrays(np.float32, 8, elements=st.floats(width=32)), scale=st.floats(width=32), zero=st.integers()
)
def test_whatever_is_traced_means_what_it_means_in_numpy(x, scale, zero):
    """A scale and a zero point that a frame brings may be anything at all."""
    zero = np.int32(zero % (1 << 32) - (1 << 31))

    def both(x):
        q = gg.quantize(x[:8], x[8], x[9].astype(np.int32), np.uint8)
        return {"q": q, "real": gg.dequantize(q, x[8], x[9].astype(np.int32))}

    program = gg.kernel(x=gg.f32[10])(both).program
    frame = np.concatenate([x, [scale, zero]]).astype(np.float32)
    found = interpret(program, {"frame": frame[None]}).outputs
    assert found["q"].min() >= 0 and found["q"].max() <= 255


PLANTED = {
    "half up": ("(int32_t)gg_bits(q + 12582912.0f) - 0x4B400000", "(int32_t)(q + 512.5f) - 512"),
    "NaN is the highest": ("q = q > first ? q : first;", "q = q < first ? first : q;"),
    "by the reciprocal": ("gg_div(x, scale), zero", "x * gg_div(1.0f, scale), zero"),
}


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_noticed(bug, tmp_path, monkeypatch):
    program = zoo.program_of("eight_bits")
    assert wrong_frames(Library.build(program, COMPILERS[0], tmp_path)) == 0
    right, wrong = PLANTED[bug]
    header = runtime_header().replace(right, wrong)
    assert header != runtime_header()
    monkeypatch.setattr(toolchain, "runtime_header", lambda: header)
    assert wrong_frames(Library.build(program, COMPILERS[0], tmp_path)) > 0


WRONG = {
    "a scale of 0": ("kernel.constant", lambda x: gg.quantize(x, 0.0)),
    "a negative scale": ("kernel.constant", lambda x: gg.quantize(x, -0.1)),
    "a scale that is none in f32": ("kernel.constant", lambda x: gg.quantize(x, 1e-60)),
    "one scale of many": ("kernel.constant", lambda x: gg.quantize(x, np.array([1.0, np.nan, 1.0, 1.0]))),
    "a zero point outside": ("kernel.constant", lambda x: gg.quantize(x, 0.1, -1, np.uint8)),
    "half a zero point": ("kernel.constant", lambda x: gg.quantize(x, 0.1, 0.5)),
    "half a zero point back": ("kernel.constant", lambda x: gg.dequantize(x.astype(np.int32), 0.1, 0.5)),
    "a zero point that is none": (
        "kernel.constant",
        lambda x: gg.dequantize(x.astype(np.int32), 0.1, np.nan),
    ),
    "another type": ("kernel.unsupported", lambda x: gg.quantize(x, 0.1, 0, np.int16)),
    "no type": ("kernel.unsupported", lambda x: gg.quantize(x, 0.1, 0, "nothing")),
    "shapes that do not fit": ("kernel.shape", lambda x: gg.quantize(x, np.ones(3))),
    "real numbers back": ("kernel.unsupported", lambda x: gg.dequantize(x, 0.1)),
    "back by a scale of 0": ("kernel.constant", lambda x: gg.dequantize(x.astype(np.int32), 0)),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_line(case):
    code, compute = WRONG[case]
    with pytest.raises(KernelError) as caught:
        gg.kernel(x=gg.f32[4])(lambda x: {"y": compute(x)})
    assert caught.value.code == code
    assert re.search(r"at test_quantisation\.py:\d+: \S", caught.value.what)
    assert caught.value.why and caught.value.next_step
