"""``ganglion node``: one site's node on this machine, and what it could not take."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
import typer

from ganglion.agent.config import Limits, NodeConfig, load_config
from ganglion.agent.dead_letters import read_letters
from ganglion.core.declarations import RuleBroken, declaration
from ganglion.core.errors import DataError, RunError
from ganglion.core.topology import Site, Topology
from ganglion.core.topology_mqtt import Mqtt
from ganglion.flow.assignment import Assignment
from ganglion.flow.load import load_flow
from ganglion.host.sole import sole_use
from ganglion.host.system import system_host
from ganglion.placement import plan
from ganglion.placement.below import paths_below
from ganglion.sim.run import load_topology

node = typer.Typer(no_args_is_help=True, help="Run one site's node on this machine.")

FlowDir = Annotated[Path, typer.Argument(metavar="FLOW_DIR", help="A folder with flow.py and topology.yaml.")]
SHOWN_MAX = 50
PORT_MAX = 65_535
LEAF_SCHEMES = ("nats-leaf", "tls", "nats")


def _port(name: str, told: str) -> Any:
    return typer.Option(name, min=0, max=PORT_MAX, help=told)


@node.command()
def run(
    flow_dir: FlowDir,
    site: Annotated[str, typer.Option("--site", help="Whose node to run (default: the only gateway).")] = "",
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where all state goes (default: nodes/SITE).")
    ] = None,
    broker: Annotated[
        str, typer.Option("--broker", metavar="URL", help="Instead of the broker in topology.yaml.")
    ] = "",
    parent: Annotated[
        str, typer.Option("--parent", metavar="URL", help="The leaf address of the parent site's server.")
    ] = "",
    identity: Annotated[
        Path | None, typer.Option("--identity", metavar="DIR", help="The site's keys (ganglion site join).")
    ] = None,
    coap_port: Annotated[int, _port("--coap-port", "Where CoAP devices send; 0: any free port.")] = 0,
    nats_port: Annotated[int, _port("--nats-port", "Of the site's own server; 0: any free one.")] = 0,
    leaf_port: Annotated[int, _port("--leaf-port", "Where children connect; 0: any free one.")] = 0,
    *,
    durable: Annotated[
        bool, typer.Option(help="Readings go through the journal on disk; without, a crash loses the newest.")
    ] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run left in DIR.")] = False,
) -> None:
    """Run the node of one site until it is ended (Ctrl-C); its state stays in DIR for the next start.

    DIR/report.json says every quarter of a second how it is.
    """
    spec, topology = load_flow(flow_dir), load_topology(flow_dir).expanded()
    site = _site(topology, site)
    _check_parent(topology, site, parent)
    place = (directory or Path("nodes") / site).resolve()
    host = system_host(place)
    mqtt = _mqtt(topology.sites[site], site, broker)
    spoken = {r.devices for r in mqtt.routes} if mqtt is not None else set()
    paths = [p for p in topology.paths() if p.gateway == site]
    by_coap = topology.sites[site].tier == "gateway" and any(p.group not in spoken for p in paths)
    servers = topology.sites[site].servers
    assignments = plan(spec, topology).assignments()
    config = NodeConfig(
        assignment=_with_parent(assignments[topology.node_id(site)], parent),
        flow_dir=flow_dir.resolve(),
        nats_port=0 if servers else nats_port or host.ports.free("tcp"),
        leaf_port=(leaf_port or host.ports.free("tcp")) if topology.children(site) and not servers else 0,
        parent_url=parent,
        children=paths_below(topology, assignments, site),
        coap_port=(coap_port or host.ports.free("udp")) if by_coap else 0,
        paths=tuple(p.id for p in paths),
        kernel_dir=place / "kernels",
        limits=Limits(durable=durable),
        identity_dir=identity.resolve() if identity is not None else None,
        mqtt=mqtt,
        mqtt_devices={p.group: p.count for p in paths if p.group in spoken},
        servers=servers,
        parent_processes=_parent_processes(topology, site),
    )
    with sole_use(place):  # as the agent does: what another one runs with must stay
        if fresh:
            _forget(place)
        host.disk.replace("config.json", orjson.dumps(config.to_json()))
    sys.stdout.write(f"node {config.assignment.node} of {spec.name}: state and report.json in {place}\n")
    sys.stdout.flush()
    command = [sys.executable, "-m", "ganglion.agent", str(place / "config.json")]
    # The same process from here on, without what only planning needs: a gateway's memory is counted.
    os.execv(sys.executable, command)  # noqa: S606  # our own interpreter


def _parent_processes(topology: Topology, site: str) -> int:
    """What goes to a parent that shares its work must be divided: rows in another's part are refused there."""
    above = topology.sites[site].parent
    return 1 if above is None else topology.sites[above].node.processes


