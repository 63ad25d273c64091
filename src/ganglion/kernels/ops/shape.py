"""Operations that move elements and compute nothing: constants, slices, reshapes, joins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, Writer, require

Part = tuple[int, int | None, int]
"""One axis of a slice: (start, step, count); step None takes the single element ``start`` and drops the axis."""


def _free(_types: Types, _attributes: Attributes, _result: TensorType) -> int:
    return 0


def _given(_types: Types, attributes: Attributes) -> TensorType:
    return TensorType(attributes["dtype"], tuple(attributes["shape"]))


def _outside(_arrays: Sequence[Array], _attributes: Attributes, _result: TensorType) -> Array:
    raise AssertionError("inputs and state are given, not computed")


def _const_type(_types: Types, attributes: Attributes) -> TensorType:
    return TensorType.of(attributes["value"])


def _const(_arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
    return np.asarray(attributes["value"])[np.newaxis]


def _slice_type(types: Types, attributes: Attributes) -> TensorType:
    parts: Sequence[Part] = attributes["parts"]
    shape = types[0].shape
    require(len(parts) == len(shape), "a slice names every axis")
    for (start, step, count), extent in zip(parts, shape, strict=True):
        last = start + (count - 1) * (step or 0)
        require(count >= 1 and 0 <= start < extent and 0 <= last < extent, f"{start}..{last} of {extent}")
    return TensorType(types[0].dtype, tuple(count for _, step, count in parts if step is not None))


def _slice(arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
    array = arrays[0]
    index: list[Any] = [slice(None)]
    for start, step, count in attributes["parts"]:
        index.append(start if step is None else np.arange(count) * step + start)
    for axis in range(len(index) - 1, 0, -1):
        array = np.take(array, index[axis], axis=axis)
    return array


def _reshape_type(types: Types, attributes: Attributes) -> TensorType:
    shape = tuple(attributes["shape"])
    require(
        math.prod(shape) == types[0].elements, f"{list(types[0].shape)} has not the elements of {list(shape)}"
    )
    return TensorType(types[0].dtype, shape)


def _reshape(arrays: Sequence[Array], _attributes: Attributes, result: TensorType) -> Array:
    return arrays[0].reshape(arrays[0].shape[:1] + result.shape)


def _transpose_type(types: Types, attributes: Attributes) -> TensorType:
    axes = tuple(attributes["axes"])
    require(sorted(axes) == list(range(len(types[0].shape))), f"axes {axes} of {types[0]}")
    return TensorType(types[0].dtype, tuple(types[0].shape[a] for a in axes))


def _transpose(arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
    return arrays[0].transpose((0, *(a + 1 for a in attributes["axes"])))


def _broadcast_type(types: Types, attributes: Attributes) -> TensorType:
    shape = tuple(attributes["shape"])
    fits = np.broadcast_shapes(types[0].shape, shape) == shape
    require(fits, f"{list(types[0].shape)} does not broadcast to {list(shape)}")
    return TensorType(types[0].dtype, shape)


def _broadcast(arrays: Sequence[Array], _attributes: Attributes, result: TensorType) -> Array:
    missing = len(result.shape) + 1 - arrays[0].ndim
    level = arrays[0].reshape(arrays[0].shape[:1] + (1,) * missing + arrays[0].shape[1:])
    return np.broadcast_to(level, level.shape[:1] + result.shape)


def _concat_type(types: Types, attributes: Attributes) -> TensorType:
    axis = attributes["axis"]
    first = types[0]
    require(len({t.dtype for t in types}) == 1, "parts of one dtype")
    require(0 <= axis < len(first.shape), f"axis {axis} of {first}")
    rests = {t.shape[:axis] + t.shape[axis + 1 :] for t in types}
    require(len({len(t.shape) for t in types}) == 1 and len(rests) == 1, "parts differ in other axes")
    total = sum(t.shape[axis] for t in types)
    return TensorType(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))


def _concat(arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
    frames = max(a.shape[0] for a in arrays)
    return np.concatenate(
        [np.broadcast_to(a, (frames, *a.shape[1:])) for a in arrays], attributes["axis"] + 1
    )


def _write_concat(writer: Writer, types: Types, attributes: Attributes, _result: TensorType) -> None:
    axis, offset = attributes["axis"], 0
    for operand, part in enumerate(types):
        index = writer.loop(part.shape)
        place = list(index)
        place[axis] = f"({index[axis]} + {offset})" if offset else index[axis]
        writer.line(f"{writer.rows}{writer.result(place)} = {writer.read(operand, index)};")
        writer.end(len(part.shape))
        offset += part.shape[axis]


SHAPE = (
    Op("input", _given, _outside, cost=_free),
    Op("state", _given, _outside, cost=_free),
    Op("const", _const_type, _const, cost=_free),
    Op("slice", _slice_type, _slice, cost=_free),
    Op("reshape", _reshape_type, _reshape, cost=_free),
    Op("transpose", _transpose_type, _transpose, cost=_free),
    Op("broadcast", _broadcast_type, _broadcast, cost=_free),
    Op("concat", _concat_type, _concat, write=_write_concat, grouped=True),
)
