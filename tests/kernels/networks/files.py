"""Plain graphs as ONNX files: for ONNX Runtime, and for flows that name a file. ``python -m`` writes those again."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'ganglion[models]'")

from onnx import helper, numpy_helper  # after the check that it is there

from tests.kernels import graphs  # see above

MICROSOFT = ("QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSoftmax")
MOVES = Path(__file__).parents[2] / "device" / "firmware" / "watch" / "moves.onnx"


def onnx_bytes(graph):
    """The file of a `Graph`."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(graph.input_dtype))
    nodes = [
        helper.make_node(
            n.operator,
            n.inputs,
            n.outputs,
            n.label,
            domain="com.microsoft" if n.operator in MICROSOFT else "",
            **n.attributes,
        )
        for n in graph.nodes
    ]
    shape = (1, *graphs.NETWORKS[graph.name].output.shape)
    last = helper.make_tensor_value_info(graph.output_name, kind, shape)
    first = helper.make_tensor_value_info(graph.input_name, kind, graph.input_shape)
    constants = [numpy_helper.from_array(v, n) for n, v in graph.constants.items()]
    made = helper.make_graph(nodes, graph.name, [first], [last], constants)
    opsets = [helper.make_opsetid("", graph.opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString()


if __name__ == "__main__":
    MOVES.write_bytes(onnx_bytes(graphs.moves()))
