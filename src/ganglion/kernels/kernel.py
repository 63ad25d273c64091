"""The ``@kernel`` decorator: checks a function once on a zero frame and remembers its form.

A kernel takes one frame, or the outputs of another kernel, and optionally explicit state:

    @kernel(x=f32[64])                       -> dict of outputs
    @kernel(f=other, state=dict(on=False))   -> (outputs, emit, new state)
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.core.schema import Field, Schema, TensorType
from ganglion.kernels.cost import Cost, measure
from ganglion.kernels.identity import identity

Record = SimpleNamespace
"""What a kernel sees of another kernel's outputs and of its own state: plain attributes."""

State = dict[str, Any]
Result = tuple[dict[str, Any], bool, State]


@dataclass(frozen=True)
class Kernel:
    """A checked kernel. ``input`` is one tensor per frame or the schema of another kernel's outputs."""

    name: str
    function: Callable[..., Any]
    input: TensorType | Schema
    output: Schema
    initial: Mapping[str, Any] | None
    source: str
    cost: Cost

    @property
    def stateful(self) -> bool:
        return self.initial is not None

    @property
    def state_bytes(self) -> int:
        """Bytes of one key's state."""
        return sum(int(np.asarray(v).nbytes) for v in (self.initial or {}).values())

    @property
    def digest(self) -> str:
        """Identity: SHA-256 of name, source text with helpers and constants, form, and first state.

        The hash of the IR will take its place.
        """
        state = (
            [(k, str(v.dtype), v.tolist()) for k, v in self.fresh_state().items()] if self.stateful else None
        )
        form = [self.name, identity(self.function), _form(self.input), self.output.to_json(), state]
        return hashlib.sha256(json.dumps(form).encode()).hexdigest()

    def __call__(self, frame: Any, state: Any = None) -> Any:
        """Calls the plain function: for tests and a debugger."""
        return self.function(frame, state) if self.stateful else self.function(frame)

    def fresh_state(self) -> State:
        """A new key's state."""
        state = self._states.cast(dict(self.initial or {}), self, "state")
        return {k: v.copy() for k, v in state.items()}  # each key its own arrays

    @cached_property
    def _outputs(self) -> _Form:
        return _Form((f.name, f.type.numpy, f.type.shape) for f in self.output.fields)

    @cached_property
    def _states(self) -> _Form:
        initial = (self.initial or {}).items()
        return _Form((k, np.asarray(v).dtype, np.shape(v)) for k, v in initial)

    def step(self, frame: Any, state: State) -> Result:
        """One frame through the kernel: (outputs in the declared types, emit, new state).

        ``frame`` is an array of ``input`` or a `Record`. Raises ``kernel.failed`` when the function raises
        or returns another form than it did at definition.
        """
        try:
            with np.errstate(all="ignore"):
                outputs, emit, after = _split(self, self._run(frame, state))
                return (
                    self._outputs.cast(outputs, self, "outputs"),
                    emit,
                    self._states.cast(after, self, "state"),
                )
        except Exception as error:
            reason = error.what if isinstance(error, KernelError) else f"{type(error).__name__}: {error}"
            raise KernelError(
                "kernel.failed",
                f"kernel {self.name} failed on a frame: {reason}",
                why=f"{self.source} raised on input it must accept, or returned another form than at definition",
                next_step=f"call {self.name}(frame) in a debugger with that frame",
            ) from error

    def _run(self, frame: Any, state: State) -> Any:
        return self.function(frame, Record(**state)) if self.stateful else self.function(frame)


def kernel(
    bare: None = None,
    /,
    *,
    state: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
    **inputs: Any,
) -> Callable[[Callable[..., Any]], Kernel]:
    """Declares a kernel with exactly one input: ``x=f32[6, 64]`` or ``f=another_kernel``.

    Raises `KernelError` ``kernel.input``, ``kernel.signature`` or ``kernel.form`` at definition, and `FlowError`
    ``schema.*`` for an output's or state's name or type, or a unit of no output.
    """
    if bare is not None:
        raise KernelError(
            "kernel.input",
            f"@kernel stands without parentheses at {getattr(bare, '__name__', bare)}",
            why="a kernel declares its input",
            next_step="write @gg.kernel(x=gg.f32[64]) or @gg.kernel(f=features)",
        )

    def decorate(function: Callable[..., Any]) -> Kernel:
        if not inspect.isfunction(function):
            raise KernelError(
                "kernel.signature",
                f"kernel() was given {type(function).__name__}",
                why="a kernel is a plain Python function of one frame",
                next_step="wrap it: def rms(x): return dict(rms=...)",
            )
        name = function.__name__
        source = _where(function)
        given = _input_of(name, source, inputs)
        initial = None if state is None else {k: _fixed(_narrow(v)) for k, v in state.items()}
        _check_signature(function, name, source, next(iter(inputs)), stateful=initial is not None)
        frame = _zero(given)
        args = (frame,) if initial is None else (frame, Record(**{k: _fixed(v) for k, v in initial.items()}))
        try:
            with np.errstate(all="ignore"):
                result = function(*args)
        except Exception as error:
            raise KernelError(
                "kernel.form",
                f"kernel {name} failed on a zero frame: {type(error).__name__}: {error}",
                why=f"{source} is tried once on zeros to learn its outputs",
                next_step="compute new arrays: a kernel does not change its input"
                if "read-only" in str(error)
                else "make it total: guard divisions with np.maximum, branches with np.where",
            ) from error
        draft = Kernel(
            name, function, given, Schema((Field("x", TensorType("f32")),)), initial, source, Cost()
        )
        outputs, _, after = _split(draft, result)
        draft._states.cast(after, draft, "state")
        return Kernel(
            name, function, given, Schema.of(outputs, units), initial, source, measure(function, args)
        )

    return decorate


