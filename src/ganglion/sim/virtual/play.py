"""Plays a scenario from a seed to its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ganglion.core.errors import RunError
from ganglion.flow.load import load_flow
from ganglion.placement import plan
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.checkers import check
from ganglion.sim.virtual.scenario import Loaded, refused
from ganglion.sim.virtual.trace import Trace
from ganglion.sim.virtual.world import Ground, World


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one seed. ``digest``: the trace's hash; equal runs have equal ones."""

    scenario: str
    file: str
    seed: int
    findings: tuple[str, ...]
    digest: str
    events: int
    acknowledged: int
    commands: int
    faults: int
    restarts: int
    virtual_ns: int
    sites: int
    devices: int
    last: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """One object of `ganglion sim run --json`."""
        return {
            "scenario": self.scenario,
            "file": self.file,
            "seed": self.seed,
            "ok": self.ok,
            "findings": list(self.findings),
            "trace": self.digest,
            "events": self.events,
            "acknowledged_rows": self.acknowledged,
            "commands": self.commands,
            "faults": self.faults,
            "restarts": self.restarts,
            "virtual_s": self.virtual_ns / 1e9,
            "sites": self.sites,
            "devices": self.devices,
        }


def lay(loaded: Loaded) -> Ground:
    """What all seeds share: the flow and its plan. Raises ``run.scenario``, and what `load_flow` and `plan` raise."""
    spec = load_flow(loaded.flow_dir)
    by_mqtt = [r for site in loaded.topology.sites.values() if site.mqtt for r in site.mqtt.routes]
    if not by_mqtt and [s.schema.names for s in spec.sources] != [("frame",)]:
        names = ", ".join(s.id for s in spec.sources)
        raise refused(loaded.name, f"devices measure the frames of one source, and the flow's are {names}")
    if any(r.payload != "json" or r.time is None or r.sequence in (None, "time") for r in by_mqtt):
        raise refused(loaded.name, "MQTT devices send JSON with a time and a number: set time and sequence")
    chosen = plan(spec, loaded.topology, pins=loaded.scenario.pins)
    return Ground(loaded, spec, chosen.assignments())


def play(ground: Ground, seed: int, keep: Callable[[str], None] | None = None) -> Verdict:
    """One world from its beginning to its end; ``keep`` gets every line of the trace."""
    trace = Trace(keep)
    made: list[World] = []

    async def main(loop: virtual.VirtualLoop) -> None:
        world = World(ground, seed, loop, trace)
        made.append(world)
        await world.run()

    try:
        virtual.run(main)
        findings = tuple(check(made[0]))
    except RunError as error:
        if error.code not in ("run.deadlock", "run.livelock"):
            raise
        findings = (f"stuck: {error}",)
    world = made[0]
    return Verdict(
        ground.loaded.name,
        ground.loaded.file,
        seed,
        findings,
        trace.digest,
        trace.events,
        sum(len(rows) for rows in world.truth.acknowledged.values()),
        len(world.reflexes.sent_ns),
        world.faults.count,
        sum(m.lives - 1 for m in world.machines.values()),
        world.truth.settled_ns or world.loop.virtual_time.now_ns,
        len(ground.topology.sites),
        len(world.devices),
        tuple(trace.last),
    )
