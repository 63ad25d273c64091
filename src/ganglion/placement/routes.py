"""The way up from each group of devices: the node at every tier, and the links between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ganglion.core.calibration import ClassFigures, figures_of
from ganglion.core.topology import Link, NodeClass, Path, Topology
from ganglion.core.units import DAYS_PER_MONTH, SECONDS_PER_DAY
from ganglion.flow.assignment import ALL
from ganglion.flow.stages import TIERS

SECONDS_PER_MONTH = float(SECONDS_PER_DAY * DAYS_PER_MONTH)
HOURS_PER_MONTH = SECONDS_PER_MONTH / 3600
LINK_SHARE_MAX = 0.8
"""Of a link's bandwidth: what is left takes bursts and the catching up after an outage."""
RANKS = range(len(TIERS))
DEVICE, GATEWAY, EDGE, CLOUD = RANKS
"""Ranks of the tiers: data only goes to a higher one."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A node as placement sees it; a group's devices at a gateway are one spot, ``count`` of them."""

    node: str
    site: str
    rank: int
    class_name: str
    node_class: NodeClass
    memory_bytes: int
    flash_bytes: int | None
    """Of a device, for its kernels; None where it is not limited."""
    jurisdiction: str | None
    count: int
    busy_kilowatt: float
    """Power above idle of one processor kept busy."""
    energy_per_kwh: float
    """Money."""
    carbon_kg_per_kwh: float
    refuses: frozenset[str]
    """Categories of data that do not come there."""
    figures: ClassFigures | None
    """What was measured of its class."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A link between two ranks of a route. Of a device link there are ``count``, each with a bandwidth."""

    id: str
    lower: int
    upper: int
    link: Link
    count: int
    per_byte: float
    """Money: price and power."""
    energy_per_byte: float
    """The part of it that is for power."""
    kwh_per_byte: float
    carbon_kg_per_kwh: float
    """At its lower end."""
    share_max: float
    """Of its bandwidth, and of the time on air."""

    @property
    def device_link(self) -> bool:
        return self.lower == DEVICE


@dataclass(frozen=True, slots=True)
class Route:
    """The spots of a path by rank (a gateway may have no edge above it) and the wires between them, upwards.

    The route of ``*`` has only the spots that all paths share.
    """

    path: str
    spots: Mapping[int, Spot]
    wires: tuple[Wire, ...]
    actuators: frozenset[str]
    group: str


def routes(topology: Topology) -> dict[str, Route]:
    """The route of every path, then that of ``*`` (the merged rows of all)."""
    paths = topology.paths()
    found = {path.id: route(topology, path) for path in paths}
    ways = list(found.values())
    if not ways:
        return {}
    first = ways[0]
    common = {
        rank: spot
        for rank, spot in first.spots.items()
        if rank != DEVICE and all(w.spots.get(rank) == spot for w in ways)
    }
    wires = tuple(w for w in first.wires if w.lower in common and w.upper in common)
    found[ALL] = Route(ALL, common, wires, frozenset(), "")
    return found


def route(topology: Topology, path: Path) -> Route:
    """The route of one path."""
    group = topology.devices[path.group]
    spots = {DEVICE: _spot(topology, path, "device", group.class_name)}
    below, lower = path.id, DEVICE
    wires = []
    for tier in TIERS[1:]:
        if tier not in path.sites:
            continue
        site, rank = path.sites[tier], TIERS.index(tier)
        link = group.link if lower == DEVICE else topology.uplink(below)
        count = path.count if lower == DEVICE else 1
        joule_per_byte = link.energy_nj_per_byte * 1e-9
        kwh = joule_per_byte / 3.6e6
        energy = kwh * topology.electricity_per_kwh
        carbon = topology.carbon(path.gateway if lower == DEVICE else below) / 1000
        wires.append(
            Wire(
                f"{below}>{site}",
                lower,
                rank,
                link,
                count,
                link.price_per_gb * 1e-9 + energy,
                energy,
                kwh,
                carbon,
                min(LINK_SHARE_MAX, link.duty_max),
            )
        )
        spots[rank] = _spot(topology, path, tier, topology.sites[site].node.class_name)
        below, lower = site, rank
    return Route(path.id, spots, tuple(wires), frozenset(group.actuators), path.group)


def _spot(topology: Topology, path: Path, tier: str, class_name: str) -> Spot:
    kind = topology.classes[class_name]
    site = path.sites.get(tier, path.gateway)
    device = tier == "device"
    kilowatt = _busy_watts(kind) / 1000
    return Spot(
        path.nodes[tier],
        site,
        TIERS.index(tier),
        class_name,
        kind,
        kind.memory_bytes if device else topology.memory_bytes(site),
        kind.flash_bytes if device else None,
        topology.sites[site].jurisdiction,
        path.count if device else 1,
        kilowatt,
        topology.electricity_per_kwh,
        topology.carbon(site) / 1000,
        frozenset(topology.sites[site].refuses),
        figures_of(kind),
    )


def _busy_watts(kind: NodeClass) -> float:
    """Above idle, of one processor kept busy: by its instructions, where the class says what those take."""
    if kind.nj_per_instruction and kind.clock_mhz:
        return kind.nj_per_instruction * kind.clock_mhz / kind.cycles_per_instruction / 1000
    return kind.watts_busy - kind.watts_idle
