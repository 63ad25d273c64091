"""`Flow` and `Stream`: how a developer writes a flow. Wrong use fails here, with what, why and next."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ganglion.core.errors import FlowError
from ganglion.core.labels import Labels
from ganglion.core.schema import Field, Schema, TensorType
from ganglion.core.units import parse_duration_ns
from ganglion.flow.expression import record
from ganglion.flow.spec import STAGES_MAX, FlowSpec
from ganglion.flow.stages import (
    ANYWHERE,
    PARTIALS,
    TIERS,
    ActStage,
    Aggregate,
    AroundStage,
    By,
    Constraint,
    MapStage,
    SinkStage,
    SourceStage,
    Stage,
    Tier,
    WhereStage,
    WindowStage,
    window_schema,
)
from ganglion.kernels import Kernel

_ID = re.compile(r"[a-z][a-z0-9_]{0,40}")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
RESERVED = frozenset({"tick", "all"})
EVERY_NS_MIN = 100_000
WINDOW_NS_MIN = 1_000_000


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
        object.__setattr__(self, "unit", unit if isinstance(unit, str) else ",".join(unit))
        factors = (float(scale),) if isinstance(scale, int | float) else tuple(float(s) for s in scale)
        object.__setattr__(self, "scale", factors)


class Flow:
    """A flow under construction. Stage ids are explicit; where none is given it follows from names."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise FlowError(
                "flow.name",
                f"{name!r} is not a flow name",
                why="names are lower case letters, digits and -, at most 41",
                next_step='write it like gg.Flow("feeder-protection")',
            )
        self.name = name
        self._stages: dict[str, Stage] = {}

    def source(
        self,
        name: str,
        frame: Frame,
        *,
        every: str,
        labels: Labels | None = None,
        keep_in: Sequence[str] = (),
    ) -> Stream:
        """Frames of every origin, one each ``every`` (>= 100 us). ``keep_in``: jurisdictions they may be in."""
        every_ns = parse_duration_ns(every)
        if every_ns < EVERY_NS_MIN:
            raise FlowError(
                "flow.rate",
                f"source {name} has a frame every {every}",
                why="frames come at most every 100us",
                next_step="put more samples into one frame",
            )
        schema = Schema((Field("frame", frame.type, frame.unit, frame.scale),))
        constraint = Constraint(("device",), tuple(keep_in) or None)
        return self._add(SourceStage(name, (), schema, labels or Labels(), constraint, every_ns=every_ns))

    def spec(self) -> FlowSpec:
        """The finished flow as frozen data; raises ``flow.open`` when nothing would come of a stage."""
        spec = FlowSpec(self.name, self.stages)
        loose = [
            s.id for s in spec.stages if not isinstance(s, ActStage | SinkStage) and not spec.consumers(s.id)
        ]
        if loose or not spec.stages:
            raise FlowError(
                "flow.open",
                f"nothing uses {', '.join(loose) or 'the flow'}",
                why="every stage must end in an act(...) or a sink(...)",
                next_step="add .sink(...) or remove the stage",
            )
        return spec

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages so far."""
        return tuple(self._stages.values())

    def _add(self, stage: Stage) -> Stream:
        if not _ID.fullmatch(stage.id) or stage.id in RESERVED:
            raise FlowError(
                "flow.stage-id",
                f"{stage.id!r} is not a stage id",
                why="ids are lower case letters, digits and _, at most 41, not one of " + ", ".join(RESERVED),
                next_step="give id=",
            )
        if stage.id in self._stages or len(self._stages) >= STAGES_MAX:
            raise FlowError(
                "flow.stage-id",
                f"flow {self.name} has a stage {stage.id!r} already",
                why=f"ids are unique within a flow, at most {STAGES_MAX} stages",
                next_step="give this one another id=",
            )
        self._stages[stage.id] = stage
        return Stream(self, stage)


class Stream:
    """What a stage gives; each method adds a stage that reads it."""

    def __init__(self, flow: Flow, stage: Stage) -> None:
        self.flow = flow
        self.stage = stage

    @property
    def id(self) -> str:
        return self.stage.id

    @property
    def schema(self) -> Schema:
        return self.stage.schema

    def map(
        self, kernel: Kernel, *, id: str | None = None, on: Sequence[Tier] = (), keep_in: Sequence[str] = ()
    ) -> Stream:
        """Each row through ``kernel``, whose input must be this stream's frame or fields."""
        if not isinstance(kernel, Kernel):
            raise FlowError(
                "flow.kernel",
                f"map was given {type(kernel).__name__}",
                why="a stage runs a declared kernel",
                next_step="decorate the function with @gg.kernel(...)",
            )
        _check_input(kernel, self.stage)
        stage = MapStage(
            id or kernel.name,
            (self.id,),
            kernel.output,
            self.stage.labels,
            _on(on, keep_in, self),
            kernel=kernel,
        )
        return self.flow._add(stage)

    def where(
        self,
        predicate: Callable[[Any], Any],
        *,
        id: str | None = None,
        selectivity: float = 1.0,
        on: Sequence[Tier] = (),
    ) -> Stream:
        """The rows for which the recorded predicate holds; ``selectivity`` in (0, 1] is the share expected."""
        if not 0 < selectivity <= 1:
            raise FlowError(
                "flow.selectivity",
                f"selectivity is {selectivity}",
                why="it is the expected share of rows, above 0 and at most 1",
                next_step="write e.g. selectivity=1e-4",
            )
        expression = record(predicate, self.schema)
        return self.flow._add(
            WhereStage(
                id or f"{self.id}_where",
                (self.id,),
                self.schema,
                self.stage.labels,
                _on(on, (), self),
                predicate=expression,
                selectivity=selectivity,
            )
        )

    def around(self, trigger: Stream, *, before: str, after: str, id: str | None = None) -> Stream:
        """Rows of this stream near each row of ``trigger`` of the same origin, each at most once."""
        if trigger.flow is not self.flow or self.id not in FlowSpec("", self.flow.stages).ancestors(
            trigger.id
        ):
            raise FlowError(
                "flow.around",
                f"{trigger.id} does not come from {self.id}",
                why="frames are kept around rows that were computed from them",
                next_step="pass a stream made from this one with map and where",
            )
        labels = self.stage.labels.join(trigger.stage.labels)
        return self.flow._add(
            AroundStage(
                id or f"{self.id}_around",
                (self.id, trigger.id),
                self.schema,
                labels,
                _on((), (), self),
                before_ns=parse_duration_ns(before),
                after_ns=parse_duration_ns(after),
            )
        )

    def window(self, width: str, *, by: By = "origin", lag_max: str = "10s", keep: str = "7d") -> Window:
        """Tumbling windows of event time (>= 1 ms); finish with ``.aggregate(...)``."""
        width_ns = parse_duration_ns(width)
        if width_ns < WINDOW_NS_MIN or by not in ("origin", "all"):
            raise FlowError(
                "flow.window",
                f"window({width!r}, by={by!r})",
                why='a window is at least 1ms wide and by "origin" or "all"',
                next_step='write e.g. .window("1min", by="origin")',
            )
        return Window(self, width_ns, by, parse_duration_ns(lag_max), parse_duration_ns(keep))

    def rollup(self, *, id: str | None = None, on: Sequence[Tier] = ()) -> Stream:
        """Merges the windows of all origins into one result per window, from their partials; late ones revise it."""
        window = self.stage
        if not isinstance(window, WindowStage) or window.by != "origin":
            raise FlowError(
                "flow.rollup",
                f"{self.id} is not a window by origin",
                why="a rollup merges the partial results of windows",
                next_step="call it on what .window(...).aggregate(...) returned",
            )
        return self.flow._add(
            WindowStage(
                id or f"{self.id}_rollup",
                (self.id,),
                window.schema,
                window.labels,
                _on(on, (), self),
                width_ns=window.width_ns,
                aggregates=window.aggregates,
                by="all",
                lag_max_ns=window.lag_max_ns + window.width_ns,
                keep_ns=window.keep_ns,
                merges=True,
            )
        )

    def act(self, actuator: str, verb: str, *, within: str, id: str | None = None) -> None:
        """A reflex: every row makes ``actuator`` of its origin do ``verb``; never depends on an uplink."""
        if not _NAME.fullmatch(actuator) or not _NAME.fullmatch(verb):
            raise FlowError(
                "flow.act",
                f"act({actuator!r}, {verb!r})",
                why="actuators and verbs are lower case names",
                next_step='write e.g. .act("breaker", "open", within="20ms")',
            )
        self.flow._add(
            ActStage(
                id or f"{actuator.replace('-', '_')}_{verb.replace('-', '_')}",
                (self.id,),
                self.schema,
                self.stage.labels,
                Constraint(("device", "gateway")),
                actuator=actuator,
                verb=verb,
                within_ns=parse_duration_ns(within),
            )
        )

    def sink(self, name: str, *, at: Tier = "cloud") -> None:
        """Keeps every row exactly once at a tier (gateway, edge or cloud)."""
        if at not in TIERS[1:]:
            raise FlowError(
                "flow.sink",
                f"sink {name} at {at!r}",
                why="rows are kept at a gateway, edge or cloud",
                next_step='write at="edge" or at="cloud"',
            )
        keep = self.stage.constraint.jurisdictions
        self.flow._add(
            SinkStage(name, (self.id,), self.schema, self.stage.labels, Constraint((at,), keep), at=at)
        )


