"""``ganglion device``: images for microcontrollers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ganglion.connectors.serial import Bridge
from ganglion.core.errors import DataError, HostError
from ganglion.core.topology import Topology
from ganglion.core.units import format_bytes, parse_size_bytes
from ganglion.device.firmware.build import Image, build
from ganglion.device.firmware.choice import limits_for
from ganglion.device.firmware.export import KINDS, WHAT, Kind, export
from ganglion.device.firmware.generate import generate
from ganglion.device.firmware.rehearsal import count
from ganglion.device.firmware.trial import tried
from ganglion.device.recording import Event, load_recording
from ganglion.flow.assignment import Assignment, origin_name
from ganglion.flow.load import load_flow
from ganglion.host.line import SerialLine
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c.targets import TARGETS, Target
from ganglion.placement import plan
from ganglion.sim.run import load_topology

device = typer.Typer(no_args_is_help=True, help="Firmware for a flow's devices.")
BOARDS = {name: target for name, target in TARGETS.items() if target.triple.startswith("thumb")}


@device.command("build")
def build_command(
    flow_dir: Annotated[
        Path, typer.Argument(metavar="FLOW_DIR", help="A folder with flow.py and topology.yaml.")
    ],
    device_class: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="NAME", help="A group of the topology's devices (default: the only one)."
        ),
    ] = None,
    board: Annotated[
        str, typer.Option("--board", help=f"The processor: {', '.join(BOARDS)}.")
    ] = "cortex-m4f",
    flash: Annotated[
        str | None, typer.Option("--flash", metavar="SIZE", help="Refuse what needs more, e.g. 256KiB.")
    ] = None,
    ram: Annotated[
        str | None, typer.Option("--ram", metavar="SIZE", help="Refuse what needs more, e.g. 64KiB.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where images go (default: build/firmware).")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Count instructions on these recordings too, not on waves."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Link the device part of a flow's plan into one image per kind of device, and say what it needs."""
    spec, topology = load_flow(flow_dir), load_topology(flow_dir).expanded()
    group = _group(topology, device_class)
    target = _board(board)
    flash_max, ram_max = _size(flash), _size(ram)
    directory = (out or Path("build/firmware")).resolve()
    assignments = plan(spec, topology).assignments()
    events = None if data is None else load_recording(data, spec.sources[0].schema.fields[0].type)
    rows = []
    for paths, assignment in _distinct(topology, group, assignments):
        image = build(
            spec,
            assignment,
            target,
            directory / "cache",
            path=paths[0],
            limits=limits_for([origin_name(p.id, p.count - 1) for p in topology.paths() if p.id in paths]),
            flash_bytes_max=flash_max,
            ram_bytes_max=ram_max,
        )
        file = directory / f"{spec.name}-{paths[0]}-{target.name}.bin"
        _keep(file, image.flash())
        log = directory / "emulator.txt"
        shown = {"same_bits": tried(image, SystemProcesses(), log) or None}
        rows.append(_row(image, paths, file) | _instructions(image, log, events) | shown)
    if as_json:
        sys.stdout.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())
    else:
        sys.stdout.write("\n".join(_text(row) for row in rows))


@device.command("export")
def export_command(
    flow_dir: Annotated[
        Path, typer.Argument(metavar="FLOW_DIR", help="A folder with flow.py and topology.yaml.")
    ],
    library: Annotated[bool, typer.Option("--library", help="A C library with CMake and make.")] = False,
    zephyr: Annotated[bool, typer.Option("--zephyr", help="A Zephyr module with a sample.")] = False,
    arduino: Annotated[bool, typer.Option("--arduino", help="An Arduino library with a sketch.")] = False,
    device_class: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="NAME", help="A group of the topology's devices (default: the only one)."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where it goes (default: build/export).")
    ] = None,
) -> None:
    """Write the device part of a flow's plan as C for your own boards: a library, a module, or a sketch's library."""
    kind = _kind({"library": library, "zephyr": zephyr, "arduino": arduino})
    spec, topology = load_flow(flow_dir), load_topology(flow_dir).expanded()
    group = _group(topology, device_class)
    assignments = plan(spec, topology).assignments()
    for paths, assignment in _distinct(topology, group, assignments):
        origins = [origin_name(p.id, p.count - 1) for p in topology.paths() if p.id in paths]
        firmware = generate(spec, assignment, path=paths[0], limits=limits_for(origins))
        directory = (out or Path("build/export")) / f"{spec.name}-{paths[0]}-{kind}"
        written = export(firmware, kind, directory, paths, origin_name(paths[0], 0))
        sys.stdout.write(
            f"{', '.join(paths)}: {WHAT[kind]} of {len(written)} files\n"
            f"  {directory}\n  next: read {directory / 'README.md'}\n"
        )


@device.command("bridge")
def bridge_command(
    port: Annotated[str, typer.Argument(metavar="PORT", help="The serial port, /dev/ttyUSB0 for one.")],
    gateway: Annotated[
        str, typer.Option("--gateway", metavar="ADDRESS:PORT", help="The gateway's CoAP socket.")
    ],
    speed: Annotated[int, typer.Option("--speed", help="Bits per second.")] = 115200,
) -> None:
    """Carry a device's CoAP between a serial line (SLIP with a check) and a gateway, until the line ends or Ctrl-C."""
    address, colon, number = gateway.rpartition(":")
    if not (colon and number.isdigit() and 0 < int(number) < 65536):
        raise DataError(
            "cli.gateway",
            f"--gateway {gateway!r} cannot be used",
            why="it is not ADDRESS:PORT",
            next_step="e.g. --gateway 192.0.2.1:5683",
        )
    asyncio.run(_bridge(port, speed, (address.strip("[]"), int(number))))


