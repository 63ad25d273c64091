"""The ONNX form of kernels: near the reference on ordinary frames, state and emit included."""

import numpy as np
import pytest

from ganglion.core.errors import KernelError
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.onnx_export import export
from ganglion.kernels.vectors import inputs
from tests.kernels import zoo

pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

WITHOUT = {"biquad", "goertzel", "checksum", "whole_numbers", "rounding", "histogram", "odd_bins"}
"""Recursions, and operators of whole numbers and of bits that ONNX has not."""
FRAMES = 120


@pytest.mark.parametrize("name", [n for n in zoo.ZOO if n not in WITHOUT])
def test_onnx_runtime_is_near_the_reference(name):
    program = zoo.program_of(name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        export(program).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ordinary = {n: v[0::6] for n, v in inputs(program, 6 * FRAMES, 3).items()}
    wanted = interpret(program, ordinary)
    feeds = {f"v{n}": ordinary[f] for f, n in program.inputs}
    for field in program.state:
        feeds[f"v{field.node}"] = np.repeat(field.initial[np.newaxis], FRAMES, axis=0)
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    pairs = [(f"out_{n}", v) for n, v in wanted.outputs.items()]
    pairs += [(f"out_{n}_after", v) for n, v in wanted.state.items()]
    if program.emit is not None:
        pairs.append(("out_emit", wanted.emit))
    for output, expected in pairs:
        given = found[output]
        assert given.shape == expected.shape
        if expected.dtype == np.float32:
            peak = np.max(np.abs(expected), initial=1e-6, where=np.isfinite(expected))
            near = np.isclose(given, expected, rtol=1e-4, atol=1e-4 * peak, equal_nan=True)
            assert near.mean() > 0.999, (output, given[~near][:3], expected[~near][:3])
        else:
            assert (given == expected).mean() > 0.99, output


@pytest.mark.parametrize("name", sorted(WITHOUT - {"rounding"}))
def test_what_onnx_lacks_is_said_with_its_line(name):
    with pytest.raises(KernelError) as caught:
        export(zoo.program_of(name))
    assert caught.value.code == "kernel.onnx"
    assert "zoo.py:" in caught.value.what
