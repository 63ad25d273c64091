"""From a plan to the configuration of every process of a local run: ports, relays, devices, directories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ganglion.agent.config import Limits, NodeConfig, WorkerConfig
from ganglion.core.topology import Topology
from ganglion.device.emulation import DeviceHostConfig, Emulation, RunsAs
from ganglion.device.firmware.choice import Chosen, choose, limits_for
from ganglion.device.player import shot_frames_min
from ganglion.device.recording import Event
from ganglion.flow.assignment import origin_name
from ganglion.flow.spec import FlowSpec
from ganglion.host.ports import Clock, Ports, Processes
from ganglion.host.private import PrivateDirectory
from ganglion.messaging.cluster import Place
from ganglion.messaging.security.authority import Authority
from ganglion.placement import Plan
from ganglion.placement.below import paths_below
from ganglion.sim.rundir import KERNELS
from ganglion.sim.settings import Settings

PERIOD_NS_MAX = 5_000_000_000
"""Shots come at least this often, so that a short run plays many."""
GOLDEN = 0.6180339887498949
LEAD_NS = 1_500_000_000
"""How much of a run cannot be counted on for whole shots: the start and the end."""


@dataclass(frozen=True, slots=True)
class SitePorts:
    """Loopback ports of a site; 0 where it needs none. ``places``: its servers, where they are several."""

    nats: int
    leaf: int
    coap: int
    places: tuple[Place, ...] = ()

    @property
    def leaves(self) -> tuple[int, ...]:
        """Where its children link."""
        return tuple(p.leaf_port for p in self.places) or (self.leaf,)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients connect."""
        ports = tuple(p.port for p in self.places) or (self.nats,)
        return tuple(f"nats://127.0.0.1:{port}" for port in ports)


def choose_ports(topology: Topology, ports: Ports) -> dict[str, SitePorts]:
    """Free ports for every site, each given once."""
    given: set[int] = set()

    def free(kind: str) -> int:
        while (port := ports.free(kind)) in given:
            pass
        given.add(port)
        return port

    def several(site_id: str, count: int) -> SitePorts:
        numbered = range(1, count + 1)
        places = (
            Place(f"{site_id}-{n}", "127.0.0.1", free("tcp"), free("tcp"), free("tcp")) for n in numbered
        )
        return SitePorts(0, 0, 0, tuple(places))

    return {
        site_id: several(site_id, len(site.servers))
        if site.servers
        else SitePorts(
            free("tcp"),
            free("tcp") if topology.children(site_id) else 0,
            free("udp") if site.tier == "gateway" else 0,
        )
        for site_id, site in topology.sites.items()
    }


def start_order(topology: Topology) -> list[str]:
    """Sites with parents first."""
    order = [topology.cloud]
    for site_id in order:
        order += topology.children(site_id)
    return order


def node_config(
    settings: Settings,
    topology: Topology,
    plan: Plan,
    site: str,
    ports: SitePorts,
    parent_ports: Sequence[int],
) -> NodeConfig:
    """The configuration of a site's node; ``parent_ports``: where its relay to the parent listens, none at the top."""
    assignments = plan.assignments()
    return NodeConfig(
        assignment=assignments[topology.node_id(site)],
        flow_dir=settings.flow_dir.resolve(),
        nats_port=ports.nats,
        leaf_port=ports.leaf,
        parent_url=",".join(f"tls://127.0.0.1:{port}" for port in parent_ports),
        children=paths_below(topology, assignments, site),
        coap_port=ports.coap,
        paths=tuple(p.id for p in topology.paths() if p.gateway == site),
        kernel_dir=kernel_dir(settings),
        limits=Limits(recording_bytes_max=settings.recording_bytes_max),
        identity_dir=identity_dir(settings, site),
        servers=ports.urls if ports.places else (),
        processes=topology.sites[site].node.processes,
        parent_processes=topology.sites[parent].node.processes
        if (parent := topology.sites[site].parent)
        else 1,
    )


def worker_configs(config: NodeConfig) -> list[WorkerConfig]:
    """The processes that share a node's work; none when it does it alone."""
    return [WorkerConfig(config, index) for index in range(config.processes)] if config.processes > 1 else []


