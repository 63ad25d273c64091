"""A value while a kernel is traced: NumPy's own protocols hand every computation on it to the builder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ganglion.core.errors import KernelError
from ganglion.core.schema import TensorType
from ganglion.kernels.ops.op import COMPUTED
from ganglion.kernels.tracing.builder import Builder, refuse

UFUNCS: dict[Any, tuple[str, str]] = {
    np.add: ("add", ""),
    np.subtract: ("sub", ""),
    np.multiply: ("mul", ""),
    np.true_divide: ("div", "f32"),
    np.floor_divide: ("floordiv", "i32"),
    np.remainder: ("mod", "i32"),
    np.negative: ("neg", ""),
    np.absolute: ("abs", ""),
    np.fabs: ("abs", "f32"),
    np.minimum: ("min", ""),
    np.maximum: ("max", ""),
    np.sqrt: ("sqrt", "f32"),
    np.exp: ("exp", "f32"),
    np.log: ("log", "f32"),
    np.sin: ("sin", "f32"),
    np.cos: ("cos", "f32"),
    np.tanh: ("tanh", "f32"),
    np.floor: ("floor", "f32"),
    np.rint: ("rint", "f32"),
    np.less: ("lt", ""),
    np.less_equal: ("le", ""),
    np.equal: ("eq", ""),
    np.not_equal: ("ne", ""),
    np.bitwise_and: ("and", ""),
    np.bitwise_or: ("or", ""),
    np.bitwise_xor: ("xor", ""),
    np.invert: ("not", ""),
    np.logical_and: ("and", "bool"),
    np.logical_or: ("or", "bool"),
    np.logical_xor: ("xor", "bool"),
    np.logical_not: ("not", "bool"),
    np.left_shift: ("shl", ""),
    np.right_shift: ("shr", ""),
    np.isnan: ("isnan", "f32"),
    np.isfinite: ("isfinite", "f32"),
}
"""NumPy's function -> operation, and the dtype it is computed in where that is fixed."""

SWAPPED = {np.greater: np.less, np.greater_equal: np.less_equal}
FUNCTIONS: dict[Any, Callable[..., Any]] = {}
"""NumPy's functions that are not universal ones; `tracing.functions` fills it."""


