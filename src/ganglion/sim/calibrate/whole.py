"""A whole calibration: stages timed, a short run for the messages, instructions counted where a class has a core."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ganglion.core.calibration import (
    Calibration,
    ClassFigures,
    HopFigures,
    StageFigures,
    StreamFigures,
    calibrated,
)
from ganglion.core.errors import TopologyError
from ganglion.core.topology import Topology
from ganglion.device.recording import Event, load_recording
from ganglion.flow.load import load_flow
from ganglion.flow.spec import FlowSpec
from ganglion.host.ports import Host
from ganglion.kernels.loading import load
from ganglion.sim import layout
from ganglion.sim.calibrate.counts import Counted, count_class, target_of
from ganglion.sim.calibrate.hops import Report, hops, settled, streams
from ganglion.sim.calibrate.stages import time_kernels, time_stages
from ganglion.sim.recordings import provide
from ganglion.sim.run import Job, bare_topology, run
from ganglion.sim.settings import Settings

REST_NS = 4_000_000_000
"""How long nodes idle before the devices begin, so that what they take by themselves can be told apart."""


@dataclass(frozen=True, slots=True)
class Asked:
    """``classes``: those to measure, all of the topology's when empty. ``report``: a run's, for what data decides."""

    settings: Settings
    classes: tuple[str, ...] = ()
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """``left``: class -> why it was not measured, or not counted, and keeps the topology's figures."""

    calibration: Calibration
    left: Mapping[str, str]


def chosen_classes(topology: Topology, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that are to be measured. Raises `TopologyError` ``topology.calibration-class``."""
    for name in wanted:
        if name not in topology.classes:
            raise TopologyError(
                "topology.calibration-class",
                f"there is no class {name!r} to calibrate",
                why=f"the topology's classes are {', '.join(topology.classes)}",
                next_step="name one of those with --class",
            )
    return wanted or tuple(topology.classes)


async def calibrate(
    asked: Asked, host: Host, facts: Mapping[str, str], say: Callable[[str], None]
) -> Outcome:
    """Measures this machine as every class that is asked for, and microcontrollers by an emulator.

    ``facts``: of the machine, for the file. ``say`` is told what is being done. Takes about a minute.
    """
    settings = asked.settings
    spec, topology = load_flow(settings.flow_dir), bare_topology(settings.flow_dir)
    names = chosen_classes(topology, asked.classes)
    boards = [n for n in names if topology.classes[n].core is not None]
    here = [n for n in names if n not in boards]
    directory = layout.kernel_dir(settings)
    classes: dict[str, ClassFigures] = {}
    left: dict[str, str] = {}
    for name in boards:
        target_of(name, topology.classes[name])  # refused before anything takes long
    events = await _events(settings, spec, host)
    for name in boards:
        say(f"counting instructions of {name}")
        kind = topology.classes[name]
        counted = await asyncio.to_thread(count_class, spec, name, kind, events, directory, host)
        if isinstance(counted, Counted):
            classes[name] = ClassFigures(measured_on=counted.where, stages=dict(counted.stages))
        else:
            left[name] = counted
    found: dict[str, StreamFigures] = {}
    if here:
        timed = await _timed(settings, spec, events, host, say)
        classes |= _here(topology, here, timed, facts)
        say("running the flow for its messages")
        job = Job(spec, calibrated(topology, _file(spec, host, facts, classes, {})))
        report = await run(job, replace(settings, rest_ns=REST_NS), host)
        say(f"ran {report['played_s']} s")
        hop = hops(report, spec, topology)
        for name in here:
            own = {topology.node_id(s) for s, site in topology.sites.items() if site.node.class_name == name}
            stages = settled(classes[name].stages, report, spec, own)
            classes[name] = classes[name].model_copy(
                update={"stages": stages, "hop": hop.get(name, HopFigures())}
            )
        found = streams(report, spec, shares=False)
    if asked.report is not None:
        found |= streams(asked.report, spec, shares=True)
    return Outcome(_file(spec, host, facts, classes, found), left)


async def _events(settings: Settings, spec: FlowSpec, host: Host) -> list[Event]:
    data_dir = await provide(settings, host)
    return await asyncio.to_thread(load_recording, data_dir, spec.sources[0].schema.fields[0].type)


@dataclass(frozen=True, slots=True)
class _Timed:
    """The stages as the engine runs them, and their kernels alone; the latter empty without a compiler."""

    engine: Mapping[str, StageFigures]
    kernels: Mapping[str, StageFigures]


async def _timed(
    settings: Settings, spec: FlowSpec, events: list[Event], host: Host, say: Callable[[str], None]
) -> _Timed:
    stages = {s.id for s in spec.stages}
    kernels = spec.kernels(stages)
    libraries = await asyncio.to_thread(load, kernels, layout.kernel_dir(settings), spec.folds(stages))
    say("timing stages")
    engine = await time_stages(spec, events, libraries, host.clock, host.disk)
    whole = {k.digest for k in kernels} <= libraries.keys()
    return _Timed(engine, time_kernels(spec, libraries, host.clock) if whole and libraries else {})


def _here(
    topology: Topology, names: list[str], timed: _Timed, facts: Mapping[str, str]
) -> dict[str, ClassFigures]:
    devices = {g.class_name for g in topology.devices.values()}
    where = f"{facts['system']} {facts['machine']}, {facts['cpus']} processors"
    return {
        name: ClassFigures(
            measured_on=f"{where}; {'firmware' if name in devices and timed.kernels else 'engine'}",
            stages=dict(timed.kernels if name in devices and timed.kernels else timed.engine),
        )
        for name in names
    }


def _file(
    spec: FlowSpec,
    host: Host,
    facts: Mapping[str, str],
    classes: Mapping[str, ClassFigures],
    found: Mapping[str, StreamFigures],
) -> Calibration:
    now = datetime.fromtimestamp(host.clock.wall_ns() / 1e9, UTC)
    return Calibration(
        format=1,
        flow=spec.name,
        measured_at=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        machine=dict(facts),
        classes={name: classes[name] for name in sorted(classes)},
        streams={name: found[name] for name in sorted(found)},
    )


def merged(old: Calibration | None, new: Calibration) -> Calibration:
    """The new one, with the classes and streams of the old that were not measured again.

    Figures of other machines stay where each class is measured on a machine of its own.
    """
    if old is None or old.flow != new.flow:
        return new
    classes = {**old.classes, **new.classes}
    held = {**old.streams, **new.streams}
    return new.model_copy(
        update={"classes": dict(sorted(classes.items())), "streams": dict(sorted(held.items()))}
    )
