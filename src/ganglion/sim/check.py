"""The checks of a run: nothing acknowledged may be lost, doubled or out of order, and no reflex may be missed.

Rows are compared by number and by content. Where rows are only counted further up (windows), the counts of the last
revisions must add up to what was acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ActStage, MapStage, SinkStage, Stage, WindowStage
from ganglion.sim.evidence import Command, Evidence, Shot

TRIP_SLACK_FRAMES = 6
"""A trip this many frames after an event's last frame still belongs to it."""


@dataclass(slots=True)
class Tally:
    """Readings of one stream on their way to one use."""

    stream: str
    use: str
    published: int = 0
    received: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    altered: int = 0
    shed: int = 0
    """Rows that a site gave up as the flow declares, and said so."""

    def to_json(self) -> dict[str, Any]:
        """One object of the report's ``readings.streams``."""
        return asdict(self)

    @property
    def sound(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order or self.altered)


@dataclass(slots=True)
class Detection:
    """Trips against labels. ``events``: faults played whole; ``others``: non-faults played whole."""

    events: int = 0
    detected: int = 0
    others: int = 0
    false_trips: int = 0
    missed: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report's ``detection``."""
        recall = self.detected / self.events if self.events else None
        return {
            "events": self.events,
            "detected": self.detected,
            "recall": recall,
            "non_faults": self.others,
            "false_trips": self.false_trips,
            "missed": self.missed,
        }


def tally(spec: FlowSpec, evidence: Evidence) -> list[Tally]:
    """One tally per device-exported stream and use of it that ends in a sink or an actuator."""
    streams = sorted({stream for stream, _ in evidence.acknowledged})
    tallies: list[Tally] = []
    for stage in spec.stages:
        if isinstance(stage, ActStage | SinkStage):
            chain = spec.chain(stage.id)[:-1]
            source = next((s for s in reversed(chain) if s in streams), None)
            if source is None:
                continue
            between = [spec[s] for s in chain[chain.index(source) + 1 :]]
            acknowledged = {o: rows for (s, o), rows in evidence.acknowledged.items() if s == source}
            if isinstance(stage, ActStage):
                if not between:
                    tallies.append(_commands(stage, source, acknowledged, evidence))
            elif not between:
                tallies.append(_rows(stage, source, acknowledged, evidence))
            elif all(isinstance(s, WindowStage | MapStage) for s in between) and any(
                isinstance(s, WindowStage) for s in between
            ):
                tallies.append(_windows(stage, source, acknowledged, evidence, _at_risk(chain, between)))
    return tallies


def _is_shed(evidence: Evidence, stream: str, origin: str, seq: int) -> bool:
    return any(first <= seq <= last for first, last in evidence.shed.get((stream, origin), ()))


def _at_risk(chain: Sequence[str], between: Sequence[Stage]) -> tuple[set[str], set[str]]:
    """Of the streams on the way to a sink of windows: those of single rows, and those of windows."""
    windows = {s.id for s in between if isinstance(s, WindowStage)}
    return {s for s in chain if s not in windows}, windows


def _rows(
    stage: SinkStage, stream: str, acknowledged: Mapping[str, Mapping[int, int]], evidence: Evidence
) -> Tally:
    """Rows that reach the sink as they left the device: compared one by one."""
    kept = evidence.sinks.get(stage.id)
    result = Tally(stream, f"sink {stage.id}", published=sum(len(rows) for rows in acknowledged.values()))
    seen: dict[str, dict[int, int]] = {}
    last: dict[str, int] = {}
    for batch in kept.batches if kept else []:
        rows = seen.setdefault(batch.origin, {})
        for seq, digest in zip(batch.seq.tolist(), batch.row_digests(), strict=True):
            result.received += 1
            if seq in rows:
                result.duplicated += 1
            elif seq < last.get(batch.origin, -1):
                result.out_of_order += 1
            rows[seq] = digest
            last[batch.origin] = max(seq, last.get(batch.origin, -1))
    for origin, wanted in acknowledged.items():
        got = seen.get(origin, {})
        for seq, digest in wanted.items():
            if seq not in got and _is_shed(evidence, stream, origin, seq):
                result.shed += 1
            elif seq not in got:
                result.lost += 1
            elif got[seq] != digest:
                result.altered += 1
    return result