class Traced(NDArrayOperatorsMixin):
    """One value of the program under construction. It has NumPy's operators and the methods of the portable set."""

    __slots__ = ("builder", "number")

    def __init__(self, builder: Builder, number: int) -> None:
        self.builder = builder
        self.number = number

    @property
    def type(self) -> TensorType:
        """Dtype and shape."""
        return self.builder.type_of(self.number)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.type.numpy

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    @property
    def size(self) -> int:
        return self.type.elements

    @property
    def T(self) -> Traced:  # noqa: N802 # NumPy's name
        """The axes in reverse order."""
        return self.transpose()

    def __len__(self) -> int:
        if not self.shape:
            raise refuse("kernel.shape", "len() of one number", "it has no axis", "give the input a shape")
        return self.shape[0]

    def __iter__(self) -> Iterator[Traced]:
        if not self.shape:
            raise refuse("kernel.shape", "one number is iterated", "it has no axis", "use it as it is")
        return (self[i] for i in range(self.shape[0]))

    def __bool__(self) -> NoReturn:
        raise refuse(
            "kernel.branch",
            "a computed value decides a Python branch",
            "if, while, and, or, not and chained comparisons run once, when the kernel is traced, not on every frame",
            "use np.where(condition, a, b) for a choice, and & | ~ between truth values",
        )

    def _scalar(self) -> KernelError:
        return refuse(
            "kernel.scalar",
            "a computed value is turned into a Python number",
            "float(), int(), math.* and range() need the number while the kernel is traced, before any frame",
            "use the NumPy function of the same name, and .astype(np.float32) or .astype(np.int32)",
        )

    def __float__(self) -> float:
        raise self._scalar()

    def __int__(self) -> int:
        raise self._scalar()

    def __index__(self) -> int:
        raise self._scalar()

    def __array__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise refuse(
            "kernel.unsupported",
            "a computed value is turned into a real array",
            "this NumPy function does not hand over to the tracer, so it is not in the portable set",
            f"use the portable functions: {portable()}",
        )

    def __setitem__(self, _key: Any, _value: Any) -> NoReturn:
        raise _assigned()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise refuse(
            "kernel.unsupported",
            f".{name} is not in the portable set",
            "only operations that every target computes with the same bits are",
            f"use the portable functions: {portable()}",
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if kwargs.get("out") is not None:
            raise _assigned()
        if method != "__call__" or any(v is not None for v in kwargs.values()):
            raise refuse(
                "kernel.unsupported",
                f"np.{ufunc.__name__} with {method if method != '__call__' else ', '.join(kwargs)}",
                "only the plain call is in the portable set",
                "call it with its operands alone; sum with np.sum, choose with np.where",
            )
        return apply(innermost(inputs), ufunc, inputs)

    def __array_function__(self, function: Any, _types: Any, args: Any, kwargs: Any) -> Any:
        if function not in FUNCTIONS:
            raise refuse(
                "kernel.unsupported",
                f"np.{function.__name__} is not in the portable set",
                "only operations that every target computes with the same bits are",
                f"use the portable functions: {portable()}",
            )
        return _call(function, *args, **kwargs)

    def __getitem__(self, key: Any) -> Traced:
        from ganglion.kernels.tracing.indexing import index

        return index(self, key)

    def transpose(self, *axes: Any) -> Traced:
        """Axes in reverse order, or in the order given."""
        flat = axes[0] if len(axes) == 1 and isinstance(axes[0], tuple) else axes
        order = tuple(flat) or tuple(range(self.ndim - 1, -1, -1))
        return Traced(self.builder, self.builder.add("transpose", (self.number,), axes=order))

    def reshape(self, *shape: Any) -> Traced:
        """The same elements in another shape; one extent may be -1."""
        return _call(np.reshape, self, shape[0] if len(shape) == 1 else shape)

    def ravel(self) -> Traced:
        """All elements in one axis."""
        return self.reshape(-1)

    flatten = ravel

    def copy(self) -> Traced:
        """Itself: values never change."""
        return self

    def astype(self, dtype: Any, **_kwargs: Any) -> Traced:
        """In f32, i32 or bool: a float truncates and saturates, NaN gives 0."""
        return cast(self, dtype)

    def sum(self, axis: Any = None, **kwargs: Any) -> Traced:
        """As `np.sum`."""
        return _call(np.sum, self, axis=axis, **kwargs)

    def mean(self, axis: Any = None, **kwargs: Any) -> Traced:
        """As `np.mean`."""
        return _call(np.mean, self, axis=axis, **kwargs)

    def max(self, axis: Any = None, **kwargs: Any) -> Traced:
        """As `np.max`."""
        return _call(np.max, self, axis=axis, **kwargs)

    def min(self, axis: Any = None, **kwargs: Any) -> Traced:
        """As `np.min`."""
        return _call(np.min, self, axis=axis, **kwargs)

    def any(self, axis: Any = None, **kwargs: Any) -> Traced:
        """As `np.any`."""
        return _call(np.any, self, axis=axis, **kwargs)

    def all(self, axis: Any = None, **kwargs: Any) -> Traced:
        """As `np.all`."""
        return _call(np.all, self, axis=axis, **kwargs)

    def argmax(self, axis: Any = None) -> Traced:
        """As `np.argmax`."""
        return _call(np.argmax, self, axis=axis)

    def dot(self, other: Any) -> Traced:
        """As `np.dot`."""
        return _call(np.dot, self, other)


def _assigned() -> KernelError:
    return refuse(
        "kernel.assign",
        "a value is changed in place",
        "a kernel computes new values and changes none: no x[i] = v, no x += v, no out=",
        "write y = x + v, np.where(mask, new, old) or np.concatenate",
    )


def _call(function: Any, *args: Any, **kwargs: Any) -> Traced:
    portable_form = inspect.signature(FUNCTIONS[function])
    try:
        portable_form.bind(*args, **kwargs)
    except TypeError as error:
        raise refuse(
            "kernel.unsupported",
            f"np.{function.__name__} with {', '.join(kwargs) or 'these arguments'}",
            f"in the portable set it takes {', '.join(portable_form.parameters)}",
            "leave the others out, or compute what they would do with portable functions",
        ) from error
    result: Traced = FUNCTIONS[function](*args, **kwargs)
    return result


def portable() -> str:
    """The names of what may be called on a traced value."""
    named = {f.__name__ for f in (*UFUNCS, *SWAPPED, *FUNCTIONS)} | {"matmul", "square", "rfft"}
    return ", ".join(sorted(named))


def innermost(values: Iterable[Any]) -> Builder:
    """The builder that an operation on these values belongs to: that of the innermost step."""
    return max((v.builder for v in values if isinstance(v, Traced)), key=lambda b: b.depth)


def lift(builder: Builder, value: Any, beside: str = "") -> Traced:
    """A traced value as it is, any other as a constant. A plain Python number takes the dtype ``beside`` if it can."""
    if isinstance(value, Traced):
        if value.builder is builder:
            return value
        return Traced(builder, builder.capture(value.builder, value.number))
    number = builder.constant(value)
    plain = type(value) in (bool, int, float)
    own = builder.type_of(number).dtype
    if plain and beside and COMPUTED.index(own) < COMPUTED.index(beside):
        number = builder.constant(np.asarray(value).astype(TensorType(beside).numpy))
    return Traced(builder, number)


CASTS = {
    np.dtype(wide): kernel
    for kernel, widths in (("f32", "f4 f8"), ("i32", "i4 i8"), ("bool", "?"))
    for wide in widths.split()
}
"""What a cast of NumPy's gives here: NumPy's default widths narrow; a cast that rounds or wraps on its own has none."""


def cast(value: Traced, dtype: Any) -> Traced:
    """To the kernel dtype that ``dtype`` narrows to. Raises ``kernel.unsupported`` for widths that kernels lack."""
    try:
        kind = CASTS.get(np.dtype(dtype))
    except TypeError:
        kind = None
    if kind is None:
        raise refuse(
            "kernel.unsupported",
            f"a cast to {getattr(dtype, '__name__', dtype)}",
            f"kernels compute in {', '.join(COMPUTED)}, and would not cut off what does not fit",
            "use np.float32, np.int32 or bool; keep the lowest bits of whole numbers with & 0xff",
        )
    return Traced(value.builder, value.builder.cast(value.number, kind))


def operands(builder: Builder, values: tuple[Any, ...]) -> list[Traced]:
    """All operands as traced values; plain numbers take the widest dtype among the others."""
    dtypes = [v.type.dtype for v in values if isinstance(v, Traced)]
    widest = max(dtypes, key=COMPUTED.index)
    return [lift(builder, v, widest) for v in values]


def apply(builder: Builder, ufunc: Any, values: tuple[Any, ...]) -> Traced:
    """A universal function on values of which one at least is traced."""
    if ufunc in SWAPPED:
        return apply(builder, SWAPPED[ufunc], values[::-1])
    if ufunc is np.matmul:
        return _call(np.matmul, *values)
    if ufunc is np.square:
        return apply(builder, np.multiply, (values[0], values[0]))
    if ufunc is np.positive:
        return lift(builder, values[0])
    if ufunc is np.power:
        return _power(builder, *values)
    if ufunc not in UFUNCS:
        raise refuse(
            "kernel.unsupported",
            f"np.{ufunc.__name__} is not in the portable set",
            "only operations that every target computes with the same bits are",
            f"use the portable functions: {portable()}",
        )
    op, dtype = UFUNCS[ufunc]
    numbers = [v.number for v in operands(builder, values)]
    if op == "abs" and builder.type_of(numbers[0]).dtype == "bool":
        return Traced(builder, numbers[0])
    if op in ("floordiv", "mod") and any(builder.type_of(n).dtype == "f32" for n in numbers):
        raise refuse(
            "kernel.unsupported",
            f"{ufunc.__name__} of floats",
            "only of whole numbers it is exact on every target",
            "write np.floor(a / b), or compute in np.int32",
        )
    return Traced(builder, builder.elementwise(op, numbers, dtype))


def _power(builder: Builder, base: Any, exponent: Any) -> Traced:
    if not isinstance(exponent, int | float | np.number) or exponent not in (2, 3, 4, 0.5):
        raise refuse(
            "kernel.unsupported",
            f"a power with exponent {'that is computed' if isinstance(exponent, Traced) else exponent}",
            "only 2, 3, 4 and 0.5 are in the portable set",
            "multiply, or use np.exp(exponent * np.log(x))",
        )
    if exponent == 0.5:
        return apply(builder, np.sqrt, (base,))
    if isinstance(exponent, float | np.floating):
        base = cast(lift(builder, base), np.float32)  # as NumPy: a whole number to a fraction is a fraction
    square = apply(builder, np.multiply, (base, base))
    if exponent == 2:
        return square
    return apply(builder, np.multiply, (square, base if exponent == 3 else square))
