"""A trained network as a float ONNX graph, from which it is quantised."""

from __future__ import annotations

from typing import Any

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.learning.recipe import Convolution, Dense, GlobalAverage
from ganglion.learning.training import Trained

OPSET, IR_VERSION = 17, 9
INPUT, OUTPUT = "x", "logits"


def float_graph(trained: Trained, name: str) -> bytes:
    """ONNX bytes: float32 [1, *shape] to float32 [1, classes]. The same weights give the same bytes."""
    onnx = _library()
    helper, constants, nodes = onnx.helper, [], []
    weights = iter(trained.weights)
    now, flat = INPUT, len(trained.shape) == 1

    def constant(value: Any, label: str) -> str:
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), label))
        return label

    def node(operator: str, inputs: list[str], result: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [result], name=result, **attributes))
        return result

    for k, layer in enumerate(trained.layers):
        last = k == len(trained.layers) - 1
        if isinstance(layer, GlobalAverage):
            now = node("GlobalAveragePool", [now], f"mean{k}")
            continue
        weight, bias = next(weights)
        operands = [constant(weight, f"weight{k}"), constant(bias, f"bias{k}")]
        result = OUTPUT if last else f"sum{k}"
        if isinstance(layer, Convolution):
            rows, columns = (n // 2 for n in layer.kernel)
            now = node(
                "Conv",
                [now, *operands],
                result,
                kernel_shape=list(layer.kernel),
                strides=list(layer.strides),
                pads=[rows, columns, rows, columns],
                group=len(weight) if layer.depthwise else 1,
            )
        else:
            assert isinstance(layer, Dense)
            now, flat = (now, True) if flat else (node("Flatten", [now], f"flat{k}", axis=1), True)
            now = node("Gemm", [now, *operands], result, transB=1)
        if not last:
            now = node("Relu", [now], f"value{k}")
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(INPUT, float32, [1, *trained.shape])],
        [helper.make_tensor_value_info(OUTPUT, float32, [1, trained.weights[-1][1].size])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString(deterministic=True))


def _library() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise KernelError(
            "network.extra",
            "networks cannot be written: onnx is not installed",
            why="it is an optional part",
            next_step="pip install 'ganglion[models]'",
        ) from error
    return onnx
