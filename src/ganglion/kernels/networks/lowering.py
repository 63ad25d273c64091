"""From a graph to layers: values and their scales are followed from node to node, in both quantised forms.

QDQ: a float operator between DequantizeLinear and QuantizeLinear becomes one layer. QOperator: each QLinear operator is
one. What is computed is what ONNX Runtime computes at its full graph optimisation (ORT_ENABLE_ALL, the default) with
session.qdqisint8allowed=1, so that operators are joined to int8 ones on every processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.kernels.networks import arithmetic, faults
from ganglion.kernels.networks.graph import Graph, GraphNode
from ganglion.kernels.networks.layers import Array, Layer, Lookup, Network, Permute, Quantised
from ganglion.kernels.networks.validity import ELEMENTS_MAX, LAYERS_MAX

PERMUTED_AXES_MAX = 4
ONNX_INT8 = 3
"""Its number among ONNX's types of data."""


@dataclass(frozen=True, slots=True)
class Held:
    """An int8 value: its number, its shape as ONNX sees it (batch first), and its scale where the file has said it.

    In memory channels are last; ``plain`` says that it lies in ONNX's own order instead.
    """

    number: int
    shape: tuple[int, ...]
    scale: Quantised | None = None
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """A constant of whole numbers with its scale, from a DequantizeLinear.

    ``axis``: along which several scales lie; None where the operator says that it is that of its results.
    """

    integers: Array
    scale: Array
    zero: Array
    axis: int | None


@dataclass(frozen=True, slots=True)
class Pending:
    """A float operator that still waits for the scale of its result."""

    node: GraphNode
    inputs: tuple[Real | Weights | None, ...]
    low: float = -math.inf
    high: float = math.inf
    clip: GraphNode | None = None


@dataclass(frozen=True, slots=True)
class Real:
    """A value read as real numbers: what comes out of DequantizeLinear."""

    held: Held
    scale: Quantised


Operation = Callable[["Lowering", GraphNode, list[Held | Weights | None], Quantised | None], Held]


