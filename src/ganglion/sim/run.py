"""A whole local run: plan, start, play, cut, heal, drain, stop, judge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganglion.core.calibration import FILE, Calibration, calibrated, read_calibration
from ganglion.core.errors import RunError, TopologyError
from ganglion.core.schema import TensorType
from ganglion.core.topology import Topology
from ganglion.core.topology_text import read_topology
from ganglion.device.player import Player
from ganglion.device.recording import Event, load_recording
from ganglion.flow.load import load_flow
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import AroundStage, WhereStage
from ganglion.host.ports import Host
from ganglion.kernels.loading import load
from ganglion.placement import Plan, plan
from ganglion.placement.measured import shares
from ganglion.sim import layout, report
from ganglion.sim.evidence import gather
from ganglion.sim.recordings import provide
from ganglion.sim.settings import Settings, check
from ganglion.sim.sharing import check_processes
from ganglion.sim.world import World

Watch = Callable[[World, Plan], None]
"""Called once, when the world exists; it may look at it from then on."""


def load_topology(flow_dir: Path) -> Topology:
    """``topology.yaml`` of a flow directory, with what was measured, if ``calibration.json`` is beside it.

    Raises `TopologyError`: as `bare_topology`, and ``topology.calibration`` or ``topology.calibration-class``.
    """
    topology = bare_topology(flow_dir)
    calibration = load_calibration(flow_dir / FILE)
    return topology if calibration is None else calibrated(topology, calibration)


def load_calibration(path: Path) -> Calibration | None:
    """The calibration in a file, None when there is none; raises `TopologyError` ``topology.calibration``."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TopologyError(
            "topology.calibration",
            f"{path} cannot be read",
            why=error.strerror or str(error),
            next_step="make it readable, or remove it",
        ) from error
    return read_calibration(content, str(path))


def bare_topology(flow_dir: Path) -> Topology:
    """``topology.yaml`` of a flow directory; raises `TopologyError` (``topology.missing`` when there is none)."""
    path = flow_dir / "topology.yaml"
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(
            "topology.missing",
            f"{path} cannot be read",
            why=str(error),
            next_step="a flow directory holds flow.py and topology.yaml",
        ) from error
    return read_topology(content, str(path))


def played_selectivities(
    spec: FlowSpec, settings: Settings, events: list[Event], devices: int
) -> dict[str, float]:
    """What the recordings make of each `where` that starts frames of interest: one row per fault that is played."""
    period = layout.period_frames(settings, spec, events, devices)
    frames = settings.duration_ns // spec.sources[0].every_ns
    faults = 0
    for index in range(devices):
        player = Player(
            events,
            index=index,
            stride=devices,
            period_frames=period,
            lead_frames=layout.lead_frames(index, devices, period),
        )
        faults += sum(s.event.is_fault for s in player.schedule(frames))
    triggers = {s.inputs[1] for s in spec.stages if isinstance(s, AroundStage)}
    return {
        s.id: max(1e-9, faults / max(1, frames * devices))
        for s in spec.stages
        if isinstance(s, WhereStage) and s.id in triggers
    }


@dataclass(frozen=True, slots=True)
class Job:
    """What is to run, checked as far as it can be before anything is written or started."""

    spec: FlowSpec
    topology: Topology


def prepare(settings: Settings) -> Job:
    """Loads and checks the flow, the topology, the cuts and, when they are given, the recordings.

    Raises a `GanglionError` for whatever would keep it from running.
    """
    spec = load_flow(settings.flow_dir)
    if rows := [s.id for s in spec.sources if s.schema.names != ("frame",)]:
        raise RunError(
            "run.rows",
            f"the devices of a run cannot measure {rows[0]}",
            why="they play recordings of frames, and this source has plain rows",
            next_step=f"run its gateway on an MQTT broker: ganglion node run {settings.flow_dir} --broker URL",
        )
    topology = load_topology(settings.flow_dir).expanded()  # every site is a process here
    if settings.devices is not None:
        topology = topology.with_devices(settings.devices)
    check(settings, topology)
    check_processes(spec, topology, plan(spec, topology, pins=settings.pins))
    if settings.data_dir is not None:
        load_recording(settings.data_dir, _frame(spec))
    return Job(spec, topology)


def _frame(spec: FlowSpec) -> TensorType:
    return spec.sources[0].schema.fields[0].type


async def run(
    job: Job, settings: Settings, host: Host, watch: Watch = lambda _world, _plan: None
) -> dict[str, Any]:
    """Runs it all in ``settings.run_dir``, which must be new, and returns the report."""
    spec, topology = job.spec, job.topology
    data_dir = await provide(settings, host)
    events = await asyncio.to_thread(load_recording, data_dir, _frame(spec))
    count = sum(p.count for p in topology.paths())
    # What is played here is known better than what was measured of other data.
    selectivities = shares(spec, topology) | played_selectivities(spec, settings, events, count)
    chosen = plan(spec, topology, pins=settings.pins, selectivities=selectivities)
    check_processes(spec, topology, chosen)
    await asyncio.to_thread(load, spec.kernels({s.id for s in spec.stages}), layout.kernel_dir(settings))
    devices_as = await asyncio.to_thread(
        layout.chosen_devices, settings, topology, spec, chosen, host.processes
    )
    world = World(settings, host, spec, topology, chosen)
    watch(world, chosen)
    try:
        await world.start()
        devices = layout.device_hosts(
            settings, topology, spec, chosen, data_dir, events, world.coap_ports, devices_as.runs_as
        )
        await world.play(devices)
        played_s = (host.clock.monotonic_ns() - world.state.play_started_ns) / 1e9
        await world.settle()
        await world.stop()
    finally:
        await world.close()
    evidence = await asyncio.to_thread(
        gather,
        spec,
        {topology.node_id(s): world.node_directory(s) for s in topology.sites},
        [world.devices_directory(name) for name in devices],
    )
    return report.build(
        settings,
        spec,
        topology,
        chosen,
        evidence,
        cuts=world.state.cuts,
        links={relay.name: relay.bytes for relay in world.relays.values()},
        played_s=played_s,
        reports=world.state.reports,
        devices_why=devices_as.why,
        restarts={name: kept.restarts for name, kept in world.keeper.all.items() if kept.restarts},
    )
