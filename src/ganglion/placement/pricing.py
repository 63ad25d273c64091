"""Column pricing: where columns are too many to list, HiGHS finds the cheapest one at given prices.

The columns of wide flows of 30 stages cannot be listed. Those that the list kept are completed by the cheapest
columns at prices of each share that may run out, alone and together, on a scale of their own worth.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganglion.placement.columns import (
    OWN,
    SHARED,
    WIDTH,
    Columns,
    Floats,
    Stencil,
    column_sums,
    key_sums,
)
from ganglion.placement.dominance import pareto
from ganglion.placement.routes import DEVICE, RANKS
from ganglion.placement.solver import OutOfBudget, Program, solve

STRENGTHS = (0.1, 1.0, 10.0, 1e4)


@dataclass(frozen=True, slots=True)
class Priced:
    """The cheapest column at given prices, and what no column is below; no ranks when none fits or none was found."""

    ranks: NDArray[np.int8] | None
    low: float


def priced_columns(face: Stencil, columns: Columns, weights: Floats, active: NDArray[np.bool_]) -> Columns:
    """``columns`` and the cheapest ones at no price and at prices of every active share; not complete."""
    rows = np.flatnonzero(active)
    keys = key_sums(columns.sums, weights, active) if len(columns.sums) else np.ones((1, 1 + len(rows)))
    spread = np.ptp(keys, axis=0)
    worth = (spread[0] or 1.0) / np.where(spread[1:] > 0, spread[1:], 1.0)
    trials: list[Floats] = [np.zeros(len(rows))]
    for strength in STRENGTHS:
        trials += [strength * worth * one for one in np.eye(len(rows))]
        if len(rows) > 1:
            trials.append(strength * worth)
    found = []
    for trial in trials:
        prices = np.zeros(len(active))
        prices[rows] = trial
        found.append(cheapest(face, weights, prices).ranks)
    return with_columns(face, columns, [r for r in found if r is not None], weights, active)


def with_columns(
    face: Stencil,
    columns: Columns,
    more: Sequence[NDArray[np.int8]],
    weights: Floats,
    active: NDArray[np.bool_],
) -> Columns:
    """``columns`` and ``more`` of them, without those that another one beats; not complete."""
    ranks = np.unique(np.concatenate([columns.ranks, *(r[None, :] for r in more)]), axis=0)
    sums = column_sums(face, ranks)
    kept = pareto(key_sums(sums, weights, active))
    return Columns(ranks[kept], sums[kept], complete=False)


def cheapest(face: Stencil, weights: Floats, prices: Floats) -> Priced:
    """The column that fits the device with the least objective and price; ``prices`` of each of `SHARED`."""
    every = np.zeros(face.seats.shape[2])
    every[:WIDTH] = weights
    every[SHARED] += prices
    program = Program()
    count = len(face.stages)
    seats = {(s, r): program.column(whole=True) for s in range(count) for r in RANKS}
    cross = {(s, r): program.column(whole=False) for s in range(count) for r in RANKS[:-1]}
    late = {s: program.column(whole=False) for s in range(count) if face.leading[s]}
    vectors = {seats[s, r]: face.seats[s, r] for s, r in seats}
    vectors |= {cross[s, r]: face.crossings[s, r] for s, r in cross}
    vectors |= {column: face.urgent[s] for s, column in late.items()}
    zero = [seats[s, r] for s, r in seats if r not in face.allowed[s] or r > face.floors[s]]
    zero += [column for column in cross.values() if not np.isfinite(vectors[column]).all()]
    _shape(face, program, seats, cross, late)
    width = face.seats.shape[2]
    for row in itertools.chain(range(OWN.start, OWN.stop), range(WIDTH, width)):
        program.row({c: float(v[row]) for c, v in vectors.items() if np.isfinite(v[row])}, high=1.0)
    worth = {c: float(v @ every) for c, v in vectors.items() if np.isfinite(v).all()}
    scale = max((abs(v) for v in worth.values()), default=1.0) or 1.0
    try:
        solution = solve(program, {c: v / scale for c, v in worth.items()}, zero=zero)
    except OutOfBudget:
        return Priced(None, 0.0)  # nothing costs less than nothing
    if solution is None:
        return Priced(None, np.inf)
    chosen = [max(RANKS, key=lambda r: solution.values[seats[s, r]]) for s in range(count)]
    low = solution.objective - solution.gap * abs(solution.objective)
    return Priced(np.array(chosen, dtype=np.int8), low * scale)


def _shape(
    face: Stencil,
    program: Program,
    seats: dict[tuple[int, int], int],
    cross: dict[tuple[int, int], int],
    late: dict[int, int],
) -> None:
    """One seat each, data goes only up, and what goes up a wire: a reader above it, the stage itself not."""

    def above(s: int, rank: int, sign: float) -> dict[int, float]:
        return {seats[s, r]: sign for r in RANKS if r > rank}

    for s in range(len(face.stages)):
        program.row({seats[s, r]: 1.0 for r in RANKS}, low=1.0, high=1.0)
        for rank in RANKS[:-1]:
            for reader in face.readers[s]:
                program.row(above(reader, rank, 1.0) | above(s, rank, -1.0), low=0.0)
                program.row(above(reader, rank, -1.0) | above(s, rank, 1.0) | {cross[s, rank]: 1.0}, low=0.0)
            if face.tops[s] > rank:
                program.row(above(s, rank, 1.0) | {cross[s, rank]: 1.0}, low=1.0)
        for reader in face.leading[s]:
            program.row(above(reader, DEVICE, -1.0) | above(s, DEVICE, 1.0) | {late[s]: 1.0}, low=0.0)
