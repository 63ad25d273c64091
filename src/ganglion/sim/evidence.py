"""What a run left behind, read back from disk: device logs, node reports, sink files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.ipc

from ganglion.agent.shared import SEGMENTS
from ganglion.core.batch import Batch
from ganglion.core.errors import DataError
from ganglion.core.schema import Schema
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import SinkStage


@dataclass(frozen=True, slots=True)
class Shot:
    """One event as it was played to one device: the truth detection is judged by."""

    origin: str
    row: int
    kind: str
    is_fault: bool
    first_seq: int
    inception_seq: int
    end_seq: int
    inception_ns: int


@dataclass(frozen=True, slots=True)
class Command:
    """A command's first arrival at its actuator; times are monotonic nanoseconds, 0 where one is not known.

    ``woke_ns``, ``sent_ns``: when the device began with the deciding frame, and when its message had left;
    ``received_ns``: when the command's datagram was at the device.
    """

    command_id: str
    origin: str
    seq: int
    frame_done_ns: int
    arrived_ns: int
    woke_ns: int = 0
    sent_ns: int = 0
    received_ns: int = 0

    @property
    def reaction_ns(self) -> int:
        return self.arrived_ns - self.frame_done_ns


@dataclass(slots=True)
class SinkRows:
    """The rows of one sink, per origin, in the order in which they were kept."""

    schema: Schema
    batches: list[Batch] = field(default_factory=list)


@dataclass(slots=True)
class Evidence:
    """Everything the checks look at. ``acknowledged``: (stream, origin) -> {sequence number: content digest}.

    ``reactions``: command id -> when its gateway began with the message that made it, and when the command had left.
    """

    acknowledged: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    shots: list[Shot] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    repeated_commands: int = 0
    sinks: dict[str, SinkRows] = field(default_factory=dict)
    device_hosts: list[dict[str, Any]] = field(default_factory=list)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    reactions: dict[str, tuple[int, int]] = field(default_factory=dict)
    shed: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)
    """(stream, origin) -> ranges of numbers that a site was told to be shed below it, as the flow declares."""

    def tell_shed(self, report: Mapping[str, Any]) -> None:
        """Takes what a node reports."""
        for stream, told in report.get("shed_below", {}).items():
            for origin, ranges in told["origins"].items():
                self.shed.setdefault((stream, origin), []).extend((f, last) for f, last, _ in ranges)


def gather(spec: FlowSpec, node_dirs: dict[str, Path], device_dirs: list[Path]) -> Evidence:
    """Reads a stopped run's directories. Raises `DataError` ``run.evidence`` for a file that cannot be read."""
    evidence = Evidence()
    for directory in device_dirs:
        for stream, origin, numbers, digests in _lines(directory / "acked.jsonl"):
            evidence.acknowledged.setdefault((stream, origin), {}).update(zip(numbers, digests, strict=True))
        evidence.shots += [Shot(**shot) for shot in _lines(directory / "shots.jsonl")]
        seen: set[str] = set()
        for line in _lines(directory / "commands.jsonl"):
            if line["repeated"] or line["command_id"] in seen:
                evidence.repeated_commands += 1
                continue
            seen.add(line["command_id"])
            evidence.commands.append(Command(**{k: line[k] for k in Command.__dataclass_fields__}))
        evidence.device_hosts.append(_report(directory))
    for node, directory in node_dirs.items():
        evidence.nodes[node] = _report(directory)
        evidence.tell_shed(evidence.nodes[node])
        evidence.reactions |= _reactions(directory / "reactions.json")
        for stage in spec.stages:
            if not isinstance(stage, SinkStage):
                continue
            path = directory / "sinks" / f"{stage.id}.arrows"
            found = [(path, None)] if path.exists() else _segments(directory, stage.id)
            for path, size_bytes in found:
                rows = evidence.sinks.setdefault(stage.id, SinkRows(stage.schema))
                rows.batches += sink_batches(path.read_bytes()[:size_bytes], path, stage)
    return evidence


def _segments(directory: Path, sink: str) -> list[tuple[Path, int | None]]:
    """The files of a sink that several processes kept, and how much of each counts; in each origin's order."""
    path = directory / SEGMENTS
    if not path.exists():
        return []
    segments = orjson.loads(path.read_bytes())
    return [
        (directory / "workers" / worker / name, int(size_bytes))
        for worker, stage, name, size_bytes, _ in segments
        if stage == sink
    ]


def _report(directory: Path) -> dict[str, Any]:
    path = directory / "report.json"
    if not path.exists():
        raise _unreadable(path, "it is missing: the process never reported")
    value: dict[str, Any] = orjson.loads(path.read_bytes())
    return value


def _reactions(path: Path) -> dict[str, tuple[int, int]]:
    if not path.exists():
        return {}
    try:
        rows = orjson.loads(path.read_bytes())
        return {r["command_id"]: (int(r["received_ns"]), int(r["commanded_ns"])) for r in rows}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, str(error)) from error


def _lines(path: Path) -> Iterator[Any]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise _unreadable(path, f"line {number}: {error}") from error


def sink_batches(content: bytes, path: Path, stage: SinkStage) -> Iterator[Batch]:
    """The rows of a sink's file, by origin, in the order in which they were kept; ``path`` names it in an error.

    Raises `DataError` ``run.evidence``.
    """
    try:
        with pa.ipc.open_stream(content) as reader:
            for record in reader:
                yield from _by_origin(record, stage)
    except (pa.ArrowInvalid, OSError) as error:  # the latter for a body that ends too early
        raise _unreadable(path, str(error)) from error


def _by_origin(record: pa.RecordBatch, stage: SinkStage) -> Iterator[Batch]:
    origins = np.array(record.column("origin").to_pylist())
    seq = record.column("seq").to_numpy()
    time_ns = record.column("time_ns").to_numpy()
    columns = {}
    for f in stage.schema.fields:
        column = record.column(f.name)
        flat = column.flatten() if f.type.shape else column
        columns[f.name] = flat.to_numpy(zero_copy_only=False).reshape(len(seq), *f.type.shape)
    whole = Batch(stage.inputs[0], "", seq, time_ns, columns)
    for origin in dict.fromkeys(origins.tolist()):
        part = whole.take(origins == origin)
        yield Batch(part.stream, origin, part.seq, part.time_ns, part.columns)


def _unreadable(path: Path, why: str) -> DataError:
    return DataError("run.evidence", f"{path} cannot be read", why=why, next_step="look at log.txt beside it")