def _windows(
    stage: SinkStage,
    stream: str,
    acknowledged: Mapping[str, Mapping[int, int]],
    evidence: Evidence,
    at_risk: tuple[set[str], set[str]],
) -> Tally:
    """Rows that reach the sink as counts: the last revision of each window counts what it aggregates.

    ``at_risk``: streams whose shed rows may be missing from the counts, and streams whose rows are counts themselves:
    what those counted nobody can tell any more.
    """
    rows_at_risk, counts_at_risk = at_risk
    all_known = not any(s in counts_at_risk for s, _ in evidence.shed)
    kept = evidence.sinks.get(stage.id)
    result = Tally(stream, f"counted in sink {stage.id}")
    final: dict[tuple[str, int], tuple[int, int]] = {}
    last: dict[str, int] = {}
    for batch in kept.batches if kept else []:
        starts, revisions, rows = (batch.columns[n] for n in ("start_ns", "revision", "rows"))
        for seq, start, revision, count in zip(batch.seq, starts, revisions, rows, strict=True):
            key = (batch.origin, int(start))
            if int(seq) <= last.get(batch.origin, -1):
                result.out_of_order += 1
            last[batch.origin] = int(seq)
            if key in final and int(revision) <= final[key][0]:
                result.duplicated += 1
            final[key] = (int(revision), int(count))
    per_origin: dict[str, int] = {}
    for (origin, _), (_, count) in final.items():
        per_origin[origin] = per_origin.get(origin, 0) + count
    wanted = {origin: len(rows) for origin, rows in acknowledged.items()}
    spared = {
        origin: sum(any(_is_shed(evidence, s, origin, seq) for s in rows_at_risk) for seq in rows)
        for origin, rows in acknowledged.items()
    }
    if set(per_origin) == {"all"}:
        wanted, spared = {"all": sum(wanted.values())}, {"all": sum(spared.values())}
    result.published = sum(wanted.values())
    result.received = sum(per_origin.values())
    for origin in wanted.keys() | per_origin.keys():
        difference = wanted.get(origin, 0) - per_origin.get(origin, 0)
        # A row may have been counted below the place where it was shed.
        shed = min(max(0, difference), spared.get(origin, 0)) if all_known else max(0, difference)
        result.shed += shed
        result.lost += max(0, difference) - shed
        result.duplicated += max(0, -difference)
    return result


def _commands(
    stage: ActStage, stream: str, acknowledged: Mapping[str, Mapping[int, int]], evidence: Evidence
) -> Tally:
    """Rows that become commands: each must arrive at its actuator."""
    result = Tally(stream, f"actuator {stage.actuator}")
    arrived = {(c.origin, c.seq) for c in evidence.commands if c.command_id.startswith(f"{stage.id}:")}
    for origin, rows in acknowledged.items():
        result.published += len(rows)
        hits = sum((origin, seq) in arrived for seq in rows)
        result.received += hits
        result.lost += len(rows) - hits
    return result


def detection(shots: list[Shot], commands: list[Command]) -> Detection:
    """Trips within a fault's frames are hits; any other trip of a shot that was played whole is false."""
    result = Detection()
    by_origin: dict[str, list[Command]] = {}
    for command in commands:
        by_origin.setdefault(command.origin, []).append(command)
    for shot in shots:
        trips = [c for c in by_origin.get(shot.origin, []) if shot.first_seq <= c.seq]
        within = [c for c in trips if c.seq < shot.end_seq + TRIP_SLACK_FRAMES]
        hits = [c for c in within if shot.is_fault and c.seq >= shot.inception_seq]
        result.false_trips += len(within) - len(hits)
        if not shot.is_fault:
            result.others += 1
            continue
        result.events += 1
        result.detected += bool(hits)
        if not hits and len(result.missed) < 100:
            result.missed.append({"origin": shot.origin, "row": shot.row, "event": shot.kind})
    return result


def percentiles(values_ns: list[int]) -> dict[str, float | int | None]:
    """``p50 p99 max`` in milliseconds, and ``count``; None where there is nothing."""
    if not values_ns:
        return {"p50": None, "p99": None, "max": None, "count": 0}
    ms = np.array(values_ns) / 1e6
    return {
        "p50": round(float(np.percentile(ms, 50)), 3),
        "p99": round(float(np.percentile(ms, 99)), 3),
        "max": round(float(ms.max()), 3),
        "count": len(values_ns),
    }
