"""The values windows merge: every aggregate as a commutative monoid of float64 numbers.

The parts of a window's aggregates stand one after the other in one flat list; two lists merge number by number.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ganglion.core.batch import Batch
from ganglion.flow.stages import PARTIALS, Aggregate

Parts = list[float]
"""The monoid's value of every aggregate of a stage, flattened in the order of the stage's columns."""


RESULT_ROWS_MAX = 1 << 44
"""Rows that a result may say it is of: those of all origins that a stage keeps still make a 64-bit number."""


def counted(results: Batch) -> npt.NDArray[np.bool_]:
    """Which of a window's results are of any rows, and of no more than there can be."""
    rows = results.columns["rows"]
    real: npt.NDArray[np.bool_] = (rows > 0) & (rows <= RESULT_ROWS_MAX)
    return real


def part_names(aggregate: Aggregate) -> tuple[str, ...]:
    """The columns that hold an aggregate's parts."""
    extra = PARTIALS[aggregate.function]
    return tuple(f"{aggregate.name}_{p}" for p in extra) if extra else (aggregate.name,)


def parts_in(aggregates: tuple[Aggregate, ...], batch: Batch, index: int) -> Parts:
    """The parts that one row of a window's results holds."""
    return [float(batch.columns[name][index]) for a in aggregates for name in part_names(a)]


def merge(aggregates: tuple[Aggregate, ...], left: Parts, right: Parts) -> Parts:
    """The parts of both halves together; a NaN in either stays."""
    merged: Parts = []
    for aggregate in aggregates:
        for _ in part_names(aggregate):
            a, b = left[len(merged)], right[len(merged)]
            if aggregate.function == "min":
                merged.append(b if b < a or math.isnan(b) else a)
            elif aggregate.function == "max":
                merged.append(b if b > a or math.isnan(b) else a)
            else:
                merged.append(a + b)
    return merged


def finish(aggregates: tuple[Aggregate, ...], parts: Parts, count: int) -> list[tuple[str, float]]:
    """Column names and values of a result over ``count`` rows: each aggregate, then its parts."""
    result: list[tuple[str, float]] = []
    at = 0
    for aggregate in aggregates:
        names = part_names(aggregate)
        own = parts[at : at + len(names)]
        at += len(names)
        if aggregate.function == "mean":
            result.append((aggregate.name, own[0] / count))
        elif aggregate.function == "std":
            mean = own[0] / count
            # Rounding may make it a little negative; NumPy's maximum, unlike Python's, lets a NaN through.
            result.append((aggregate.name, float(np.sqrt(np.maximum(0.0, own[1] / count - mean * mean)))))
        if aggregate.function in ("mean", "std"):
            result += list(zip(names, own, strict=True))
        else:
            result.append((aggregate.name, own[0]))
    return result


def finish_all(
    aggregates: tuple[Aggregate, ...], parts: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    """What `finish` gives, for many results at once: ``parts`` (n, parts), ``counts`` (n,) -> columns (n,).

    A NaN is always the same one, whatever the processor makes of inf - inf.
    """
    columns: dict[str, npt.NDArray[np.float64]] = {}
    at = 0
    with np.errstate(all="ignore"):
        for aggregate in aggregates:
            names = part_names(aggregate)
            own = parts[:, at : at + len(names)]
            at += len(names)
            if aggregate.function == "mean":
                columns[aggregate.name] = own[:, 0] / counts
            elif aggregate.function == "std":
                mean = own[:, 0] / counts
                columns[aggregate.name] = np.sqrt(np.maximum(0.0, own[:, 1] / counts - mean * mean))
            else:
                columns[aggregate.name] = own[:, 0].copy()
            if aggregate.function in ("mean", "std"):
                columns |= {name: own[:, k].copy() for k, name in enumerate(names)}
    for column in columns.values():
        column[np.isnan(column)] = np.nan
    return columns
