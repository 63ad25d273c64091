"""Whether runs of one flow on the same frames decided the same, bit for bit, wherever their plans put the stages.

Rows are matched by sink, origin and sequence number and compared by the bytes of their columns; commands by id. A row's
time is left out: it is the wall clock's. So are rows of windows, which begin and end by that clock.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ganglion.core.batch import BOOT_BITS
from ganglion.core.errors import DataError, RunError
from ganglion.flow.load import load_flow
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import AroundStage, SinkStage, WindowStage
from ganglion.sim.evidence import Evidence, gather

DEVIATIONS_MAX = 20
"""Deviations that are told one by one; all are counted."""
_FRAME = (1 << BOOT_BITS) - 1

Key = tuple[str, str, int]
"""(use, origin, sequence number)."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """A row or command that two runs do not have alike."""

    use: str
    origin: str
    seq: int
    run: str
    what: str


@dataclass(slots=True)
class Comparison:
    """``rows``: per use, the rows or commands that all runs have alike. ``placed``: per run, where its stages ran."""

    runs: list[str]
    placed: list[dict[str, list[str]]]
    frames: int
    rows: dict[str, int]
    left_out: list[str]
    deviations: list[Deviation] = field(default_factory=list)
    deviations_n: int = 0

    @property
    def same(self) -> bool:
        """True when something was compared, and nothing deviates."""
        return self.deviations_n == 0 and sum(self.rows.values()) > 0

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {"same": self.same} | asdict(self)


@dataclass(frozen=True, slots=True)
class _Run:
    """What a run directory says: the flow it ran, what its devices played, and what came of it."""

    name: str
    flow_dir: Path
    digest: str
    played: Mapping[str, Any]
    placed: dict[str, list[str]]
    frames: Mapping[str, int]
    evidence: Evidence


def compare(directories: Sequence[Path]) -> Comparison:
    """Compares finished runs, each with the first.

    Raises `RunError` ``compare.runs`` for fewer than two, for runs of different flows, and for runs whose devices did
    not measure the same frames; `DataError` ``compare.directory`` for what is no run directory, ``run.evidence`` for
    what a run left unreadable.
    """
    if len(directories) < 2:
        raise RunError(
            "compare.runs",
            f"{len(directories)} runs cannot be compared",
            why="a comparison needs two",
            next_step="ganglion compare RUN_DIR RUN_DIR [RUN_DIR ...]",
        )
    spec = load_flow(Path(_configs(directories[0], "nodes")[0]["flow_dir"]))
    runs = [_read(directory, spec) for directory in directories]
    first = runs[0]
    for run in runs[1:]:
        _comparable(first, run)
    horizon = {o: min(r.frames[o] for r in runs) - _margin_frames(spec) for o in first.frames}
    uses, left_out = _uses(spec)
    found = [_rows(run.evidence, uses, horizon) for run in runs]
    result = Comparison(
        [str(d) for d in directories],
        [r.placed for r in runs],
        sum(max(0, h) for h in horizon.values()),
        dict.fromkeys((*uses, "commands"), 0),
        left_out,
    )
    _judge(result, found)
    return result


def _judge(result: Comparison, found: Sequence[Mapping[Key, bytes]]) -> None:
    first = found[0]
    for key in sorted(set().union(*found)):
        here = first.get(key)
        alike = True
        for name, rows in zip(result.runs[1:], found[1:], strict=True):
            there = rows.get(key)
            if there == here:
                continue
            alike = False
            result.deviations_n += 1
            if len(result.deviations) < DEVIATIONS_MAX:
                result.deviations.append(Deviation(*key, name, _difference(here, there)))
        result.rows[key[0]] += alike


def _difference(here: bytes | None, there: bytes | None) -> str:
    if here is None:
        return "only in this run"
    if there is None:
        return "only in the first run"
    if len(here) != len(there):
        return f"{len(here)} bytes in the first run, {len(there)} in this"
    bits = np.unpackbits(np.frombuffer(here, np.uint8) ^ np.frombuffer(there, np.uint8))
    return f"{int(bits.sum())} of {len(bits)} bits differ"


def _uses(spec: FlowSpec) -> tuple[list[str], list[str]]:
    """The sinks whose rows follow from frames alone, and the others."""
    sinks = [s.id for s in spec.stages if isinstance(s, SinkStage)]
    windowed = [s for s in sinks if any(isinstance(spec[x], WindowStage) for x in spec.ancestors(s))]
    return [f"sink {s}" for s in sinks if s not in windowed], [f"sink {s}" for s in windowed]


def _margin_frames(spec: FlowSpec) -> int:
    """Frames at the end that one run may have kept for something that came after the other's last frame."""
    before_ns = max((s.before_ns for s in spec.stages if isinstance(s, AroundStage)), default=0)
    return -(-before_ns // spec.sources[0].every_ns) + 1


def _rows(evidence: Evidence, uses: Sequence[str], horizon: Mapping[str, int]) -> dict[Key, bytes]:
    """Each row's columns, in schema order. A row that came twice is held twice: it is no row that came once."""
    rows: dict[Key, bytes] = {}
    for use in uses:
        kept = evidence.sinks.get(use.removeprefix("sink "))
        for batch in kept.batches if kept else []:
            columns = [np.ascontiguousarray(c) for c in batch.columns.values()]
            for i, seq in enumerate(batch.seq.tolist()):
                if seq & _FRAME < horizon.get(batch.origin, 0):
                    key = (use, batch.origin, seq)
                    rows[key] = rows.get(key, b"") + b"".join(c[i].tobytes() for c in columns)
    for command in evidence.commands:
        if command.seq & _FRAME < horizon.get(command.origin, 0):
            key = ("commands", command.origin, command.seq)
            rows[key] = rows.get(key, b"") + command.command_id.encode()
    return rows


def _read(directory: Path, spec: FlowSpec) -> _Run:
    nodes, hosts = _configs(directory, "nodes"), _configs(directory, "devices")
    places = [(n["assignment"], n["assignment"]["tier"]) for n in nodes]
    places += [(d["assignment"], "device") for h in hosts for d in h["devices"]]
    placed: dict[str, set[str]] = {}
    for assignment, tier in places:
        for stage in assignment["runs"]:
            placed.setdefault(stage, set()).add(tier)
    origins = {d["origin"]: [d["index"], d["stride"], d["lead_frames"]] for h in hosts for d in h["devices"]}
    node_dirs = {p.name: p for p in (directory / "nodes").iterdir() if p.is_dir()}
    evidence = gather(spec, node_dirs, [p for p in (directory / "devices").iterdir() if p.is_dir()])
    frames: Counter[str] = Counter()
    for report in evidence.device_hosts:
        frames.update(report["frames_of"])
    played = {
        "devices": origins,
        "period_frames": sorted({h["period_frames"] for h in hosts}),
        "recordings": sorted({_digest(Path(h["data_dir"]) / "events.npz") for h in hosts}),
    }
    digest = nodes[0]["assignment"]["flow_digest"]
    flow_dir = Path(nodes[0]["flow_dir"])
    ran = {stage: sorted(tiers) for stage, tiers in sorted(placed.items())}
    return _Run(str(directory), flow_dir, digest, played, ran, frames, evidence)


def _comparable(first: _Run, other: _Run) -> None:
    if first.digest != other.digest:
        raise RunError(
            "compare.runs",
            f"{first.name} and {other.name} ran different flows",
            why=f"{first.flow_dir} then was not {other.flow_dir} now",
            next_step="run the same flow, unchanged, with other --pin options",
        )
    different = [name for name, value in first.played.items() if other.played[name] != value]
    if different:
        raise RunError(
            "compare.runs",
            f"the devices of {first.name} and {other.name} did not measure the same frames",
            why=f"their {' and '.join(different).replace('_', ' ')} differ",
            next_step="run with the same --devices, --for, and --data or --seed",
        )


def _configs(directory: Path, kind: str) -> list[dict[str, Any]]:
    try:
        found = [orjson.loads(p.read_bytes()) for p in sorted((directory / kind).glob("*/config.json"))]
    except (OSError, orjson.JSONDecodeError) as error:
        raise _no_run(directory, str(error)) from error
    if not found:
        raise _no_run(directory, f"there is no {kind}/*/config.json in it")
    return found


def _no_run(directory: Path, why: str) -> DataError:
    return DataError(
        "compare.directory",
        f"{directory} holds no run",
        why=why,
        next_step="name what `ganglion run --run-dir DIR` left behind",
    )


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise _no_run(file.parent, f"its recordings cannot be read: {error.strerror}") from error


def text(comparison: Comparison) -> str:
    """What people read."""
    lines = []
    for number, (run, placed) in enumerate(zip(comparison.runs, comparison.placed, strict=True), start=1):
        tiers = sorted({t for found in placed.values() for t in found})
        where = [f"{t}: {', '.join(s for s, found in placed.items() if t in found)}" for t in tiers]
        lines += [f"run {number}: {run}", *(f"  {line}" for line in where)]
    lines.append(f"the same {comparison.frames} frames in all of them")
    lines += [f"  {use}: {n} alike" for use, n in comparison.rows.items()]
    lines += [f"  {use}: not compared, its windows follow the wall clock" for use in comparison.left_out]
    lines += [f"  {d.use}, {d.origin}, {d.seq}: {d.what} ({d.run})" for d in comparison.deviations]
    if comparison.deviations_n > len(comparison.deviations):
        lines.append(f"  and {comparison.deviations_n - len(comparison.deviations)} more")
    if comparison.same:
        lines.append("same: every row and command, bit for bit")
    elif comparison.deviations_n:
        lines.append(f"NOT the same: {comparison.deviations_n} rows or commands deviate")
    else:
        lines.append("nothing was compared: the runs kept no rows in common")
    return "\n".join(lines) + "\n"
