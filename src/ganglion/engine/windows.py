"""Tumbling windows of event time, with a watermark per origin.

An origin's watermark is the latest event time seen from it. A window by origin closes when that origin's watermark
passes its end. A window over all origins is first given when every *current* origin has passed its end; an origin
whose watermark lies more than ``lag_max`` behind the most advanced one is not current, so an island does not stall
the others. What it brings later is merged and given again as the next revision, when that origin has passed the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.batch import Batch
from ganglion.engine.operators import Counts
from ganglion.flow.stages import PARTIALS, Aggregate, WindowStage

WINDOWS_MAX = 20_000
"""Windows one stage keeps, per key, for revisions; beyond that the oldest closed one is forgotten."""
ENDED_NS = 1 << 62

Parts = list[float]
"""The monoid's value of every aggregate, flattened: see `_parts_of` and `_merge`."""


@dataclass(slots=True)
class _Slot:
    """One window of one key."""

    parts: dict[str, Parts] = field(default_factory=dict)  # by origin
    rows: dict[str, int] = field(default_factory=dict)
    revision_in: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    given: int = 0  # how often it was given; its next revision number


class WindowOperator:
    """One window or rollup stage."""

    def __init__(self, stage: WindowStage) -> None:
        self.counts = Counts()
        self._stage = stage
        self._watermark_ns: dict[str, int] = {}
        self._slots: dict[str, dict[int, _Slot]] = {}
        self._next_seq: dict[str, int] = {}

    def process(self, batch: Batch) -> list[Batch]:
        stage = self._stage
        self.counts.rows += len(batch)
        key = batch.origin if stage.by == "origin" else "all"
        starts = (
            batch.columns["start_ns"] if stage.merges else batch.time_ns // stage.width_ns * stage.width_ns
        )
        latest = int(starts.max()) + stage.width_ns if stage.merges else int(batch.time_ns.max())
        mark = max(latest, self._watermark_ns.get(batch.origin, latest))
        self._watermark_ns[batch.origin] = mark
        slots = self._slots.setdefault(key, {})
        oldest_ns = self._lead_ns(key) - stage.keep_ns
        for start in np.unique(starts).tolist():
            rows = starts == start
            if start + stage.width_ns < oldest_ns and start not in slots:
                self.counts.dropped += int(rows.sum())
                continue
            slot = slots.setdefault(start, _Slot())
            if slot.given:
                self.counts.late += int(rows.sum())
            if stage.merges:
                self._replace(slot, batch, rows)
            else:
                self._accumulate(slot, batch, rows)
            slot.changed.add(batch.origin)
        return self._give(key)

    def end(self, stream: str, origin: str) -> tuple[list[Batch], bool]:
        self._watermark_ns[origin] = ENDED_NS
        return self._give(origin if self._stage.by == "origin" else "all"), self._stage.by == "origin"

    def _accumulate(self, slot: _Slot, batch: Batch, rows: npt.NDArray[np.bool_]) -> None:
        origin = batch.origin
        values = [v for a in self._stage.aggregates for v in _parts_of(a, batch, rows)]
        before = slot.parts.get(origin)
        slot.parts[origin] = values if before is None else _merge(self._stage.aggregates, before, values)
        slot.rows[origin] = slot.rows.get(origin, 0) + int(rows.sum())

    def _replace(self, slot: _Slot, batch: Batch, rows: npt.NDArray[np.bool_]) -> None:
        index = int(np.flatnonzero(rows)[-1])  # the last revision in the batch
        revision = int(batch.columns["revision"][index])
        if revision < slot.revision_in.get(batch.origin, -1):
            return
        slot.revision_in[batch.origin] = revision
        slot.rows[batch.origin] = int(batch.columns["rows"][index])
        slot.parts[batch.origin] = [
            float(batch.columns[name][index]) for a in self._stage.aggregates for name in _part_names(a)
        ]

    def _lead_ns(self, key: str) -> int:
        """The most advanced watermark that counts for a key; ended origins do not."""
        if self._stage.by == "origin":
            return self._watermark_ns[key]
        running = [w for w in self._watermark_ns.values() if w < ENDED_NS]
        return max(running, default=0)

    def _ready(self, slot: _Slot, end_ns: int, lead_ns: int) -> bool:
        if not any(self._watermark_ns[o] >= end_ns for o in slot.changed):
            return False
        if slot.given or self._stage.by == "origin":
            return True
        current = (w for w in self._watermark_ns.values() if w >= lead_ns - self._stage.lag_max_ns)
        return all(w >= end_ns for w in current)

    def _give(self, key: str) -> list[Batch]:
        slots = self._slots.get(key, {})
        if not slots:
            return []
        lead_ns = self._lead_ns(key)
        rows: list[tuple[int, _Slot]] = []
        for start in sorted(slots):
            slot = slots[start]
            if self._ready(slot, start + self._stage.width_ns, lead_ns):
                rows.append((start, slot))
        batch = self._result(key, rows) if rows else None
        for _, slot in rows:
            slot.given += 1
            slot.changed.clear()
        self._forget(slots, lead_ns)
        return [batch] if batch is not None else []

    def _result(self, key: str, rows: list[tuple[int, _Slot]]) -> Batch:
        stage = self._stage
        first = self._next_seq.get(key, 0)
        self._next_seq[key] = first + len(rows)
        columns: dict[str, list[float]] = {name: [] for name in stage.schema.names}
        for start, slot in rows:
            count = sum(slot.rows.values())
            merged: Parts | None = None
            for origin in sorted(slot.parts):
                parts = slot.parts[origin]
                merged = parts if merged is None else _merge(stage.aggregates, merged, parts)
            assert merged is not None
            columns["start_ns"].append(start)
            columns["revision"].append(slot.given)
            columns["rows"].append(count)
            for name, value in _finish(stage.aggregates, merged, count):
                columns[name].append(value)
        self.counts.out += len(rows)
        typed = {f.name: np.array(columns[f.name], f.type.numpy) for f in stage.schema.fields}
        starts = typed["start_ns"]
        return Batch(
            stage.id, key, first + np.arange(len(rows), dtype=np.int64), starts + stage.width_ns - 1, typed
        )

    def _forget(self, slots: dict[int, _Slot], lead_ns: int) -> None:
        oldest_ns = lead_ns - self._stage.keep_ns
        excess = len(slots) - WINDOWS_MAX
        for start in sorted(slots):
            slot = slots[start]
            if slot.given and not slot.changed and (start + self._stage.width_ns < oldest_ns or excess > 0):
                del slots[start]
                excess -= 1
            elif excess <= 0 and start + self._stage.width_ns >= oldest_ns:
                break

    def snapshot(self) -> Any:
        slots = {
            key: [
                [start, s.parts, s.rows, s.revision_in, sorted(s.changed), s.given]
                for start, s in by_start.items()
            ]
            for key, by_start in self._slots.items()
        }
        return {
            "watermark_ns": self._watermark_ns,
            "slots": slots,
            "next_seq": self._next_seq,
            "counts": self.counts.to_json(),
        }

    def restore(self, state: Any) -> None:
        self.counts = Counts(**state["counts"])
        self._watermark_ns = dict(state["watermark_ns"])
        self._next_seq = dict(state["next_seq"])
        self._slots = {
            key: {
                start: _Slot(parts, rows, revs, set(changed), given)
                for start, parts, rows, revs, changed, given in by
            }
            for key, by in state["slots"].items()
        }