class Window:
    """A window waiting for its aggregates."""

    def __init__(self, stream: Stream, width_ns: int, by: By, lag_max_ns: int, keep_ns: int) -> None:
        self._stream = stream
        self._width_ns = width_ns
        self._by: By = by
        self._lag_max_ns = lag_max_ns
        self._keep_ns = keep_ns

    def aggregate(self, *, id: str | None = None, on: Sequence[Tier] = (), **outputs: Aggregate) -> Stream:
        """One result per key and window: ``rms=gg.mean("rms"), peak=gg.max("peak")``."""
        stream = self._stream
        if not outputs:
            raise FlowError(
                "flow.aggregate",
                "aggregate() without outputs",
                why="a window must compute something",
                next_step='write .aggregate(rms=gg.mean("rms"))',
            )
        aggregates = []
        for name, wanted in outputs.items():
            if not isinstance(wanted, Aggregate) or wanted.function not in PARTIALS:
                raise FlowError(
                    "flow.aggregate",
                    f"{name}={wanted!r}",
                    why=f"an aggregate is one of {', '.join(PARTIALS)} of a field",
                    next_step='write e.g. peak=gg.max("peak")',
                )
            if wanted.function != "count" and stream.schema[wanted.field].type.shape != ():
                raise FlowError(
                    "flow.aggregate",
                    f"{wanted.function}({wanted.field!r}) of a field of shape {stream.schema[wanted.field].type}",
                    why="aggregates take scalar fields",
                    next_step="reduce the array in a kernel first",
                )
            aggregates.append(Aggregate(name, wanted.function, wanted.field))
        chosen = tuple(aggregates)
        units = {f.name: f.unit for f in stream.schema.fields}
        return stream.flow._add(
            WindowStage(
                id or f"{stream.id}_window",
                (stream.id,),
                window_schema(chosen, units),
                stream.stage.labels,
                _on(on, (), stream),
                width_ns=self._width_ns,
                aggregates=chosen,
                by=self._by,
                lag_max_ns=self._lag_max_ns,
                keep_ns=self._keep_ns,
            )
        )


