"""What there is: sites in a tree, the node of each, device groups, links, what they can do and cost.

A topology is read from YAML by `ganglion.core.topology_text`; placement plans onto it. All values are checked
when it is made, so whoever holds one may trust it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from ganglion.core.declarations import RuleBroken, declaration
from ganglion.core.errors import GanglionError, TopologyError
from ganglion.core.labels import CATEGORIES
from ganglion.core.partition import PARTITIONS
from ganglion.core.topology_checks import check_devices, check_mqtt, check_nodes, check_servers, check_sites
from ganglion.core.topology_mqtt import Mqtt
from ganglion.core.units import parse_duration_ns, parse_rate_bit_per_s, parse_size_bytes

FORMAT = 1
SITES_MAX = 25_000
"""Sites that a text names; one of them may stand for many alike."""
ALIKE_MAX = 100_000
CLASSES_MAX = 200
GROUPS_MAX = 200
ACTUATORS_MAX = 32
DEVICES_MAX = 10_000_000
"""Devices in one group."""
LATENCY_NS_MAX = 60 * 10**9
BANDWIDTH_BIT_PER_S_MAX = 10**13
MEMORY_BYTES_MAX = 2**50
SERVERS_MAX = 5
LEAF_PORT = 7422
PRICE_MAX = 1e9

SiteTier = Literal["gateway", "edge", "cloud"]
KINDS = ("map", "where", "around", "window", "act", "sink")
StageKind = Literal["map", "where", "around", "window", "act", "sink"]


def _written(parse: Callable[[str], int]) -> BeforeValidator:
    def validate(value: Any) -> int:
        try:
            return parse(value if isinstance(value, str) else f"{value}")
        except GanglionError as error:
            raise RuleBroken((), error.what, error.why, error.next_step) from error

    return BeforeValidator(validate)


def _mqtt(value: Any) -> Mqtt | None:
    """By the reader that the agent has: there is one set of rules for what a person writes and what an agent takes."""
    return value if value is None or isinstance(value, Mqtt) else declaration(Mqtt, value)


Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,20}$")]
"""No ``-``: a path is called ``<gateway>-<group>`` and an origin ``<path>-<number>``."""
ActuatorName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
ServerUrl = Annotated[
    str,
    Field(
        pattern=r"^nats://([A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):[1-9][0-9]{0,4}$"
    ),
]
"""``nats://host:port``; an IPv6 address stands in brackets."""
Jurisdiction = Annotated[str, Field(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]
"""ISO 3166-1 alpha-2 or 3166-2 code, or ``EU``."""
Duration = Annotated[int, _written(parse_duration_ns), Field(ge=0, le=LATENCY_NS_MAX)]
Rate = Annotated[int, _written(parse_rate_bit_per_s), Field(ge=1, le=BANDWIDTH_BIT_PER_S_MAX)]
Size = Annotated[int, _written(parse_size_bytes), Field(ge=0, le=MEMORY_BYTES_MAX)]
Amount = Annotated[float, Field(strict=True, ge=0, le=PRICE_MAX, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1, le=DEVICES_MAX)]
Carbon = Annotated[float, Field(strict=True, ge=0, le=5000, allow_inf_nan=False)]
"""Grams of CO2-equivalent per kilowatt hour; the worst grids are near 1000."""
Category = Annotated[str, Field(pattern=f"^({'|'.join(sorted(CATEGORIES))})$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class NodeClass(_Frozen):
    """What nodes or devices of one make can do: computing time, memory, power, price, kinds of stage."""

    ns_per_call: Amount
    """Nanoseconds of one kernel or operator on one row, through the engine (see `ganglion.kernels.cost`)."""
    ns_per_operation: Amount
    """Nanoseconds of one operation within it: an addition, or what costs as much."""
    hop_us: Amount
    """Microseconds a node spends on one message: receive, dispatch, send."""
    memory_bytes: Size = Field(alias="memory")
    """What stages may use, beyond the node's own programs."""
    flash_bytes: Size | None = Field(default=None, alias="flash")
    """What the kernels of a device may use of its flash, beyond its runtime; not limited without it."""
    cpus: Annotated[float, Field(strict=True, gt=0, le=10_000, allow_inf_nan=False)] = 1.0
    """Processors that stages may keep busy."""
    watts_idle: Amount = 0.0
    watts_busy: Amount = 0.0
    """With one processor fully busy."""
    nj_per_instruction: Amount = 0.0
    """Nanojoule per instruction of a device's processor, on top of ``watts_idle``; see `ganglion.core.energy`."""
    price_per_month: Amount = 0.0
    """Per node, whatever it does."""
    price_per_cpu_month: Amount = 0.0
    """Per processor kept busy for a month."""
    cannot_run: Annotated[tuple[StageKind, ...], Field(max_length=len(KINDS))] = ()
    """Kinds of stage that do not run on this class."""
    core: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")] | None = None
    """The processor of a microcontroller, as `ganglion.kernels.c.targets` calls it."""
    clock_mhz: Annotated[float, Field(strict=True, gt=0, le=100_000, allow_inf_nan=False)] | None = None
    cycles_per_instruction: Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)] = 1.0
    """On average; with ``clock_mhz`` it makes times of counted instructions."""
    _figures: Any = PrivateAttr(default=None)
    """What was measured of the class; `ganglion.core.calibration` puts it there and reads it."""

    @model_validator(mode="after")
    def _power(self) -> NodeClass:
        if self.watts_busy < self.watts_idle:
            raise RuleBroken(
                ("watts_busy",),
                f"watts_busy is {self.watts_busy:g}, watts_idle is {self.watts_idle:g}",
                "a busy processor takes at least the power of an idle one",
                "set watts_busy to at least watts_idle",
            )
        return self

    def compute_ns(self, calls: float, operations: float) -> float:
        """Nanoseconds of ``calls`` that take ``operations`` in all."""
        return calls * self.ns_per_call + operations * self.ns_per_operation


class Link(_Frozen):
    """A way for data upwards. Of a device group: each device has one of its own."""

    latency_ns: Duration = Field(alias="latency")
    """One way."""
    bandwidth_bit_per_s: Rate = Field(alias="bandwidth")
    price_per_gb: Amount = 0.0
    energy_nj_per_byte: Amount = 0.0
    """Nanojoule per byte, both ends together."""
    duty_max: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] = 1.0
    """Share of the time that the sender may be on air; 0.01 in most of the 868 MHz band (ETSI EN 300 220)."""


