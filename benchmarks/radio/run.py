"""What a feeder device sends and computes when it decides itself, against sending every frame.

python benchmarks/radio/run.py [--quick] [--json FILE] [--data DIR] [--frames N]

The same frames go through two images of the feeder's relay: the plan as made, and the plan with every stage of the
device pinned to the gateway. Both run on an emulated Cortex-M4F in virtual time, against a gateway that acknowledges
each message after the link's latency both ways. Nothing is lost, and no time is measured: the same frames give the same
counts on any machine. One event comes every 10 s. Bytes are CoAP's datagrams in both directions, without UDP's and IP's
headers.

Energy is counts times the figures of examples/feeder/topology.yaml (docs/reference/report.md). One JSON line per run is
appended to benchmarks/results/radio.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ganglion.core.energy import energy
from ganglion.core.errors import HostError
from ganglion.core.topology import Topology
from ganglion.device.firmware.boards import BOARD, Boards
from ganglion.device.firmware.box import ledger_json
from ganglion.device.firmware.build import build
from ganglion.device.firmware.generate import generate
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.device.firmware.rehearsal import Rehearsed, rehearse
from ganglion.device.player import Player, shot_frames_min
from ganglion.device.recording import Event, load_recording
from ganglion.flow.load import load_flow
from ganglion.flow.spec import FlowSpec
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import compilers
from ganglion.placement import plan
from ganglion.sim.run import load_topology

REPOSITORY = Path(__file__).parents[2]
FEEDER = REPOSITORY / "examples" / "feeder"
RESULTS = REPOSITORY / "benchmarks" / "results" / "radio.jsonl"
GROUP, PATH = "relay", "gw1-relay"
EVENT_FRAMES = 600
SEED = 7
WAYS = ("decides itself", "sends every frame")


def recordings(data: str | None, scratch: Path, spec: FlowSpec) -> list[Event]:
    """The given recordings, or those of the example's generator."""
    folder = Path(data) if data else scratch / "data"
    if not data:
        command = [sys.executable, str(FEEDER / "generate.py"), str(folder), "--seed", str(SEED)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return load_recording(folder, spec.sources[0].schema.fields[0].type)


def frames_of(events: list[Event], count: int) -> list[bytes]:
    period = max(EVENT_FRAMES, shot_frames_min(events))
    player = Player(events, index=0, stride=1, period_frames=period)
    return [player.next_frame().tobytes() for _ in range(count)]


def pins(spec: FlowSpec, topology: Topology) -> dict[str, str]:
    """Every stage that the plan puts on the device, put on the gateway."""
    runs = plan(spec, topology).assignments()[f"device:{PATH}"].runs
    return {stage: "gateway" for stage in runs if spec[stage].inputs}  # the source is where it is


def played(
    spec: FlowSpec, topology: Topology, pinned: Mapping[str, str], frames: list[bytes], scratch: Path
) -> tuple[Rehearsed, str | None]:
    """The device's counts, and why its instructions were not counted when they were not."""
    assignment = plan(spec, topology, pins=pinned).assignments()[f"device:{PATH}"]
    answer_ns = 2 * topology.devices[GROUP].link.latency_ns
    try:
        image = build(spec, assignment, TARGETS[BOARD], scratch / "images", path=PATH)
        boards = Boards(image, SystemProcesses(), scratch / "boards.txt", counting=True)
    except HostError as error:
        firmware = generate(spec, assignment, path=PATH)
        memory = HostedFirmware.build(firmware, compilers()[0], scratch / "images").device()
        return rehearse(firmware, memory, frames, answer_ns=answer_ns), error.why
    try:
        return rehearse(image.firmware, boards.device(), frames, answer_ns=answer_ns), None
    finally:
        boards.close()


def figures(found: Rehearsed, topology: Topology) -> dict[str, Any]:
    """Per device and hour."""
    counts = ledger_json(found.report)
    seconds = found.played_ns / 1e9
    group = topology.devices[GROUP]
    used = energy(counts, seconds, topology.classes[group.class_name], group.link).to_json()
    per_hour = 3600 / seconds
    row: dict[str, Any] = {
        "radio_bytes": counts["sent_bytes"] + counts["received_bytes"],
        "sent_bytes": counts["sent_bytes"],
        "datagrams": counts["sent"] + counts["received"],
        "wakeups": counts["wakeups"],
        "instructions": counts["instructions"] or None,
        **used,
    }
    return {name: None if value is None else value * per_hour for name, value in row.items()}


def machine() -> dict[str, Any]:
    """Where it ran; the counts do not depend on it."""
    return {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system(),
            "cpus": os.cpu_count(), "target": BOARD}  # fmt: skip


def table(rows: Mapping[str, Mapping[str, Any]], why: str | None) -> str:
    lines = [f"{'a relay, in an hour':22}" + "".join(way.rjust(20) for way in WAYS) + "share".rjust(10)]
    for name in rows[WAYS[0]]:
        here, there = (rows[way][name] for way in WAYS)
        if here is None or there is None:
            lines.append(f"{name:22}  not counted: {why}" if why else f"{name:22}  no figure is stated")
            continue
        lines.append(f"{name:22}{here:20,.1f}{there:20,.1f}{here / there if there else 0:10.1%}")
    return "\n".join(lines)


def main() -> None:
    """Plays, prints a table, appends the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="ten seconds of frames, one event")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--data", metavar="DIR", help="play these recordings instead of generated ones")
    parser.add_argument(
        "--frames", type=int, default=0, help="play this many frames (default: 3,600, a minute)"
    )
    options = parser.parse_args()
    spec, topology = load_flow(FEEDER), load_topology(FEEDER)
    count = options.frames or (EVENT_FRAMES if options.quick else 6 * EVENT_FRAMES)
    rows: dict[str, dict[str, Any]] = {}
    why = None
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        frames = frames_of(recordings(options.data, scratch, spec), count)
        for way, pinned in zip(WAYS, ({}, pins(spec, topology)), strict=True):
            found, uncounted = played(spec, topology, pinned, frames, scratch)
            why = uncounted or why
            rows[way] = figures(found, topology)
            ledger = found.report.ledger
            assert ledger.frames == count and found.report.coap.retransmitted == 0
    print(table(rows, why))
    data = options.data and Path(options.data).name
    result = {"frames": count, "quick": options.quick, "data": data or f"generated, seed {SEED}", **machine()}
    result["per_hour"] = {way.replace(" ", "_"): row for way, row in rows.items()}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **result}) + "\n")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
