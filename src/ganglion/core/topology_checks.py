"""The rules that a whole topology obeys: one tree of sites, ids that exist, devices at gateways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ganglion.core.declarations import RuleBroken

if TYPE_CHECKING:  # these are what it is made of, and it is checked while it is made
    from ganglion.core.topology import DeviceGroup, Site, Topology

SERVER_COUNTS = (3, 5)
PORT_MAX = 65_535
EXPANDED_SITES_MAX = 200_000
"""Sites when each of the alike is written out."""
RUN_KINDS = ("map", "where", "around", "window", "act")
"""Kinds of stage that a device could run."""


def check_sites(topology: Topology) -> None:
    """One cloud, parents of a higher tier, uplinks, sites alike; raises `RuleBroken`."""
    clouds = [s for s, site in topology.sites.items() if site.tier == "cloud"]
    if len(clouds) != 1:
        raise RuleBroken(
            ("sites", clouds[1], "tier") if clouds else ("sites",),
            f"there are {len(clouds)} cloud sites" if clouds else "there is no cloud site",
            "the tree of sites has exactly one root, the cloud",
            "give exactly one site the tier cloud",
        )
    for site_id, site in topology.sites.items():
        _check_parent(topology, site_id, site)
        if site.tier == "gateway" and site.node.processes > 1:
            raise RuleBroken(
                ("sites", site_id, "node", "processes"),
                f"gateway {site_id} is to run in {site.node.processes} processes",
                "its reflexes and what it knows of its devices live in one",
                "remove processes; place what is heavy at the edge site, which may have several",
            )
    _check_alike(topology)


def _check_parent(topology: Topology, site_id: str, site: Site) -> None:
    here = ("sites", site_id)
    if site.tier == "cloud":
        extra = "parent" if site.parent is not None else "uplink" if site.uplink is not None else ""
        if extra:
            raise RuleBroken(
                (*here, extra),
                f"the cloud site {site_id} has a {extra}",
                "the cloud is the root of the tree",
                f"remove {extra}",
            )
        return
    allowed = ("cloud",) if site.tier == "edge" else ("edge", "cloud")
    if site.parent is None:
        raise RuleBroken(
            here,
            f"{site.tier} site {site_id} has no parent",
            "every site but the cloud has one",
            f"add parent: with the id of a site of tier {' or '.join(allowed)}",
        )
    if site.uplink is None:
        raise RuleBroken(
            here,
            f"site {site_id} has no uplink",
            f"its data goes to {site.parent} over a link",
            "add uplink: {latency: 20ms, bandwidth: 10Mbit}",
        )
    if site.parent not in topology.sites:
        raise RuleBroken(
            (*here, "parent"),
            f"there is no site {site.parent!r}",
            f"the sites are {_few(topology.sites)}",
            "name one of those as parent",
        )
    tier = topology.sites[site.parent].tier
    # Tiers rise on the way up, so parents cannot go round.
    if tier not in allowed:
        raise RuleBroken(
            (*here, "parent"),
            f"the parent of {site.tier} site {site_id} is {site.parent}, of tier {tier}",
            f"the parent of a site of tier {site.tier} is of tier {' or '.join(allowed)}",
            f"name a site of tier {' or '.join(allowed)}",
        )


def _check_alike(topology: Topology) -> None:
    for site_id, site in topology.sites.items():
        if site.count > 1 and (site.tier == "cloud" or site.node.id is not None):
            raise RuleBroken(
                ("sites", site_id, "count"),
                f"{site_id} stands for {site.count} sites",
                "there is one cloud" if site.tier == "cloud" else "its nodes cannot all be called the same",
                "remove count" if site.tier == "cloud" else "remove the id of its node",
            )
    alike = topology.alike()
    counted = frozenset(f"{s}x" for s, many in alike.items() if many > 1)
    for site_id in topology.sites:
        stem = site_id.rstrip("0123456789")
        if stem != site_id and stem in counted:
            raise RuleBroken(
                ("sites", site_id),
                f"{site_id} is also the name of one of the sites that {stem[:-1]} stands for",
                "those are called by its id, an x and their number",
                "rename one of the two",
            )
    total = sum(alike.values())
    if total > EXPANDED_SITES_MAX:
        raise RuleBroken(
            ("sites",),
            f"the sites stand for {total} in all",
            f"at most {EXPANDED_SITES_MAX} are planned at once",
            "lower some counts",
        )


def check_nodes(topology: Topology) -> None:
    """Classes exist, ids of nodes are unique; raises `RuleBroken`."""
    seen: dict[str, str] = {}
    for site_id, site in topology.sites.items():
        if site.node.class_name not in topology.classes:
            raise _no_class(topology, ("sites", site_id, "node", "class"), site.node.class_name)
        if topology.classes[site.node.class_name].flash_bytes is not None:
            raise RuleBroken(
                ("sites", site_id, "node", "class"),
                f"{site_id} is of class {site.node.class_name}, which says how much flash it has",
                "only devices' flash is counted",
                "remove flash from the class, or give the site a class of its own",
            )
        node_id = topology.node_id(site_id)
        if node_id in seen:
            raise RuleBroken(
                ("sites", site_id, "node"),
                f"the nodes of {seen[node_id]} and {site_id} are both called {node_id}",
                "ids of nodes are unique",
                "give one of them another id",
            )
        seen[node_id] = site_id


def check_servers(topology: Topology) -> None:
    """Sites whose message servers are several: three or five of them, each at an address of its own."""
    given: dict[str, str] = {}
    for site_id, site in topology.sites.items():
        if wrong := _wrong_servers(site):
            key, what, why, next_step = wrong
            raise RuleBroken(("sites", site_id, key), f"{site_id} has {what}", why, next_step)
        for key, urls in (("servers", site.servers), ("leaf_servers", site.leaves())):
            for url in urls:
                address, port = url.lower(), int(url.rpartition(":")[2])
                if port > PORT_MAX:
                    raise RuleBroken(
                        ("sites", site_id, key),
                        f"{url} has port {port}",
                        f"ports go to {PORT_MAX}",
                        "correct it",
                    )
                if address in given:
                    raise RuleBroken(
                        ("sites", site_id, key if getattr(site, key) else "servers"),
                        f"{url} of {site_id} is given twice, also as one of {given[address]}",
                        "each server listens at addresses of its own, for clients and for children",
                        "correct one of the two; servers on one machine need leaf_servers with different ports",
                    )
                given[address] = f"{key} of {site_id}"


def _wrong_servers(site: Site) -> tuple[str, str, str, str] | None:
    """(field, what, why, next step) of the first rule that is broken."""
    count = len(site.servers)
    if site.leaf_servers and len(site.leaf_servers) != count:
        what = f"{len(site.leaf_servers)} leaf_servers and {count} servers"
        return "leaf_servers", what, "there is one for each of servers, in their order", "give as many"
    if not count:
        return None
    if site.tier == "gateway":
        why = (
            "a gateway works on while nobody else can be reached, so its message server is on its own machine"
        )
        return (
            "servers",
            "servers though it is a gateway",
            why,
            "remove servers; hubs above gateways may have some",
        )
    if site.count > 1:
        why = "sites alike cannot all be stored by the same servers"
        return (
            "servers",
            f"servers and stands for {site.count} sites",
            why,
            "give each such site an entry of its own",
        )
    if count not in SERVER_COUNTS:
        why = (
            "most of the servers must agree: a second adds no safety, and four bear no more deaths than three"
        )
        return (
            "servers",
            f"{count} servers",
            why,
            f"give {' or '.join(map(str, SERVER_COUNTS))}, or none for one of the agent's own",
        )
    return None


def check_devices(topology: Topology) -> None:
    """Groups have a class and are at gateways; raises `RuleBroken`."""
    alike = topology.alike()
    gateways = {s: None for s, site in topology.sites.items() if site.tier == "gateway"}
    for group_id, group in topology.devices.items():
        here = ("devices", group_id)
        if group.class_name not in topology.classes:
            raise _no_class(topology, (*here, "class"), group.class_name)
        _check_counts(alike, here, group)
        seen: set[str] = set()
        for place, gateway in enumerate(group.gateways):
            at = (*here, "gateways", str(place))
            if gateway not in gateways:
                raise RuleBroken(
                    at,
                    f"{gateway!r} is not a gateway",
                    f"the sites of tier gateway are {_few(gateways)}",
                    "name one of those",
                )
            if gateway in seen:
                raise RuleBroken(
                    at,
                    f"{gateway} is named twice",
                    "devices are shared out to different gateways",
                    "remove one",
                )
            seen.add(gateway)


def _check_counts(alike: Mapping[str, int], here: tuple[str, ...], group: DeviceGroup) -> None:
    if group.counts is None:
        return
    wrong = ""
    if len(group.counts) != len(group.gateways) or sum(group.counts) != group.count or min(group.counts) < 0:
        wrong = f"{len(group.counts)} counts with the sum {sum(group.counts)}"
    elif any(alike.get(g, 1) > 1 for g in group.gateways):
        wrong = "counts for a gateway that stands for many"
    if wrong:
        raise RuleBroken(
            (*here, "counts"),
            wrong,
            "one count of at least 0 belongs to each of gateways, and together they are count; "
            "gateways alike share evenly",
            "correct counts, or remove it to share evenly",
        )


def check_mqtt(topology: Topology) -> None:
    """MQTT is at gateways, and its routes name groups there that run no stage; raises `RuleBroken`."""
    for site_id, site in topology.sites.items():
        if site.mqtt is None:
            continue
        if site.tier != "gateway":
            raise RuleBroken(
                ("sites", site_id, "mqtt"),
                f"the {site.tier} site {site_id} has mqtt",
                "devices send to gateways",
                "move it to a site of tier gateway",
            )
        for place, route in enumerate(site.mqtt.routes):
            at = ("sites", site_id, "mqtt", "routes", str(place), "devices")
            _check_group(topology, site_id, route.devices, at)


def _check_group(topology: Topology, site_id: str, group_id: str, at: tuple[str, ...]) -> None:
    there = [g for g, group in topology.devices.items() if site_id in group.gateways]
    if group_id not in there:
        raise RuleBroken(
            at,
            f"there is no group {group_id!r} at {site_id}",
            f"the groups there are {', '.join(there[:12]) or 'none'}",
            "name one of those",
        )
    able = [
        k for k in RUN_KINDS if k not in topology.classes[topology.devices[group_id].class_name].cannot_run
    ]
    if able:
        raise RuleBroken(
            at,
            f"devices of group {group_id} could be given stages of kind {', '.join(able)}",
            "what speaks plain MQTT runs none of ours",
            f"give the group a class with cannot_run: [{', '.join(RUN_KINDS)}]",
        )


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 12} more" if len(listed) > 12 else ""
    return ", ".join(listed[:12]) + more or "none"


def _no_class(topology: Topology, path: tuple[str, ...], name: str) -> RuleBroken:
    return RuleBroken(
        path,
        f"there is no class {name!r}",
        f"the classes are {', '.join(topology.classes)}",
        "name one of those, or add it under classes",
    )
