"""NumPy's functions on traced values, beyond the universal ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from ganglion.kernels.ops.linear import order_of
from ganglion.kernels.ops.op import COMPUTED
from ganglion.kernels.ops.spectrum import factors
from ganglion.kernels.tracing.builder import refuse
from ganglion.kernels.tracing.traced import FUNCTIONS, Traced, apply, cast, innermost, lift, operands

BANDED_SHARE_MAX = 0.25
"""A constant matrix with fewer elements that are not zero is kept as bands."""


class Spectrum:
    """Complex values of `np.fft.rfft`: real part, imaginary part, magnitude."""

    def __init__(self, real: Traced, imag: Traced) -> None:
        self.real = real
        self.imag = imag

    def __abs__(self) -> Any:
        return np.sqrt(self.real * self.real + self.imag * self.imag)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **_kwargs: Any) -> Any:
        if ufunc is np.absolute and method == "__call__" and inputs[0] is self:
            return abs(self)
        raise refuse(
            "kernel.unsupported",
            f"np.{ufunc.__name__} of a spectrum",
            "kernels have no complex numbers",
            "use its .real, .imag or np.abs",
        )

    def __getitem__(self, key: Any) -> Spectrum:
        return Spectrum(self.real[key], self.imag[key])


def _where(condition: Any, a: Any = None, b: Any = None) -> Traced:
    if a is None or b is None:
        raise refuse(
            "kernel.unsupported",
            "np.where with a condition alone",
            "its result has as many elements as the frame decides",
            "write np.where(condition, a, b)",
        )
    builder = innermost((condition, a, b))
    chosen = builder.cast(lift(builder, condition).number, "bool")
    traced = [v for v in (a, b) if isinstance(v, Traced)]
    pair = operands(builder, (a, b)) if traced else [lift(builder, v) for v in (a, b)]
    dtype = max((p.type.dtype for p in pair), key=COMPUTED.index)
    numbers = [builder.cast(p.number, dtype) for p in pair]
    return Traced(builder, builder.add("where", [chosen, *numbers]))


def _place(axis: Any, rank: int) -> int:
    """Where an axis is among ``rank``, counted from the first; NumPy's rules, so one that is not there is refused."""
    if isinstance(axis, Traced):
        raise refuse(
            "kernel.shape", "an axis is computed", "shapes are fixed when the kernel is defined", "name it"
        )
    if type(axis) is bool or not isinstance(axis, int | np.integer) or not -rank <= axis < rank:
        raise refuse(
            "kernel.shape",
            f"axis {axis} of a value with {rank}",
            f"axes are whole numbers from {-rank} to {rank - 1}" if rank else "one number has no axis",
            "name one of those, or leave axis out where all are meant",
        )
    return int(axis) % rank


def _reduce(op: str, x: Any, axis: Any, keepdims: Any = False) -> Traced:
    value: Traced = x
    shape = value.shape
    if axis is None:
        axes = tuple(range(len(shape)))
        value = value if len(shape) == 1 else _reshape(value, (value.size,))
        value = Traced(value.builder, value.builder.add(op, (value.number,), axis=0))
    else:
        axes = tuple(_place(a, len(shape)) for a in (axis if isinstance(axis, tuple) else (axis,)))
        if len(set(axes)) != len(axes):
            raise refuse(
                "kernel.shape", f"axes {axis}", "one of them is named twice", "name each axis to fold once"
            )
        for a in sorted(axes, reverse=True):
            value = Traced(value.builder, value.builder.add(op, (value.number,), axis=a))
    if keepdims:
        return _reshape(value, tuple(1 if i in axes else e for i, e in enumerate(shape)))
    return value


def _sum(x: Any, axis: Any = None, *, keepdims: Any = False) -> Traced:
    whole = cast(x, np.int32) if x.type.dtype == "bool" else x
    return _reduce("sum", whole, axis, keepdims)