def _on(tiers: Sequence[Tier], keep_in: Sequence[str], upstream: Stream) -> Constraint:
    unknown = [t for t in tiers if t not in TIERS]
    if unknown:
        raise FlowError(
            "flow.tier",
            f"on={list(tiers)}",
            why=f"tiers are {', '.join(TIERS)}",
            next_step="use those",
        )
    inherited = upstream.stage.constraint.jurisdictions
    jurisdictions = tuple(keep_in) or inherited
    if jurisdictions and inherited:
        jurisdictions = tuple(j for j in jurisdictions if j in inherited)
    if tiers or jurisdictions:
        return Constraint(tuple(tiers) or None, jurisdictions or None)
    return ANYWHERE


def _check_input(kernel: Kernel, upstream: Stage) -> None:
    schema = upstream.schema
    if isinstance(kernel.input, TensorType):
        field = schema.fields[0]
        stored = TensorType("f32", field.type.shape) if field.scale else field.type
        fits, has = len(schema.fields) == 1 and stored == kernel.input, str(stored)
    else:
        wanted = {(f.name, f.type) for f in kernel.input.fields}
        fits = wanted <= {(f.name, f.type) for f in schema.fields}
        has = ", ".join(f"{f.name}: {f.type}" for f in schema.fields)
    if not fits:
        needs = (
            kernel.input
            if isinstance(kernel.input, TensorType)
            else ", ".join(f"{f.name}: {f.type}" for f in kernel.input.fields)
        )
        raise FlowError(
            "flow.kernel-input",
            f"kernel {kernel.name} does not fit {upstream.id}",
            why=f"it takes {needs}, the stream has {has}",
            next_step="change the kernel's declared input, or map it onto another stream",
        )
