"""An ONNX graph as plain data, so that only its reader knows the format's own library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganglion.kernels.networks.layers import Array


@dataclass(frozen=True, slots=True)
class GraphNode:
    """``operator`` is the type's name; the names of operators do not clash between the two domains that are read."""

    operator: str
    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Graph:
    """One input and one output, nodes in an order in which they can run, constants by name."""

    name: str
    input_name: str
    input_dtype: str
    input_shape: tuple[int, ...]
    output_name: str
    nodes: tuple[GraphNode, ...]
    constants: Mapping[str, Array]
    opset: int
