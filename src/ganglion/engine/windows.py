"""Tumbling windows of event time, with a watermark per origin.

An origin's watermark is the latest event time seen from it. A window by origin closes when that origin's watermark
passes its end. A window over all origins is first given when every *current* origin has passed its end; an origin
whose watermark lies more than ``lag_max`` behind the most advanced one is not current, so an island does not stall
the others. What it brings later is merged and given again as the next revision, when that origin has passed the end.
An origin that has ended has passed everything; when it comes back (after a restart) its watermark counts again.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.batch import Batch
from ganglion.engine.operators import KEYS_MAX, Counts, physical
from ganglion.engine.partials import Parts, finish, merge, parts_in, parts_of
from ganglion.flow.stages import Stage, WindowStage

WINDOWS_MAX = 20_000
"""Windows one stage keeps, per key, for revisions; beyond that the oldest closed one is forgotten."""
_NEVER_NS = -(1 << 63)


@dataclass(slots=True)
class _Slot:
    """One window of one key."""

    parts: dict[str, Parts] = field(default_factory=dict)  # by origin
    rows: dict[str, int] = field(default_factory=dict)
    revision_in: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    given: int = 0  # how often it was given; its next revision number

    def snapshot(self) -> list[Any]:
        return [
            dict(self.parts),
            dict(self.rows),
            dict(self.revision_in),
            sorted(self.changed),
            self.given,
        ]


@dataclass(slots=True)
class _Key:
    """The windows of one key. ``open``: starts of those with rows not given yet."""

    slots: dict[int, _Slot] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)  # the starts, sorted
    open: set[int] = field(default_factory=set)
    next_seq: int = 0
    forgotten_ns: int = _NEVER_NS
    """Start of the latest window forgotten. One at or before it that is not held would begin anew: refused."""

    def slot(self, start: int) -> _Slot:
        slot = self.slots.get(start)
        if slot is None:
            slot = self.slots[start] = _Slot()
            insort(self.order, start)
        return slot


class WindowOperator:
    """One window or rollup stage."""

    def __init__(self, stage: WindowStage, upstream: Stage) -> None:
        self.counts = Counts()
        self._stage = stage
        aggregated = {a.field for a in stage.aggregates if a.function != "count"}
        scaled = [f for f in upstream.schema.fields if f.name in aggregated and f.scale]
        self._scaled = () if stage.merges else tuple(scaled)
        self._watermark_ns: dict[str, int] = {}
        self._ended: set[str] = set()
        self._keys: dict[str, _Key] = {}

    def process(self, batch: Batch) -> list[Batch]:
        stage = self._stage
        self.counts.rows += len(batch)
        if self._scaled:
            batch = replace(batch, columns={**batch.columns, **physical(self._scaled, batch.columns)})
        if batch.origin not in self._watermark_ns and len(self._watermark_ns) >= KEYS_MAX:
            self.counts.bad += len(batch)
            return []
        name = batch.origin if stage.by == "origin" else "all"
        starts = (
            batch.columns["start_ns"] if stage.merges else batch.time_ns // stage.width_ns * stage.width_ns
        )
        latest = int(starts.max()) + stage.width_ns if stage.merges else int(batch.time_ns.max())
        self._watermark_ns[batch.origin] = max(latest, self._watermark_ns.get(batch.origin, latest))
        self._ended.discard(batch.origin)
        key = self._keys.setdefault(name, _Key())
        oldest_ns = self._lead_ns(name) - stage.keep_ns
        for start in np.unique(starts).tolist():
            rows = starts == start
            too_old = start + stage.width_ns < oldest_ns or start <= key.forgotten_ns
            if too_old and start not in key.slots:
                self.counts.dropped += int(rows.sum())
                continue
            slot = key.slot(start)
            if slot.given:
                self.counts.late += int(rows.sum())
            if self._take(slot, batch, rows):
                slot.changed.add(batch.origin)
                key.open.add(start)
        return self._give(name, key)

    def end(self, stream: str, origin: str) -> tuple[list[Batch], bool]:
        if origin in self._watermark_ns or len(self._ended) < KEYS_MAX:
            self._ended.add(origin)
        name = origin if self._stage.by == "origin" else "all"
        key = self._keys.get(name)
        return self._give(name, key) if key else [], self._stage.by == "origin"

    def _take(self, slot: _Slot, batch: Batch, rows: npt.NDArray[np.bool_]) -> bool:
        """Adds rows to a window, or puts a partial result in place of its older revision; False: nothing new."""
        origin = batch.origin
        aggregates = self._stage.aggregates
        if not self._stage.merges:
            before = slot.parts.get(origin)
            values = parts_of(aggregates, batch, rows)
            slot.parts[origin] = values if before is None else merge(aggregates, before, values)
            slot.rows[origin] = slot.rows.get(origin, 0) + int(rows.sum())
            return True
        index = int(np.flatnonzero(rows)[-1])  # the last revision in the batch
        revision = int(batch.columns["revision"][index])
        if revision < slot.revision_in.get(origin, 0):
            return False
        slot.revision_in[origin] = revision
        slot.rows[origin] = int(batch.columns["rows"][index])
        slot.parts[origin] = parts_in(aggregates, batch, index)
        return True

    def _lead_ns(self, name: str) -> int:
        """The most advanced watermark that counts for a key: of those still running, if there are any."""
        if self._stage.by == "origin":
            return self._watermark_ns[name]
        running = [w for o, w in self._watermark_ns.items() if o not in self._ended]
        return max(running or self._watermark_ns.values())

    def _passed(self, origin: str, end_ns: int) -> bool:
        return origin in self._ended or self._watermark_ns[origin] >= end_ns

    def _ready(self, slot: _Slot, end_ns: int, slowest_ns: int) -> bool:
        """``slowest_ns``: the least watermark of all current origins (one of them for a key by origin)."""
        if not any(self._passed(o, end_ns) for o in slot.changed):
            return False
        return slot.given > 0 or self._stage.by == "origin" or slowest_ns >= end_ns

    def _slowest_ns(self, lead_ns: int) -> int:
        current_ns = lead_ns - self._stage.lag_max_ns
        running = (w for o, w in self._watermark_ns.items() if o not in self._ended)
        return min((w for w in running if w >= current_ns), default=1 << 63)

    def _give(self, name: str, key: _Key) -> list[Batch]:
        width_ns = self._stage.width_ns
        lead_ns = self._lead_ns(name)
        slowest_ns = self._slowest_ns(lead_ns) if self._stage.by == "all" else lead_ns
        ready = [s for s in sorted(key.open) if self._ready(key.slots[s], s + width_ns, slowest_ns)]
        batch = self._result(name, key, ready) if ready else None
        for start in ready:
            slot = key.slots[start]
            slot.given += 1
            slot.changed.clear()
            key.open.discard(start)
        self._forget(key, lead_ns - self._stage.keep_ns)
        return [batch] if batch is not None else []

    def _result(self, name: str, key: _Key, starts: list[int]) -> Batch:
        stage = self._stage
        columns: dict[str, list[float]] = {field: [] for field in stage.schema.names}
        for start in starts:
            slot = key.slots[start]
            count = sum(slot.rows.values())
            merged: Parts | None = None
            for origin in sorted(slot.parts):
                parts = slot.parts[origin]
                merged = parts if merged is None else merge(stage.aggregates, merged, parts)
            assert merged is not None
            columns["start_ns"].append(start)
            columns["revision"].append(slot.given)
            columns["rows"].append(count)
            for column, value in finish(stage.aggregates, merged, count):
                columns[column].append(value)
        self.counts.out += len(starts)
        seq = key.next_seq + np.arange(len(starts), dtype=np.int64)
        key.next_seq += len(starts)
        typed = {f.name: np.array(columns[f.name], f.type.numpy) for f in stage.schema.fields}
        return Batch(stage.id, name, seq, typed["start_ns"] + stage.width_ns - 1, typed)

    def _forget(self, key: _Key, oldest_ns: int) -> None:
        """Drops windows that can no longer be revised, the oldest first; one with news is kept until given."""
        at = 0
        while at < len(key.order):
            start = key.order[at]
            if start + self._stage.width_ns >= oldest_ns and len(key.order) <= WINDOWS_MAX:
                return
            if start in key.open:
                at += 1
                continue
            del key.order[at], key.slots[start]
            key.forgotten_ns = max(key.forgotten_ns, start)

    def snapshot(self) -> Any:
        return {
            "watermark_ns": dict(self._watermark_ns),
            "ended": sorted(self._ended),
            "keys": {
                name: [[[s, *key.slots[s].snapshot()] for s in key.order], key.next_seq, key.forgotten_ns]
                for name, key in self._keys.items()
            },
            "counts": self.counts.to_json(),
        }

    def restore(self, state: Any) -> None:
        self.counts = Counts(**state["counts"])
        self._watermark_ns = dict(state["watermark_ns"])
        self._ended = set(state["ended"])
        self._keys = {}
        for name, (held, next_seq, forgotten_ns) in state["keys"].items():
            key = self._keys[name] = _Key(next_seq=next_seq, forgotten_ns=forgotten_ns)
            for start, parts, rows, revisions, changed, given in held:
                key.slots[start] = _Slot(dict(parts), dict(rows), dict(revisions), set(changed), given)
                key.order.append(start)
                if changed:
                    key.open.add(start)
