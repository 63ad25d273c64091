"""The stages a flow is made of: frozen data with explicit ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ganglion.core.labels import Labels
from ganglion.core.schema import Field as Column
from ganglion.core.schema import Schema, f64, i64
from ganglion.flow.expression import Expression
from ganglion.kernels import Kernel

Tier = Literal["device", "gateway", "edge", "cloud"]
TIERS: tuple[Tier, ...] = ("device", "gateway", "edge", "cloud")
By = Literal["origin", "all"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """Where a stage may run: tiers and jurisdictions; None means anywhere."""

    tiers: tuple[Tier, ...] | None = None
    jurisdictions: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "tiers": list(self.tiers) if self.tiers else None,
            "jurisdictions": list(self.jurisdictions) if self.jurisdictions else None,
        }


ANYWHERE = Constraint()

WhenFull = Literal["wait", "keep-newest", "keep-oldest"]
WHEN_FULL: tuple[WhenFull, ...] = ("wait", "keep-newest", "keep-oldest")


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is done with a stream's rows while they wait at a site for its parent.

    ``urgent``: they go before those that are not. ``budget_bytes``: what they may take of the site's outbox, 0 for all
    of it. ``when_full``: which rows are kept when that is used up; ``wait`` keeps all and holds up what makes them.
    """

    urgent: bool = False
    budget_bytes: int = 0
    when_full: WhenFull = "wait"

    def to_json(self) -> dict[str, Any]:
        return {"urgent": self.urgent, "budget_bytes": self.budget_bytes, "when_full": self.when_full}


PATIENT = Backlog()


@dataclass(frozen=True, slots=True)
class Stage:
    """What all stages have: an id, the stages they read, what they give, what rides on them, how it waits."""

    id: str
    inputs: tuple[str, ...]
    schema: Schema
    labels: Labels
    constraint: Constraint = ANYWHERE
    backlog: Backlog = field(default=PATIENT, kw_only=True)

    kind = "stage"

    def details(self) -> dict[str, Any]:
        """What is special to the kind, for JSON."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """What the flow's digest covers: everything but where the stage was written down."""
        return {
            "id": self.id,
            "kind": self.kind,
            "inputs": list(self.inputs),
            "schema": self.schema.to_json(),
            "labels": {"origins": sorted(self.labels.origins), "categories": sorted(self.labels.categories)},
            "constraint": self.constraint.to_json(),
            **({} if self.backlog == PATIENT else {"backlog": self.backlog.to_json()}),
            **self.details(),
        }


@dataclass(frozen=True, slots=True)
class SourceStage(Stage):
    """Frames measured by each origin of a device class, one every ``every_ns``."""

    every_ns: int = 0

    kind = "source"

    def details(self) -> dict[str, Any]:
        return {"every_ns": self.every_ns}


@dataclass(frozen=True, slots=True)
class MapStage(Stage):
    """One row in, the kernel's outputs out; state per origin when the kernel has state."""

    kernel: Kernel = field(kw_only=True)

    kind = "map"

    def details(self) -> dict[str, Any]:
        return {"kernel": self.kernel.name, "digest": self.kernel.digest, "stateful": self.kernel.stateful}


@dataclass(frozen=True, slots=True)
class WhereStage(Stage):
    """The rows for which the predicate holds. ``selectivity`` (0..1] is the expected share, for planning."""

    predicate: Expression = field(kw_only=True)
    selectivity: float = 1.0

    kind = "where"

    def __eq__(self, other: object) -> bool:
        # == of two predicates records a third one, so stages are compared by their stable form.
        return isinstance(other, WhereStage) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.id, self.inputs))

    def details(self) -> dict[str, Any]:
        return {"predicate": self.predicate.to_json(), "selectivity": self.selectivity}


@dataclass(frozen=True, slots=True)
class AroundStage(Stage):
    """Rows of the first input from ``before_ns`` before to ``after_ns`` after each row of the second, once each."""

    before_ns: int = 0
    after_ns: int = 0

    kind = "around"

    def details(self) -> dict[str, Any]:
        return {"before_ns": self.before_ns, "after_ns": self.after_ns}


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One output of a window: ``function`` (count sum mean min max std) of a scalar field."""

    name: str
    function: str
    field: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "function": self.function, "field": self.field}


@dataclass(frozen=True, slots=True)
class WindowStage(Stage):
    """Tumbling windows of event time, aggregated per key.

    ``by``: one result per origin, or one over all origins. ``lag_max_ns``: how far an origin's watermark may lie
    behind the most advanced one before a window over all origins stops waiting for it; what comes later is a revision.
    ``keep_ns``: how long a closed window can still be revised; rows older than that are counted as dropped.
    """

    width_ns: int = 0
    aggregates: tuple[Aggregate, ...] = ()
    by: By = "origin"
    lag_max_ns: int = 0
    keep_ns: int = 0
    merges: bool = False
    """True for a rollup: the input rows are partial results of a window of the same width."""

    kind = "window"

    def details(self) -> dict[str, Any]:
        return {
            "width_ns": self.width_ns,
            "aggregates": [a.to_json() for a in self.aggregates],
            "by": self.by,
            "lag_max_ns": self.lag_max_ns,
            "keep_ns": self.keep_ns,
            "merges": self.merges,
        }


@dataclass(frozen=True, slots=True)
class ActStage(Stage):
    """A reflex: each row makes the origin's actuator do ``verb``, within a deadline, uplink or not."""

    actuator: str = ""
    verb: str = ""
    within_ns: int = 0

    kind = "act"

    def details(self) -> dict[str, Any]:
        return {"actuator": self.actuator, "verb": self.verb, "within_ns": self.within_ns}


@dataclass(frozen=True, slots=True)
class SinkStage(Stage):
    """Rows are kept, each exactly once, at a tier."""

    at: Tier = "cloud"

    kind = "sink"

    def details(self) -> dict[str, Any]:
        return {"at": self.at}


WINDOW_FIELDS = (
    Column("start_ns", i64, "ns"),
    Column("revision", i64),
    Column("rows", i64),
)
"""Every window result begins with these: start (event time), revision (0 first), rows aggregated."""

PARTIALS = {
    "count": (),
    "sum": (),
    "min": (),
    "max": (),
    "mean": ("sum",),
    "std": ("sum", "squares"),
}
"""Per function: the extra columns that make its result mergeable (a commutative monoid)."""


def window_schema(aggregates: tuple[Aggregate, ...], unit_of: dict[str, str]) -> Schema:
    """The schema of a window's results: start, revision, rows, then each aggregate and its partials, all f64."""
    columns = list(WINDOW_FIELDS)
    for aggregate in aggregates:
        unit = "" if aggregate.function == "count" else unit_of.get(aggregate.field, "")
        columns.append(Column(aggregate.name, f64, unit))
        columns += [Column(f"{aggregate.name}_{part}", f64) for part in PARTIALS[aggregate.function]]
    return Schema(tuple(columns))
