"""A program as an ONNX model with a batch axis: for other tools, and as an oracle that computes in its own order.

State goes in and comes out as further inputs and outputs. ONNX fixes no order of evaluation, so the results are near,
not the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.core.schema import TensorType
from ganglion.kernels.ir.program import Node, Program
from ganglion.kernels.onnx_layers import LayerExporter
from ganglion.kernels.ops.quantisation import RANGES

OPSET = 20
PLAIN = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "neg": "Neg",
    "abs": "Abs",
    "lt": "Less",
    "le": "LessOrEqual",
    "eq": "Equal",
    "isnan": "IsNaN",
    "sqrt": "Sqrt",
    "floor": "Floor",
    "rint": "Round",
    "exp": "Exp",
    "log": "Log",
    "sin": "Sin",
    "cos": "Cos",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "copy": "Identity",
    "min": "Min",
    "max": "Max",
}
LOGIC = {
    "and": "And",
    "or": "Or",
    "xor": "Xor",
    "add": "Or",
    "mul": "And",
    "min": "And",
    "max": "Or",
    "not": "Not",
}
BITS = {"and": "BitwiseAnd", "or": "BitwiseOr", "xor": "BitwiseXor", "not": "BitwiseNot"}
REDUCED = {"sum": "ReduceSum", "largest": "ReduceMax", "smallest": "ReduceMin"}


def export(program: Program) -> Any:
    """The model (`onnx.ModelProto`). Raises `KernelError` ``kernel.onnx`` without onnx or for what ONNX lacks."""
    try:
        import onnx
    except ImportError as error:
        raise KernelError(
            "kernel.onnx",
            "a kernel cannot be exported: onnx is not installed",
            why=str(error),
            next_step="pip install 'ganglion[models]'",
        ) from error
    return _Exporter(program, onnx).model()


class _Exporter:
    def __init__(self, program: Program, onnx: Any) -> None:
        self._program = program
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._kinds = {
            "f32": onnx.TensorProto.FLOAT,
            "i32": onnx.TensorProto.INT32,
            "bool": onnx.TensorProto.BOOL,
        }

    def model(self) -> Any:
        helper = self._onnx.helper
        for number, node in enumerate(self._program.nodes):
            self._add(number, node)
        inputs = [(name, n) for name, n in self._program.inputs]
        inputs += [(f"{s.name}_before", s.node) for s in self._program.state]
        outputs = [(name, n) for name, n in self._program.outputs]
        outputs += [(f"{s.name}_after", s.after) for s in self._program.state]
        if self._program.emit is not None:
            outputs.append(("emit", self._program.emit))
        for name, number in outputs:
            self._put("Identity", [self._batched(number)], f"out_{name}")
        graph = helper.make_graph(
            self._nodes,
            self._program.name,
            [self._info(f"v{n}", n) for _, n in inputs],
            [self._info(f"out_{name}", n) for name, n in outputs],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 9
        self._onnx.checker.check_model(model)
        return model

    def _info(self, name: str, number: int) -> Any:
        kind = self._type(number)
        return self._onnx.helper.make_tensor_value_info(name, self._kinds[kind.dtype], ["B", *kind.shape])

    def _type(self, number: int) -> TensorType:
        return self._program.nodes[number].type

    def _put(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self._nodes.append(self._onnx.helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def _constant(self, value: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _fresh(self) -> str:
        return f"w{len(self._nodes)}"

    def _shaped(self, number: int, shape: Sequence[int]) -> str:
        """A value with a batch axis and this shape behind it; constants get a batch axis of 1."""
        node = self._program.nodes[number]
        if node.op == "const":
            return self._constant(np.asarray(node.attributes["value"]).reshape(1, *shape))
        if tuple(shape) == node.type.shape:
            return f"v{number}"
        return self._put(
            "Reshape", [f"v{number}", self._constant(np.array([-1, *shape], np.int64))], self._fresh()
        )

    def _batched(self, number: int) -> str:
        """A value with as many frames as the first input, also when it is a constant."""
        shape = self._type(number).shape
        if self._program.nodes[number].op != "const":
            return self._shaped(number, shape)
        frames = self._put("Shape", [f"v{self._program.inputs[0][1]}"], self._fresh(), start=0, end=1)
        whole = self._put(
            "Concat", [frames, self._constant(np.array(shape, np.int64))], self._fresh(), axis=0
        )
        return self._put("Expand", [self._shaped(number, shape), whole], self._fresh())

    def _level(self, number: int, rank: int) -> str:
        """A value of lower rank with axes of extent 1 behind the batch axis, so that it broadcasts as frames do."""
        shape = self._type(number).shape
        return self._shaped(number, (1,) * (rank - len(shape)) + shape)

    def _add(self, number: int, node: Node) -> None:
        if node.op in ("input", "state", "const"):
            return
        special: dict[str, Callable[[int, Node], None]] = {
            "where": self._where,
            "cast": self._cast,
            "slice": self._slice,
            "reshape": self._reshape,
            "transpose": self._transpose,
            "broadcast": self._broadcast,
            "concat": self._concat,
            "argmax": self._argmax,
            "matmul": self._matmul,
            "banded": self._banded,
            "rfft": self._rfft,
            "quantize": self._quantize,
            "dequantize": self._dequantize,
            "network": self._network,
            "ne": self._different,
            **dict.fromkeys(REDUCED, self._reduce),
        }
        if node.op in special:
            special[node.op](number, node)
            return
        kind = self._type(node.inputs[0]).dtype
        table = LOGIC if kind == "bool" else BITS if kind == "i32" and node.op in BITS else PLAIN
        if node.op not in table:
            raise KernelError(
                "kernel.onnx",
                f"{node.op} at {node.source} has no counterpart in ONNX",
                why="the export covers what ONNX's standard operators compute",
                next_step="keep the kernel as it is: exporting is not needed to run it",
            )
        self._put(table[node.op], [self._level(i, len(node.type.shape)) for i in node.inputs], f"v{number}")

    def _different(self, number: int, node: Node) -> None:
        same = self._put("Equal", [self._level(i, len(node.type.shape)) for i in node.inputs], self._fresh())
        self._put("Not", [same], f"v{number}")

    def _where(self, number: int, node: Node) -> None:
        condition, a, b = (self._level(i, len(node.type.shape)) for i in node.inputs)
        if node.type.dtype != "bool":
            self._put("Where", [condition, a, b], f"v{number}")
            return
        # ONNX Runtime has no choice between truth values.
        chosen = self._put("And", [condition, a], self._fresh())
        other = self._put("And", [self._put("Not", [condition], self._fresh()), b], self._fresh())
        self._put("Or", [chosen, other], f"v{number}")

    def _cast(self, number: int, node: Node) -> None:
        self._put(
            "Cast",
            [self._level(node.inputs[0], len(node.type.shape))],
            f"v{number}",
            to=self._kinds[node.type.dtype],
        )

    def _slice(self, number: int, node: Node) -> None:
        source = node.inputs[0]
        value = self._shaped(source, self._type(source).shape)
        for axis, (start, step, count) in enumerate(node.attributes["parts"], start=1):
            stride = step or 1
            end = start + count * stride
            bounds = [[start], [end if end >= 0 else -(1 << 31)], [axis], [stride]]
            value = self._put(
                "Slice", [value, *(self._constant(np.array(b, np.int64)) for b in bounds)], self._fresh()
            )
        self._put(
            "Reshape", [value, self._constant(np.array([-1, *node.type.shape], np.int64))], f"v{number}"
        )

    def _reshape(self, number: int, node: Node) -> None:
        shape = self._constant(np.array([-1, *node.type.shape], np.int64))
        source = node.inputs[0]
        self._put("Reshape", [self._shaped(source, self._type(source).shape), shape], f"v{number}")

    def _transpose(self, number: int, node: Node) -> None:
        order = [0, *(a + 1 for a in node.attributes["axes"])]
        source = node.inputs[0]
        self._put("Transpose", [self._shaped(source, self._type(source).shape)], f"v{number}", perm=order)

    def _broadcast(self, number: int, node: Node) -> None:
        shape = self._constant(np.array([1, *node.type.shape], np.int64))
        self._put("Expand", [self._level(node.inputs[0], len(node.type.shape)), shape], f"v{number}")

    def _concat(self, number: int, node: Node) -> None:
        parts = [self._batched(i) for i in node.inputs]
        self._put("Concat", parts, f"v{number}", axis=node.attributes["axis"] + 1)

    def _reduce(self, number: int, node: Node) -> None:
        source = node.inputs[0]
        kind = self._type(source)
        value = self._shaped(source, kind.shape)
        if kind.dtype == "bool":
            value = self._put("Cast", [value], self._fresh(), to=self._kinds["i32"])
        axis = self._constant(np.array([node.attributes["axis"] + 1], np.int64))
        logic = kind.dtype == "bool"
        found = self._put(
            REDUCED[node.op], [value, axis], self._fresh() if logic else f"v{number}", keepdims=0
        )
        if logic:
            self._put("Cast", [found], f"v{number}", to=self._kinds["bool"])

    def _argmax(self, number: int, node: Node) -> None:
        source = node.inputs[0]
        value = self._shaped(source, self._type(source).shape)
        found = self._put("ArgMax", [value], self._fresh(), axis=node.attributes["axis"] + 1, keepdims=0)
        self._put("Cast", [found], f"v{number}", to=self._kinds["i32"])

    def _matmul(self, number: int, node: Node) -> None:
        self._put("MatMul", [self._shaped(i, self._type(i).shape) for i in node.inputs], f"v{number}")

    def _banded(self, number: int, node: Node) -> None:
        a, weights = node.inputs
        dense = np.zeros((self._type(a).shape[1], node.type.shape[1]), np.float32)
        packed, at = np.asarray(self._program.nodes[weights].attributes["value"]), 0
        for column, (first, last) in enumerate(node.attributes["bands"]):
            dense[first:last, column] = packed[at : at + last - first]
            at += last - first
        self._put("MatMul", [self._shaped(a, self._type(a).shape), self._constant(dense)], f"v{number}")

    def _rfft(self, number: int, node: Node) -> None:
        n = self._type(node.inputs[0]).shape[0]
        angle = 2 * np.pi * np.outer(np.arange(n), np.arange(n // 2 + 1)) / n
        matrix = np.concatenate([np.cos(angle), -np.sin(angle)], axis=1).astype(np.float32)
        flat = self._put(
            "MatMul", [self._shaped(node.inputs[0], (n,)), self._constant(matrix)], self._fresh()
        )
        shape = self._constant(np.array([-1, *node.type.shape], np.int64))
        self._put("Reshape", [flat, shape], f"v{number}")

    def _quantize(self, number: int, node: Node) -> None:
        """ONNX's own operator where one scale holds for everything, else its parts."""
        rank = len(node.type.shape)
        x, scale, zero = (self._level(i, rank) for i in node.inputs)
        ends = [self._program.nodes[i] for i in node.inputs[1:]]
        if all(e.op == "const" and e.type.elements == 1 for e in ends):
            step, centre = (np.asarray(e.attributes["value"]).reshape(()) for e in ends)
            inputs = [x, self._constant(step), self._constant(centre.astype(node.attributes["dtype"]))]
            found = self._put("QuantizeLinear", inputs, self._fresh())
            self._put("Cast", [found], f"v{number}", to=self._kinds["i32"])
            return
        low, high = (self._constant(np.array(v, np.int32)) for v in RANGES[node.attributes["dtype"]])
        centre_name = self._put("Min", [self._put("Max", [zero, low], self._fresh()), high], self._fresh())
        value = self._put("Div", [x, scale], self._fresh())
        for operator, end in (("Max", low), ("Min", high)):
            room = self._put("Sub", [end, centre_name], self._fresh())
            room = self._put("Cast", [room], self._fresh(), to=self._kinds["f32"])
            value = self._put(operator, [value, room], self._fresh())
        whole = self._put(
            "Cast", [self._put("Round", [value], self._fresh())], self._fresh(), to=self._kinds["i32"]
        )
        self._put("Add", [whole, centre_name], f"v{number}")

    def _dequantize(self, number: int, node: Node) -> None:
        q, scale, zero = (self._level(i, len(node.type.shape)) for i in node.inputs)
        apart = self._put("Sub", [q, zero], self._fresh())
        real = self._put("Cast", [apart], self._fresh(), to=self._kinds["f32"])
        self._put("Mul", [real, scale], f"v{number}")

    def _network(self, number: int, node: Node) -> None:
        types = self._onnx.TensorProto
        kinds = {"int8": types.INT8, "int32": types.INT32, "float": types.FLOAT, "double": types.DOUBLE}

        def put(op: str, *inputs: str, **attributes: Any) -> str:
            return self._put(op, inputs, self._fresh(), **attributes)

        source = node.inputs[0]
        given = self._shaped(source, self._type(source).shape)
        found = LayerExporter(put, self._constant, kinds).export(node.attributes["network"], given)
        self._put("Identity", [found], f"v{number}")
