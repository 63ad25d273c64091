"""What a calibrated topology says of a flow's streams: only of those that are still made as they were then."""

from __future__ import annotations

from ganglion.core.calibration import StreamFigures, streams_of
from ganglion.core.topology import Topology
from ganglion.flow.digests import stream_digest
from ganglion.flow.spec import FlowSpec


def streams(spec: FlowSpec, topology: Topology) -> dict[str, StreamFigures]:
    """Stage id -> figures of its stream."""
    known = streams_of(topology)
    return {s: f for s, f in known.items() if s in spec and stream_digest(spec, s) == f.digest}


def stale_streams(spec: FlowSpec, topology: Topology) -> tuple[str, ...]:
    """The streams whose figures are not used, since the flow makes them another way now, or not at all."""
    return tuple(s for s in streams_of(topology) if s not in streams(spec, topology))


def shares(spec: FlowSpec, topology: Topology) -> dict[str, float]:
    """Where-stage -> the share of its rows that passed in a run, for `plan`'s ``selectivities``."""
    return {s: f.share for s, f in streams(spec, topology).items() if f.share is not None}


def uplink_row_bytes(spec: FlowSpec, topology: Topology) -> dict[str, float]:
    """Stage id -> what a row of its stream took in an uplink's messages."""
    return {s: f.row_bytes for s, f in streams(spec, topology).items() if f.row_bytes is not None}
