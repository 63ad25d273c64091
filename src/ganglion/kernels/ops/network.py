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
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, Writer, flat_index, require

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


def _write(writer: Writer, types: Types, attributes: Attributes, result: TensorType) -> None:
    network: Network = attributes["network"]
    writer.define("int8_kernels.h", lambda _prefix: runtime_text())
    prefix = writer.define(network_digest(network), partial(network_c, network))
    # Bytes: a truth value takes one.
    given, found = writer.scratch("bool", types[0].elements), writer.scratch("bool", result.elements)
    work = writer.scratch("bool", plan(network).workspace_bytes) if plan(network).workspace_bytes else "0"
    shift, low = network.low + 128, network.low
    index = writer.loop(types[0].shape)
    value = writer.name()
    writer.line(f"const int32_t {value} = {writer.read(0, index)};")
    cut = f"({value} < {low} ? {low} : {value} > {low + 255} ? {low + 255} : {value})"
    writer.line(f"((int8_t *){given})[{flat_index(index, types[0].shape)}] = (int8_t)({cut} - {shift});")
    writer.end(len(types[0].shape) or 1)
    writer.line(f"{prefix}_step((const int8_t *){given}, (int8_t *){found}, {work});")
    index = writer.loop(result.shape)
    place = flat_index(index, result.shape)
    writer.line(f"{writer.result(index)} = (int32_t)((const int8_t *){found})[{place}] + {shift};")
    writer.end(len(result.shape) or 1)


def _cost(types: Types, attributes: Attributes, result: TensorType) -> int:
    operations: int = attributes["network"].operations
    return operations + types[0].elements + result.elements


def _scratch_bytes(types: Types, attributes: Attributes) -> int:
    network: Network = attributes["network"]
    sizes = types[0].elements, network.elements(network.output), plan(network).workspace_bytes
    return sum(-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes)


NETWORK = (Op("network", _type, _evaluate, None, _write, _cost, _scratch_bytes),)
