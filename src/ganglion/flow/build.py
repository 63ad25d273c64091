"""`Flow` and `Stream`: how a developer writes a flow. Wrong use fails here, with what, why and next."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ganglion.core.errors import FlowError
from ganglion.core.labels import Labels, jurisdictions
from ganglion.core.schema import Field, Schema
from ganglion.core.units import parse_duration_ns
from ganglion.flow.expression import record
from ganglion.flow.forms import Frame, Row
from ganglion.flow.rules import (
    check_input,
    check_reflex,
    constraint_after,
    declared_backlog,
    named_aggregate,
    sees,
)
from ganglion.flow.spec import STAGES_MAX, FlowSpec
from ganglion.flow.stages import (
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
    WhenFull,
    WhereStage,
    WindowStage,
    window_schema,
)
from ganglion.kernels import Kernel

_ID = re.compile(r"[a-z][a-z0-9_]{0,40}")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
ROW_COLUMNS = ("origin", "seq", "time_ns")
"""Columns of every kept row beside its fields."""
RESERVED = frozenset({"tick", "all"})
EVERY_NS_MIN = 100_000
WINDOW_NS_MIN = 1_000_000


class Flow:
    """A flow under construction. Stage ids are explicit; where none is given it follows from names.

    ``objective``: what placement makes small, in words: ``"money, then latency"``, ``"money + 50 EUR/t carbon"``.
    """

    def __init__(self, name: str, *, objective: str = "money") -> None:
        if not _NAME.fullmatch(name):
            raise FlowError(
                "flow.name",
                f"{name!r} is not a flow name",
                why="names are lower case letters, digits and -, at most 41",
                next_step='write it like gg.Flow("feeder-protection")',
            )
        self.name = name
        self.objective = objective
        self._stages: dict[str, Stage] = {}

    def source(
        self,
        name: str,
        form: Frame | Row,
        *,
        every: str,
        labels: Labels | None = None,
        keep_in: Sequence[str] = (),
    ) -> Stream:
        """Frames or rows of every origin, one each ``every`` (>= 100 us); of rows that is what is planned with.

        ``keep_in``: jurisdictions they may be in.
        """
        if not isinstance(form, Frame | Row):
            raise FlowError(
                "schema.shape",
                f"source {name} was given {form} as its frame",
                why="a source says how frames are stored, in which unit and scale, or which fields its rows have",
                next_step='write e.g. gg.Frame(3, 64, unit="A"), or gg.Row(temp=gg.f32)',
            )
        every_ns = parse_duration_ns(every)
        if every_ns < EVERY_NS_MIN:
            raise FlowError(
                "flow.rate",
                f"source {name} has a frame every {every}",
                why="frames come at most every 100us",
                next_step="put more samples into one frame",
            )
        fields = form.fields if isinstance(form, Row) else (Field("frame", form.type, form.unit, form.scale),)
        schema = Schema(fields)
        constraint = Constraint(("device",), jurisdictions(keep_in) or None)
        return self._add(SourceStage(name, (), schema, labels or Labels(), constraint, every_ns=every_ns))

    def spec(self) -> FlowSpec:
        """The finished flow as frozen data; raises ``flow.open`` when nothing would come of a stage."""
        spec = FlowSpec(self.name, self.stages, self.objective)
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
                why="ids are lower case letters, digits and _, at most 41, not "
                + " or ".join(sorted(RESERVED)),
                next_step="give id=",
            )
        if stage.id in self._stages:
            raise FlowError(
                "flow.stage-id",
                f"flow {self.name} has a stage {stage.id!r} already",
                why="ids are unique within a flow",
                next_step="give this one another id=",
            )
        if len(self._stages) >= STAGES_MAX:
            raise FlowError(
                "flow.stage-id",
                f"there is no room for a stage {stage.id!r}",
                why=f"a flow has at most {STAGES_MAX} stages",
                next_step="do more in one kernel, or make two flows",
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

    def backlog(
        self, *, urgent: bool = False, budget: str | None = None, when_full: WhenFull = "wait"
    ) -> Stream:
        """The same stream, with what is done where its rows wait for a parent that cannot be reached.

        ``urgent`` rows go before others once it can. ``budget`` (>= 64 KB): what they may take of a site's outbox.
        ``when_full``, the budget or the outbox: ``wait``, ``keep-newest`` or ``keep-oldest``; what is shed is counted
        and told to the parent. Raises ``flow.backlog``.
        """
        wanted = declared_backlog(self.id, urgent=urgent, budget=budget, when_full=when_full)
        self.stage = self.flow._stages[self.id] = replace(self.stage, backlog=wanted)
        return self

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
        check_input(kernel, self.stage)
        stage = MapStage(
            id or kernel.name,
            (self.id,),
            kernel.output,
            self.stage.labels,
            constraint_after(self.stage, on, keep_in),
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
                constraint_after(self.stage, on),
                predicate=expression,
                selectivity=selectivity,
            )
        )

    def around(self, trigger: Stream, *, before: str, after: str, id: str | None = None) -> Stream:
        """Rows of this stream near each row of ``trigger`` of the same origin, each at most once."""
        if not isinstance(trigger, Stream) or not self._seen_by(trigger):
            raise FlowError(
                "flow.around",
                f"{trigger.id if isinstance(trigger, Stream) else trigger!r} does not come from {self.id}",
                why="frames are kept around rows of the same origin that were computed from them one by one",
                next_step="pass a stream made from this one with map and where",
            )
        labels = self.stage.labels.join(trigger.stage.labels)
        return self.flow._add(
            AroundStage(
                id or f"{self.id}_around",
                (self.id, trigger.id),
                self.schema,
                labels,
                constraint_after(self.stage, (), trigger.stage.constraint.jurisdictions or ()),
                before_ns=parse_duration_ns(before),
                after_ns=parse_duration_ns(after),
            )
        )

    def _seen_by(self, trigger: Stream) -> bool:
        return trigger.flow is self.flow and sees(FlowSpec("", self.flow.stages), self.id, trigger.id)

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
                constraint_after(self.stage, on),
                width_ns=window.width_ns,
                aggregates=window.aggregates,
                by="all",
                lag_max_ns=window.lag_max_ns + window.width_ns,
                keep_ns=window.keep_ns,
                merges=True,
            )
        )

    def act(self, actuator: str, verb: str, *, within: str, id: str | None = None) -> None:
        """A reflex: every row makes ``actuator`` of its origin do ``verb``; never depends on an uplink.

        ``within`` (> 0): from the row's last sample to the command at the actuator.
        """
        within_ns = parse_duration_ns(within)
        check_reflex(FlowSpec("", self.flow.stages), self.id, actuator, verb, within_ns)
        self.flow._add(
            ActStage(
                id or f"{actuator.replace('-', '_')}_{verb.replace('-', '_')}",
                (self.id,),
                self.schema,
                self.stage.labels,
                Constraint(("device", "gateway"), self.stage.constraint.jurisdictions),
                actuator=actuator,
                verb=verb,
                within_ns=within_ns,
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
        if taken := [n for n in self.schema.names if n in ROW_COLUMNS]:
            raise FlowError(
                "flow.sink-field",
                f"sink {name} of a stream with {' and '.join(taken)}",
                why=f"every kept row has the columns {', '.join(ROW_COLUMNS)} of its own",
                next_step="rename the field in the kernel or aggregate that makes it",
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
        chosen = tuple(named_aggregate(name, wanted, stream.schema) for name, wanted in outputs.items())
        units = {f.name: f.unit for f in stream.schema.fields}
        return stream.flow._add(
            WindowStage(
                id or f"{stream.id}_window",
                (stream.id,),
                window_schema(chosen, units),
                stream.stage.labels,
                constraint_after(stream.stage, on),
                width_ns=self._width_ns,
                aggregates=chosen,
                by=self._by,
                lag_max_ns=self._lag_max_ns,
                keep_ns=self._keep_ns,
            )
        )
