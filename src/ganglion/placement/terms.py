"""What one stage at one spot, and one stream over one wire, adds to every sum: objective quantities and shares.

One place makes them from `ganglion.placement.cost`, for the exact program and for the columns of large fleets.
"""

from __future__ import annotations

from ganglion.placement import cost
from ganglion.placement.demand import Load
from ganglion.placement.routes import HOURS_PER_MONTH, SECONDS_PER_MONTH, Spot, Wire


def seat_quantities(load: Load, spot: Spot) -> dict[str, float]:
    """Objective quantities (see `ganglion.placement.objective`) of the stage at the spot, latency not included."""
    kwh = cost.stage_kilowatt(load, spot) * spot.count * HOURS_PER_MONTH
    return {
        "cpu": cost.stage_cpus(load, spot) * spot.count * spot.node_class.price_per_cpu_month,
        "energy": kwh * spot.energy_per_kwh,
        "kwh": kwh,
        "carbon_kg": kwh * spot.carbon_kg_per_kwh,
        "height": float(spot.rank),
    }


def wire_quantities(load: Load, wire: Wire, ends: tuple[Spot, Spot], *, urgent: bool) -> dict[str, float]:
    """Objective quantities of the stage's output over the wire, and of handling its messages at both ends."""
    moved = cost.wire_bytes_per_s(load, wire, urgent=urgent) * SECONDS_PER_MONTH
    links = moved * (wire.per_byte - wire.energy_per_byte)
    energy = moved * wire.energy_per_byte
    kwh = moved * wire.kwh_per_byte
    carbon_kg = kwh * wire.carbon_kg_per_kwh
    cpu = 0.0
    for spot in ends:
        cpus = cost.hop_cpus(load, wire, spot, urgent=urgent) * spot.count
        cpu += cpus * spot.node_class.price_per_cpu_month
        spent = cpus * spot.busy_kilowatt * HOURS_PER_MONTH
        energy += spent * spot.energy_per_kwh
        kwh += spent
        carbon_kg += spent * spot.carbon_kg_per_kwh
    return {"links": links, "energy": energy, "cpu": cpu, "kwh": kwh, "carbon_kg": carbon_kg}
