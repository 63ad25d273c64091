"""The aggregate functions a window can compute; each is a commutative monoid, so partials merge in any order."""

from __future__ import annotations

from ganglion.flow.stages import Aggregate


def count() -> Aggregate:
    """The number of rows."""
    return Aggregate("", "count", "")


def sum(field: str) -> Aggregate:
    """The sum of a scalar field."""
    return Aggregate("", "sum", field)


def mean(field: str) -> Aggregate:
    """The arithmetic mean of a scalar field."""
    return Aggregate("", "mean", field)


def min(field: str) -> Aggregate:
    """The least value of a scalar field."""
    return Aggregate("", "min", field)


def max(field: str) -> Aggregate:
    """The greatest value of a scalar field."""
    return Aggregate("", "max", field)


def std(field: str) -> Aggregate:
    """The population standard deviation of a scalar field."""
    return Aggregate("", "std", field)
