"""The one door to onnx: a file becomes a `Graph` of plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ganglion.core.errors import DataError, KernelError
from ganglion.kernels.networks import faults
from ganglion.kernels.networks.graph import Graph, GraphNode
from ganglion.kernels.networks.layers import Array

FILE_BYTES_MAX = 64 << 20
NODES_MAX = 10_000
DOMAINS = ("", "ai.onnx", "com.microsoft")


def read_onnx(source: Path | bytes) -> Graph:
    """Reads an ONNX file, or its bytes.

    Raises `DataError` ``network.missing`` when it cannot be opened, ``network.file`` when it is none, and `KernelError`
    when it has more than one input or output or a shape that is not fixed.
    """
    onnx = _library()
    content = source if isinstance(source, bytes) else _content(source)
    if len(content) > FILE_BYTES_MAX:
        raise _unreadable(f"it is larger than {FILE_BYTES_MAX} bytes")
    try:
        loaded = onnx.load_model_from_string(content)
        onnx.checker.check_model(loaded)
    except Exception as error:  # protobuf and the checker raise types of their own
        raise _unreadable(str(error).partition("\n")[0]) from error
    graph = loaded.graph
    if len(graph.node) > NODES_MAX:
        raise _unreadable(f"it has more than {NODES_MAX} nodes")
    constants = {i.name: _array(onnx, i) for i in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in DOMAINS:
            constants[node.output[0]] = _constant(onnx, node)
            continue
        attributes = {a.name: _plain(onnx, a) for a in node.attribute}
        label = node.name or (node.output[0] if node.output else node.op_type)
        read = GraphNode(node.op_type, label, tuple(node.input), tuple(node.output), attributes)
        if node.domain not in DOMAINS:
            raise faults.unsupported(read, f"operators of {node.domain} are not known here")
        nodes.append(read)
    inputs = [i for i in graph.input if i.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise KernelError(
            "network.form",
            f"the network has {len(inputs)} inputs and {len(graph.output)} outputs",
            why="a stage maps one frame to one frame",
            next_step="join them inside the network with Concat, or export the part in between",
        )
    dtype, shape = _tensor(onnx, inputs[0])
    opset = max((o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx")), default=1)
    return Graph(
        graph.name or "network",
        inputs[0].name,
        dtype,
        shape,
        graph.output[0].name,
        tuple(nodes),
        constants,
        int(opset),
    )


def _library() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise KernelError(
            "network.extra",
            "networks cannot be read: onnx is not installed",
            why="it is an optional part",
            next_step="pip install 'ganglion[models]'",
        ) from error
    return onnx


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise _unreadable(f"{path} is larger than {FILE_BYTES_MAX} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            "network.missing",
            f"the network's file {path.name} cannot be opened",
            why=str(error),
            next_step="put it there, or correct its path, which begins at the file that names it",
        ) from error


def _unreadable(why: str) -> DataError:
    return DataError(
        "network.file",
        "the network's file cannot be read",
        why=why,
        next_step="export the model to ONNX again, weights inside the file",
    )


def _array(onnx: Any, tensor: Any) -> Array:
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (OSError, LookupError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        raise _unreadable(f"weights {tensor.name}: {error}") from error


def _constant(onnx: Any, node: Any) -> Array:
    value = onnx.helper.get_attribute_value(node.attribute[0])
    return _array(onnx, value) if node.attribute[0].name == "value" else np.asarray(value)


def _plain(onnx: Any, attribute: Any) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return _array(onnx, value)
    return list(value) if isinstance(value, (list, tuple)) or hasattr(value, "append") else value


def _tensor(onnx: Any, value: Any) -> tuple[str, tuple[int, ...]]:
    """Type and shape of an input; a batch axis that is named, not numbered, is one frame."""
    kind = value.type.tensor_type
    dimensions = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
    if dimensions and dimensions[0] == 0:
        dimensions[0] = 1
    if not dimensions or min(dimensions) < 1:
        raise KernelError(
            "network.shape",
            f"the shape of the input {value.name} is not fixed: {dimensions}",
            why="memory is planned before the network runs",
            next_step="export with fixed sizes, a batch axis of 1 first",
        )
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))), tuple(dimensions)