class Node(_Frozen):
    """The agent's node of a site. ``id`` is the site's id unless given."""

    id: Id | None = None
    class_name: Id = Field(alias="class")
    memory_bytes: Size | None = Field(default=None, alias="memory")
    """Overrides the memory of its class."""
    processes: Annotated[int, Field(strict=True, ge=1, le=PARTITIONS)] = 1
    """How many processes share its stages' work, divided by origin; not at gateways."""


class Site(_Frozen):
    """Nodes that share a LAN and a fate; all but the cloud have a parent and an uplink to it."""

    tier: SiteTier
    node: Node
    parent: Id | None = None
    uplink: Link | None = None
    jurisdiction: Jurisdiction | None = None
    """Whose law holds there; data that must be kept somewhere never comes to a site without one."""
    count: Annotated[int, Field(strict=True, ge=1, le=ALIKE_MAX)] = 1
    """So many alike under each parent; the devices of its groups are shared out evenly to all of them."""
    carbon_g_per_kwh: Carbon | None = None
    """Instead of the topology's."""
    refuses: Annotated[tuple[Category, ...], Field(max_length=len(CATEGORIES))] = ()
    """Categories of data that do not come there."""
    mqtt: Annotated[Mqtt | None, BeforeValidator(_mqtt)] = None
    """Of a gateway: where its MQTT devices are."""
    servers: Annotated[tuple[ServerUrl, ...], Field(max_length=SERVERS_MAX)] = ()
    """The message servers of a site that outgrew one machine, run by its operator; none: the agent starts its own."""
    leaf_servers: Annotated[tuple[ServerUrl, ...], Field(max_length=SERVERS_MAX)] = ()
    """Where children link to each of ``servers``; unless given at the same hosts, port `LEAF_PORT`."""

    def leaves(self) -> tuple[str, ...]:
        """Where children link to each of ``servers``, in their order."""
        return self.leaf_servers or tuple(f"{url.rpartition(':')[0]}:{LEAF_PORT}" for url in self.servers)


