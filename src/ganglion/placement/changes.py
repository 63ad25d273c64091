"""Changes of a topology in words: ``link gw7 bandwidth=1Mbit``, ``node edge1 dies``, ``devices relay count=500``.

One grammar for `ganglion plan --what-if` and for repairs. A change gives a new topology; the old one stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ganglion.core.calibration import kept_figures
from ganglion.core.errors import TopologyError
from ganglion.core.topology import Topology
from ganglion.core.topology_text import read_topology

Value = dict[str, Any]
FORMS = (
    "link SITE|GROUP KEY=VALUE... (latency, bandwidth, price_per_gb, energy_nj_per_byte, duty_max)",
    "link SITE dies",
    "link SITE halves",
    "node SITE KEY=VALUE... (memory, class)",
    "node SITE dies",
    "class NAME KEY=VALUE... (cpus, memory, flash, ns_per_call, price_per_cpu_month, ...)",
    "site SITE KEY=VALUE... (jurisdiction, carbon_g_per_kwh)",
    "home SITE PARENT",
    "devices GROUP count=NUMBER",
    "price electricity_per_kwh=NUMBER | carbon_g_per_kwh=NUMBER",
)


class Cut(Exception):
    """The change cuts ``sites`` off: what runs there stays, and nothing that passes there may move."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        super().__init__(sites)
        self.sites = sites


def changed(topology: Topology, text: str) -> Topology:
    """The topology after the change. Raises `Cut` when it only makes sites unreachable.

    What was measured of a class stays, unless the change is of that class. Raises `TopologyError`
    ``topology.change`` for what is not understood, and as the reader of topologies does for values that do not fit.
    """
    words = text.split()
    handlers: dict[str, Callable[[Topology, Value, list[str], str], None]] = {
        "link": _link,
        "node": _node,
        "class": _class,
        "site": _site,
        "home": _home,
        "devices": _devices,
        "price": _price,
    }
    if len(words) < 2 or words[0] not in handlers:
        raise _refused(text, f"a change begins with one of {', '.join(handlers)}")
    value = topology.model_dump(by_alias=True, exclude_none=True, mode="json")
    _restore_units(value)
    handlers[words[0]](topology, value, words[1:], text)
    return kept_figures(topology, read_topology(json.dumps(value, indent=1), text))


def _restore_units(value: Value) -> None:
    """Sizes, rates and durations are written with their units; a dump gives them as plain numbers."""
    links = [s["uplink"] for s in value["sites"].values() if "uplink" in s]
    links += [g["link"] for g in value["devices"].values()]
    for link in links:
        link["latency"], link["bandwidth"] = f"{link['latency']}ns", f"{link['bandwidth']}bit"
    for kind in value["classes"].values():
        kind["memory"] = f"{kind['memory']}B"
        if "flash" in kind:
            kind["flash"] = f"{kind['flash']}B"
    for site in value["sites"].values():
        if "memory" in site["node"]:
            site["node"]["memory"] = f"{site['node']['memory']}B"


def _settings(words: list[str], text: str) -> Value:
    found: Value = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise _refused(text, f"{word!r} is not KEY=VALUE")
        try:
            number = float(value)
            found[key] = int(number) if value.isdigit() else number
        except ValueError:
            found[key] = value
    if not found:
        raise _refused(text, "nothing is set")
    return found


def _known(value: Value, part: str, name: str, text: str) -> Value:
    if name not in value[part]:
        known = list(value[part])
        raise _refused(
            text, f"there is no {name!r} among {', '.join(known[:12])}{' ...' if len(known) > 12 else ''}"
        )
    entry: Value = value[part][name]
    return entry


def _below(topology: Topology, site: str) -> tuple[str, ...]:
    return tuple(s for s in topology.sites if site in topology.chain(s))


def _link(topology: Topology, value: Value, words: list[str], text: str) -> None:
    name = words[0]
    if name in value["devices"]:
        value["devices"][name]["link"].update(_settings(words[1:], text))
        return
    site = _known(value, "sites", name, text)
    if "uplink" not in site:
        raise _refused(text, f"{name} has no uplink")
    if words[1:] == ["dies"]:
        raise Cut(_below(topology, name))
    if words[1:] == ["halves"]:
        site["uplink"]["bandwidth"] = f"{topology.uplink(name).bandwidth_bit_per_s // 2}bit"
        return
    site["uplink"].update(_settings(words[1:], text))


def _node(topology: Topology, value: Value, words: list[str], text: str) -> None:
    name = words[0]
    site = _known(value, "sites", name, text)
    if words[1:] != ["dies"]:
        site["node"].update(_settings(words[1:], text))
        return
    if topology.sites[name].tier == "cloud":
        raise Cut(tuple(s for s in topology.sites if s != name))
    if topology.children(name):
        # Its gateways do not reach anything until someone gives them another home.
        raise Cut(_below(topology, name))
    del value["sites"][name]
    for group_id in list(value["devices"]):
        group, had = value["devices"][group_id], topology.devices[group_id].count_at(name)
        shares = topology.devices[group_id].shares()
        shares.pop(name, None)
        group["gateways"], group["count"] = list(shares), group["count"] - had
        if "counts" in group or had:
            group["counts"] = list(shares.values())
        if not group["count"]:
            del value["devices"][group_id]
    if not value["devices"]:
        raise _refused(text, f"all devices are at {name}")


def _class(_: Topology, value: Value, words: list[str], text: str) -> None:
    entry = _known(value, "classes", words[0], text)
    entry.update({k: float(v) if isinstance(v, int) else v for k, v in _settings(words[1:], text).items()})


def _site(_: Topology, value: Value, words: list[str], text: str) -> None:
    _known(value, "sites", words[0], text).update(_settings(words[1:], text))


def _home(_: Topology, value: Value, words: list[str], text: str) -> None:
    if len(words) != 2:
        raise _refused(text, "it names a site and its new parent")
    _known(value, "sites", words[1], text)
    _known(value, "sites", words[0], text)["parent"] = words[1]


def _devices(_: Topology, value: Value, words: list[str], text: str) -> None:
    group = _known(value, "devices", words[0], text)
    group.pop("counts", None)
    group.update(_settings(words[1:], text))


def _price(_: Topology, value: Value, words: list[str], text: str) -> None:
    settings = _settings(words, text)
    unknown = set(settings) - {"electricity_per_kwh", "carbon_g_per_kwh"}
    if unknown:
        raise _refused(text, f"{', '.join(sorted(unknown))} is no price of a topology")
    value.update(settings)


def _refused(text: str, why: str) -> TopologyError:
    return TopologyError(
        "topology.change",
        f"the change {text!r} is not understood",
        why=why,
        next_step="write one of: " + "; ".join(FORMS),
    )
