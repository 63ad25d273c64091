"""``ganglion calibrate``: measures this machine for the planner."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
from errno import EISDIR
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from ganglion.core.calibration import FILE, Calibration, ClassFigures, Spread
from ganglion.core.errors import DataError
from ganglion.core.units import parse_duration_ns
from ganglion.flow.load import load_flow
from ganglion.host.system import system_host
from ganglion.kernels.c.toolchain import compilers
from ganglion.sim.calibrate.hops import read_report
from ganglion.sim.calibrate.whole import Asked, Outcome, calibrate, chosen_classes, merged
from ganglion.sim.run import bare_topology, load_calibration
from ganglion.sim.settings import Settings, check


def calibrate_command(
    flow_dir: Annotated[
        Path, typer.Argument(metavar="FLOW_DIR", help="A folder with flow.py and topology.yaml.")
    ],
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Only this class of the topology: what this machine is. Repeatable.",
        ),
    ] = None,
    from_report: Annotated[
        Path | None,
        typer.Option(
            "--from-report", metavar="FILE", help="Take selectivities and bytes per row from a run's report."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help=f"Where the figures go (default: FLOW_DIR/{FILE})."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Play these recordings instead of generated ones."),
    ] = None,
    duration: Annotated[
        str, typer.Option("--for", help="How long the flow runs to measure its messages.")
    ] = "16s",
    seed: Annotated[int, typer.Option("--seed", help="What the flow's generator draws from.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print the file's JSON instead of text.")] = False,
) -> None:
    """Time a flow's stages and messages on this machine, for the planner to plan with.

    Takes about a minute, in which the machine should do nothing else. Classes that are not measured keep the figures
    they have.
    """
    spec, topology = load_flow(flow_dir), bare_topology(flow_dir)
    chosen_classes(topology, tuple(classes or ()))
    report = None if from_report is None else read_report(from_report, spec)
    target = out or flow_dir / FILE
    _writable(target)
    before = load_calibration(target)
    with tempfile.TemporaryDirectory(prefix="ganglion-calibrate-") as room:
        settings = Settings(
            flow_dir, Path(room) / "run", parse_duration_ns(duration), data_dir=data, seed=seed
        )
        check(settings, topology)
        settings.run_dir.mkdir()
        host = system_host(settings.run_dir, seed)
        asked = Asked(settings, tuple(classes or ()), report)
        outcome = asyncio.run(calibrate(asked, host, facts(), _say if not as_json else _quiet))
    whole = merged(before, outcome.calibration)
    _write(target, whole)
    sys.stdout.write(whole.dumps() if as_json else text(outcome, whole, target))


def facts() -> dict[str, str]:
    """What the figures depend on."""
    found = compilers()
    return {
        "ganglion": version("ganglion"),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": str(os.cpu_count() or 1),
        "python": platform.python_version(),
        "compiler": found[0].version.splitlines()[0][:100] if found else "none",
    }


def _say(what: str) -> None:
    sys.stderr.write(f"{what} ...\n")


def _quiet(_what: str) -> None:
    return


def _writable(path: Path) -> None:
    """Raises ``cli.calibration`` now, rather than after a minute of measuring."""
    draft = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        draft.unlink()
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "it is a directory")
    except OSError as error:
        raise _unwritable(path, error) from error


def _write(path: Path, calibration: Calibration) -> None:
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_text(calibration.dumps(), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        "cli.calibration",
        f"{path} cannot be written",
        why=error.strerror or str(error),
        next_step="name another file with --out",
    )


def text(outcome: Outcome, whole: Calibration, target: Path) -> str:
    """What was measured, for people."""
    lines = [f"measured {whole.measured_at} for flow {whole.flow}"]
    for name, figures in whole.classes.items():
        kept = "" if name in outcome.calibration.classes else " (kept from before)"
        lines += ["", f"{name}: {figures.measured_on}{kept}", *_class(figures)]
    lines += [f"\n{name}: the topology's figures stay: {why}" for name, why in outcome.left.items()]
    for name, stream in whole.streams.items():
        share = "" if stream.share is None else f"  {stream.share:.3g} of its rows pass"
        size = "" if stream.row_bytes is None else f"  {stream.row_bytes:.0f} bytes per row on uplinks"
        lines.append(f"stream {name}:{share}{size}")
    return "\n".join([*lines, "", f"written to {target}"]) + "\n"


def _class(figures: ClassFigures) -> list[str]:
    lines = [f"  {'stage':16}{'per call':>24}{'per row':>24}{'one row, warm':>16}"]
    for one in figures.stages.values():
        if one.instructions is not None:
            lines.append(f"  {one.stage:16}{one.instructions.median:>20,.0f} instructions per row")
            continue
        warm = f"{one.warm_ns.median / 1e3:.1f} us" if one.warm_ns else "-"
        lines.append(f"  {one.stage:16}{_spread(one.call_ns):>24}{_spread(one.row_ns):>24}{warm:>16}")
    hop = figures.hop.model_dump(exclude_none=True)
    named = [n for n in hop if n != "own_cpus"]
    lines += [f"  {n.removesuffix('_ns'):16}{_spread(getattr(figures.hop, n)):>24}" for n in named]
    if figures.hop.own_cpus is not None:
        lines.append(f"  {'own':16}{figures.hop.own_cpus:>21.4f} cpu")
    return lines


def _spread(value: Spread | None) -> str:
    if value is None:
        return "-"
    low, middle, high = (v / 1e3 for v in (value.low, value.median, value.high))
    return f"{middle:.4g} us ({low:.3g}..{high:.3g})"