class DeviceGroup(_Frozen):
    """Devices of one class and role, shared out to the gateways in turn; at the place of their gateway."""

    class_name: Id = Field(alias="class")
    count: Count
    gateways: Annotated[tuple[Id, ...], Field(min_length=1, max_length=SITES_MAX)]
    actuators: Annotated[tuple[ActuatorName, ...], Field(max_length=ACTUATORS_MAX)] = ()
    link: Link
    counts: Annotated[tuple[int, ...], Field(max_length=SITES_MAX)] | None = None
    """How many at each of ``gateways``, instead of even shares; together they are ``count``."""

    def shares(self) -> dict[str, int]:
        """Gateway -> devices there; the first gateways get one more when shares are not even."""
        if self.counts is not None:
            return dict(zip(self.gateways, self.counts, strict=True))
        each, rest = divmod(self.count, len(self.gateways))
        return {gateway: each + (place < rest) for place, gateway in enumerate(self.gateways)}

    def count_at(self, gateway: str) -> int:
        """Devices of the group at ``gateway``, which stands for no more than one site."""
        return self.shares().get(gateway, 0)


@dataclass(frozen=True, slots=True)
class Path:
    """The devices of one group at one gateway, and the sites above them.

    ``id`` is ``<gateway>-<group>``; ``nodes``: tier -> node id from the device up, without tiers that are
    missing (a gateway may hang on the cloud); the devices' node is called ``device:<path>``.
    """

    id: str
    gateway: str
    group: str
    count: int
    sites: dict[str, str]
    nodes: dict[str, str]


def member(site_id: str, number: int, many: int) -> str:
    """The id of one of ``many`` sites alike, numbered from 0 (those under the first parent first)."""
    return site_id if many == 1 else f"{site_id}x{number}"


