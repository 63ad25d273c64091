"""The ``@kernel`` decorator: checks a function once on a zero frame and remembers its form.

A kernel takes one frame, or the outputs of another kernel, and optionally explicit state:

    @kernel(x=f32[64])                       -> dict of outputs
    @kernel(f=other, state=dict(on=False))   -> (outputs, emit, new state)
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.core.schema import Field, Schema, TensorType
from ganglion.kernels.cost import Cost, measure

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
        """Identity: SHA-256 of name, source text and form. (The IR's hash will take its place.)"""
        try:
            text = inspect.getsource(self.function)
        except OSError:  # typed into a prompt: there is no file to read it from
            text = self.source
        form = [self.name, text, _form(self.input), self.output.to_json(), sorted(self.initial or {})]
        return hashlib.sha256(json.dumps(form).encode()).hexdigest()

    def __call__(self, frame: Any, state: Any = None) -> Any:
        """Calls the plain function: for tests and a debugger."""
        return self.function(frame, state) if self.stateful else self.function(frame)

    def fresh_state(self) -> State:
        """A new key's state."""
        return {k: np.array(v) for k, v in (self.initial or {}).items()}

    def step(self, frame: Any, state: State) -> Result:
        """One frame through the kernel: (outputs in the declared types, emit, new state).

        ``frame`` is an array of ``input`` or a `Record`. Raises ``kernel.failed`` when the function raises
        or returns another form than it did at definition.
        """
        try:
            with np.errstate(all="ignore"):
                outputs, emit, after = _split(self, self._run(frame, state))
                return _typed(outputs, self.output), emit, _same_state(after, self.initial or {})
        except KernelError:
            raise
        except Exception as error:
            raise KernelError(
                "kernel.failed",
                f"kernel {self.name} failed on a frame: {type(error).__name__}: {error}",
                why=f"{self.source} raised on input it must accept",
                next_step=f"call {self.name}(frame) in a debugger with that frame",
            ) from error

    def _run(self, frame: Any, state: State) -> Any:
        return self.function(frame, Record(**state)) if self.stateful else self.function(frame)


def kernel(
    *, state: Mapping[str, Any] | None = None, units: Mapping[str, str] | None = None, **inputs: Any
) -> Callable[[Callable[..., Any]], Kernel]:
    """Declares a kernel with exactly one input: ``x=f32[6, 64]`` or ``f=another_kernel``.

    Raises `KernelError` ``kernel.input``, ``kernel.signature`` or ``kernel.form`` at definition.
    """

    def decorate(function: Callable[..., Any]) -> Kernel:
        name = function.__name__
        source = _where(function)
        given = _input_of(name, source, inputs)
        initial = None if state is None else {k: _narrow(v) for k, v in state.items()}
        _check_signature(function, name, source, next(iter(inputs)), stateful=initial is not None)
        frame = _zero(given)
        args = (
            (frame,) if initial is None else (frame, Record(**{k: np.array(v) for k, v in initial.items()}))
        )
        try:
            with np.errstate(all="ignore"):
                result = function(*args)
        except Exception as error:
            raise KernelError(
                "kernel.form",
                f"kernel {name} failed on a zero frame: {type(error).__name__}: {error}",
                why=f"{source} is tried once on zeros to learn its outputs",
                next_step="make it total: guard divisions with np.maximum, branches with np.where",
            ) from error
        draft = Kernel(
            name, function, given, Schema((Field("x", TensorType("f32")),)), initial, source, Cost()
        )
        outputs, _, after = _split(draft, result)
        _same_state(after, initial or {}, name)
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
    names = list(inspect.signature(function).parameters)
    wanted = 2 if stateful else 1
    if len(names) != wanted or names[0] != first:
        raise KernelError(
            "kernel.signature",
            f"kernel {name} at {source} takes ({', '.join(names)})",
            why=f"it declares input {first!r} and {'state' if stateful else 'no state'}",
            next_step=f"define {name}({first}{', s' if stateful else ''})",
        )


def _zero(given: TensorType | Schema) -> Any:
    if isinstance(given, TensorType):
        return np.zeros(given.shape, given.numpy)
    return Record(**{f.name: np.zeros(f.type.shape, f.type.numpy)[()] for f in given.fields})


def _split(kernel: Kernel, result: Any) -> Result:
    if kernel.stateful:
        if isinstance(result, tuple) and len(result) == 3 and isinstance(result[0], dict):
            return result[0], bool(result[1]), dict(result[2])
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


def _typed(outputs: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    if tuple(outputs) != schema.names:
        raise KernelError(
            "kernel.form",
            f"a kernel returned {list(outputs)} instead of {list(schema.names)}",
            why="outputs have the same names on every frame",
            next_step="return every output on every path",
        )
    typed: dict[str, Any] = {}
    for field in schema.fields:
        typed[field.name] = np.asarray(outputs[field.name], field.type.numpy).reshape(field.type.shape)
    return typed


def _same_state(after: Mapping[str, Any], initial: Mapping[str, Any], name: str = "") -> State:
    if set(after) != set(initial):
        raise KernelError(
            "kernel.form",
            f"kernel {name} returned state {sorted(after)}",
            why=f"it declares state {sorted(initial)}",
            next_step="return every declared state field, and no other",
        )
    return {k: np.asarray(after[k], np.asarray(v).dtype).reshape(np.shape(v)) for k, v in initial.items()}
