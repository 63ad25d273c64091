"""``x[...]`` on a traced value: integers, slices, ``...`` and ``np.newaxis``, all known when the kernel is traced."""

from __future__ import annotations

import operator
from typing import Any

from ganglion.kernels.tracing.builder import refuse
from ganglion.kernels.tracing.traced import Traced


def index(value: Traced, key: Any) -> Traced:
    """Raises ``kernel.index`` for an index that is computed, out of range, or of another kind."""
    keys = list(key) if isinstance(key, tuple) else [key]
    axes = sum(1 for k in keys if k is not None and k is not Ellipsis)
    if axes > value.ndim:
        raise _refuse(f"{axes} indices", f"the value has shape {list(value.shape)}")
    if any(k is Ellipsis for k in keys):  # not `in`: it compares, and an array compares element by element
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (value.ndim - axes)
    else:
        keys += [slice(None)] * (value.ndim - axes)
    parts: list[tuple[int, int | None, int]] = []
    shape: list[int] = []
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        part = _part(k, value.shape[len(parts)])
        parts.append(part)
        if part[1] is not None:
            shape.append(part[2])
    number = value.builder.add("slice", (value.number,), parts=parts)
    if tuple(shape) != value.builder.type_of(number).shape:
        number = value.builder.add("reshape", (number,), shape=tuple(shape))
    return Traced(value.builder, number)


def _part(key: Any, extent: int) -> tuple[int, int | None, int]:
    if isinstance(key, slice):
        if any(isinstance(b, Traced) for b in (key.start, key.stop, key.step)):
            raise _refuse("a computed value bounds a slice", "shapes are fixed when the kernel is defined")
        chosen = range(*key.indices(extent))
        if not chosen:
            raise _refuse(
                f"the slice {key.start}:{key.stop}:{key.step} is empty", f"the axis has {extent} elements"
            )
        return chosen.start, chosen.step, len(chosen)
    if isinstance(key, Traced):
        raise _refuse("a computed value is an index", "which element is read must be known before any frame")
    if isinstance(key, bool):
        raise _refuse("a truth value is an index", "it would change the shape")
    try:
        position = operator.index(key)
    except TypeError:
        raise _refuse(
            f"an index of type {type(key).__name__}", "only whole numbers and slices can index"
        ) from None
    if not -extent <= position < extent:
        raise _refuse(f"index {position}", f"the axis has {extent} elements")
    return position % extent, None, 1


def _refuse(what: str, why: str) -> Exception:
    return refuse(
        "kernel.index",
        what,
        why,
        "use constant indices and slices; choose between elements with np.where",
    )