class Topology(_Frozen):
    """The whole: one cloud, edge sites under it, gateways under either, device groups at gateways."""

    format: Annotated[Literal[1], Field(alias="topology")]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    electricity_per_kwh: Amount = 0.0
    carbon_g_per_kwh: Carbon = 0.0
    """Of the electricity at all sites that do not say their own."""
    classes: Annotated[dict[Id, NodeClass], Field(min_length=1, max_length=CLASSES_MAX)]
    sites: Annotated[dict[Id, Site], Field(min_length=1, max_length=SITES_MAX)]
    devices: Annotated[dict[Id, DeviceGroup], Field(min_length=1, max_length=GROUPS_MAX)]
    _streams: Any = PrivateAttr(default=None)
    """What was measured of a flow's streams, as ``NodeClass._figures``."""

    @model_validator(mode="after")
    def _whole(self) -> Topology:
        check_sites(self)
        check_nodes(self)
        check_servers(self)
        check_devices(self)
        check_mqtt(self)
        return self

    def paths(self) -> list[Path]:
        """Every gateway with every device group that has devices there, in the order of the file."""
        found = []
        shares = {group_id: group.shares() for group_id, group in self.devices.items()}
        for site_id in self.sites:
            for group_id in self.devices:
                if count := shares[group_id].get(site_id, 0):
                    path_id = f"{site_id}-{group_id}"
                    sites: dict[str, str] = {self.sites[s].tier: s for s in self.chain(site_id)}
                    nodes = {tier: self.node_id(s) for tier, s in sites.items()}
                    found.append(
                        Path(
                            path_id,
                            site_id,
                            group_id,
                            count,
                            sites,
                            {"device": f"device:{path_id}", **nodes},
                        )
                    )
        return found

    def chain(self, site_id: str) -> list[str]:
        """The site and those above it, up to the cloud."""
        chain = [site_id]
        while (parent := self.sites[chain[-1]].parent) is not None:
            chain.append(parent)
        return chain

    def alike(self) -> dict[str, int]:
        """Site -> how many sites it stands for, those of its parent's counted in."""
        found: dict[str, int] = {}
        for tier in ("cloud", "edge", "gateway"):
            for site_id, site in self.sites.items():
                if site.tier == tier:
                    found[site_id] = site.count * (1 if site.parent is None else found[site.parent])
        return found

    def carbon(self, site_id: str) -> float:
        """Grams of CO2-equivalent per kilowatt hour at a site."""
        own = self.sites[site_id].carbon_g_per_kwh
        return self.carbon_g_per_kwh if own is None else own

    def children(self, site_id: str) -> list[str]:
        """The sites whose parent is ``site_id``, in the order of the file."""
        return [s for s, site in self.sites.items() if site.parent == site_id]

    @property
    def cloud(self) -> str:
        """The one site without a parent."""
        return next(s for s, site in self.sites.items() if site.tier == "cloud")

    def node_id(self, site_id: str) -> str:
        """The id of the site's node."""
        return self.sites[site_id].node.id or site_id

    def site_of(self, node_id: str) -> str:
        """The site of a node; raises `KeyError` for a node that is not there."""
        for site_id in self.sites:
            if self.node_id(site_id) == node_id:
                return site_id
        raise KeyError(node_id)

    def node_class(self, site_id: str) -> NodeClass:
        """The class of the site's node."""
        return self.classes[self.sites[site_id].node.class_name]

    def memory_bytes(self, site_id: str) -> int:
        """What stages may use on the site's node."""
        own = self.sites[site_id].node.memory_bytes
        return self.node_class(site_id).memory_bytes if own is None else own

    def uplink(self, site_id: str) -> Link:
        """The link of a site to its parent; the cloud has none (an assertion)."""
        link = self.sites[site_id].uplink
        assert link is not None, f"{site_id} has no uplink"
        return link

    def uplink_id(self, site_id: str) -> str:
        """The name of that link in plans and reports: ``gw1>edge1``."""
        return f"{site_id}>{self.sites[site_id].parent}"

    def expanded(self) -> Topology:
        """The same with each of the sites alike written out: the 18th of ``gw`` is ``gwx17``. Itself if none are."""
        alike = self.alike()
        if all(many == 1 for many in alike.values()):
            return self
        sites: dict[str, Site] = {}
        for site_id, site in self.sites.items():
            above = 1 if site.parent is None else alike[site.parent]
            for number in range(alike[site_id]):
                parent = None if site.parent is None else member(site.parent, number // site.count, above)
                sites[member(site_id, number, alike[site_id])] = site.model_copy(
                    update={"parent": parent, "count": 1}
                )
        groups = {
            name: group.model_copy(
                update={
                    "gateways": tuple(member(g, n, alike[g]) for g in group.gateways for n in range(alike[g]))
                }
            )
            for name, group in self.devices.items()
        }
        return self.model_copy(update={"sites": sites, "devices": groups})

    def with_devices(self, total: int) -> Topology:
        """The same with ``total`` devices in all, each group keeping its share (largest remainders first).

        Raises ``topology.devices`` for fewer than one device per group or more than the limit.
        """
        if not len(self.devices) <= total <= DEVICES_MAX:
            raise TopologyError(
                "topology.devices",
                f"{total} devices were asked for",
                why=f"there are {len(self.devices)} device groups with at least one device each, "
                f"and at most {DEVICES_MAX} devices",
                next_step=f"ask for at least {len(self.devices)}",
            )
        before = sum(g.count for g in self.devices.values())
        spare = total - len(self.devices)
        exact = {name: spare * group.count / before for name, group in self.devices.items()}
        counts = {name: 1 + int(share) for name, share in exact.items()}
        by_rest = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
        for name in by_rest[: total - sum(counts.values())]:
            counts[name] += 1
        groups = {
            name: g.model_copy(update={"count": counts[name], "counts": None})
            for name, g in self.devices.items()
        }
        return self.model_copy(update={"devices": groups})
