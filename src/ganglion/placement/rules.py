"""The rules a placement must obey, each with a name that a person can read and lift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ganglion.core.units import format_bytes, format_duration
from ganglion.flow.assignment import ALL
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS, ActStage, SinkStage, SourceStage, Stage
from ganglion.placement.demand import DATAGRAM_ROW_BYTES_MAX, Key, Load
from ganglion.placement.jurisdictions import lies_in
from ganglion.placement.routes import (
    CLOUD,
    DEVICE,
    EDGE,
    GATEWAY,
    LINK_SHARE_MAX,
    RANKS,
    Route,
    Spot,
    Wire,
)

CPU_SHARE_MAX = 0.8
"""Of a node's processors: what is left takes bursts and the catching up after an outage."""

KINDS = (
    "bandwidth",
    "cpu",
    "memory",
    "flash",
    "topology",
    "capability",
    "actuator",
    "common",
    "jurisdiction",
    "label",
    "deadline",
    "offline",
    "tier",
    "pin",
    "source",
)
"""Where several rules say the same, the later kind is the one that is named. ``source`` cannot be lifted, so it is
named only where nothing else is to be said."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One of `KINDS`, what it is about (a stage, node, link, class or path), what it says, how to lift it."""

    kind: str
    subject: str
    text: str
    lift: str

    def __str__(self) -> str:
        return f"{self.kind} of {self.subject}: {self.text}"

    @property
    def order(self) -> tuple[int, str]:
        return KINDS.index(self.kind), self.subject


Seat = tuple[str, str, int]
"""A stage, a path and a rank: one place where a stage might run."""


def forbidden(
    spec: FlowSpec, ways: Mapping[str, Route], loads: Mapping[Key, Load], pins: Mapping[str, str]
) -> dict[Seat, frozenset[Rule]]:
    """For every seat the rules that forbid it, whatever else is decided."""
    reflex_of = _reflexes(spec)
    return {
        (stage, path, rank): frozenset(
            _against(loads[stage, path].stage, ways[path], rank, pins.get(stage), reflex_of.get(stage, ()))
        )
        for stage, path in loads
        for rank in RANKS
    }


def _reflexes(spec: FlowSpec) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for act in spec.reflexes:
        for name in (*spec.ancestors(act.id), act.id):
            found.setdefault(name, []).append(act.id)
    return found


def _against(
    stage: Stage, way: Route, rank: int, pin: str | None, acts: list[str] | tuple[()]
) -> Iterator[Rule]:
    spot = way.spots.get(rank)
    if spot is None:
        yield missing_tier(stage, way, rank)
    else:
        yield from _by_place(stage, spot)
    if isinstance(stage, ActStage):
        yield from _by_actuator(stage, way, rank)
    tiers = stage.constraint.tiers
    if tiers is not None and TIERS[rank] not in tiers and not isinstance(stage, ActStage):
        yield _tier_rule(stage, ", ".join(tiers))
    if pin is not None and TIERS[rank] != pin:
        yield pin_rule(stage.id, pin)
    if rank > GATEWAY:
        yield from (offline_rule(act) for act in acts)


def _by_place(stage: Stage, spot: Spot) -> Iterator[Rule]:
    if stage.kind in spot.node_class.cannot_run:
        yield Rule(
            "capability",
            f"{spot.class_name}/{stage.kind}",
            f"class {spot.class_name} runs no {stage.kind} stages",
            f"remove {stage.kind} from cannot_run of class {spot.class_name}",
        )
    allowed = stage.constraint.jurisdictions
    if allowed is not None and not lies_in(spot.jurisdiction, allowed):
        yield jurisdiction_rule(stage)
    if spot.refuses & stage.labels.categories:
        yield label_rule(spot, stage)


def _by_actuator(stage: ActStage, way: Route, rank: int) -> Iterator[Rule]:

    assert way.path != ALL, "the language refuses reflexes on merged rows"
    if stage.actuator not in way.actuators:
        text = f"devices {way.group} have no actuator {stage.actuator}"
        yield Rule("actuator", stage.id, text, f"add {stage.actuator} to actuators of group {way.group}")
    elif rank == DEVICE:
        text = f"commands to a {stage.actuator} are sent by the gateway"
        yield Rule("actuator", stage.id, text, "leave it at the gateway")


