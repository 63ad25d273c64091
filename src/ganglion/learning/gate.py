"""The gate: a network that misses what its recipe asks for does not leave; what nobody could measure is missed too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ganglion.learning.course import unknown_measure
from ganglion.learning.footprint import Footprint
from ganglion.learning.recipe import Gate

SIZES = ("flash_bytes", "ram_bytes", "stack_bytes", "instructions")


@dataclass(frozen=True)
class Finding:
    """One bound: ``value`` is None when it was not measured."""

    measure: str
    bound: float
    at_least: bool
    value: float | None

    @property
    def held(self) -> bool:
        """Whether the value keeps the bound."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        """In words."""
        sign = ">=" if self.at_least else "<="
        value = "not measured" if self.value is None else f"{self.value:,.6g}"
        return f"{'held  ' if self.held else 'MISSED'} {self.measure} {value} ({sign} {self.bound:,.6g})"


def findings(gate: Gate, measures: Mapping[str, float], sizes: Footprint) -> list[Finding]:
    """Every bound of the gate. Raises `DataError` ``learning.measure`` for a name that nothing gives."""
    values: dict[str, float | None] = dict(measures)
    values |= {name: getattr(sizes, name) for name in SIZES}
    found = []
    for bounds, at_least in ((gate.at_least, True), (gate.at_most, False)):
        for name, bound in bounds.items():
            if name not in values:
                raise unknown_measure(name, dict.fromkeys(values, 0.0))
            found.append(Finding(name, bound, at_least, values[name]))
    return found
