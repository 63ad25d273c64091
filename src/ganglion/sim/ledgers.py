"""What a run's devices counted: per device, and per class with the energy that follows from the topology."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ganglion.core.energy import energy
from ganglion.core.topology import Topology
from ganglion.flow.assignment import path_of

DEVICES_MAX = 200
"""Devices that are listed one by one; classes add up all of them."""


def ledgers(topology: Topology, device_hosts: Sequence[Mapping[str, Any]], played_s: float) -> dict[str, Any]:
    """``classes``: per group of devices the sums of its ledgers, and its energy in joule; ``devices``: each ledger.

    Devices that ran in Python keep no ledger; ``without`` counts them.
    """
    groups = {p.id: p.group for p in topology.paths()}
    every = {origin: counts for host in device_hosts for origin, counts in host["ledgers"].items()}
    classes: dict[str, dict[str, Any]] = {}
    for origin, counts in sorted(every.items()):
        into = classes.setdefault(groups[path_of(origin)], {"devices": 0} | dict.fromkeys(counts, 0))
        into["devices"] += 1
        for name, count in counts.items():
            into[name] += count
    for group, sums in classes.items():
        node_class = topology.classes[topology.devices[group].class_name]
        used = energy(sums, sums["devices"] * played_s, node_class, topology.devices[group].link)
        sums.update(_counted(sums))
        sums["energy"] = used.to_json()
    listed = {
        origin: {**counts, **_counted(counts)} for origin, counts in sorted(every.items())[:DEVICES_MAX]
    }
    return {
        "classes": classes,
        "devices": listed,
        "not_listed": len(every) - len(listed),
        "without": sum(host["devices"] for host in device_hosts) - len(every),
    }


def _counted(counts: Mapping[str, Any]) -> dict[str, int | None]:
    """What is not counted everywhere: None instead of the 0 that a device gives, which no device takes."""
    return {name: counts[name] or None for name in ("instructions", "cycles")}


def ledger_lines(found: Mapping[str, Any], played_s: float) -> list[str]:
    """For people: a line for each class, per device and hour."""
    lines = []
    for group, sums in found["classes"].items():
        per_hour = 3600 / (sums["devices"] * played_s) if played_s else 0.0
        counts = ", ".join(
            f"{sums[name] * per_hour:,.0f} {what}"
            for name, what in (
                ("wakeups", "wake-ups"),
                ("sent", "datagrams sent"),
                ("received", "received"),
                ("retransmitted", "sent again"),
            )
        )
        radio = (sums["sent_bytes"] + sums["received_bytes"]) * per_hour
        lines.append(f"a {group} in an hour: {radio:,.0f} bytes by radio, {counts}")
        parts = {
            "radio_j": "radio (both ends)",
            "compute_j": "instructions",
            "idle_j": "idle",
        }
        stated = [
            f"{what} {sums['energy'][k] * per_hour:,.3g} J" for k, what in parts.items() if sums["energy"][k]
        ]
        if stated:
            lines.append(f"  energy by the topology's figures: {', '.join(stated)}")
        if not sums["instructions"]:
            lines.append(
                "  instructions were not counted: ganglion device build counts them on an emulated board"
            )
    if found["without"]:
        lines.append(f"devices that ran in Python and keep no ledger: {found['without']}")
    return lines