def _tier_rule(stage: Stage, tiers: str) -> Rule:
    match stage:
        case SourceStage():
            return Rule("source", stage.id, "frames are measured at the device", "leave it there")
        case SinkStage():
            return Rule(
                "tier", stage.id, f"the sink is kept at the {stage.at} (at=)", "change at= of the sink"
            )
        case _:
            return Rule(
                "tier", stage.id, f"the stage runs only at {tiers} (on=)", f"change on= of {stage.id}"
            )


def missing_tier(stage: Stage, way: Route, rank: int) -> Rule:
    """Why the route has no spot at that rank: nothing shared so low down, or no edge site."""
    if way.path == ALL:
        first = way.spots[min(way.spots)]
        text = f"rows of all paths meet first at {first.node} ({TIERS[first.rank]})"
        return Rule("common", stage.id, text, f"let {stage.id} run there or above")
    assert rank in (EDGE, GATEWAY, CLOUD)
    text = f"the gateway of {way.path} has no {TIERS[rank]} site above it"
    return Rule("topology", way.path, text, "give the gateway an edge site as its parent")


def jurisdiction_rule(stage: Stage) -> Rule:
    """Rows may be only in some jurisdictions, also on their way; one rule for all stages that inherit it."""
    places = ", ".join(stage.constraint.jurisdictions or ())
    text = "rows are kept there (keep_in=), also on their way"
    return Rule("jurisdiction", places, text, "widen keep_in= or place a site there")


def label_rule(spot: Spot, stage: Stage) -> Rule:
    """A site refuses some categories of data, also on their way."""
    refused = ", ".join(sorted(spot.refuses & stage.labels.categories))
    text = f"site {spot.site} refuses {refused}"
    return Rule("label", f"{spot.site}/{refused}", text, f"remove {refused} from refuses of {spot.site}")


def datagram_rule(stage: Stage) -> Rule:
    """A row leaves a device in one datagram."""
    text = f"a row of {stage.schema.row_bytes} bytes is larger than a datagram ({DATAGRAM_ROW_BYTES_MAX})"
    return Rule("capability", stage.id, text, "make its frames smaller, or reduce them on the device")


def pin_rule(stage_id: str, tier: str) -> Rule:
    """Someone asked for this tier."""
    return Rule("pin", stage_id, f"it is pinned to {tier}", f"unpin {stage_id}")


def offline_rule(act_id: str) -> Rule:
    """A reflex never depends on an uplink."""
    text = "the reflex works without an uplink, so all it needs stays at device or gateway"
    return Rule("offline", act_id, text, f"take the stage out of the chain that ends in {act_id}")


def deadline_rule(act: ActStage) -> Rule:
    """The loop is closed in time."""
    text = f"from frame to command within {format_duration(act.within_ns)} (within=)"
    return Rule("deadline", act.id, text, f"allow {act.id} more time, or make its kernels or links faster")


def memory_rule(spot: Spot) -> Rule:
    """Stages fit into the node's memory."""
    text = f"stages have {format_bytes(spot.memory_bytes)}"
    return Rule("memory", spot.node, text, f"give class {spot.class_name} more memory, or shorten keep=")


def flash_rule(spot: Spot, limit_bytes: int) -> Rule:
    """Kernels fit into a device's flash; one rule for all devices of a class."""
    text = f"kernels have {format_bytes(limit_bytes)} on a device"
    lift = f"give class {spot.class_name} more flash, or run smaller kernels there"
    return Rule("flash", spot.class_name, text, lift)


def cpu_rule(spot: Spot) -> Rule:
    """Stages leave the node's processors some rest."""
    text = f"at most {CPU_SHARE_MAX:.0%} of {spot.node_class.cpus:g} processor(s) busy"
    return Rule("cpu", spot.node, text, f"give class {spot.class_name} more or faster cpus")


def bandwidth_rule(wire: Wire) -> Rule:
    """Streams fit through the link, and its sender is on air no longer than it may be."""
    text = f"at most {wire.share_max:.3g} of {wire.link.bandwidth_bit_per_s / 1e6:g} Mbit"
    if wire.share_max == LINK_SHARE_MAX:
        text = f"at most {LINK_SHARE_MAX:.0%} of {wire.link.bandwidth_bit_per_s / 1e6:g} Mbit"
    return Rule("bandwidth", wire.id, text, "give the link more bandwidth, or send fewer rows up")
