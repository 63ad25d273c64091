"""Values of payloads as typed columns: all at once where they are as they should be, else one by one, with reasons.

`Column.bulk` takes a column exactly if `Column.check` finds nothing wrong with any of its values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.schema import Field

EXACT_MAX = 1 << 53
"""Whole numbers up to here are exact as floating-point ones."""
TIME_NS_MAX = (1 << 63) - 1
UNITS_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_NUMBERS = frozenset({int, float})
_RANGES: dict[str, tuple[float, float]] = {
    "bool": (0, 1),
    "i16": (-(1 << 15), (1 << 15) - 1),
    "i32": (-(1 << 31), (1 << 31) - 1),
    "i64": (-(1 << 63), (1 << 63) - 1),
    "f32": (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)),
    "f64": (-float(np.finfo(np.float64).max), float(np.finfo(np.float64).max)),
}
_SHOWN = 60


class Refused(Exception):  # it is a verdict on a reading, never an error of the program
    """A reading cannot be taken: a reason code (``mqtt.value`` ...) and the details."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class Odd(Exception):
    """Not all values are usual ones: look at each."""


def shown(value: Any) -> str:
    """A value for people, cut short."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        # Python writes out neither deep nests nor numbers of thousands of digits.
        return f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


@dataclass(frozen=True, slots=True)
class Column:
    """The scalars of one field of a stream."""

    field: Field
    keep_nan: bool

    def bulk(self, values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[Any]:
        """All values as the field stores them; raises `Odd`."""
        kind = self.field.type.dtype
        if isinstance(values, np.ndarray):
            return self._array(values)
        types = set(map(type, values))
        low, high = _RANGES[kind]
        try:
            if types == {int} or (kind == "bool" and types <= {int, bool}):
                # Reductions of NumPy cost more than the rest where a block is small.
                if low <= min(values) and max(values) <= high:
                    return np.array(values, self.field.type.numpy)
            elif kind != "bool" and types <= _NUMBERS:
                if kind not in ("f32", "f64"):
                    return self._array(np.array([_whole(v) for v in values], np.int64))
                # A sum is finite only if every part is; one that is not may have grown too large: look closer.
                if math.isfinite(sum(values)) and low <= min(values) and max(values) <= high:
                    return np.array(values, self.field.type.numpy)
                return self._array(np.array(values, np.float64))
        except OverflowError:
            raise Odd from None
        raise Odd

    def _array(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        kind, target = self.field.type.dtype, self.field.type.numpy
        if target.kind == "f":
            with np.errstate(over="ignore"):
                stored = values.astype(target)
            fine = np.isfinite(stored)
            if not fine.all() and not (self.keep_nan and bool(np.all(fine | np.isnan(values)))):
                raise Odd
            return stored
        if values.dtype.kind == "f":
            if not bool(np.all((values == np.rint(values)) & (np.abs(values) <= EXACT_MAX))):
                raise Odd
            values = values.astype(np.int64)
        low, high = (0, 1) if kind == "bool" else (np.iinfo(target).min, np.iinfo(target).max)
        if len(values) and not low <= int(values.min()) <= int(values.max()) <= high:
            raise Odd
        return values.astype(target)

    def check(self, value: Any) -> None:
        """Raises `Refused` ``mqtt.value`` with the reason when the field cannot hold the value."""
        try:
            self.bulk((value,))
        except Odd:
            raise Refused(
                "mqtt.value", f"{self.field.name} is {shown(value)}, {self._wanted(value)}"
            ) from None

    def _wanted(self, value: Any) -> str:
        kind = self.field.type.dtype
        if kind == "bool":
            return "it must be true, false, 0 or 1"
        if type(value) not in (int, float):
            return "it must be a number"
        if isinstance(value, float) and not math.isfinite(value):
            return "it must be a finite number"
        return f"which is not of type {kind}"


def _whole(value: float) -> int:
    if not math.isfinite(value) or value != int(value) or abs(value) > EXACT_MAX:
        if isinstance(value, int):
            return value
        raise Odd
    return int(value)


@dataclass(frozen=True, slots=True)
class Times:
    """Times since the Unix epoch in a unit, as nanoseconds; none before it, none beyond 64 bits."""

    unit: str

    def bulk(self, values: Sequence[Any]) -> npt.NDArray[np.int64]:
        """All of them; raises `Odd`."""
        factor = UNITS_NS[self.unit]
        types = set(map(type, values))
        try:
            if types == {int}:
                if min(values) < 0 or max(values) > TIME_NS_MAX // factor:
                    raise Odd
                return np.array(values, np.int64) * factor
            if types <= _NUMBERS:
                return np.array([self._one(v) for v in values], np.int64)
        except OverflowError:
            raise Odd from None
        raise Odd

    def _one(self, value: float) -> int:
        factor = UNITS_NS[self.unit]
        if isinstance(value, int):
            time_ns = value * factor
        elif math.isfinite(value):
            # Whole units first: the product would lose what a double holds of seconds.
            whole = math.floor(value)
            time_ns = whole * factor + round((value - whole) * factor)
        else:
            raise Odd
        if not 0 <= time_ns <= TIME_NS_MAX:
            raise Odd
        return time_ns

    def check(self, value: Any) -> None:
        """Raises `Refused` ``mqtt.time``."""
        try:
            self.bulk((value,))
        except Odd:
            raise Refused(
                "mqtt.time", f"the time is {shown(value)}, it must be a number of {self.unit} since 1970"
            ) from None


class Numbers:
    """Sequence numbers: whole, from 0 to 2^62."""

    @staticmethod
    def bulk(values: Sequence[Any]) -> npt.NDArray[np.int64]:
        """All of them; raises `Odd`."""
        if set(map(type, values)) != {int}:
            raise Odd
        if min(values) < 0 or max(values) > 1 << 62:
            raise Odd
        return np.array(values, np.int64)

    @staticmethod
    def check(value: Any) -> None:
        """Raises `Refused` ``mqtt.sequence``."""
        try:
            Numbers.bulk((value,))
        except Odd:
            raise Refused(
                "mqtt.sequence", f"the sequence number is {shown(value)}, it must be a whole number from 0"
            ) from None
