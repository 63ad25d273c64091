"""What a kernel's function is made of, as text: its source, its helpers' sources and the constants it names.

Two kernels with the same text compute the same. Libraries count by name only: which versions a node runs is not
the flow's business.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

PARTS_MAX = 1000


def identity(function: Callable[..., Any]) -> list[str]:
    """One entry for the function, each helper and each constant.

    The same in every process. Values of types that have no stable text count by the name of their type.
    """
    home = Path(function.__code__.co_filename).parent
    parts: list[str] = []
    seen: set[int] = set()
    todo: list[Callable[..., Any]] = [function]
    while todo and len(parts) < PARTS_MAX:
        current = todo.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        parts.append(_source(current))
        for name, value in _named(current, home):
            if isinstance(value, FunctionType) and _is_near(value.__code__.co_filename, home):
                todo.append(value)
            parts.append(f"{name} = {_text(value)}")
    return parts


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed into a prompt: there is no file to read it from
        codes = list(_codes(function.__code__))
        return " ".join(f"{c.co_code.hex()} {[_text(k) for k in c.co_consts]} {c.co_names}" for c in codes)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of the lambdas and comprehensions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _named(function: Callable[..., Any], home: Path) -> Iterator[tuple[str, Any]]:
    """What the function takes from outside itself: closure, globals, attributes of its own modules, defaults."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        yield name, cell.cell_contents
    for position, default in enumerate(function.__defaults__ or ()):
        yield f"default {position}", default
    # Sorted: the order in which the compiler lists names is another one in each version of Python.
    names = sorted({n for c in _codes(code) for n in c.co_names})
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        yield name, value
        if isinstance(value, ModuleType) and _is_near(getattr(value, "__file__", None) or "", home):
            yield from ((f"{name}.{a}", getattr(value, a)) for a in names if hasattr(value, a))


def _is_near(file: str, home: Path) -> bool:
    """True for files of the flow's author: beside or below the kernel's own."""
    return home in Path(file).parents and "site-packages" not in Path(file).parts


def _content(array: np.ndarray[Any, Any]) -> str:
    """A hash of the elements; fractions count to a millionth of the largest one.

    A table that is computed at import (a Fourier matrix) differs in last bits between processors, and a flow must
    have one digest on all of them.
    """
    if array.dtype.hasobject:
        return ""
    if array.dtype.kind == "f":
        magnitudes = np.abs(array[np.isfinite(array)])
        peak = float(magnitudes.max()) if magnitudes.size and magnitudes.max() > 0 else 1.0
        array = np.round(array.astype(np.float64) / float(f"{peak:.3g}"), 6) + 0.0  # + 0.0: no negative zeros
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array {value.dtype.str} {value.shape} {_content(value)}"
    if isinstance(value, bool | int | float | complex | str | bytes | np.generic | None):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} [{', '.join(_text(v) for v in value)}]"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__} [{', '.join(sorted(_text(v) for v in value))}]"
    if isinstance(value, Mapping):
        return f"mapping {{{', '.join(f'{_text(k)}: {_text(v)}' for k, v in value.items())}}}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return f"{type(value).__qualname__} {_text(fields)}"
    if isinstance(value, ModuleType | FunctionType | type):
        return f"{type(value).__name__} {getattr(value, '__qualname__', value.__name__)}"
    return f"a {type(value).__qualname__}"
