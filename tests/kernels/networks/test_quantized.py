"""What onnxruntime.quantization writes is read: every form, type and granularity it offers for these operators."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'ganglion[models]'")
quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")

import onnx  # noqa: E402 # after the check that it is there
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 # see above

from ganglion.kernels.networks.onnx_reader import read_onnx  # noqa: E402 # see above
from ganglion.kernels.networks.operations import lower  # noqa: E402 # see above
from ganglion.kernels.networks.reference import compute  # noqa: E402 # see above
from tests.kernels.networks.sketches import frames_for, onnx_runtime  # noqa: E402 # see above

FRAMES = 32
SHAPE = (3, 10, 12)


def trained(rng):
    """A float network as a trainer exports it: filters with ReLU, a residual block, pools, dense layers."""

    def weights(name, *shape):
        scale = 1.5 / np.sqrt(max(1, np.prod(shape[1:])))
        return numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), name)

    constants = [weights("w1", 8, 3, 3, 3), weights("b1", 8), weights("w2", 8, 1, 3, 3), weights("b2", 8)]
    constants += [weights("w3", 8, 8, 1, 1), weights("b3", 8), weights("w4", 40, 6), weights("b4", 6)]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"]),
        helper.make_node("Add", ["c3", "r1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r3"]),
        helper.make_node("MaxPool", ["r3"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("AveragePool", ["m"], ["p"], kernel_shape=[5, 2], strides=[5, 1]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "trained",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class Frames:
    def __init__(self, rng):
        self.left = iter([{"x": rng.normal(0, 1, (1, *SHAPE)).astype(np.float32)} for _ in range(16)])

    def get_next(self):
        return next(self.left, None)


@pytest.mark.parametrize("channels", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("kind", [quantization.QuantType.QInt8, quantization.QuantType.QUInt8], ids=str)
@pytest.mark.parametrize("form", [quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator], ids=str)
def test_what_quantize_static_writes_gives_the_integers_of_onnx_runtime(form, kind, channels, tmp_path, rng):
    source, target = (str(tmp_path / f"{n}.onnx") for n in ("float", "whole"))
    onnx.save(trained(rng), source)
    quantization.quantize_static(
        source,
        target,
        Frames(rng),
        quant_format=form,
        activation_type=kind,
        weight_type=quantization.QuantType.QInt8,
        per_channel=channels,
    )
    network = lower(read_onnx(tmp_path / "whole.onnx"))
    assert (network.real_input, network.real_output) == (True, True)
    assert network.unsigned == (kind is quantization.QuantType.QUInt8)
    frames = frames_for(network, rng, FRAMES)
    wanted = onnx_runtime((tmp_path / "whole.onnx").read_bytes(), network, frames)
    assert int(np.sum(compute(network, frames) != wanted)) == 0