@dataclass(slots=True)
class Lowering:
    """Layers so far, and what each name of the graph stands for."""

    graph: Graph
    layers: list[Layer] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    real: dict[str, Real | Weights | Pending] = field(default_factory=dict)
    entry: Quantised | None = None
    unsigned: bool | None = None

    # --- what operations use ---

    def add(
        self, layer: Layer, shape: tuple[int, ...], scale: Quantised | None, *, plain: bool = False
    ) -> Held:
        """Appends a layer; its result, shaped as ONNX says."""
        if len(self.layers) >= LAYERS_MAX or math.prod(shape) > ELEMENTS_MAX:
            raise KernelError(
                "network.size",
                f"the network has more than {LAYERS_MAX} layers, or a value of more than {ELEMENTS_MAX} integers",
                why="it is meant for the memory of a device",
                next_step="make it smaller, or run it in ONNX Runtime on a larger tier",
            )
        self.layers.append(layer)
        return Held(len(self.layers), shape, scale, plain)

    def ordered(self, value: Held, *, plain: bool) -> Held:
        """The value in ONNX's own order of axes, or with channels last."""
        rank = len(value.shape)
        if value.plain == plain or rank < 3:
            return replace(value, plain=plain)
        shape = value.shape[1:] if value.plain else (*value.shape[2:], value.shape[1])
        axes = (*range(1, rank - 1), 0) if value.plain else (rank - 2, *range(rank - 2))
        return replace(self.permuted(value, shape, axes), shape=value.shape, plain=plain)

    def permuted(self, value: Held, shape: tuple[int, ...], axes: tuple[int, ...]) -> Held:
        """Axes in another order; nothing happens when no integer would move."""
        moving = [a for a in axes if shape[a] != 1]
        if moving == sorted(moving):
            return value
        if len(moving) > PERMUTED_AXES_MAX:
            raise KernelError(
                "network.axes",
                f"an order of axes with {len(moving)} of them is changed",
                why=f"at most {PERMUTED_AXES_MAX} axes longer than 1 are",
                next_step="merge axes with a Reshape, or change their order in two steps",
            )
        kept = sorted(moving)
        layer = Permute(value.number, tuple(shape[a] for a in kept), tuple(kept.index(a) for a in moving))
        return self.add(layer, value.shape, value.scale, plain=value.plain)

    def constant(self, node: GraphNode, index: int) -> Array | None:
        """A constant input; None when it is absent."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        found = self.graph.constants.get(node.inputs[index])
        if found is None:
            raise faults.unsupported(node, f"its input {node.inputs[index]} is computed, not constant")
        return found

    def quantised(self, node: GraphNode, scale_at: int, zero_at: int) -> Quantised:
        """A scale and a zero point among the inputs of a node, for values of int8 or of uint8, all of one kind.

        Zero points of uint8 become 128 less, as all values do.
        """
        scale, zero = self.constant(node, scale_at), self.constant(node, zero_at)
        if zero is None:
            zero = np.zeros(1, self._default(node))
        if scale is None or scale.size != 1 or zero.size != 1 or zero.dtype not in (np.int8, np.uint8):
            raise faults.weights(node, "values need one scale and one zero point of int8 or uint8")
        if not (np.isfinite(scale).all() and float(scale.ravel()[0]) > 0):
            raise faults.weights(node, "a scale is not positive")
        self._of_one_kind(node, zero.dtype)
        return Quantised(float(np.float32(scale.ravel()[0])), int(zero.ravel()[0]) - self.lift)

    def _default(self, node: GraphNode) -> type[np.generic]:
        """What ONNX takes where no zero point says it: uint8 when it quantises, else the operand's own."""
        if node.operator == "QuantizeLinear":
            return np.int8 if node.attributes.get("output_dtype", 0) == ONNX_INT8 else np.uint8
        return np.int8 if self.unsigned is False else np.uint8

    def _of_one_kind(self, node: GraphNode, dtype: np.dtype[Any]) -> None:
        unsigned = dtype == np.uint8
        if self.unsigned not in (None, unsigned):
            raise KernelError(
                "network.type",
                f"{node.operator} ({node.label}) has values of {dtype}, others are not",
                why="ONNX Runtime's operators take values of one type",
                next_step="quantise all activations with one activation_type: QuantType.QInt8 or QuantType.QUInt8",
            )
        self.unsigned = unsigned

    @property
    def lift(self) -> int:
        """What the file's integers are more than ours."""
        return 128 if self.unsigned else 0

    def value(self, node: GraphNode, index: int, scale: Quantised) -> Held:
        """The int8 value of an input, whose scale is said beside it."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name not in self.held:
            kind = "a constant" if name in self.graph.constants else "not quantised"
            raise faults.unsupported(node, f"its operand {name} is {kind}")
        held = self.held[name]
        if held.scale is None:
            self.held[name] = replace(held, scale=scale)
        if held.number == 0 and self.entry is None:
            self.entry = scale
        return replace(held, scale=scale)

    # --- walking the graph ---

    def walk(self, quantised: dict[str, Operation], moved: dict[str, Operation]) -> Network:
        """The whole graph, by the operations for quantised operators and for those that only move values."""
        graph = self.graph
        rank = len(graph.input_shape)
        if graph.input_dtype in ("int8", "uint8"):
            self.unsigned = graph.input_dtype == "uint8"
            self.held[graph.input_name] = Held(0, graph.input_shape, None, plain=rank > 2)
        elif graph.input_dtype != "float32":
            raise KernelError(
                "network.type",
                f"the input {graph.input_name} is of {graph.input_dtype}",
                why="values are int8 or uint8, or real numbers that the network quantises itself",
                next_step="quantise with activation_type=QuantType.QInt8",
            )
        if graph.input_shape[0] != 1:
            raise KernelError(
                "network.shape",
                f"the network takes {graph.input_shape[0]} frames at once",
                why="a stage computes one frame at a time",
                next_step="export it with a batch axis of 1",
            )
        for node in graph.nodes:
            self._node(node, quantised, moved)
        return self._finished()

    def _node(self, node: GraphNode, quantised: dict[str, Operation], moved: dict[str, Operation]) -> None:
        if len([o for o in node.outputs if o]) != 1 or not node.inputs:
            raise faults.unsupported(node, "it has more than one result, or no operand")
        out = node.outputs[0]
        if node.operator == "DequantizeLinear":
            self.real[out] = self._dequantise(node)
        elif node.operator == "QuantizeLinear":
            self.held[out] = self._quantise(node, quantised, moved)
        elif any(name in self.real for name in node.inputs if name):
            self.real[out] = self._pend(node, quantised, moved)
        elif node.operator in moved and node.inputs[0] in self.held:
            given: list[Held | Weights | None] = [self.held.get(n) for n in node.inputs]
            self.held[out] = moved[node.operator](self, node, given, None)
        elif node.operator in quantised and node.operator.startswith("Q"):
            self.held[out] = quantised[node.operator](self, node, [], None)
        elif node.inputs and node.inputs[0] == self.graph.input_name and self.graph.input_dtype == "float32":
            raise faults.not_quantised(node, "it comes before the first QuantizeLinear")
        else:
            raise faults.unsupported(node, "it is not among the operators that are known here")

    def _dequantise(self, node: GraphNode) -> Real | Weights:
        integers = self.graph.constants.get(node.inputs[0])
        if integers is not None:
            scale, zero = self.constant(node, 1), self.constant(node, 2)
            if scale is None:
                raise faults.weights(node, "a scale is missing")
            zero = np.zeros(scale.shape, integers.dtype) if zero is None else zero
            return Weights(integers, scale, zero, int(node.attributes.get("axis", 1)))
        scale_of = self.quantised(node, 1, 2)
        return Real(self.value(node, 0, scale_of), scale_of)

    def _pend(self, node: GraphNode, quantised: dict[str, Operation], moved: dict[str, Operation]) -> Pending:
        first = self.real.get(node.inputs[0])
        if node.operator in ("Relu", "Clip") and isinstance(first, (Real, Pending)):
            low, high = self.bounds(node)
            if isinstance(first, Real):
                return Pending(node, (first,), low, high, node)
            return replace(first, low=max(low, first.low), high=min(high, first.high), clip=node)
        if node.operator not in quantised and node.operator not in moved:
            raise faults.unsupported(node, "it is not among the operators that are known here")
        inputs: list[Real | Weights | None] = []
        for name in node.inputs:
            operand = self.real.get(name)
            if isinstance(operand, Pending):
                raise faults.not_quantised(node, f"its operand {name} is not quantised")
            if operand is None and name and name not in self.graph.constants:
                raise faults.not_quantised(node, f"its operand {name} is not quantised")
            inputs.append(operand)
        return Pending(node, tuple(inputs))

    def bounds(self, node: GraphNode) -> tuple[float, float]:
        """What a Relu or Clip keeps."""
        if node.operator == "Relu":
            return 0.0, math.inf
        bounds = []
        for k, (word, none) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
            found = self.constant(node, k)
            number = node.attributes.get(word, none) if found is None else found.ravel()[0]
            bounds.append(float(np.float32(number)))
        return bounds[0], bounds[1]

    def _quantise(
        self, node: GraphNode, quantised: dict[str, Operation], moved: dict[str, Operation]
    ) -> Held:
        after = self.quantised(node, 1, 2)
        source = node.inputs[0]
        if source == self.graph.input_name and self.graph.input_dtype == "float32":
            if self.entry not in (None, after):
                raise faults.not_quantised(node, "the input is quantised in two ways")
            self.entry = after
            return Held(0, self.graph.input_shape, after, plain=len(self.graph.input_shape) > 2)
        found = self.real.get(source)
        if isinstance(found, Real):
            return self.again(found, after)
        if not isinstance(found, Pending):
            raise faults.not_quantised(node, f"its operand {source} is not computed from int8 values")
        if found.node is found.clip and isinstance(found.inputs[0], Real):
            return self.again(found.inputs[0], after, found.low, found.high)
        if found.clip is not None and not _contains(found.low, found.high, after):
            raise faults.activation(found.clip)
        given = [replace(i.held, scale=i.scale) if isinstance(i, Real) else i for i in found.inputs]
        operation = quantised.get(found.node.operator) or moved[found.node.operator]
        return operation(self, found.node, list(given), after)

    def again(self, real: Real, after: Quantised, low: float = -math.inf, high: float = math.inf) -> Held:
        """A value in another scale: a table of its 256 values, or nothing to do."""
        table = arithmetic.lookup_table(real.scale, after, low, high)
        if np.array_equal(table, np.arange(-128, 128)):
            return replace(real.held, scale=after)
        layer = Lookup(real.held.number, math.prod(real.held.shape), table)
        return self.add(layer, real.held.shape, after, plain=real.held.plain)

    def _finished(self) -> Network:
        graph = self.graph
        name = graph.output_name
        found = self.real.get(name)
        if isinstance(found, Real):
            held = replace(found.held, scale=found.scale)
        elif name in self.held:
            held = self.held[name]
        else:
            raise KernelError(
                "network.float",
                f"the output {name} is not quantised",
                why="it is computed with real numbers, or nothing computes it",
                next_step="end the network with QuantizeLinear and DequantizeLinear",
            )
        held = self.ordered(held, plain=True)
        return Network(
            graph.name,
            graph.input_shape[1:],
            held.shape[1:],
            tuple(self.layers),
            held.number,
            self.entry,
            held.scale,
            real_input=graph.input_dtype == "float32",
            real_output=isinstance(found, Real),
            unsigned=bool(self.unsigned),
        )


def _contains(low: float, high: float, scale: Quantised) -> bool:
    """A clip changes nothing: the result's scale holds no value outside it."""
    slack = float(np.finfo(np.float32).eps)
    first, last = arithmetic.dequantise(np.array([-128, 127]), scale)
    return bool(low - float(first) <= slack and float(last) - high <= slack)
