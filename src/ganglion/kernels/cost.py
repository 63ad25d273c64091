"""What one call of a kernel costs, counted, not timed: the same number on every machine.

An array that counts stands in for the frame: every NumPy call adds one, and the elements it gives.
On a microcontroller elements count (about five instructions each, measured on vector kernels); in NumPy on a
computer the calls do. A topology's node classes say how long each takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Cost:
    """``calls`` NumPy calls and ``elements`` array elements computed, per frame."""

    calls: int = 0
    elements: int = 0


class _Counting(np.ndarray[Any, Any]):
    """An array that counts what is computed from it; the counter rides on every result."""

    counter: list[int] | None

    def __array_finalize__(self, source: Any) -> None:
        self.counter = getattr(source, "counter", None)

    def __getitem__(self, key: Any) -> Any:
        # Wrapped, since one element would else be a plain scalar, and what is computed from it go uncounted.
        return _wrap(_plain(self)[_plain_all(key)], self.counter)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = [_plain(i) for i in inputs]
        result = getattr(ufunc, method)(*plain, **{k: _plain_all(v) for k, v in kwargs.items()})
        elements = max([np.size(i) for i in plain] + [np.size(result)])
        if ufunc is np.matmul:
            elements = _products(plain, result)
        return self._counted(result, elements)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        plain_args = _plain_all(args)
        result = func(*plain_args, **{k: _plain_all(v) for k, v in kwargs.items()})
        elements = max([np.size(a) for a in _flat([*plain_args, result])] + [1])
        if func in (np.dot, np.inner):
            elements = _products(plain_args, result)
        elif func in (np.convolve, np.correlate):
            elements = int(np.size(plain_args[0])) * int(np.size(plain_args[1]))
        elif func.__module__.startswith("numpy.fft"):
            elements *= max(1, elements.bit_length() - 1)
        return self._counted(result, elements)

    def _counted(self, result: Any, elements: int) -> Any:
        if self.counter is not None:
            self.counter[0] += 1
            self.counter[1] += int(elements)
        if isinstance(result, tuple):
            return tuple(_wrap(r, self.counter) for r in result)
        return _wrap(result, self.counter)


def _products(operands: Sequence[Any], result: Any) -> int:
    """Multiplications of a matrix product: the contracted extent for each element of the result."""
    contracted = np.shape(operands[0])[-1] if np.ndim(operands[0]) else 1
    return int(contracted) * int(np.size(result))


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, _Counting) else value


def _plain_all(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_plain_all(v) for v in value)
    return _plain(value)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [x for v in value for x in _flat(v)]
    return [value] if isinstance(value, np.ndarray) else []


def _wrap(value: Any, counter: list[int] | None) -> Any:
    array = np.asarray(value).view(_Counting)
    array.counter = counter
    return array


def measure(function: Callable[..., Any], args: tuple[Any, ...]) -> Cost:
    """The cost of ``function(*args)``; a function the counter cannot follow counts as it got so far."""
    counter = [0, 0]

    def counted(value: Any) -> Any:
        if isinstance(value, SimpleNamespace):
            return SimpleNamespace(**{k: _wrap(v, counter) for k, v in vars(value).items()})
        return _wrap(value, counter)

    try:
        with np.errstate(all="ignore"):
            function(*(counted(a) for a in args))
    except Exception:  # noqa: BLE001 # it ran on plain arrays, so it is right; only the count is a lower bound
        counter[0] += 1
    return Cost(*counter)
