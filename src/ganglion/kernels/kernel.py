"""The ``@kernel`` decorator: traces a function once, and remembers its program and form.

A kernel takes one frame, or the outputs of another kernel, and optionally explicit state:

    @kernel(x=f32[64])                       -> dict of outputs
    @kernel(f=other, state=dict(on=False))   -> (outputs, emit, new state)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np

from ganglion.core.errors import FlowError, KernelError
from ganglion.core.schema import Schema, TensorType
from ganglion.kernels.cost import Cost, cost_of
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.ir.program import Program
from ganglion.kernels.ops.op import COMPUTED
from ganglion.kernels.tracing.builder import failed_at
from ganglion.kernels.tracing.trace import WHOLE, trace

Record = SimpleNamespace
"""What a kernel sees of another kernel's outputs and of its own state: plain attributes."""

State = dict[str, Any]
Result = tuple[dict[str, Any], bool, State]


@dataclass(frozen=True)
class Kernel:
    """A traced kernel. ``input`` is one tensor per frame or the schema of another kernel's outputs.

    ``program`` is what it means; calling it runs the plain function in NumPy, for tests and a debugger.
    """

    name: str
    function: Callable[..., Any]
    input: TensorType | Schema
    output: Schema
    initial: Mapping[str, Any] | None
    source: str
    program: Program

    def __repr__(self) -> str:
        return f"<kernel {self.name} at {self.source}>"

    @property
    def stateful(self) -> bool:
        return self.initial is not None

    @property
    def state_bytes(self) -> int:
        """Bytes of one key's state."""
        return sum(int(np.asarray(v).nbytes) for v in (self.initial or {}).values())

    @cached_property
    def digest(self) -> str:
        """Identity: the hash of the program."""
        return self.program.digest

    @cached_property
    def cost(self) -> Cost:
        """What one frame costs."""
        return cost_of(self.program)

    def __call__(self, frame: Any, state: Any = None) -> Any:
        """Calls the plain function: for tests and a debugger."""
        return self.function(frame, state) if self.stateful else self.function(frame)

    def fresh_state(self) -> State:
        """A new key's state."""
        state = self._states.cast(dict(self.initial or {}))
        return {k: v.copy() for k, v in state.items()}  # each key its own arrays

    @cached_property
    def _outputs(self) -> _Form:
        return _Form((f.name, f.type.numpy, f.type.shape) for f in self.output.fields)

    @cached_property
    def _states(self) -> _Form:
        initial = (self.initial or {}).items()
        return _Form((k, np.asarray(v).dtype, np.shape(v)) for k, v in initial)

    def step(self, frame: Any, state: State) -> Result:
        """One frame through the plain function: (outputs in the declared types, emit, new state).

        ``frame`` is an array of ``input`` or a `Record`. What could be traced does not fail on a frame.
        """
        if self._counts:
            return self._interpreted(frame, state)
        with np.errstate(all="ignore"):
            result = self._run(frame, state)
            outputs, emit, after = result if self.stateful else (result, True, {})
            return self._outputs.cast(outputs), bool(emit), self._states.cast(after)

    @cached_property
    def _counts(self) -> bool:
        """NumPy's bincount refuses a negative number and grows with a large one; the program's leaves both out."""
        return _holds(self.program, "bincount")

    def _interpreted(self, frame: Any, state: State) -> Result:
        names = [name for name, _ in self.program.inputs]
        given = (
            {WHOLE: frame} if isinstance(self.input, TensorType) else {n: getattr(frame, n) for n in names}
        )
        arrays, held = ({n: np.asarray(v)[np.newaxis] for n, v in one.items()} for one in (given, state))
        found = interpret(self.program, arrays, held or None)
        outputs, after = ({n: v[0] for n, v in one.items()} for one in (found.outputs, found.state))
        return self._outputs.cast(outputs), bool(found.emit[0]), self._states.cast(after)

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

    Raises `KernelError` ``kernel.*`` at definition, as `trace` does and for an input, a signature or a first state that
    cannot be, and `FlowError` ``schema.*`` for an output's or state's name or type, or a unit of no output.
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
        initial = (
            None if state is None else {k: _fixed(_narrow(name, source, k, v)) for k, v in state.items()}
        )
        _check_signature(function, name, source, next(iter(inputs)), stateful=initial is not None)
        try:
            program = trace(function, name, given, initial)
        except (KernelError, FlowError):
            raise
        except Exception as error:
            raise KernelError(
                "kernel.form",
                f"kernel {name} failed while it was traced: {type(error).__name__}: {error}{failed_at(error)}",
                why=f"{source} runs once on stand-ins for its values",
                next_step="call it with a NumPy array to see where it fails",
            ) from error
        types = {n: program.nodes[number].type for n, number in program.outputs}
        return Kernel(name, function, given, _schema(types, units), initial, source, program)

    return decorate


def _holds(program: Program, op: str) -> bool:
    """True when an operation is in a program, or in the step of one of its scans."""
    steps = [node.attributes["body"] for node in program.nodes if node.op == "scan"]
    return any(node.op == op for node in program.nodes) or any(_holds(step, op) for step in steps)


def _schema(types: Mapping[str, TensorType], units: Mapping[str, str] | None) -> Schema:
    return Schema.of({n: np.zeros(t.shape, t.numpy) for n, t in types.items()}, units)


def _where(function: Callable[..., Any]) -> str:
    code = function.__code__
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}"


def _narrow(name: str, source: str, field: str, value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    kind = TensorType.of(array)
    with np.errstate(over="ignore"):
        narrow = array.astype(kind.numpy if kind.dtype in COMPUTED else np.int32)
    lost = array != narrow if array.dtype.kind in "iu" else np.isinf(narrow) & np.isfinite(array)
    if np.any(lost):
        raise KernelError(
            "kernel.constant",
            f"state {field} of kernel {name} at {source} begins with {array[lost].flat[0]}",
            why=f"it does not fit {kind.dtype if kind.dtype in COMPUTED else 'i32'}: kernels compute in 32 bits",
            next_step="begin with a smaller number",
        )
    return narrow


def _input_of(name: str, source: str, inputs: Mapping[str, Any]) -> TensorType | Schema:
    if len(inputs) == 1:
        (value,) = inputs.values()
        if isinstance(value, TensorType) and value.dtype in (*COMPUTED, "i16"):
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


class _Form:
    """Casts named values to declared types, quickly: it runs on every frame.

    Scalars become NumPy scalars, not 0-d arrays, since arithmetic on those is several times faster.
    """

    def __init__(self, declared: Iterable[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> None:
        self._parts = tuple((name, dtype, dtype.type, shape) for name, dtype, shape in declared)

    def cast(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values in declared order."""
        typed: dict[str, Any] = {}
        for name, dtype, scalar, shape in self._parts:
            value = values[name]
            typed[name] = cast = np.asarray(value, dtype) if shape else scalar(value)
            assert cast.shape == shape, (name, cast.shape, shape)
        return typed
