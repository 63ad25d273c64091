"""Which rows come to a site from which of its children."""

from __future__ import annotations

from collections.abc import Mapping

from ganglion.core.topology import Topology
from ganglion.flow.assignment import ALL, Assignment


def paths_below(
    topology: Topology, assignments: Mapping[str, Assignment], site: str
) -> dict[str, tuple[str, ...]]:
    """Child -> the paths of all gateways that are it or below it.

    `ALL` is among them when the child merges rows over origins for this site. Every process of a site must be told the
    same, and again when sites or groups below it are added.
    """
    found: dict[str, list[str]] = {child: [] for child in topology.children(site)}
    for path in topology.paths():
        for above in path.sites.values():
            if above in found:
                found[above].append(path.id)
    for child, paths in found.items():
        exports = assignments[topology.node_id(child)].exports.values()
        if any(ALL in exported for exported in exports):
            paths.append(ALL)
    return {child: tuple(paths) for child, paths in found.items()}