def _mean(x: Any, axis: Any = None, *, keepdims: Any = False) -> Traced:
    total = _reduce("sum", cast(x, np.float32), axis, keepdims)
    return apply(x.builder, np.true_divide, (total, np.float32(x.size // total.size)))


def _largest(x: Any, axis: Any = None, *, keepdims: Any = False) -> Traced:
    return _reduce("largest", x, axis, keepdims)


def _smallest(x: Any, axis: Any = None, *, keepdims: Any = False) -> Traced:
    return _reduce("smallest", x, axis, keepdims)


def _any(x: Any, axis: Any = None, *, keepdims: Any = False) -> Traced:
    return _reduce("largest", cast(x, np.bool_), axis, keepdims)


def _all(x: Any, axis: Any = None, *, keepdims: Any = False) -> Traced:
    return _reduce("smallest", cast(x, np.bool_), axis, keepdims)


def _argmax(x: Any, axis: Any = None) -> Traced:
    flat = _reshape(x, (x.size,)) if axis is None else x
    place = 0 if axis is None else _place(axis, x.ndim)
    whole = cast(flat, np.int32) if flat.type.dtype == "bool" else flat
    return Traced(x.builder, x.builder.add("argmax", (whole.number,), axis=place))


def _bincount(x: Any, weights: Any = None, minlength: int = 0) -> Traced:
    if weights is not None or isinstance(minlength, Traced):
        raise refuse(
            "kernel.unsupported",
            "np.bincount with weights or a computed length",
            "its result has a fixed number of bins",
            "write np.bincount(x, minlength=N); what lies outside 0 to N - 1 is not counted",
        )
    return Traced(x.builder, x.builder.add("bincount", (x.number,), length=minlength))


def _reshape(x: Any, shape: Any, order: str = "C") -> Traced:
    wanted = shape if isinstance(shape, tuple | list) else (shape,)
    try:
        full = np.empty(x.shape, np.bool_).reshape(tuple(wanted)).shape
    except ValueError as error:
        raise refuse(
            "kernel.shape",
            f"reshape of {x.type} to {wanted}",
            str(error),
            "give a shape with as many elements",
        ) from error
    if order != "C":
        raise refuse(
            "kernel.unsupported", f"reshape in order {order}", "only C order is portable", "transpose first"
        )
    if full == x.shape:
        return Traced(x.builder, x.number)
    return Traced(x.builder, x.builder.add("reshape", (x.number,), shape=full))


def _clip(x: Any, a_min: Any = None, a_max: Any = None) -> Traced:
    builder = innermost((x, a_min, a_max))
    low = x if a_min is None else apply(builder, np.maximum, (x, a_min))
    return low if a_max is None else apply(builder, np.minimum, (low, a_max))


def _concatenate(parts: Any, axis: int = 0) -> Traced:
    builder = innermost(parts)
    level = operands(builder, tuple(parts))
    dtype = max((p.type.dtype for p in level), key=COMPUTED.index)
    numbers = [builder.cast(p.number, dtype) for p in level]
    return Traced(builder, builder.add("concat", numbers, axis=_place(axis, level[0].ndim)))


def _stack(parts: Any, axis: int = 0) -> Traced:
    builder = innermost(parts)
    level = operands(builder, tuple(parts))
    place = _place(axis, level[0].ndim + 1)
    return _concatenate([_reshape(p, (*p.shape[:place], 1, *p.shape[place:])) for p in level], place)


def _matmul(a: Any, b: Any) -> Traced:
    builder = innermost((a, b))
    left, right = lift(builder, a, "f32"), lift(builder, b, "f32")
    if not left.shape or not right.shape or right.ndim > 2:
        raise refuse(
            "kernel.shape",
            f"matrix product of {left.type} and {right.type}",
            "it takes vectors and matrices, on the left also stacks of them",
            "multiply numbers with *",
        )
    if left.shape[-1] != right.shape[0]:
        raise refuse(
            "kernel.shape",
            f"matrix product of {left.type} and {right.type}",
            f"{left.shape[-1]} columns are not {right.shape[0]} rows",
            "reshape or slice the operands so that they fit",
        )
    shape = (*left.shape[:-1], *right.shape[1:])
    rows = left.size // left.shape[-1]
    flat = _reshape(cast(left, np.float32), (rows, left.shape[-1]))
    matrix = _reshape(cast(right, np.float32), (right.shape[0], right.size // right.shape[0]))
    bands = None if isinstance(b, Traced) else _bands(np.asarray(b, np.float32).reshape(matrix.shape))
    if bands is not None:
        weights = builder.constant(bands[1])
        number = builder.add("banded", (flat.number, weights), bands=bands[0])
    else:
        number = builder.add(
            "matmul", (flat.number, matrix.number), order=order_of(matrix.shape[0], matrix.shape[1])
        )
    return _reshape(Traced(builder, number), shape)


def _inner(a: Any, b: Any) -> Traced:
    """The last axes of both: the second matrix is turned."""
    return _matmul(a, np.transpose(b) if np.ndim(b) == 2 else b)


def _bands(matrix: Any) -> tuple[list[list[int]], Any] | None:
    """The range of each column that is not zero, and the weights in it, when that is a small part of the matrix."""
    bands, weights = [], []
    for column in matrix.T:
        used = np.flatnonzero(column)
        first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        bands.append([first, last])
        weights.append(column[first:last])
    packed = np.concatenate(weights)
    if not 0 < packed.size <= BANDED_SHARE_MAX * matrix.size:
        return None
    return bands, packed.astype(np.float32)


def _rfft(x: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Spectrum:
    if n is not None or norm is not None or axis not in (-1, 0) or x.ndim != 1:
        raise refuse(
            "kernel.unsupported",
            "np.fft.rfft with n, norm or several axes",
            "the transform of one axis is in the portable set",
            "slice the input, and transform each row on its own",
        )
    builder = x.builder
    tables = [builder.constant(t) for t in factors(x.size)] if x.size >= 4 else [0, 0]
    number = builder.add("rfft", (builder.cast(x.number, "f32"), *tables))
    both = Traced(builder, number)
    return Spectrum(both[0], both[1])


def _full_like(x: Any, value: Any) -> Traced:
    return Traced(x.builder, x.builder.constant(np.full(x.shape, value, x.dtype)))


def _var(x: Any, axis: Any = None, *, keepdims: Any = False) -> Traced:
    apart = x - _mean(x, axis, keepdims=True)
    return _mean(apart * apart, axis, keepdims=keepdims)


def _std(x: Any, axis: Any = None, *, keepdims: Any = False) -> Traced:
    return apply(x.builder, np.sqrt, (_var(x, axis, keepdims=keepdims),))


def _along(x: Any, axis: int, part: slice) -> Traced:
    """A part of one axis."""
    place = _place(axis, x.ndim)
    value: Traced = x[(slice(None),) * place + (part,)]
    return value


def _diff(x: Any, n: int = 1, axis: int = -1) -> Any:
    for _ in range(n):
        x = _along(x, axis, slice(1, None)) - _along(x, axis, slice(None, -1))
    return x


def _flip(x: Any, axis: Any = None) -> Traced:
    for a in range(x.ndim) if axis is None else (axis,):
        x = _along(x, a, slice(None, None, -1))
    return Traced(x.builder, x.number)


def _roll(x: Any, shift: int, axis: Any = None) -> Traced:
    if axis is None:
        return _reshape(_roll(_reshape(x, (x.size,)), shift, 0), x.shape)
    at = -shift % x.shape[_place(axis, x.ndim)]
    if not at:
        return Traced(x.builder, x.number)
    return _concatenate([_along(x, axis, slice(at, None)), _along(x, axis, slice(None, at))], axis)


def _squeeze(x: Any) -> Traced:
    return _reshape(x, tuple(e for e in x.shape if e != 1))


def _expand_dims(x: Any, axis: int) -> Traced:
    place = _place(axis, x.ndim + 1)
    return _reshape(x, (*x.shape[:place], 1, *x.shape[place:]))


FUNCTIONS.update(
    {
        np.where: _where,
        np.sum: _sum,
        np.mean: _mean,
        np.max: _largest,
        np.amax: _largest,
        np.min: _smallest,
        np.amin: _smallest,
        np.any: _any,
        np.all: _all,
        np.argmax: _argmax,
        np.bincount: _bincount,
        np.reshape: _reshape,
        np.ravel: lambda x: _reshape(x, (x.size,)),
        np.transpose: lambda x, axes=None: x.transpose(*(axes or ())),
        np.clip: _clip,
        np.concatenate: _concatenate,
        np.stack: _stack,
        np.shape: lambda x: x.shape,
        np.ndim: lambda x: x.ndim,
        np.size: lambda x: x.size,
        np.zeros_like: lambda x: _full_like(x, 0),
        np.ones_like: lambda x: _full_like(x, 1),
        np.full_like: _full_like,
        np.var: _var,
        np.std: _std,
        np.diff: _diff,
        np.flip: _flip,
        np.roll: _roll,
        np.squeeze: _squeeze,
        np.expand_dims: _expand_dims,
        np.dot: _matmul,
        np.inner: _inner,
        np.fft.rfft: _rfft,
        np.matmul: _matmul,
    }
)