def _check_parent(topology: Topology, site: str, urls: str) -> None:
    """Raises ``node.parent`` for what is no address, or for a site that has no parent."""
    above = topology.sites[site].parent
    if urls and (above is None or not all(map(_is_leaf, urls.split(",")))):
        top = above is None
        raise RunError(
            "node.parent",
            f"--parent {urls} cannot be used",
            why=f"{site} is the top of the tree" if top else "it is no address of a leaf port",
            next_step="leave --parent out" if top else f"write --parent tls://HOST:PORT, of {above}",
        )


def _is_leaf(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in LEAF_SCHEMES and bool(parts.hostname) and bool(parts.port)
    except ValueError:  # a port that is none, or a torn IPv6 address
        return False


def _with_parent(assignment: Assignment, parent: str) -> Assignment:
    if assignment.exports and not parent:
        raise RunError(
            "node.parent",
            f"{assignment.site} owes its parent {', '.join(sorted(assignment.exports))}",
            why="the plan puts stages above it, and no parent's address was given",
            next_step="give --parent URL, or run the whole topology: ganglion run",
        )
    return assignment


def _forget(place: Path) -> None:
    """Removes what an earlier run left, and nothing that is not a node's directory."""
    try:
        load_config(place / "config.json")
    except DataError:
        return
    shutil.rmtree(place)


@node.command("dead-letters")
def dead_letters(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where a node keeps its state.")],
    last: Annotated[int, typer.Option("--last", min=1, help="How many, the newest.")] = SHOWN_MAX,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Show what came in over MQTT and could not be taken, with the reasons."""
    if not (directory / "config.json").is_file():
        raise RunError(
            "node.directory",
            f"{directory} is not the directory of a node",
            why="there is no config.json in it",
            next_step="name the DIR of ganglion node run, or nodes/NODE in a run's directory",
        )
    letters = read_letters(system_host(directory.resolve()).disk)[-last:]
    for letter in letters:
        sys.stdout.write(orjson.dumps(letter).decode() + "\n" if as_json else _line(letter))
    if not letters and not as_json:
        sys.stdout.write("no dead letters are kept\n")


def _line(letter: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(letter["time_ns"] / 1e9, UTC).isoformat(timespec="milliseconds")
    payload = repr(letter["payload"]) if "payload" in letter else f"hex {letter['payload_hex']}"
    return (
        f"{at} {letter['code']} {letter['topic']!r}: {letter['why']}\n"
        f"    {letter['payload_bytes']} bytes: {payload[:160]}\n"
    )


def _site(topology: Topology, asked: str) -> str:
    gateways = [s for s, site in topology.sites.items() if site.tier == "gateway"]
    if asked in topology.sites or (not asked and len(gateways) == 1):
        return asked or gateways[0]
    raise RunError(
        "node.site",
        f"there is no site {asked!r}" if asked else f"the topology has {len(gateways)} gateways",
        why=f"the sites are {', '.join(list(topology.sites)[:12])}",
        next_step="name one with --site",
    )


def _mqtt(site: Site, name: str, broker: str) -> Mqtt | None:
    if site.mqtt is None:
        if broker:
            raise RunError(
                "node.mqtt",
                f"{name} has no MQTT devices",
                why="topology.yaml says nothing of mqtt there",
                next_step="leave --broker out, or declare routes; docs/how-to/mqtt.md shows how",
            )
        return None
    if not broker:
        return site.mqtt
    try:
        return declaration(Mqtt, {**asdict(site.mqtt), "broker": broker, "listen": None})
    except RuleBroken as error:
        raise RunError(
            "node.broker",
            f"--broker {broker} cannot be used",
            why=f"{error.what}: {error.why}",
            next_step="write e.g. --broker mqtt://127.0.0.1:1883",
        ) from error
