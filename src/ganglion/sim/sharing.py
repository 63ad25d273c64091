"""Sites whose work several processes share: whether a plan allows it, and whose partitions are whose."""

from __future__ import annotations

from collections.abc import Mapping

from ganglion.agent.config import worker_name
from ganglion.core.partition import home
from ganglion.core.topology import Topology
from ganglion.flow.keyed import check_keyed
from ganglion.flow.spec import FlowSpec
from ganglion.placement import Plan

Partitions = Mapping[str, Mapping[str, list[int]]]
"""Node -> process -> its partitions."""


def check_processes(spec: FlowSpec, topology: Topology, chosen: Plan) -> None:
    """Raises `TopologyError` ``topology.processes`` where a plan gives to several processes what one must do."""
    if not homes(topology):
        return
    assignments = chosen.assignments()
    for site_id, site in topology.sites.items():
        if site.node.processes > 1:
            check_keyed(spec, site.node.processes, assignments[topology.node_id(site_id)])


def homes(topology: Topology) -> dict[str, dict[str, list[int]]]:
    """Of the nodes with several processes, which of them has which partitions while all are up."""
    found: dict[str, dict[str, list[int]]] = {}
    for site_id, site in topology.sites.items():
        node, many = topology.node_id(site_id), site.node.processes
        if many > 1:
            found[node] = {worker_name(node, index): home(index, many) for index in range(many)}
    return found


def sharing_lines(partitions: Partitions) -> list[str]:
    """For people: a line for each process."""
    return [
        f"{process} of {node}: partitions {' '.join(map(str, its)) or 'none'}"
        for node, processes in partitions.items()
        for process, its in processes.items()
    ]
