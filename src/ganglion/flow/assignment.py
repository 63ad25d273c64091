"""A node's part of a plan: what it runs for which origins, and what it sends on to its parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganglion.core.errors import DataError
from ganglion.flow.spec import FlowSpec

ALL = "*"
"""The path of rows merged over origins (a window by ``all``)."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """``runs``: stage id -> paths it runs for; ``exports``: stream id -> paths whose rows go to the parent.

    A path is ``<gateway>-<device group>``; origins are named ``<path>-<number>``, so an origin tells its path.
    """

    node: str
    site: str
    tier: str
    flow_digest: str
    runs: Mapping[str, frozenset[str]]
    exports: Mapping[str, frozenset[str]]

    def runs_here(self, stage_id: str, origin: str) -> bool:
        """True when ``stage_id`` runs on this node for rows of ``origin``."""
        return path_of(origin) in self.runs.get(stage_id, ())

    def exported(self, stream: str, origin: str) -> bool:
        """True when rows of ``stream`` from ``origin`` go on to the parent."""
        return path_of(origin) in self.exports.get(stream, ())

    def wanted(self, spec: FlowSpec) -> frozenset[str]:
        """The streams that the node needs and does not make itself."""
        consumed = {s for stage in self.runs for s in spec[stage].inputs}
        return frozenset(s for s in consumed | set(self.exports) if s not in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Sorted, so that equal assignments give equal text; `from_json` reads it."""
        return {
            "node": self.node,
            "site": self.site,
            "tier": self.tier,
            "flow_digest": self.flow_digest,
            "runs": {k: sorted(v) for k, v in sorted(self.runs.items())},
            "exports": {k: sorted(v) for k, v in sorted(self.exports.items())},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Assignment:
        """Raises `DataError` ``assignment.form`` for another form."""
        try:
            return Assignment(
                str(value["node"]),
                str(value["site"]),
                str(value["tier"]),
                str(value["flow_digest"]),
                {k: frozenset(v) for k, v in value["runs"].items()},
                {k: frozenset(v) for k, v in value["exports"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                "assignment.form",
                f"this is not an assignment: {error!r}",
                why="it lacks a part or has one of another type",
                next_step="make it with: ganglion plan FLOW_DIR --json",
            ) from error


def path_of(origin: str) -> str:
    """``gw1-relay-03`` -> ``gw1-relay``; the merged origin ``all`` -> `ALL`."""
    return ALL if origin == "all" else origin.rpartition("-")[0]


def origin_name(path: str, number: int) -> str:
    """The ``number``-th origin of a path (from 0)."""
    return f"{path}-{number:02d}"
