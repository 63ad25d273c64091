"""The forms a source may have: frames of samples, or plain rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ganglion.core.errors import FlowError
from ganglion.core.schema import Field, Schema, TensorType


@dataclass(frozen=True)
class Frame:
    """The form of a source: fixed shape, stored dtype, unit (one, or one per channel), scale to the unit."""

    type: TensorType
    unit: str
    scale: tuple[float, ...]

    def __init__(
        self,
        *shape: int,
        dtype: str = "f32",
        unit: str | Sequence[str] = "",
        scale: float | Sequence[float] = (),
    ) -> None:
        object.__setattr__(self, "type", TensorType(dtype, tuple(shape)))
        if not isinstance(unit, str) and len(unit) != (shape[0] if shape else 1):
            raise FlowError(
                "schema.shape",
                f"a frame of shape {shape} has {len(unit)} units",
                why="there is one unit for all, or one for each channel (first extent)",
                next_step='write e.g. gg.Frame(2, 64, unit=("V", "A"))',
            )
        object.__setattr__(self, "unit", unit if isinstance(unit, str) else ",".join(unit))
        factors = (float(scale),) if isinstance(scale, int | float) else tuple(float(s) for s in scale)
        object.__setattr__(self, "scale", factors)


@dataclass(frozen=True)
class Row:
    """The form of a source of plain rows: ``gg.Row(temp=gg.f32, q=gg.i32, units={"temp": "degC"})``.

    Fields are scalars of ``f32 f64 i16 i32 i64 bool``; ``units`` says those that have one.
    """

    fields: tuple[Field, ...]

    def __init__(self, *, units: Mapping[str, str] = MappingProxyType({}), **fields: TensorType) -> None:
        if wrong := [n for n, t in fields.items() if not isinstance(t, TensorType) or t.shape]:
            raise FlowError(
                "schema.shape",
                f"field {wrong[0]} of a row is {fields[wrong[0]]}",
                why="the fields of a row are scalars",
                next_step="write e.g. gg.Row(temp=gg.f32), or gg.Frame(3, 64) for an array",
            )
        if unknown := [u for u in units if u not in fields]:
            raise FlowError(
                "schema.unknown-field",
                f"units= names {', '.join(unknown)}",
                why=f"the fields are {', '.join(fields)}",
                next_step="give units to fields that are there",
            )
        made = tuple(Field(name, kind, units.get(name, "")) for name, kind in fields.items())
        object.__setattr__(self, "fields", Schema(made).fields)
