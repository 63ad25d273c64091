"""The plan: where each stage runs, what that takes and costs, and how sure we are that nothing is cheaper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ganglion.flow.assignment import Assignment

FORMAT = 1
_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Placement:
    """One stage for one path (``*``: the rows of all) at a tier, on a node."""

    stage: str
    path: str
    tier: str
    node: str


@dataclass(frozen=True, slots=True)
class Loop:
    """A reflex on a path: frame complete -> command at the actuator, as predicted, beside its deadline."""

    act: str
    path: str
    predicted_ns: int
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class LinkUse:
    """What goes up a link (of a device group: up all its devices' links together).

    ``raw_bytes_per_day``: every frame of every source, on that link. ``share``: of the bandwidth.
    """

    link: str
    bytes_per_day: float
    raw_bytes_per_day: float
    share: float
    money_per_month: float


@dataclass(frozen=True, slots=True)
class NodeUse:
    """What stages take on a node, of what they may take; of ``device:<path>``: on each device.

    ``cpus``: processors kept busy, messages included; flash only where the class says how much there is.
    """

    node: str
    tier: str
    cpus: float
    cpus_max: float
    memory_bytes: int
    memory_bytes_max: int
    flash_bytes: int | None = None
    flash_bytes_max: int | None = None


@dataclass(frozen=True, slots=True)
class Money:
    """Per month, in the topology's currency: ``links`` by volume, ``energy`` of links and nodes (also idle),
    ``cpu`` by use, ``nodes`` whatever they do.
    """

    links: float
    energy: float
    cpu: float
    nodes: float

    @property
    def total(self) -> float:
        return self.links + self.energy + self.cpu + self.nodes


@dataclass(frozen=True, slots=True)
class Detail:
    """A plan written out, path by path, link by link, node by node."""

    placements: tuple[Placement, ...]
    loops: tuple[Loop, ...]
    links: tuple[LinkUse, ...]
    nodes: tuple[NodeUse, ...]
    assigned: Mapping[str, Assignment]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """``many`` nodes alike: what each runs (in flow order), takes and sends up; ``parent``: the name of what is above.

    ``use`` and ``up`` are means over the nodes; ``up`` is None for the cloud.
    """

    name: str
    tier: str
    many: int
    stages: tuple[str, ...]
    use: NodeUse
    up: LinkUse | None
    parent: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A plan in short: ``tiers``: stage -> tier -> devices whose rows it works on there; the slowest loops.

    ``quantities``: of the objective, see `ganglion.placement.objective`.
    """

    tiers: Mapping[str, Mapping[str, int]]
    loops: tuple[Loop, ...]
    quantities: Mapping[str, float]
    gateways: int
    devices: int


@dataclass(frozen=True)
class Plan:
    """A placement that obeys every rule. ``gap``: how much dearer than the best it may be, 0 when proved.

    What is said path by path is written out when it is asked for; ``summary`` and ``assignment`` need not.
    """

    flow: str
    flow_digest: str
    currency: str
    money: Money
    gap: float
    solver: str
    pins: Mapping[str, str]
    selectivities: Mapping[str, float]
    objective: str
    summary: Summary
    write_out: Callable[[], Detail] = field(repr=False, compare=False)
    assign: Callable[[str], Assignment] = field(repr=False, compare=False)
    aggregate: Callable[[], tuple[Aggregate, ...]] | None = field(default=None, repr=False, compare=False)
    """A fleet's nodes in kinds; None for plans that are always written out."""

    @cached_property
    def detail(self) -> Detail:
        """Everything; raises `PlacementInfeasible` ``placement.size`` when it is too much to be written out."""
        return self.write_out()

    @property
    def placements(self) -> tuple[Placement, ...]:
        return self.detail.placements

    @property
    def loops(self) -> tuple[Loop, ...]:
        return self.detail.loops

    @property
    def links(self) -> tuple[LinkUse, ...]:
        return self.detail.links

    @property
    def nodes(self) -> tuple[NodeUse, ...]:
        return self.detail.nodes

    @property
    def proved(self) -> bool:
        """True when no placement that obeys the rules is better in the first level of the objective."""
        return self.gap == 0

    def tier_of(self, stage: str) -> dict[str, str]:
        """Path -> tier of a stage."""
        return {p.path: p.tier for p in self.placements if p.stage == stage}

    def node_of(self, stage: str, path: str) -> str:
        """The node that runs a stage for a path; raises `KeyError`."""
        for placement in self.placements:
            if (placement.stage, placement.path) == (stage, path):
                return placement.node
        raise KeyError((stage, path))

    def assignments(self) -> dict[str, Assignment]:
        """Node id -> its part of the plan, for every site's node and for ``device:<path>``."""
        return dict(self.detail.assigned)

    def assignment(self, node: str) -> Assignment:
        """One node's part; raises `KeyError`."""
        return self.assign(node)

    def summary_json(self) -> dict[str, Any]:
        """The plan of a fleet in short: devices per stage and tier, the slowest loops, money, certificate."""
        money = {k: _rounded(v) for k, v in asdict(self.money).items()}
        return {
            "format": FORMAT,
            "flow": self.flow,
            "flow_digest": self.flow_digest,
            "currency": self.currency,
            "objective": self.objective,
            "devices": self.summary.devices,
            "gateways": self.summary.gateways,
            "tiers": {stage: dict(tiers) for stage, tiers in self.summary.tiers.items()},
            "loops": [asdict(x) for x in self.summary.loops],
            "money_per_month": {**money, "total": _rounded(self.money.total)},
            "quantities": {k: _rounded(v) for k, v in self.summary.quantities.items()},
            "certificate": {"gap": _rounded(self.gap), "proved": self.proved, "solver": self.solver},
            "pins": dict(sorted(self.pins.items())),
            "selectivities": dict(sorted(self.selectivities.items())),
        }

    def to_json(self) -> dict[str, Any]:
        """Stable: the same plan gives the same JSON on every machine (floats to nine digits)."""
        money = {k: _rounded(v) for k, v in asdict(self.money).items()}
        return {
            "format": FORMAT,
            "flow": self.flow,
            "flow_digest": self.flow_digest,
            "currency": self.currency,
            "placements": [asdict(p) for p in self.placements],
            "loops": [asdict(x) for x in self.loops],
            "links": [_record(x) for x in self.links],
            "nodes": [_record(x) for x in self.nodes],
            "money_per_month": {**money, "total": _rounded(self.money.total)},
            **({} if self.objective == "money" else {"objective": self.objective}),
            "certificate": {"gap": _rounded(self.gap), "proved": self.proved, "solver": self.solver},
            "pins": dict(sorted(self.pins.items())),
            "selectivities": dict(sorted(self.selectivities.items())),
            "assignments": {k: a.to_json() for k, a in sorted(self.detail.assigned.items())},
        }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _record(value: LinkUse | NodeUse) -> dict[str, Any]:
    values = {k: v for k, v in asdict(value).items() if v is not None}
    return {k: _rounded(v) if isinstance(v, float) else v for k, v in values.items()}
