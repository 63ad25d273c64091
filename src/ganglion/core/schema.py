"""What a row of a stream looks like: named fields of fixed shape, with units.

``f32[3, 64]`` is a tensor type; a `Schema` is an ordered set of named, typed, unit-carrying fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import FlowError

ELEMENTS_MAX = 1 << 20
EXTENTS_MAX = 8
FIELDS_MAX = 256
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_NUMPY = {
    "f32": np.float32,
    "f64": np.float64,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "bool": np.bool_,
}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dtype and a static shape; ``()`` is a scalar.

    Kernels compute in ``f32 i32 bool``; sources may store ``i16``; aggregates use ``f64`` and ``i64``.
    """

    dtype: str
    shape: tuple[int, ...] = ()

    def __getitem__(self, shape: int | tuple[int, ...]) -> TensorType:
        return TensorType(self.dtype, shape if isinstance(shape, tuple) else (shape,))

    def __post_init__(self) -> None:
        if self.dtype not in _NUMPY:
            raise FlowError(
                "schema.dtype",
                f"{self.dtype!r} is not a dtype of a stream",
                why=f"known are {', '.join(_NUMPY)}",
                next_step="use one of those",
            )
        whole = all(type(d) is int and d >= 1 for d in self.shape)
        if not whole or len(self.shape) > EXTENTS_MAX or self.elements > ELEMENTS_MAX:
            raise FlowError(
                "schema.shape",
                f"{self.shape} is not a shape of a frame",
                why=f"at most {EXTENTS_MAX} whole numbers >= 1, at most {ELEMENTS_MAX} elements in all",
                next_step="give a static shape like f32[3, 64]",
            )

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(_NUMPY[self.dtype])

    @property
    def size_bytes(self) -> int:
        return self.elements * self.numpy.itemsize

    def __str__(self) -> str:
        return self.dtype + (str(list(self.shape)) if self.shape else "")

    @staticmethod
    def of(value: Any) -> TensorType:
        """The type of a NumPy value; float64 narrows to f32 and int64 to i32, as kernels compute.

        Raises ``schema.dtype`` for text, complex numbers, objects and ragged lists.
        """
        try:
            array = np.asarray(value)
        except ValueError:  # a ragged list; NumPy's message speaks of its own insides
            array = np.asarray(None)
        kind = {"f": "f32", "i": "i32", "u": "i32", "b": "bool"}.get(array.dtype.kind)
        if array.dtype == np.int16:
            kind = "i16"
        if kind is None:
            raise FlowError(
                "schema.dtype",
                f"a value of dtype {array.dtype} cannot travel in a stream",
                why="streams carry numbers and booleans of fixed shape",
                next_step="return np.float32, np.int32 or bool arrays",
            )
        return TensorType(kind, tuple(array.shape))


f32 = TensorType("f32")
i16 = TensorType("i16")
i32 = TensorType("i32")
i64 = TensorType("i64")
f64 = TensorType("f64")
boolean = TensorType("bool")


@dataclass(frozen=True, slots=True)
class Field:
    """One column: a lower-case name, its type per row, and the SI unit of its values (may be empty).

    ``scale``: physical value = stored value x scale; empty (1), one number, or one per first-axis entry.
    """

    name: str
    type: TensorType
    unit: str = ""
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise FlowError(
                "schema.field-name",
                f"{self.name!r} is not a field name",
                why="names are lower case, start with a letter, at most 63 of a-z 0-9 _",
                next_step="rename the field",
            )
        first = self.type.shape[0] if self.type.shape else 1
        if len(self.scale) not in (0, 1, first) or not all(math.isfinite(s) and s != 0 for s in self.scale):
            raise FlowError(
                "schema.scale",
                f"{self.name} has scale {list(self.scale)[:16]}",
                why=f"its type is {self.type}: give one finite factor other than 0, or {first}",
                next_step="fix scale=",
            )

    def physical(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows (n, *shape) as kernels see them: f32 in the field's unit; unscaled fields pass unchanged."""
        if not self.scale:
            return stored
        factor = np.asarray(self.scale, np.float32)
        shape = (1, len(self.scale)) + (1,) * (len(self.type.shape) - 1) if len(self.scale) > 1 else ()
        return stored.astype(np.float32) * factor.reshape(shape)


@dataclass(frozen=True, slots=True)
class Schema:
    """An ordered, non-empty set of fields; the size of one row is static."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        if not names or len(set(names)) != len(names) or len(names) > FIELDS_MAX:
            raise FlowError(
                "schema.fields",
                f"{names} is not a set of fields",
                why=f"a schema has 1 to {FIELDS_MAX} fields with different names",
                next_step="rename or remove the repeated field",
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)

    @property
    def row_bytes(self) -> int:
        """Payload bytes of one row, without sequence and time."""
        return sum(f.type.size_bytes for f in self.fields)

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise FlowError(
            "schema.unknown-field",
            f"there is no field {name!r}",
            why=f"the stream has {', '.join(self.names)}",
            next_step="use one of those",
        )

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def to_json(self) -> list[dict[str, Any]]:
        """One object per field, in order; `from_json` reads it."""
        return [
            {
                "name": f.name,
                "dtype": f.type.dtype,
                "shape": list(f.type.shape),
                "unit": f.unit,
                "scale": list(f.scale),
            }
            for f in self.fields
        ]

    @staticmethod
    def from_json(rows: list[dict[str, Any]]) -> Schema:
        """What `to_json` gave. Raises as `Field` and `TensorType` do for what cannot be a field."""
        return Schema(
            tuple(
                Field(
                    r["name"],
                    TensorType(r["dtype"], tuple(r["shape"])),
                    r.get("unit", ""),
                    tuple(r.get("scale", ())),
                )
                for r in rows
            )
        )

    @staticmethod
    def of(columns: Mapping[str, Any], units: Mapping[str, str] | None = None) -> Schema:
        """The schema of one example row: a mapping of names to scalars or arrays.

        Raises ``schema.unknown-field`` when ``units`` names a field that is not there.
        """
        units = units or {}
        if unknown := [u for u in units if u not in columns]:
            raise FlowError(
                "schema.unknown-field",
                f"units= names {', '.join(unknown)}",
                why=f"the fields are {', '.join(columns)}",
                next_step="give units to fields that are there",
            )
        fields = (Field(name, TensorType.of(value), units.get(name, "")) for name, value in columns.items())
        return Schema(tuple(fields))
