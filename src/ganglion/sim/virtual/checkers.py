"""What must hold at the end of a world, whatever went wrong in it. Each checker returns what it found wrong.

A checker compares contents, and each is held to a planted bug that only it can find (tests/sim/virtual/mutants.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ganglion.core.errors import DataError
from ganglion.flow.stages import SinkStage
from ganglion.messaging import subjects
from ganglion.sim.check import Tally, tally
from ganglion.sim.evidence import Evidence, SinkRows, sink_batches

if TYPE_CHECKING:
    from ganglion.sim.virtual.world import World

FINDINGS_MAX = 20


def check(world: World) -> list[str]:
    """The findings of the scenario's checkers, each beginning with the checker's name."""
    found = []
    for name in world.scenario.checkers:
        try:
            own = _CHECKERS[name](world)
        except DataError as error:  # a file that nobody can read any more
            own = [str(error)]
        found += [f"{name}: {finding}" for finding in own[:FINDINGS_MAX]]
    return found


def _sinks(world: World) -> dict[str, SinkRows]:
    found: dict[str, SinkRows] = {}
    for site in world.ground.topology.sites:
        for stage in world.ground.spec.stages:
            path = f"sinks/{stage.id}.arrows"
            file = world.machines[site].platter.files.get(path)
            if isinstance(stage, SinkStage) and file is not None and file.content:
                rows = found.setdefault(stage.id, SinkRows(stage.schema))
                rows.batches += sink_batches(bytes(file.content), Path(site) / path, stage)
    return found


def _tell_shed(world: World, evidence: Evidence) -> None:
    for site in world.ground.topology.sites:
        evidence.tell_shed(world.report(site) or {})


def _told(tallies: list[Tally], wanted: Callable[[Tally], bool]) -> list[str]:
    chosen = [t for t in tallies if wanted(t)]
    if not chosen:
        return ["there is nothing to check: the flow has no such use of what devices send"]
    return [
        f"{t.stream} in {t.use}: {t.lost} lost, {t.duplicated} duplicated, {t.out_of_order} out of order, "
        f"{t.altered} altered, of {t.published}"
        for t in chosen
        if not t.sound
    ]


def _readings(world: World) -> list[str]:
    """Every acknowledged row is in the sinks that keep it: once, in order, with the content it had on the device."""
    evidence = Evidence(acknowledged=world.truth.acknowledged, sinks=_sinks(world))
    _tell_shed(world, evidence)
    return _told(tally(world.ground.spec, evidence), lambda t: t.use.startswith("sink "))


def _windows(world: World) -> list[str]:
    """The last revision of each window counts what the sinks of single rows hold: every row once, late ones too."""
    sinks = _sinks(world)
    kept: dict[tuple[str, str], dict[int, int]] = {}
    for rows in sinks.values():
        for batch in rows.batches:
            if batch.stream in world.ground.spec and not world.ground.spec[batch.stream].inputs:
                own = kept.setdefault((batch.stream, batch.origin), {})
                rows_of = zip(batch.seq.tolist(), batch.row_digests(), strict=True)
                closing = world.mqtt.closing(batch.origin)
                own.update((seq, digest) for seq, digest in rows_of if seq not in closing)
    evidence = Evidence(acknowledged=kept, sinks=sinks)
    _tell_shed(world, evidence)
    return _told(tally(world.ground.spec, evidence), lambda t: t.use.startswith("counted"))


def _once(world: World) -> list[str]:
    """No site is sent anything twice: neither a message, nor a row its parent would have to skip."""
    found = []
    for site, messages in world.truth.stored.items():
        seen: set[tuple[str, bytes]] = set()
        for message in messages:
            key = (
                message.subject,
                message.payload,
            )  # not its CRC: a message ends with its own, so all have the same
            if key in seen:
                found.append(
                    f"{site} got the same message twice: {message.subject}, {len(message.payload)} bytes"
                )
            seen.add(key)
    for site in world.ground.topology.sites:
        report = world.report(site)
        if world.ground.topology.children(site) and report is not None:
            kinds = [what for what in ("duplicated_rows", "bad_messages") if report[what]]
            found += [f"{site} reports {report[what]} {what.replace('_', ' ')}" for what in kinds]
    return found


def _reflexes(world: World) -> list[str]:
    """Each row that asks for a command has it sent within the stage's deadline of the row's arrival."""
    watch = world.reflexes
    found = [
        f"{origin} {seq}: the command left {(sent_ns - arrived_ns) / 1e6:.1f} ms after the row came"
        for (origin, seq), arrived_ns in sorted(watch.arrived_ns.items())
        if (sent_ns := watch.sent_ns.get((origin, seq))) is not None
        and sent_ns - arrived_ns > watch.within_ns
    ]
    found += [
        f"{origin} {seq}: no command was ever sent"
        for origin, seq in sorted(watch.arrived_ns.keys() - watch.sent_ns.keys())
    ]
    if not watch.arrived_ns:
        found.append("there is nothing to check: no row asked for a command")
    return found


def _drained(world: World) -> list[str]:
    """When faults are over, everything is delivered, saved and purged within the scenario's time."""
    found = [f"{name} still owes something" for name in world.truth.unsettled]
    for site in world.ground.topology.sites:
        for name, stream in world.machines[site].store.streams.items():
            mine = name in (subjects.journal(site), subjects.outbox(site), subjects.inbox(site))
            if mine and stream.held and not world.truth.unsettled:
                found.append(f"{name} still holds {len(stream.held)} messages that nobody needs")
    return found


def _alive(world: World) -> list[str]:
    """No program ended but those that were ended, and none hid an error."""
    return list(world.truth.failures)


_CHECKERS: dict[str, Callable[[World], list[str]]] = {
    "readings": _readings,
    "windows": _windows,
    "once": _once,
    "reflexes": _reflexes,
    "drained": _drained,
    "alive": _alive,
}
