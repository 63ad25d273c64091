"""The folds that windows are computed by."""

from __future__ import annotations

from collections.abc import Sequence

from ganglion.flow.stages import PARTIALS, Aggregate, Stage, WindowStage
from ganglion.kernels.folds.fold import Fold, Function, Part

_ACCUMULATED: dict[str, tuple[Function, ...]] = {
    "count": ("count",),
    "sum": ("sum",),
    "min": ("min",),
    "max": ("max",),
    "mean": ("sum",),
    "std": ("sum", "squares"),
}
"""What each aggregate function keeps of its field, in the order of its part columns."""
assert all(len(kept) == max(1, len(PARTIALS[function])) for function, kept in _ACCUMULATED.items())


def folded_fields(aggregates: Sequence[Aggregate]) -> tuple[str, ...]:
    """The fields whose values are accumulated, each once: the columns of the fold."""
    return tuple(dict.fromkeys(a.field for a in aggregates if a.function != "count"))


def window_fold(stage: WindowStage, upstream: Stage) -> Fold:
    """The fold of a window's rows into its parts. A rollup has none: it merges parts that others folded."""
    assert not stage.merges
    fields = folded_fields(stage.aggregates)
    columns = tuple(
        "f32" if upstream.schema[name].scale else upstream.schema[name].type.dtype for name in fields
    )
    parts = tuple(
        Part(kept, -1 if kept == "count" else fields.index(aggregate.field))
        for aggregate in stage.aggregates
        for kept in _ACCUMULATED[aggregate.function]
    )
    return Fold(columns, parts)
