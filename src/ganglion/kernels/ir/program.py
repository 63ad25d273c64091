"""The kernel IR: a flat list of nodes with static shapes, each value computed once, in an order that is fixed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ganglion.core.errors import DataError
from ganglion.core.schema import TensorType
from ganglion.kernels.networks.layers import Network
from ganglion.kernels.networks.stored import network_json, network_of
from ganglion.kernels.ops.op import Array

FORMAT = 3
"""Changes with every change of what a stored program means: of its form, or of the bits an operation gives."""


@dataclass(frozen=True, slots=True)
class Node:
    """One value. ``inputs`` are the numbers of earlier nodes; ``source`` is ``file:line``, for people only."""

    op: str
    inputs: tuple[int, ...]
    type: TensorType
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """One field of a key's state: its ``state`` node, its first value, and the node of its next value."""

    name: str
    node: int
    initial: Array
    after: int


@dataclass(frozen=True, slots=True)
class Program:
    """A traced kernel. ``inputs``: (field name, ``input`` node); ``outputs``: (name, node); ``emit``: a bool node."""

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    emit: int | None = None
    state: tuple[State, ...] = ()

    @property
    def results(self) -> Iterator[int]:
        """Every node that leaves the program."""
        yield from (n for _, n in self.outputs)
        yield from (s.after for s in self.state)
        if self.emit is not None:
            yield self.emit

    @property
    def digest(self) -> str:
        """Identity: SHA-256 of the canonical JSON without names of people's files."""
        text = json.dumps(self.to_json(sources=False), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self, *, sources: bool = True) -> dict[str, Any]:
        """Stable JSON; `from_json` reads it."""
        return {
            "format": FORMAT,
            "name": self.name,
            "nodes": [node_json(n, sources=sources) for n in self.nodes],
            "inputs": [list(i) for i in self.inputs],
            "outputs": [list(o) for o in self.outputs],
            "emit": self.emit,
            "state": [
                {"name": s.name, "node": s.node, "initial": _value_json(s.initial), "after": s.after}
                for s in self.state
            ],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Program:
        """Raises `DataError` ``kernel.program`` for another form; `check` it before use."""
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']}, not {FORMAT}")
            return Program(
                str(value["name"]),
                tuple(_node(n) for n in value["nodes"]),
                tuple((str(name), int(node)) for name, node in value["inputs"]),
                tuple((str(name), int(node)) for name, node in value["outputs"]),
                None if value["emit"] is None else int(value["emit"]),
                tuple(
                    State(str(s["name"]), int(s["node"]), _value(s["initial"]), int(s["after"]))
                    for s in value["state"]
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(
                "kernel.program",
                "this is not a kernel's program",
                why=f"{type(error).__name__}: {error}",
                next_step="write it with the same version of Ganglion that reads it",
            ) from error


def node_json(node: Node, *, sources: bool) -> dict[str, Any]:
    """One node as JSON; ``sources``: with the line it came from."""
    attributes = {k: _attribute_json(v, sources=sources) for k, v in node.attributes.items()}
    row = {
        "op": node.op,
        "inputs": list(node.inputs),
        "dtype": node.type.dtype,
        "shape": list(node.type.shape),
        "attributes": json.loads(json.dumps(attributes)),
    }
    return row | {"source": node.source} if sources else row


def _attribute_json(value: Any, *, sources: bool) -> Any:
    if isinstance(value, np.ndarray):
        return _value_json(value)
    if isinstance(value, Network):
        return network_json(value)
    return value.to_json(sources=sources) if isinstance(value, Program) else value


def _attribute(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "layers" in value:
            return network_of(value)
        return _value(value) if "bytes" in value else Program.from_json(value)
    return value


def _node(row: Mapping[str, Any]) -> Node:
    attributes = {k: _attribute(v) for k, v in row["attributes"].items()}
    return Node(
        str(row["op"]),
        tuple(int(i) for i in row["inputs"]),
        TensorType(str(row["dtype"]), tuple(int(d) for d in row["shape"])),
        attributes,
        str(row.get("source", "")),
    )


def _value_json(value: Array) -> dict[str, Any]:
    kind = TensorType.of(value)
    little = np.array(value, kind.numpy.newbyteorder("<"), order="C")
    return {
        "dtype": kind.dtype,
        "shape": list(kind.shape),
        "bytes": base64.b64encode(little.tobytes()).decode(),
    }


def _value(value: Mapping[str, Any]) -> Array:
    kind = TensorType(str(value["dtype"]), tuple(int(d) for d in value["shape"]))
    content = base64.b64decode(value["bytes"], validate=True)
    return np.frombuffer(content, kind.numpy.newbyteorder("<")).astype(kind.numpy).reshape(kind.shape)
