"""What a stage computes, as a digest: figures that were measured belong to that, not to a stage's name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import MapStage, Stage


def work_digest(spec: FlowSpec, stage_id: str) -> str:
    """SHA-256 of all that decides how long a row takes: a kernel's digest, else kind, parameters and schema.

    What is not a kernel also takes its time by what runs before it, so that is in its digest too.
    """
    stage = spec[stage_id]
    if isinstance(stage, MapStage):
        return stage.kernel.digest
    return _hashed([_work(stage), [_work(spec[name]) for name in stage.inputs]])


def stream_digest(spec: FlowSpec, stage_id: str) -> str:
    """SHA-256 of all that decides what rows a stage gives: its own work and that of every stage before it."""
    stage = spec[stage_id]
    return _hashed([_work(stage), [stream_digest(spec, name) for name in stage.inputs]])


def _work(stage: Stage) -> list[Any]:
    # What a flow expects to pass, and where a sink keeps it, changes no row and no computing time.
    details = {k: v for k, v in stage.details().items() if k not in ("selectivity", "at")}
    return [stage.kind, details, stage.schema.to_json()]


def _hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
