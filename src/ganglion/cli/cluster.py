"""``ganglion site cluster``: what each server of a hub that outgrew one machine is told, and the agent's identity."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import typer

from ganglion.agent.config import Limits
from ganglion.agent.servers import store_bytes
from ganglion.core.errors import RunError
from ganglion.core.topology import Topology
from ganglion.core.topology_text import read_topology
from ganglion.core.units import parse_size_bytes
from ganglion.host.private import PrivateDirectory
from ganglion.host.system import SystemClock
from ganglion.messaging.cluster import ROUTE_PORT, Place, member
from ganglion.messaging.security.authority import Authority
from ganglion.messaging.security.identity import SiteIdentity, Trust
from ganglion.messaging.server import ServerSettings, render

AGENT = "agent"
HERE = Path()
"""Servers are started in their own directory, wherever it was brought."""


def cluster(
    authority: Annotated[
        Path, typer.Argument(metavar="AUTHORITY", help="The private directory of the tree's keys.")
    ],
    name: Annotated[str, typer.Argument(metavar="SITE", help="A site with servers: in the topology.")],
    topology: Annotated[Path, typer.Option("--topology", metavar="FILE", help="The topology.yaml.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the directories go.")],
    route: Annotated[
        list[str] | None,
        typer.Option(
            "--route", metavar="HOST:PORT", help=f"For each server, where the others reach it ({ROUTE_PORT})."
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="ADDRESS", help="The address that each listens at.")
    ] = "0.0.0.0",  # noqa: S104 # children and the other servers come from elsewhere, and all must prove themselves
    parent: Annotated[
        list[str] | None,
        typer.Option("--parent", metavar="URL", help="The parent's leaf port, tls://HOST:PORT. Repeatable."),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="SIZE", help="What each server may store.")
    ] = None,
) -> None:
    """Write the configuration and keys of a site's several message servers, and its agent's identity.

    A site that joined before gets new keys. Run each server in its own directory: nats-server -c server.conf
    """
    tree, site = _read(topology), name
    places = _places(tree, site, route or [])
    hosts = [
        list(dict.fromkeys(str(urlsplit(u).hostname) for u in (url, leaf, f"nats://{p.host}:{p.route_port}")))
        for url, leaf, p in zip(tree.sites[site].servers, tree.sites[site].leaves(), places, strict=True)
    ]
    up = parent or _parent_of(tree, site)
    if occupied(out):
        raise RunError(
            "cli.site-out",
            f"{out} holds something already",
            why="keys of other servers must not mix with these",
            next_step="name a new directory with --out",
        )
    size = store_bytes(Limits()) if store is None else parse_size_bytes(store)
    keeper = Authority(PrivateDirectory(authority), SystemClock())
    agent = PrivateDirectory(out / AGENT)
    again = keeper.member(site) is not None
    keeper.join(site, agent)
    for number, place in enumerate(places):
        own = PrivateDirectory(out / place.name)
        keeper.equip(site, own, hosts=hosts[number], leaf=agent.read("leaf.creds") if up else None)
        told = ServerSettings(
            site,
            place.port,
            size,
            place.leaf_port,
            ",".join(up) or None,
            _here(SiteIdentity(own, site).trust()),
            member=member(places, number, _bracketed(listen), HERE),
        )
        own.write("server.conf", render(told, HERE, preload=False).encode())
        sys.stdout.write(f"{own.root} goes to {hosts[number][0]}; there, in it: nats-server -c server.conf\n")
    sys.stdout.write(f"{agent.root} is the identity of {site}'s agent: bring it to its machine.\n")
    if again:
        sys.stdout.write(
            f"its earlier keys are withdrawn once running servers know: ganglion site publish {authority} URL\n"
        )


def occupied(out: Path) -> bool:
    """True where something else is than an empty directory."""
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _read(file: Path) -> Topology:
    try:
        return read_topology(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(
            "cli.cluster",
            f"{file} cannot be read",
            why=str(error),
            next_step="name the topology.yaml with --topology",
        ) from error


def _places(topology: Topology, site_id: str, routes: list[str]) -> list[Place]:
    site = topology.sites.get(site_id)
    clustered = [s for s, one in topology.sites.items() if one.servers]
    if site is None or not site.servers:
        raise RunError(
            "cli.cluster",
            f"{site_id} has no servers of its own",
            why="the topology has no such site" if site is None else "its agent starts one",
            next_step=f"name one that has: {', '.join(clustered)}"
            if clustered
            else f"give {site_id} a list of servers: in topology.yaml; docs/how-to/grow-a-hub.md shows how",
        )
    hosts = [str(urlsplit(url).hostname) for url in site.servers]
    given = routes or [f"{_bracketed(host)}:{ROUTE_PORT}" for host in hosts]
    parts = [_split(f"nats://{one}") for one in given]
    if len(given) != len(hosts) or len(set(given)) != len(given) or not all(_port(p.netloc) for p in parts):
        raise RunError(
            "cli.cluster",
            f"the routes are {', '.join(given)}",
            why=f"each of the {len(hosts)} servers takes the others at an address of its own, HOST:PORT",
            next_step="give --route HOST:PORT for each, in the order of servers:",
        )
    found = []
    for number, (url, leaf, route) in enumerate(zip(site.servers, site.leaves(), parts, strict=True), 1):
        ports = _port(url), _port(leaf), _port(route.netloc)
        found.append(Place(f"{site_id}-{number}", _bracketed(str(route.hostname)), *ports))
    return found


def _split(url: str) -> SplitResult:
    """Without any part for what is no URL, such as a torn IPv6 address."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _port(address: str) -> int:
    """0 for what is none."""
    word = address.rpartition(":")[2]
    return int(word) if word.isdecimal() and 0 < int(word) < 1 << 16 else 0


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parent_of(topology: Topology, site_id: str) -> list[str]:
    above = topology.sites[site_id].parent
    if above is None:
        return []
    leaves = topology.sites[above].leaves()
    if not leaves:
        raise RunError(
            "cli.cluster",
            f"nobody says where {site_id} reaches its parent {above}",
            why=f"{above} has a message server of its own, whose address the topology does not have",
            next_step=f"give --parent tls://HOST:PORT, the leaf port of {above}",
        )
    return [leaf.replace("nats://", "tls://") for leaf in leaves]


def _here(trust: Trust) -> Trust:
    """The same files, by the names they have in the directory that the server is started in."""
    return replace(
        trust,
        certificate=Path("site.crt"),
        certificate_key=Path("site.key"),
        authority=Path("authority.crt"),
        leaf_credentials=Path("leaf.creds"),
    )
