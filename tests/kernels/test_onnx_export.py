"""The ONNX form of kernels: near the reference on ordinary frames, state and emit included."""

import numpy as np
import pytest

from ganglion.core.errors import KernelError
from ganglion.kernels import kernel
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.networks.onnx_reader import read_onnx
from ganglion.kernels.networks.operations import lower
from ganglion.kernels.networks.reference import compute
from ganglion.kernels.onnx_export import export
from ganglion.kernels.tracing.networks import KernelNetwork
from ganglion.kernels.vectors import inputs
from tests.kernels import zoo

pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from tests.kernels.networks.kinds import KINDS  # noqa: E402 # after the check that it is there
from tests.kernels.networks.sketches import QOPERATOR, frames_for  # noqa: E402 # see above

WITHOUT = {"biquad", "goertzel", "checksum", "whole_numbers", "rounding", "histogram", "odd_bins", "anomaly"}
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


SUMMED_ELSEWHERE = {"average_pool", "softmax"}
"""ONNX Runtime adds these up in an order of its own."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_every_layer_of_a_network_is_exported(kind, seed):
    rng = np.random.default_rng(seed)
    sketch = KINDS[kind](QOPERATOR, lambda low, high: int(rng.integers(low, high + 1)))
    network = KernelNetwork(lower(read_onnx(sketch.file())))

    @kernel(x=network.input)
    def called(x):
        return {"y": network(x)}

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = export(called.program).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    frames, shift = frames_for(network.layers, rng, 20), network.layers.low + 128
    (found,) = session.run(None, {session.get_inputs()[0].name: frames.astype(np.int32) + shift})
    apart = found - (compute(network.layers, frames).astype(np.int32) + shift)
    if kind in SUMMED_ELSEWHERE:
        assert np.max(np.abs(apart)) <= 1 and np.mean(apart != 0) < 0.02
    else:
        assert not np.any(apart)
