"""What became of every acknowledged reading: by origin, number and content, never by counts alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ganglion.sim.check import tally
from ganglion.sim.evidence import Evidence

TRIP_RMS = 100


@dataclass
class Row:
    """One line of the table. Seconds are from the heal of the last fault; None where a case has no such moment."""

    case: str
    readings: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    altered: int = 0
    reflexes: int = 0
    reflexes_missed: int = 0
    flowing_s: float | None = None
    drained_s: float | None = None
    live_s: float | None = None
    backlog: int = 0
    restarts: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Nothing lost, doubled, reordered or altered, and there was something to lose."""
        return self.readings > 0 and not (self.lost or self.duplicated or self.out_of_order or self.altered)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sound": self.sound}


def judge(row: Row, spec: Any, evidence: Evidence) -> Row:
    """Fills in what the devices' logs and the cloud's sinks say.

    ``duplicated`` counts rows that came twice to the cloud, or by a link to any engine on the way, which would have
    kept them out. A device that got no answer, because the gateway's server was killed, sends its rows again: those
    are in the gateway's journal twice, are taken once, and are told in the notes.
    """
    tallies = tally(spec, evidence)
    readings = next(t for t in tallies if t.use == "sink readings")
    row.readings = readings.published
    row.lost = sum(t.lost for t in tallies)
    row.altered = sum(t.altered for t in tallies)
    nodes = evidence.nodes.values()
    linked = sum(n["duplicated_rows"] for n in nodes if n["ingest"] is None)
    row.duplicated = sum(t.duplicated for t in tallies) + linked
    if again := sum(n["duplicated_rows"] for n in nodes if n["ingest"] is not None):
        row.notes.append(f"{again} rows journaled twice, taken once")
    row.out_of_order = sum(t.out_of_order for t in tallies) + sum(n["out_of_order_rows"] for n in nodes)
    if bad := sum(n["bad_messages"] for n in nodes):
        row.notes.append(f"{bad} bad messages")
    if shed := sum(s["shed"] for d in evidence.device_hosts for s in d["streams"].values()):
        row.notes.append(f"{shed} readings shed by devices, counted")
    commands = {(c.origin, c.seq) for c in evidence.commands}
    wanted = _trips(evidence)
    row.reflexes = len(commands)
    row.reflexes_missed = len(wanted - commands)
    return row


def _trips(evidence: Evidence) -> set[tuple[str, int]]:
    """The readings that must have made a relay open, worked out again from what the cloud kept."""
    trips = set()
    sink = evidence.sinks.get("readings")
    for batch in sink.batches if sink else []:
        frames = batch.columns["frame"].astype(np.float64)
        rms = np.sqrt((frames**2).mean(axis=(1, 2)))
        trips |= {(batch.origin, int(s)) for s in batch.seq[rms > TRIP_RMS]}
    return trips


def table(rows: list[Row]) -> str:
    """The rows as text, one line each."""
    head = ["case", "readings", "lost", "dup", "order", "altered", "flowing s", "drained s", "live s"]
    head += ["backlog", "restarts", "reflexes", "missed", "notes"]
    lines = [head]
    for r in rows:
        times = ["-" if t is None else f"{t:.2f}" for t in (r.flowing_s, r.drained_s, r.live_s)]
        counts = [r.readings, r.lost, r.duplicated, r.out_of_order, r.altered]
        lines.append([r.case, *map(str, counts), *times, *map(str, (r.backlog, r.restarts, r.reflexes))])
        lines[-1] += [str(r.reflexes_missed), "; ".join(r.notes)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )
