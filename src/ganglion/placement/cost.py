"""The cost model: what one stage at one spot, or one stream over one link, takes. It is linear.

The solver's program and the figures of a finished plan are both made of these, so they cannot disagree.
"""

from __future__ import annotations

from typing import NamedTuple

from ganglion.core.calibration import ClassFigures, HopFigures, StageFigures
from ganglion.core.units import NS_PER_S, NS_PER_US
from ganglion.flow.stages import ActStage, SourceStage
from ganglion.placement.demand import COMMAND_BYTES, UPLINK_IDLE_BYTES_PER_S, Carriage, Load
from ganglion.placement.routes import DEVICE, GATEWAY, Route, Spot, Wire


def compute_ns(load: Load, spot: Spot) -> float:
    """Nanoseconds of one input row of the stage at the spot: measured where that was done, else declared."""
    found = measured_ns(load, spot)
    return spot.node_class.compute_ns(load.calls, load.operations) if found is None else found


def measured_ns(load: Load, spot: Spot) -> float | None:
    """The same from the class's calibration: timed, or counted instructions; None where it has no such figure."""
    found = _figures(load, spot)
    if found is None:
        return None
    if found.call_ns is not None and found.row_ns is not None:
        return found.call_ns.median / load.rows_per_call[spot.rank] + found.row_ns.median
    clock_mhz = spot.node_class.clock_mhz
    if found.instructions is None or clock_mhz is None:
        return None
    return found.instructions.median * spot.node_class.cycles_per_instruction * 1e3 / clock_mhz


def _figures(load: Load, spot: Spot) -> StageFigures | None:
    return spot.figures.stages.get(load.digest) if spot.figures else None


_UNMEASURED = ClassFigures(measured_on="")


def _hop(spot: Spot) -> HopFigures:
    return (spot.figures or _UNMEASURED).hop


def _hop_ns(spot: Spot) -> float:
    """What one message takes: the declared figure."""
    return spot.node_class.hop_us * NS_PER_US


def message_ns(spot: Spot) -> float:
    """Nanoseconds of a processor that one message takes at the spot."""
    found = _hop(spot).message_ns
    return _hop_ns(spot) if found is None else found.median


def _instances(load: Load, spot: Spot) -> int:
    """How often one node does the work of one member."""
    if spot.rank == DEVICE:
        return 1
    return load.members * (load.copies if spot.rank == GATEWAY else 1)


def stage_cpus(load: Load, spot: Spot) -> float:
    """Processors of one node that the stage keeps busy; for devices: of each. A source: what a frame takes."""
    frame_ns = _hop(spot).frame_ns
    if isinstance(load.stage, SourceStage) and frame_ns is not None:
        return load.rows_out_per_s * _instances(load, spot) * frame_ns.median / NS_PER_S
    return load.rows_in_per_s * _instances(load, spot) * compute_ns(load, spot) / NS_PER_S


def stage_memory_bytes(load: Load, spot: Spot) -> int:
    """Memory of one node that the stage takes; for devices: of each. With its working memory, where that is known."""
    found = _figures(load, spot)
    working_bytes = found.ram_bytes if found and found.ram_bytes is not None else load.working_bytes
    return load.memory_bytes * _instances(load, spot) + working_bytes


def stage_flash_bytes(load: Load, spot: Spot) -> int:
    """Flash of one device that the stage's kernel takes: as it was linked, or its constants at least."""
    found = _figures(load, spot)
    return found.flash_bytes if found and found.flash_bytes is not None else load.flash_bytes


def stage_kilowatt(load: Load, spot: Spot) -> float:
    """Power above idle that the stage takes of one node; for devices: of each.

    Rows times what a row takes: metered, or its counted instructions times what the class says of one. Else the
    processors that it keeps busy times their power.
    """
    found = _figures(load, spot)
    rows_per_s = load.rows_in_per_s * _instances(load, spot)
    if found and found.energy_nj is not None:
        return rows_per_s * found.energy_nj.median * 1e-12
    if found and found.instructions is not None and spot.node_class.nj_per_instruction:
        return rows_per_s * found.instructions.median * spot.node_class.nj_per_instruction * 1e-12
    return stage_cpus(load, spot) * spot.busy_kilowatt


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
    return messages * message_ns(spot) / NS_PER_S


class LoopParts(NamedTuple):
    """Elapsed nanoseconds of a loop, by where they pass.

    ``device``: from the frame's last sample until its message has left, with the stages there. ``link``: both ways, and
    until the program at the other end has what came. ``gateway``: from there until the command has left, with the
    stages there. ``actuator``: from the command's receipt until it is obeyed.
    """

    device: float = 0.0
    link: float = 0.0
    gateway: float = 0.0
    actuator: float = 0.0

    def plus(self, other: LoopParts) -> LoopParts:
        """Part by part."""
        return LoopParts(*(a + b for a, b in zip(self, other, strict=True)))


def loop_fixed_parts(route: Route) -> LoopParts:
    """The part of a loop that no placement changes: the frame's start, the link's latency, the command's way."""
    device = route.spots[DEVICE]
    hop = _hop(device)
    wake_ns = hop.wake_ns.median if hop.wake_ns else 0.0
    receive_ns = hop.receive_ns.median if hop.receive_ns else 0.0
    obey_ns = hop.obey_ns.median if hop.obey_ns else _hop_ns(device)
    on_link_ns = 2 * route.wires[0].link.latency_ns + _transmit_ns(COMMAND_BYTES, route)
    return LoopParts(device=wake_ns, link=on_link_ns + receive_ns, actuator=obey_ns)


def loop_stream_parts(load: Load, route: Route) -> LoopParts:
    """One row of a stream from device to gateway: its message handled at both ends and sent."""
    device, gateway = _hop(route.spots[DEVICE]), _hop(route.spots[GATEWAY])
    send_ns = device.send_ns.median if device.send_ns else _hop_ns(route.spots[DEVICE])
    receive_ns = gateway.receive_ns.median if gateway.receive_ns else 0.0
    react_ns = gateway.react_ns.median if gateway.react_ns else _hop_ns(route.spots[GATEWAY])
    size_bytes = load.row_bytes + load.message_overhead_bytes("urgent")
    return LoopParts(device=send_ns, link=_transmit_ns(size_bytes, route) + receive_ns, gateway=react_ns)


def loop_fixed_ns(route: Route) -> float:
    """The sum of `loop_fixed_parts`."""
    return sum(loop_fixed_parts(route))


def loop_stream_ns(load: Load, route: Route) -> float:
    """The sum of `loop_stream_parts`."""
    return sum(loop_stream_parts(load, route))


def own_cpus(spot: Spot) -> float | None:
    """Processors that the node's own program keeps busy without a message, where that was measured."""
    return _hop(spot).own_cpus


def _transmit_ns(size_bytes: float, route: Route) -> float:
    return size_bytes * 8 * NS_PER_S / route.wires[0].link.bandwidth_bit_per_s


def deadline_ns(load: Load) -> int:
    """The deadline of a reflex."""
    assert isinstance(load.stage, ActStage)
    return load.stage.within_ns
