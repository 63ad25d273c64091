"""Energy from counts: what devices counted, times what the topology states. Nothing here is a figure of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ganglion.core.topology import Link, NodeClass

NJ = 1e-9


@dataclass(frozen=True, slots=True)
class Energy:
    """Joule. A part is None where nobody counts, or the topology states no figure."""

    radio_j: float | None
    """(bytes sent + bytes received) x ``energy_nj_per_byte`` of the group's link: both ends together."""
    compute_j: float | None
    """Instructions x ``nj_per_instruction`` of the class."""
    idle_j: float | None
    """Seconds x ``watts_idle`` of the class: what it takes whatever it does."""

    def to_json(self) -> dict[str, float | None]:
        """The parts, rounded to nanojoule."""
        parts = {"radio_j": self.radio_j, "compute_j": self.compute_j, "idle_j": self.idle_j}
        return {name: None if joule is None else round(joule, 9) for name, joule in parts.items()}


def energy(counts: Mapping[str, int], seconds: float, node_class: NodeClass, link: Link) -> Energy:
    """Of one device, or of several whose ``counts`` (a ledger's) and ``seconds`` are added up."""
    radio_bytes, instructions = counts["sent_bytes"] + counts["received_bytes"], counts["instructions"]
    return Energy(
        radio_bytes * link.energy_nj_per_byte * NJ if link.energy_nj_per_byte else None,
        instructions * node_class.nj_per_instruction * NJ
        if instructions and node_class.nj_per_instruction
        else None,
        seconds * node_class.watts_idle if node_class.watts_idle else None,
    )
