"""A whole int8 network as one operation: i32 within the range of its activations in, the same out.

What its layers compute, and in which order, is said by `ganglion.kernels.networks` (docs/adr/0011); the network itself
is an attribute, so it is part of a program's identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.networks.emission import network_c, runtime_text
from ganglion.kernels.networks.layers import Network
from ganglion.kernels.networks.memory import plan
from ganglion.kernels.networks.reference import compute
from ganglion.kernels.networks.stored import network_digest
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, Writer, require

_ALIGNMENT_BYTES = 16


def _type(types: Types, attributes: Attributes) -> TensorType:
    network: Network = attributes["network"]
    wanted = TensorType("i32", network.input_shape)
    require(len(types) == 1 and types[0] == wanted, f"the network takes {wanted}")
    return TensorType("i32", network.output_shape)


def _evaluate(arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
    """Values outside the range count as its nearest end."""
    network: Network = attributes["network"]
    whole = np.clip(arrays[0], network.low, network.low + 255) - network.low - 128
    return compute(network, whole.astype(np.int8)).astype(np.int32) + np.int32(network.low + 128)


def _write(writer: Writer, _types: Types, attributes: Attributes, result: TensorType) -> None:
    """Operand and result lie in memory as bytes: the layers read the one and write the other."""
    network: Network = attributes["network"]
    writer.define("int8_kernels.h", lambda _prefix: runtime_text())
    prefix = writer.define(network_digest(network), partial(network_c, network))
    work = writer.scratch("bool", plan(network).workspace_bytes) if plan(network).workspace_bytes else "0"
    first = writer.result(["0"] * len(result.shape))
    writer.line(f"{prefix}_step({writer.pointer(0)}, &{first}, {work});")


def _cost(types: Types, attributes: Attributes, result: TensorType) -> int:
    operations: int = attributes["network"].operations
    return operations + types[0].elements + result.elements


def _scratch_bytes(_types: Types, attributes: Attributes) -> int:
    return -(-plan(attributes["network"]).workspace_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _least(attributes: Attributes) -> int:
    network: Network = attributes["network"]
    return network.low


def _saturate_type(types: Types, attributes: Attributes) -> TensorType:
    least = attributes["least"]
    require(len(types) == 1 and types[0].dtype == "i32", "saturate takes whole numbers")
    require(isinstance(least, int) and abs(least) <= 1 << 30, "saturate needs a range of 256")
    return types[0]


def _saturate(arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
    least = attributes["least"]
    return np.clip(arrays[0], np.int32(least), np.int32(least + 255))


def _saturate_c(_types: Types, attributes: Attributes, operands: Sequence[str]) -> str:
    least = attributes["least"]
    return f"gg_mini(gg_maxi({operands[0]}, {least}), {least + 255})"


NETWORK = (
    Op("network", _type, _evaluate, None, _write, _cost, _scratch_bytes, least=_least),
    # What a network is given, where nothing else has it as bytes: the nearest ends of its range.
    Op("saturate", _saturate_type, _saturate, _saturate_c, least=lambda attributes: attributes["least"]),
)