def _form(given: TensorType | Schema) -> Any:
    return str(given) if isinstance(given, TensorType) else given.to_json()


def _where(function: Callable[..., Any]) -> str:
    code = function.__code__
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}"


def _narrow(value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    return array.astype(TensorType.of(array).numpy)


def _input_of(name: str, source: str, inputs: Mapping[str, Any]) -> TensorType | Schema:
    if len(inputs) == 1:
        (value,) = inputs.values()
        if isinstance(value, TensorType):
            return value
        if isinstance(value, Kernel):
            return value.output
    raise KernelError(
        "kernel.input",
        f"kernel {name} at {source} declares {', '.join(inputs) or 'no input'}",
        why="a kernel has exactly one input: a tensor type or another kernel",
        next_step="write @gg.kernel(x=gg.f32[64]) or @gg.kernel(f=features)",
    )


def _check_signature(
    function: Callable[..., Any], name: str, source: str, first: str, *, stateful: bool
) -> None:
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    wanted = 2 if stateful else 1
    plain = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters.values())
    if len(names) != wanted or names[0] != first or not plain:
        raise KernelError(
            "kernel.signature",
            f"kernel {name} at {source} takes ({', '.join(names)})",
            why=f"it declares input {first!r} and {'state' if stateful else 'no state'}",
            next_step=f"define {name}({first}{', s' if stateful else ''})",
        )


def _fixed(value: Any) -> np.ndarray[Any, Any]:
    """A copy that cannot be written: other stages read the same frame, so a kernel must leave it as it is."""
    array = np.array(value)
    array.flags.writeable = False
    return array


def _zero(given: TensorType | Schema) -> Any:
    if isinstance(given, TensorType):
        return _fixed(np.zeros(given.shape, given.numpy))
    return Record(**{f.name: _fixed(np.zeros(f.type.shape, f.type.numpy))[()] for f in given.fields})


def _split(kernel: Kernel, result: Any) -> Result:
    if kernel.stateful:
        if isinstance(result, tuple) and len(result) == 3:
            outputs, emit, after = result
            if isinstance(outputs, dict) and outputs and isinstance(after, dict) and np.ndim(emit) == 0:
                return outputs, bool(emit), after
        wanted = "(dict of outputs, emit, dict of state)"
    else:
        if isinstance(result, dict) and result:
            return result, True, {}
        wanted = "a dict of outputs"
    raise KernelError(
        "kernel.form",
        f"kernel {kernel.name} at {kernel.source} returned {type(result).__name__}",
        why=f"it must return {wanted}",
        next_step="fix the return statement",
    )


class _Form:
    """Casts named values to declared types, quickly: it runs on every frame.

    Scalars become NumPy scalars, not 0-d arrays, since arithmetic on those is several times faster.
    """

    def __init__(self, declared: Iterable[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> None:
        self._parts = tuple((name, dtype, dtype.type, shape) for name, dtype, shape in declared)
        self._names = tuple(name for name, *_ in self._parts)
        self._casts: dict[Any, bool] = {}

    def cast(self, values: Mapping[str, Any], kernel: Kernel, kind: str) -> dict[str, Any]:
        """The values in declared order; raises ``kernel.form`` for other names, kinds of number or shapes."""
        if values.keys() != set(self._names):
            raise KernelError(
                "kernel.form",
                f"kernel {kernel.name} returned {kind} {', '.join(values) or 'nothing'}",
                why=f"it must return {', '.join(self._names)}, at {kernel.source}",
                next_step="return every one of them on every path, and no other",
            )
        typed: dict[str, Any] = {}
        for name, dtype, scalar, shape in self._parts:
            value = values[name]
            if type(value) is not scalar and not self._keeps_kind(value, dtype):
                raise KernelError(
                    "kernel.form",
                    f"{kind} {name} of kernel {kernel.name} has type {np.asarray(value).dtype}",
                    why=f"it is declared {dtype}, and fractions or numbers would be lost, at {kernel.source}",
                    next_step="return one kind of number on every path, and start state with it: 0.0, 0 or False",
                )
            if not shape:
                typed[name] = cast = scalar(value)
                fits = type(cast) is scalar
            else:
                typed[name] = cast = np.asarray(value, dtype)
                fits = cast.shape == shape
            if not fits:
                raise KernelError(
                    "kernel.form",
                    f"{kind} {name} of kernel {kernel.name} has shape {np.shape(value)}",
                    why=f"its shape is {shape}, at {kernel.source}",
                    next_step="return the same shape on every path",
                )
        return typed

    def _keeps_kind(self, value: Any, dtype: np.dtype[Any]) -> bool:
        """False where a cast would turn fractions into whole numbers or numbers into truth values."""
        key = (value.dtype if isinstance(value, np.ndarray) else type(value), dtype)
        if key not in self._casts:
            if isinstance(value, list | tuple):  # its type does not tell what is in it
                return bool(np.can_cast(np.asarray(value).dtype, dtype, "same_kind"))
            self._casts[key] = bool(np.can_cast(np.asarray(value).dtype, dtype, "same_kind"))
        return self._casts[key]
