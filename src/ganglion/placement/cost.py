"""The cost model: what one stage at one spot, or one stream over one link, takes. It is linear.

The solver's program and the figures of a finished plan are both made of these, so they cannot disagree.
"""

from __future__ import annotations

from ganglion.core.units import NS_PER_S, NS_PER_US
from ganglion.flow.stages import ActStage
from ganglion.placement.demand import COMMAND_BYTES, UPLINK_IDLE_BYTES_PER_S, Carriage, Load
from ganglion.placement.routes import DEVICE, GATEWAY, SECONDS_PER_MONTH, Route, Spot, Wire


def compute_ns(load: Load, spot: Spot) -> float:
    """Nanoseconds of one input row of the stage at the spot."""
    return spot.node_class.compute_ns(load.calls, load.operations)


def _instances(load: Load, spot: Spot) -> int:
    """How often one node does the work of one member."""
    if spot.rank == DEVICE:
        return 1
    return load.members * (load.copies if spot.rank == GATEWAY else 1)


def stage_cpus(load: Load, spot: Spot) -> float:
    """Processors of one node that the stage keeps busy; for devices: of each."""
    return load.rows_in_per_s * _instances(load, spot) * compute_ns(load, spot) / NS_PER_S


def stage_memory_bytes(load: Load, spot: Spot) -> int:
    """Memory of one node that the stage takes; for devices: of each."""
    return load.memory_bytes * _instances(load, spot)


def stage_money(load: Load, spot: Spot) -> float:
    """Money for a month of the stage at the spot, all devices together."""
    return stage_cpus(load, spot) * spot.count * spot.cpu_per_month


def carriage(wire: Wire, *, urgent: bool) -> Carriage:
    """How rows travel over the link; ``urgent``: a reflex beyond it waits for them."""
    if not wire.device_link:
        return "batched"
    return "urgent" if urgent else "gathered"


def wire_bytes_per_s(load: Load, wire: Wire, *, urgent: bool) -> float:
    """Bytes of the stage's output over the link, all members together."""
    return load.bytes_per_s(carriage(wire, urgent=urgent)) * load.members


def wire_share(load: Load, wire: Wire, *, urgent: bool) -> float:
    """Part of the link's bandwidth that the output takes (of each device's own link)."""
    return wire_bytes_per_s(load, wire, urgent=urgent) / wire.count * 8 / wire.link.bandwidth_bit_per_s


def idle_bytes_per_s(wire: Wire) -> float:
    """Bytes that keeping the link alive takes."""
    return 0.0 if wire.device_link else float(UPLINK_IDLE_BYTES_PER_S)


def idle_share(wire: Wire) -> float:
    """Part of the link's bandwidth that keeping it alive takes."""
    return idle_bytes_per_s(wire) * 8 / wire.link.bandwidth_bit_per_s


def hop_cpus(load: Load, wire: Wire, spot: Spot, *, urgent: bool) -> float:
    """Processors of a node at an end of the link that handling the output's messages keeps busy.

    A gateway or edge site sends within the hop in which it received; a device sends what it measured.
    """
    if spot.rank == wire.lower and not wire.device_link:
        return 0.0
    members = 1 if spot.rank == DEVICE else load.members
    messages = load.messages_per_s(carriage(wire, urgent=urgent)) * members
    return messages * spot.node_class.hop_us * NS_PER_US / NS_PER_S


def wire_money(load: Load, wire: Wire, ends: tuple[Spot, Spot], *, urgent: bool) -> float:
    """Money for a month of the output on the link and of handling its messages at both ends."""
    moved = wire_bytes_per_s(load, wire, urgent=urgent) * SECONDS_PER_MONTH * wire.per_byte
    return moved + sum(hop_cpus(load, wire, s, urgent=urgent) * s.count * s.cpu_per_month for s in ends)


def loop_fixed_ns(route: Route) -> float:
    """The part of a loop that no placement changes: the link's latency up and down, the command, its handling."""
    device = route.spots[DEVICE]
    latency_ns = 2 * route.wires[0].link.latency_ns
    return latency_ns + _transmit_ns(COMMAND_BYTES, route) + device.node_class.hop_us * NS_PER_US


def loop_stream_ns(load: Load, route: Route) -> float:
    """One row of a stream from device to gateway: its message handled at both ends and sent."""
    hops_us = route.spots[DEVICE].node_class.hop_us + route.spots[GATEWAY].node_class.hop_us
    size_bytes = load.row_bytes + load.message_overhead_bytes("urgent")
    return hops_us * NS_PER_US + _transmit_ns(size_bytes, route)


def _transmit_ns(size_bytes: float, route: Route) -> float:
    return size_bytes * 8 * NS_PER_S / route.wires[0].link.bandwidth_bit_per_s


def deadline_ns(load: Load) -> int:
    """The deadline of a reflex."""
    assert isinstance(load.stage, ActStage)
    return load.stage.within_ns