def make_identities(settings: Settings, topology: Topology, clock: Clock) -> None:
    """An authority for this run alone, and an identity for each of its sites; all of it ends with the directory."""
    authority = Authority(PrivateDirectory(_identities(settings) / "authority"), clock)
    authority.init("ganglion run")
    for site_id, site in topology.sites.items():
        identity = PrivateDirectory(identity_dir(settings, site_id))
        authority.join(site_id, identity)
        for number in range(len(site.servers)):
            keys = PrivateDirectory(server_keys(settings, site_id, number))
            authority.equip(site_id, keys, hosts=(), leaf=identity.read("leaf.creds"))


def server_keys(settings: Settings, site: str, number: int) -> Path:
    """Where the files are that one of a site's several servers proves itself with."""
    return _identities(settings) / "servers" / f"{site}-{number + 1}"


def identity_dir(settings: Settings, site: str) -> Path:
    """Where a site's keys are."""
    return _identities(settings) / "sites" / site


def _identities(settings: Settings) -> Path:
    return (settings.run_dir / "identities").resolve()


def kernel_dir(settings: Settings) -> Path:
    """Where runs beside each other keep what they compile; files are named by content, so they may share them."""
    return (settings.run_dir.parent / KERNELS).resolve()


def period_frames(settings: Settings, spec: FlowSpec, events: Sequence[Event], devices: int) -> int:
    """Frames from shot to shot: long enough to rest, short enough that every event is played once if that can be."""
    every_ns = spec.sources[0].every_ns
    usable_ns = max(0, settings.duration_ns - LEAD_NS)
    rounds = -(-len(events) // devices)
    # One round more than needed: devices begin at different times, up to a period late.
    wanted_ns = min(PERIOD_NS_MAX, usable_ns // (rounds + 1))
    return max(shot_frames_min(events), wanted_ns // every_ns)


def lead_frames(index: int, devices: int, period: int) -> int:
    """Frames that a device is steady before its first shot, so that devices' events come in turn."""
    return index * period // devices


def device_hosts(
    settings: Settings,
    topology: Topology,
    spec: FlowSpec,
    plan: Plan,
    data_dir: Path,
    events: Sequence[Event],
    coap_ports: dict[str, int],
    runs_as: RunsAs,
) -> dict[str, DeviceHostConfig]:
    """One device host per gateway: ``devices-<gateway>`` -> its configuration. Origins share out the events."""
    paths = topology.paths()
    total = sum(p.count for p in paths)
    period = period_frames(settings, spec, events, total)
    every_ns = spec.sources[0].every_ns
    assignments = plan.assignments()
    hosts: dict[str, list[Emulation]] = {}
    actuators: dict[str, set[str]] = {}
    index = 0
    for path in paths:
        actuators.setdefault(path.gateway, set()).update(topology.devices[path.group].actuators)
        for number in range(path.count):
            # Devices do not measure in step, and their events do not come all at once. Multiples of the golden
            # ratio lie evenly apart in any part of the devices, so also in those that one process emulates.
            origin, assignment = origin_name(path.id, number), assignments[f"device:{path.id}"]
            lead, phase_ns = lead_frames(index, total, period), int(index * GOLDEN % 1 * every_ns)
            hosts.setdefault(path.gateway, []).append(
                Emulation(origin, assignment, index, total, lead, phase_ns)
            )
            index += 1
    return {
        f"devices-{gateway}": DeviceHostConfig(
            name=f"devices-{gateway}",
            flow_dir=settings.flow_dir.resolve(),
            data_dir=data_dir.resolve(),
            kernel_dir=kernel_dir(settings),
            gateway=("127.0.0.1", coap_ports[gateway]),
            actuators=frozenset(actuators[gateway]),
            period_frames=period,
            runs_as=runs_as,
            devices=tuple(devices),
        )
        for gateway, devices in hosts.items()
    }


def chosen_devices(
    settings: Settings, topology: Topology, spec: FlowSpec, plan: Plan, processes: Processes
) -> Chosen:
    """What the devices of a run are. Blocks for seconds where it builds their images and tries them."""
    paths, every_ns = topology.paths(), spec.sources[0].every_ns
    assignments = plan.assignments()
    return choose(
        settings.devices_as,
        sum(p.count for p in paths) * 1e9 / every_ns,
        spec,
        {p.id: assignments[f"device:{p.id}"] for p in paths},
        limits_for([origin_name(p.id, p.count - 1) for p in paths]),
        kernel_dir(settings),
        processes,
    )
