"""What the sites below had to shed, by stream and origin: known exactly, bounded, and kept with the checkpoint."""

from __future__ import annotations

from typing import Any

from ganglion.core.shed import NUMBER_MAX, Shed

RANGES_MAX = 200
"""Ranges kept per stream and origin; beyond that the two oldest become one."""
LINES_MAX = 100_000
"""Streams of origins with ranges; of further ones only the rows are counted."""


class Missing:
    """Claims as they came. The same claim twice, or one that grew, counts once."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[str, str], dict[int, tuple[int, int]]] = {}
        self._rows: dict[str, int] = {}

    def take(self, claim: Shed) -> None:
        """One claim."""
        key = (claim.stream, claim.origin)
        known = self._ranges.get(key)
        if known is None:
            if len(self._ranges) >= LINES_MAX:
                self._count(claim.stream, claim.rows)
                return
            known = self._ranges[key] = {}
        last_seq, rows = known.get(claim.first_seq, (-1, 0))
        self._count(claim.stream, max(0, claim.rows - rows))
        known[claim.first_seq] = (max(last_seq, claim.last_seq), max(rows, claim.rows))
        if len(known) > RANGES_MAX:
            first, second = list(known)[:2]
            one, other = known.pop(first), known.pop(second)
            held = {min(first, second): (max(one[0], other[0]), min(NUMBER_MAX, one[1] + other[1]))}
            self._ranges[key] = held | known

    def _count(self, stream: str, rows: int) -> None:
        self._rows[stream] = min(NUMBER_MAX, self._rows.get(stream, 0) + rows)

    @property
    def rows(self) -> dict[str, int]:
        """Rows per stream."""
        return dict(self._rows)

    def to_json(self) -> dict[str, Any]:
        """Stream -> ``rows``, and ``origins``: origin -> [[first number, last number, rows], ...]."""
        found: dict[str, Any] = {s: {"rows": n, "origins": {}} for s, n in self._rows.items()}
        for (stream, origin), known in self._ranges.items():
            found[stream]["origins"][origin] = [[f, last, n] for f, (last, n) in known.items()]
        return found

    def snapshot(self) -> Any:
        lines = [[s, o, [[f, *r] for f, r in known.items()]] for (s, o), known in self._ranges.items()]
        return {"rows": dict(self._rows), "lines": lines}

    def join(self, state: Any) -> None:
        """Adds the snapshot of one that knows of other origins."""
        for stream, rows in state["rows"].items():
            self._count(stream, rows)
        self._ranges |= {(s, o): {f: (last, n) for f, last, n in known} for s, o, known in state["lines"]}

    def restore(self, state: Any) -> None:
        """Takes a snapshot back."""
        self._rows = dict(state["rows"])
        self._ranges = {(s, o): {f: (last, n) for f, last, n in known} for s, o, known in state["lines"]}
