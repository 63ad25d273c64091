"""A finished flow: plain frozen data, with a stable JSON form, a digest and a diagram."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from ganglion.core.errors import FlowError
from ganglion.core.schema import Schema
from ganglion.core.units import format_duration
from ganglion.flow.folds import window_fold
from ganglion.flow.stages import (
    ActStage,
    AroundStage,
    MapStage,
    SinkStage,
    SourceStage,
    Stage,
    WhereStage,
    WindowStage,
)
from ganglion.kernels import Kernel
from ganglion.kernels.folds.fold import Fold

FORMAT = 1
STAGES_MAX = 1000


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """Stages in an order in which every stage comes after its inputs."""

    name: str
    stages: tuple[Stage, ...]
    objective: str = "money"
    """What placement makes small, in words; see `ganglion.placement.objective`."""

    def __getitem__(self, stage_id: str) -> Stage:
        for stage in self.stages:
            if stage.id == stage_id:
                return stage
        raise FlowError(
            "flow.unknown-stage",
            f"flow {self.name} has no stage {stage_id!r}",
            why=f"its stages are {', '.join(s.id for s in self.stages)}",
            next_step="use one of those",
        )

    def __contains__(self, stage_id: object) -> bool:
        return any(s.id == stage_id for s in self.stages)

    def consumers(self, stage_id: str) -> tuple[Stage, ...]:
        """The stages that read ``stage_id``, in flow order."""
        return tuple(s for s in self.stages if stage_id in s.inputs)

    def ancestors(self, stage_id: str) -> frozenset[str]:
        """The ids of all stages ``stage_id`` depends on, itself not included."""
        found: set[str] = set()
        todo = list(self[stage_id].inputs)
        while todo:
            current = todo.pop()
            if current not in found:
                found.add(current)
                todo += self[current].inputs
        return frozenset(found)

    def chain(self, stage_id: str) -> tuple[str, ...]:
        """The stages from a source to ``stage_id``, inclusive, following first inputs."""
        chain = [stage_id]
        while self[chain[-1]].inputs:
            chain.append(self[chain[-1]].inputs[0])
        return tuple(reversed(chain))

    @property
    def reflexes(self) -> tuple[ActStage, ...]:
        return tuple(s for s in self.stages if isinstance(s, ActStage))

    @property
    def urgent(self) -> frozenset[str]:
        """The streams whose rows go before others."""
        return frozenset(s.id for s in self.stages if s.backlog.urgent)

    @property
    def sources(self) -> tuple[SourceStage, ...]:
        return tuple(s for s in self.stages if isinstance(s, SourceStage))

    def kernels(self, stages: Container[str]) -> tuple[Kernel, ...]:
        """The kernels of those of ``stages`` that are maps."""
        return tuple(s.kernel for s in self.stages if isinstance(s, MapStage) and s.id in stages)

    def computed_by(self, stages: Container[str]) -> dict[str, str]:
        """For each of ``stages`` that is a map or a window of rows: the digest of what it computes."""
        digests = {s.id: s.kernel.digest for s in self.stages if isinstance(s, MapStage) and s.id in stages}
        return digests | {s.id: self.fold(s).digest for s in self._windows(stages)}

    def ran_as(self, stages: Container[str], compiled: Container[str]) -> dict[str, str]:
        """For each of those: compiled, if its digest is among ``compiled``, or numpy."""
        digests = self.computed_by(stages)
        return {stage: "compiled" if digest in compiled else "numpy" for stage, digest in digests.items()}

    def fold(self, stage: WindowStage) -> Fold:
        """What a window computes of its rows; not for a rollup."""
        return window_fold(stage, self[stage.inputs[0]])

    def folds(self, stages: Container[str]) -> tuple[Fold, ...]:
        """The folds of those of ``stages`` that are windows of rows."""
        return tuple(self.fold(s) for s in self._windows(stages))

    def _windows(self, stages: Container[str]) -> list[WindowStage]:
        windows = (s for s in self.stages if isinstance(s, WindowStage) and s.id in stages)
        return [s for s in windows if not s.merges]

    def to_json(self) -> dict[str, Any]:
        stated = {} if self.objective == "money" else {"objective": self.objective}
        return {"format": FORMAT, "flow": self.name, "stages": [s.to_json() for s in self.stages], **stated}

    def dumps(self) -> str:
        """Stable JSON text: the same flow gives the same bytes."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the stable JSON."""
        return hashlib.sha256(self.dumps().encode()).hexdigest()

    def diagram(self) -> str:
        """The flow as indented text, one line per stage, for people."""
        lines = [f"flow {self.name}"]
        shown: set[str] = set()

        def walk(stage: Stage, depth: int) -> None:
            mark = " (see above)" if stage.id in shown else ""
            lines.append("  " * depth + f"{'-> ' if depth > 1 else ''}{stage.id}: {describe(stage)}{mark}")
            if not mark:
                shown.add(stage.id)
                for consumer in self.consumers(stage.id):
                    walk(consumer, depth + 1)

        for source in self.sources:
            walk(source, 1)
        return "\n".join(lines) + "\n"


def describe(stage: Stage) -> str:
    """One line that says what a stage does."""
    match stage:
        case SourceStage():
            return f"source of {_form(stage.schema)} every {format_duration(stage.every_ns)}"
        case MapStage():
            return f"map {stage.kernel.name}{' (stateful)' if stage.kernel.stateful else ''}"
        case WhereStage():
            return f"where {stage.predicate}"
        case AroundStage():
            before, after = format_duration(stage.before_ns), format_duration(stage.after_ns)
            return f"around {stage.inputs[1]}, {before} before to {after} after"
        case WindowStage():
            what = ", ".join(f"{a.name}={a.function}({a.field})" for a in stage.aggregates)
            verb = "rollup" if stage.merges else "window"
            return f"{verb} {format_duration(stage.width_ns)} by {stage.by}: {what}"
        case ActStage():
            return f"act {stage.actuator} {stage.verb} within {format_duration(stage.within_ns)}"
        case SinkStage():
            return f"sink at {stage.at}"
        case _:
            raise AssertionError(stage)


def _form(schema: Schema) -> str:
    units = [f" [{f.unit}]" if f.unit else "" for f in schema.fields]
    if schema.names == ("frame",):
        return f"{schema.fields[0].type}{units[0]}"
    return ", ".join(f"{f.name}: {f.type}{unit}" for f, unit in zip(schema.fields, units, strict=True))
