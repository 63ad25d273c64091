"""What may follow what in a flow: each rule says no with what, why and next when a stage is added."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ganglion.core.errors import FlowError
from ganglion.core.labels import jurisdictions
from ganglion.core.schema import Schema, TensorType
from ganglion.core.units import parse_size_bytes
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import (
    ANYWHERE,
    PARTIALS,
    TIERS,
    WHEN_FULL,
    Aggregate,
    Backlog,
    Constraint,
    Stage,
    Tier,
    WhenFull,
    WindowStage,
)
from ganglion.kernels import Kernel

BUDGET_BYTES_MIN = 64_000
ACTUATOR = re.compile(r"[a-z][a-z0-9-]{0,40}")


def constraint_after(upstream: Stage, on: Sequence[Tier], keep_in: Sequence[str] = ()) -> Constraint:
    """Where a stage that reads ``upstream`` may run: on the given tiers, in the places both allow.

    Raises ``flow.tier``, or ``flow.label`` for a malformed place and for lists without a place in common.
    """
    if isinstance(on, str) or any(t not in TIERS for t in on):
        raise FlowError(
            "flow.tier",
            f"on={on!r}",
            why=f"it is a sequence of the tiers {', '.join(TIERS)}",
            next_step='write e.g. on=("edge", "cloud")',
        )
    inherited = upstream.constraint.jurisdictions
    wanted = jurisdictions(keep_in)
    places = _meet(wanted, inherited) if wanted and inherited else wanted or inherited
    if wanted and not places:
        # Never None here: that would mean anywhere, the opposite of what both asked for.
        raise FlowError(
            "flow.label",
            f"keep_in={list(wanted)} after {upstream.id}, which is kept in {list(inherited or ())}",
            why="a later stage can only narrow where data may be, and these lists name no place in common",
            next_step="name the same places or parts of them (DE-BY of DE), or change keep_in= upstream",
        )
    return Constraint(tuple(on) or None, places or None) if on or places else ANYWHERE


def _meet(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    """The places that lie in one of ``a`` and in one of ``b``: ``DE-BY`` lies in ``DE``."""

    def lies_in(place: str, places: tuple[str, ...]) -> bool:
        return place in places or place.partition("-")[0] in places

    met = [p for p in a if lies_in(p, b)] + [p for p in b if lies_in(p, a)]
    return tuple(dict.fromkeys(met))


def sees(flow: FlowSpec, stage_id: str, later_id: str) -> bool:
    """True when each row of ``later_id`` was made from one row of ``stage_id``, of the same origin and time."""
    chain = flow.chain(later_id) if later_id in flow else ()
    later = chain[chain.index(stage_id) + 1 :] if stage_id in chain else ()
    return bool(later) and not any(isinstance(flow[s], WindowStage) for s in later)


def check_reflex(flow: FlowSpec, upstream_id: str, actuator: str, verb: str, within_ns: int) -> None:
    """Raises ``flow.act`` unless the names are names, the deadline is one, and the rows have one origin."""
    if not ACTUATOR.fullmatch(actuator) or not ACTUATOR.fullmatch(verb) or within_ns < 1:
        raise FlowError(
            "flow.act",
            f"act({actuator!r}, {verb!r}) within {within_ns} ns",
            why="actuators and verbs are lower case names, and a reflex has a deadline above zero",
            next_step='write e.g. .act("breaker", "open", within="20ms")',
        )
    chain = [flow[s] for s in flow.chain(upstream_id)]
    if any(isinstance(s, WindowStage) and s.by == "all" for s in chain):
        raise FlowError(
            "flow.act",
            f"act({actuator!r}, {verb!r}) on {upstream_id}, which merges all origins",
            why="a reflex moves the actuator of its row's origin, and these rows have none",
            next_step="act on a stream by origin",
        )


def check_input(kernel: Kernel, upstream: Stage) -> None:
    """Raises ``flow.kernel-input`` unless the stage's rows are what the kernel takes."""
    schema = upstream.schema
    if isinstance(kernel.input, TensorType):
        field = schema.fields[0]
        stored = TensorType("f32", field.type.shape) if field.scale else field.type
        fits, has = len(schema.fields) == 1 and stored == kernel.input, str(stored)
    else:
        wanted = {(f.name, f.type) for f in kernel.input.fields}
        # A scaled field is no other kernel's output: only a kernel of one frame sees it in its unit.
        fits = wanted <= {(f.name, f.type) for f in schema.fields if not f.scale}
        has = _listed(schema)
    if not fits:
        needs = kernel.input if isinstance(kernel.input, TensorType) else _listed(kernel.input)
        raise FlowError(
            "flow.kernel-input",
            f"kernel {kernel.name} does not fit {upstream.id}",
            why=f"it takes {needs}, the stream has {has}",
            next_step="change the kernel's declared input, or map it onto another stream",
        )


def _listed(schema: Schema) -> str:
    return ", ".join(f"{f.name}: {f.type}" for f in schema.fields)


def declared_backlog(stream_id: str, *, urgent: bool, budget: str | None, when_full: WhenFull) -> Backlog:
    """What a flow says of a stream's rows that wait for a parent; raises ``flow.backlog``."""
    budget_bytes = 0 if budget is None else parse_size_bytes(budget)
    if when_full not in WHEN_FULL or (budget is not None and budget_bytes < BUDGET_BYTES_MIN):
        raise FlowError(
            "flow.backlog",
            f"{stream_id} with a budget of {budget} and when_full={when_full!r}",
            why=f"a budget is at least {BUDGET_BYTES_MIN} bytes, and when_full one of {', '.join(WHEN_FULL)}",
            next_step='write e.g. .backlog(budget="64MB", when_full="keep-newest")',
        )
    return Backlog(urgent, budget_bytes, when_full)


def named_aggregate(name: str, wanted: Any, schema: Schema) -> Aggregate:
    """``wanted`` as the output ``name``; raises ``flow.aggregate`` or ``schema.unknown-field``."""
    if not isinstance(wanted, Aggregate) or wanted.function not in PARTIALS:
        raise FlowError(
            "flow.aggregate",
            f"{name}={wanted!r}",
            why=f"an aggregate is one of {', '.join(PARTIALS)} of a field",
            next_step='write e.g. peak=gg.max("peak")',
        )
    if wanted.function != "count" and schema[wanted.field].type.shape != ():
        raise FlowError(
            "flow.aggregate",
            f"{wanted.function}({wanted.field!r}) of a field of type {schema[wanted.field].type}",
            why="aggregates take scalar fields",
            next_step="reduce the array in a kernel first",
        )
    return Aggregate(name, wanted.function, wanted.field)
