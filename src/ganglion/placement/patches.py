"""What a repair of a standing fleet is made of: gateways as they are and would be, the moves, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ganglion.core.errors import PlacementInfeasible
from ganglion.core.topology import Site
from ganglion.placement.columns import Floats
from ganglion.placement.fleet import Counts


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway: what it is and has, its devices' columns, what those cost and take of the edge site and the cloud.

    ``bound``: at its edge site's prices no choice is below. ``reachable``: false while it is cut off.
    """

    name: str
    site: Site
    edge: str | None
    counts: Counts
    faces: tuple[str, ...]
    picks: tuple[int, ...]
    cost: float
    above: Floats
    bound: float
    reachable: bool = True


@dataclass(frozen=True, slots=True)
class Move:
    """A stage for the devices of a group at a gateway goes to another tier."""

    gateway: str
    group: str
    stage: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Patch:
    """What a change asks for: touched gateways as they are and would be (None: not there), nothing done yet."""

    before: Mapping[str, Gateway | None]
    after: Mapping[str, Gateway | None]
    moves: tuple[Move, ...]
    money: float
    """What the objective's first level rises by."""
    unmoved: tuple[str, ...] = ()
    """Gateways that are cut off: they keep what they run until they are reachable."""


def nothing_fits(name: str) -> PlacementInfeasible:
    """The error ``placement.no-repair``."""
    return PlacementInfeasible(
        "placement.no-repair",
        f"gateway {name} has no placement after this change",
        why="its rules and capacities clash then",
        next_step="see which: change the topology file and run ganglion plan FLOW_DIR",
    )