def _part_names(aggregate: Aggregate) -> tuple[str, ...]:
    extra = PARTIALS[aggregate.function]
    return tuple(f"{aggregate.name}_{p}" for p in extra) if extra else (aggregate.name,)


def _parts_of(aggregate: Aggregate, batch: Batch, rows: npt.NDArray[np.bool_]) -> Parts:
    if aggregate.function == "count":
        return [float(rows.sum())]
    values = batch.columns[aggregate.field][rows].astype(np.float64)
    match aggregate.function:
        case "sum" | "mean":
            return [float(values.sum())]
        case "min":
            return [float(values.min())]
        case "max":
            return [float(values.max())]
        case "std":
            return [float(values.sum()), float((values * values).sum())]
    raise AssertionError(aggregate.function)


def _merge(aggregates: tuple[Aggregate, ...], left: Parts, right: Parts) -> Parts:
    merged: Parts = []
    for aggregate in aggregates:
        for _ in _part_names(aggregate):
            a, b = left[len(merged)], right[len(merged)]
            if aggregate.function == "min":
                merged.append(float(np.minimum(a, b)))
            elif aggregate.function == "max":
                merged.append(float(np.maximum(a, b)))
            else:
                merged.append(a + b)
    return merged


def _finish(aggregates: tuple[Aggregate, ...], parts: Parts, count: int) -> list[tuple[str, float]]:
    result: list[tuple[str, float]] = []
    at = 0
    for aggregate in aggregates:
        names = _part_names(aggregate)
        own = parts[at : at + len(names)]
        at += len(names)
        if aggregate.function == "mean":
            result.append((aggregate.name, own[0] / count))
        elif aggregate.function == "std":
            mean = own[0] / count
            result.append((aggregate.name, float(np.sqrt(max(0.0, own[1] / count - mean * mean)))))
        if aggregate.function in ("mean", "std"):
            result += list(zip(names, own, strict=True))
        else:
            result.append((aggregate.name, own[0]))
    return result
