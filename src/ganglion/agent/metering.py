"""What a flow takes at a node, for the node's report: events, bytes, processor, memory, and how long rows wait."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ganglion.agent.shared import Shared
from ganglion.agent.streams import BusJournal, PassingJournal
from ganglion.engine.durable import Durable
from ganglion.flow.spec import FlowSpec
from ganglion.host.ports import Clock


def meters(
    spec: FlowSpec, engine: Durable | Shared, journal: BusJournal | PassingJournal, clock: Clock
) -> dict[str, Any]:
    """``flow``: the sums; ``state_bytes``: memory by stage, about; ``journal``: how its entries were read.

    Rows and their bytes are those that came to the node since the checkpoints began; processor time is the
    process's. ``queue_rows`` and ``queue_age_ns`` are of what this process stored and the engine has yet to take.
    """
    rows = {s[3:]: c.rows for s, c in engine.counts().items() if s.startswith("in:")}
    state_bytes = engine.progress.state_bytes
    return {
        "flow": {
            "name": spec.name,
            "rows": sum(rows.values()),
            "row_bytes": sum(n * spec[stream].schema.row_bytes for stream, n in rows.items()),
            "cpu_ns": clock.process_cpu_ns(),
            "state_bytes": sum(state_bytes.values()),
            "queue_rows": journal.unread_rows,
            "queue_age_ns": journal.age_ns(clock.monotonic_ns()),
        },
        "state_bytes": dict(state_bytes),
        "journal": asdict(journal.counts),
    }
