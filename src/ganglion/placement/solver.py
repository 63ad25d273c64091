"""The only door to HiGHS: small mixed-integer programs, solved to proof; budgets count nodes, not time.

The same program gives the same answer on every run: one thread, a fixed seed, no wall clock. HiGHS is imported when it
is used: without it fleets are planned by prices and bounds of our own, and what needs a program raises `NoSolver`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import highspy

WITHOUT = "bounds without HiGHS"
"""What plans name as their solver where HiGHS cannot be used."""
BRANCH_NODES_MAX = 100_000
LP_STEPS_MAX = 5_000_000
_FEASIBILITY = 1e-9
_GAP_NONE = 1e-9
_SMALLEST = 1e-12
"""HiGHS takes no smaller coefficient; rows are scaled to a limit of about 1."""


class OutOfBudget(Exception):
    """The budget ended before any solution was found; the planner makes an operating error of it."""


class NoSolver(OutOfBudget):
    """HiGHS cannot be imported."""


def _highs() -> ModuleType:
    try:
        import highspy
    except (ImportError, OSError) as error:
        raise NoSolver(f"HiGHS cannot be used: {error}") from error
    return highspy


def missing() -> str:
    """Why HiGHS cannot be used here; empty when it can."""
    try:
        _highs()
    except NoSolver as error:
        return str(error)
    return ""


def name() -> str:
    """HiGHS with its version, or `WITHOUT`."""
    if missing():
        return WITHOUT
    found = _highs()
    version = (found.HIGHS_VERSION_MAJOR, found.HIGHS_VERSION_MINOR, found.HIGHS_VERSION_PATCH)
    return "HiGHS " + ".".join(map(str, version))


@dataclass(frozen=True, slots=True)
class Row:
    """``low <= sum(coefficient x column) <= high``; ``tag``: whose row it is, None if it always holds."""

    columns: tuple[int, ...]
    coefficients: tuple[float, ...]
    low: float
    high: float
    tag: object = None


def as_row(
    terms: Mapping[int, float], *, low: float = -np.inf, high: float = np.inf, tag: object = None
) -> Row:
    """A row without the terms that are too small to matter."""
    kept = {column: value for column, value in terms.items() if abs(value) > _SMALLEST}
    return Row(tuple(kept), tuple(kept.values()), low, high, tag)


@dataclass(slots=True)
class Program:
    """Columns between 0 and their upper bound, whole or not, and rows."""

    upper: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def column(self, *, whole: bool) -> int:
        """A new column between 0 and 1."""
        self.upper.append(1.0)
        self.whole.append(whole)
        return len(self.upper) - 1

    def row(
        self, terms: Mapping[int, float], *, low: float = -np.inf, high: float = np.inf, tag: object = None
    ) -> None:
        """A new row."""
        self.rows.append(as_row(terms, low=low, high=high, tag=tag))


@dataclass(frozen=True, slots=True)
class Solution:
    """Column values, the objective, and how much lower the best might be (0: proved)."""

    values: tuple[float, ...]
    objective: float
    gap: float


def solve(
    program: Program,
    costs: Mapping[int, float],
    *,
    zero: Sequence[int] = (),
    rows: Sequence[Row] | None = None,
    nodes_max: int = BRANCH_NODES_MAX,
) -> Solution | None:
    """Minimises; None when there is no solution. ``zero``: columns held at 0; ``rows``: instead of all rows.

    Raises `OutOfBudget` when the budget ended without a solution, `NoSolver` without HiGHS.
    """
    highspy = _highs()
    highs = _prepared(program, costs, zero, program.rows if rows is None else rows)
    highs.setOptionValue("mip_max_nodes", nodes_max)
    highs.run()
    status = highs.getModelStatus()
    if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible):
        return None  # every column has both bounds, so nothing is unbounded
    info = highs.getInfo()
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        raise OutOfBudget(str(status))
    values = tuple(float(v) for v in highs.getSolution().col_value)
    objective = float(info.objective_function_value)
    if status == highspy.HighsModelStatus.kOptimal:
        return Solution(values, objective, 0.0)
    bound = float(info.mip_dual_bound)
    gap = (objective - bound) / max(abs(objective), _GAP_NONE)
    return Solution(values, objective, gap if np.isfinite(gap) and gap > _GAP_NONE else 1.0)


def mixture(
    values: Sequence[float], excess: Sequence[NDArray[np.float64]], price_max: float
) -> tuple[float, tuple[float, ...]]:
    """Weights (sum 1) of points that minimise their mean value while their mean excess is at most 0 in each row.

    Excess that is left costs ``price_max`` each. Gives the least value and the rows' prices: the best point of the
    dual that the cuts ``value + prices x excess`` leave. Raises `OutOfBudget` when HiGHS gives up.
    """
    highspy = _highs()
    points, rows = len(values), len(excess[0])
    program = Program()
    for _ in range(points + rows):
        program.column(whole=False)
    program.upper[points:] = [np.inf] * rows
    program.row(dict.fromkeys(range(points), 1.0), low=1.0, high=1.0)
    for r in range(rows):
        terms = {i: float(excess[i][r]) for i in range(points)} | {points + r: -1.0}
        program.row(terms, high=0.0)
    costs = dict(enumerate(values)) | {points + r: price_max for r in range(rows)}
    highs = _prepared(program, costs, (), program.rows)
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise OutOfBudget(str(highs.getModelStatus()))
    duals = highs.getSolution().row_dual
    return float(highs.getInfo().objective_function_value), tuple(max(0.0, -float(d)) for d in duals[1:])


@cache
def _quiet(module: ModuleType) -> type[highspy.Highs]:
    class Quiet(module.Highs):  # type: ignore[misc, name-defined]  # the module is imported late
        """Without callbacks: setting them up prints a banner before any option can forbid it, and we use none."""

        def enableCallbacks(self) -> None:  # noqa: N802  # the name is HiGHS's
            self.setOptionValue("output_flag", False)

    return Quiet


def _prepared(
    program: Program, costs: Mapping[int, float], zero: Sequence[int], rows: Sequence[Row]
) -> highspy.Highs:
    highspy = _highs()
    highs = _quiet(highspy)()
    options: dict[str, bool | int | float | str] = {
        "threads": 1,
        "parallel": "off",
        "random_seed": 0,
        "mip_rel_gap": 0.0,
        "mip_abs_gap": _GAP_NONE,
        "mip_feasibility_tolerance": _FEASIBILITY,
        "primal_feasibility_tolerance": _FEASIBILITY,
        "dual_feasibility_tolerance": _FEASIBILITY,
        "small_matrix_value": _SMALLEST,
        "mip_max_nodes": BRANCH_NODES_MAX,
        "simplex_iteration_limit": LP_STEPS_MAX,
    }
    for option, value in options.items():
        assert highs.setOptionValue(option, value) == highspy.HighsStatus.kOk, option
    lp = highspy.HighsLp()
    count = len(program.upper)
    lp.num_col_, lp.num_row_ = count, len(rows)
    objective = np.zeros(count)
    for column, value in costs.items():
        objective[column] = value
    upper = np.array(program.upper)
    upper[list(zero)] = 0.0
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = objective, np.zeros(count), upper
    lp.row_lower_ = np.array([r.low for r in rows])
    lp.row_upper_ = np.array([r.high for r in rows])
    lp.integrality_ = [
        highspy.HighsVarType.kInteger if w else highspy.HighsVarType.kContinuous for w in program.whole
    ]
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.cumsum([0, *(len(r.columns) for r in rows)])
    lp.a_matrix_.index_ = np.array([c for r in rows for c in r.columns], dtype=np.int32)
    lp.a_matrix_.value_ = np.array([v for r in rows for v in r.coefficients], dtype=float)
    assert highs.passModel(lp) == highspy.HighsStatus.kOk
    return highs