async def _bridge(port: str, speed: int, gateway: tuple[str, int]) -> None:
    bridge = await Bridge.open(SerialLine(port, speed), gateway)
    loop, running = asyncio.get_running_loop(), asyncio.ensure_future(bridge.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    sys.stdout.write(f"{port} at {speed} bit/s is joined to {gateway[0]} port {gateway[1]}\n")
    sys.stdout.flush()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    counts, line = bridge.counts, bridge.counts.line
    sys.stdout.write(
        f"{counts.to_gateway} datagrams to the gateway, {counts.to_device} to the device, {counts.unsent} could not be "
        f"sent; broken on the line: {line.bad_check + line.bad_escape + line.too_long}\n"
    )


def _kind(asked: Mapping[Kind, bool]) -> Kind:
    chosen = [kind for kind in KINDS if asked[kind]]
    if len(chosen) != 1:
        raise DataError(
            "cli.export",
            f"{len(chosen)} kinds of export were asked for",
            why="one is written at a time, for its own build system",
            next_step="name one of --library, --zephyr, --arduino",
        )
    return chosen[0]


def _group(topology: Topology, wanted: str | None) -> str:
    names = sorted(topology.devices)
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        raise DataError(
            "cli.device-class",
            f"there is no device class {wanted!r}" if wanted else "which device class?",
            why=f"the topology has {', '.join(names)}",
            next_step=f"name one: --class {names[0]}",
        )
    return wanted


def _board(name: str) -> Target:
    if name not in BOARDS:
        raise DataError(
            "cli.board",
            f"there is no board {name!r}",
            why=f"images are built for {', '.join(BOARDS)}",
            next_step="name one of those with --board",
        )
    return BOARDS[name]


def _keep(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise DataError(
            "cli.out",
            f"{file} cannot be written",
            why=error.strerror or str(error),
            next_step="name another directory with --out",
        ) from error


def _size(text: str | None) -> int | None:
    return None if text is None else parse_size_bytes(text)


def _distinct(
    topology: Topology, group: str, assignments: Mapping[str, Assignment]
) -> list[tuple[list[str], Assignment]]:
    """Paths whose devices run and send the same stages share an image."""
    found: dict[tuple[frozenset[str], frozenset[str]], list[str]] = {}
    for path in topology.paths():
        if path.group == group:
            one = assignments[f"device:{path.id}"]
            found.setdefault((frozenset(one.runs), frozenset(one.exports)), []).append(path.id)
    return [(paths, assignments[f"device:{paths[0]}"]) for paths in found.values()]


def _row(image: Image, paths: list[str], file: Path) -> dict[str, Any]:
    return {
        "devices": paths,
        "target": image.target,
        "file": str(file),
        "flash_bytes": image.flash_bytes,
        "ram_bytes": image.ram_bytes,
        "stack_bytes": image.stack.depth_bytes,
        "deepest_call": list(image.stack.chain),
        "stages": list(image.firmware.stages),
        "streams": [e.stage.id for e in image.firmware.streams],
    }


def _instructions(image: Image, log: Path, events: Sequence[Event] | None) -> dict[str, Any]:
    """Per frame, or why they were not counted: there is no figure without an emulator."""
    try:
        counted = count(image, SystemProcesses(), log, events)
    except HostError as error:
        if error.code != "firmware.emulator":
            raise
        return {"instructions_per_frame": None, "instructions_not_counted": f"{error.why}; {error.next_step}"}
    return {"instructions_per_frame": asdict(counted)}


def _instructions_text(row: Mapping[str, Any]) -> str:
    counted = row["instructions_per_frame"]
    if counted is None:
        return f"not counted: {row['instructions_not_counted']}"
    kinds = ", ".join(
        f"{kind} {middle:,} and {worst:,}" for kind, (middle, worst) in counted["kinds"].items()
    )
    return (
        f"{counted['median']:,} instructions in the median of {counted['frames']}, {counted['worst']:,} at most "
        f"({kinds}), on an emulated board"
    )


def _bits_text(row: Mapping[str, Any]) -> str:
    shown = row["same_bits"]
    return f"the reference's: {shown}" if shown else "not tried: pip install 'ganglion[emulator]'"


def _text(row: Mapping[str, Any]) -> str:
    return (
        f"{', '.join(row['devices'])} on {row['target']}\n"
        f"  stages  {', '.join(row['stages'])}\n"
        f"  sends   {', '.join(row['streams'])}\n"
        f"  flash   {format_bytes(row['flash_bytes'])}\n"
        f"  RAM     {format_bytes(row['ram_bytes'])}, of it stack {row['stack_bytes']} bytes at most: "
        f"{' > '.join(row['deepest_call'])}\n"
        f"  a frame {_instructions_text(row)}\n"
        f"  bits    {_bits_text(row)}\n"
        f"  image   {row['file']}\n"
    )
