"""``gg.scan``: a loop along an axis whose steps hang together, for filters and recursions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.cost import operations
from ganglion.kernels.ir.passes import simplify
from ganglion.kernels.ir.program import Program
from ganglion.kernels.ops.loop import places
from ganglion.kernels.tracing.builder import Builder, refuse
from ganglion.kernels.tracing.traced import Traced, innermost, lift

Step = Callable[[tuple[Any, ...], Any], tuple[Sequence[Any], Any]]


def scan(step: Step, init: Sequence[Any], xs: Any) -> tuple[tuple[Any, ...], Any]:
    """``carry, y = step(carry, x)`` for each ``x`` along the first axis of ``xs``: the last carry, and all ``y``.

    ``init`` is the first carry, a tuple of values; each keeps its type. ``y`` may be None. Untraced it is a plain loop.
    """
    values = [v for v in (*init, xs) if isinstance(v, Traced)]
    if not values:
        return _plain(step, init, np.asarray(xs))
    outer = innermost(values)
    given = [lift(outer, v, "f32" if isinstance(v, float) else "") for v in init]
    sequence = lift(outer, xs)
    inner = Builder(outer)
    carries = [_input(inner, f"c{k}", v.type) for k, v in enumerate(given)]
    element = _input(inner, "x", TensorType(sequence.type.dtype, sequence.shape[1:]))
    after, y = step(tuple(carries), element)
    if len(after) != len(given):
        raise refuse(
            "kernel.form",
            f"a step of a scan gives {len(after)} carried values",
            f"it is given {len(given)}",
            "return as many as init has",
        )
    outputs = [
        (f"c{k}", _kept(inner, k, v, before)) for k, (v, before) in enumerate(zip(after, given, strict=True))
    ]
    if y is not None:
        outputs.append(("y", lift(inner, y).number))
    return _finish(outer, inner, given, sequence, outputs)


def _plain(step: Step, init: Sequence[Any], xs: Any) -> tuple[tuple[Any, ...], Any]:
    # A Python int would grow where an i32 wraps round.
    carry, ys = tuple(np.int32(v) if type(v) is int else v for v in init), []
    for x in xs:
        after, y = step(carry, x)
        carry = tuple(after)
        ys.append(y)
    return carry, None if not ys or ys[0] is None else np.stack(ys)


def _input(builder: Builder, name: str, kind: TensorType) -> Traced:
    return Traced(builder, builder.add("input", name=name, dtype=kind.dtype, shape=kind.shape))


def _kept(inner: Builder, number: int, value: Any, before: Traced) -> int:
    traced = lift(inner, value, before.type.dtype)
    if traced.type != before.type:
        raise refuse(
            "kernel.form",
            f"carried value {number} of a scan becomes {traced.type}",
            f"it begins as {before.type}",
            "begin with the type that a step gives: 0.0 for a fraction, np.zeros(n) for an array",
        )
    return traced.number


def _finish(
    outer: Builder, inner: Builder, given: list[Traced], sequence: Traced, outputs: list[tuple[str, int]]
) -> tuple[tuple[Any, ...], Any]:
    taken = [(name, number) for name, number, _ in inner.captured]
    own = [(f"c{k}", k) for k in range(len(given))] + [("x", len(given))]
    body = simplify(Program("step", tuple(inner.nodes), (*own, *taken), tuple(outputs)))
    operands = [*(v.number for v in given), sequence.number, *(n for *_, n in inner.captured)]
    number = outer.add("scan", operands, body=body, carries=len(given), step_cost=operations(body))
    found = [
        Traced(outer, outer.add("pick", (number,), offset=p.offset, dtype=p.type.dtype, shape=p.type.shape))
        for p in places(body, len(given), sequence.shape[0])
    ]
    return tuple(found[: len(given)]), (found[len(given)] if len(found) > len(given) else None)
