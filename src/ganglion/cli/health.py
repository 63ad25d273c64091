"""``ganglion health``: what is wrong with the sites of a run, and what to do about each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ganglion.agent.health import SEVERITIES, Condition, read_conditions
from ganglion.core.errors import RunError
from ganglion.host.system import SystemClock

STALE_NS = 10 * 10**9
EXIT_UNWELL = 1

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The directory of a run, or of a node.")]


def health(
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Print what is wrong at each node of a run, the gravest first, with the command to run next.

    Exit status 0: nothing is worse than information. 1: something is. 2: there is nothing to look at.
    """
    places = sorted(run_dir.glob("nodes/*/config.json")) or sorted(run_dir.glob("config.json"))
    found = {p.parent.name: conditions_of(p.parent) for p in places}
    if not found:
        raise RunError(
            "run.health",
            f"there are no nodes in {run_dir}",
            why="it is not the directory of a run, or the run has not started yet",
            next_step="name the directory that ganglion run or ganglion node run printed",
        )
    if as_json:
        value = {node: [c.to_json() for c in conditions] for node, conditions in found.items()}
        sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.write(_text(found))
    if any(c.severity != SEVERITIES[-1] for conditions in found.values() for c in conditions):
        raise typer.Exit(EXIT_UNWELL)


def conditions_of(node_dir: Path) -> list[Condition]:
    """What a node last said of itself, or that it has fallen silent."""
    command = f"tail -n 20 {node_dir / 'log.txt'}"
    try:
        report: dict[str, Any] = orjson.loads((node_dir / "report.json").read_bytes())
        said = read_conditions(report["health"])
        age_ns = SystemClock().monotonic_ns() - int(report["at_ns"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        text = f"the node has made no report that can be read ({type(error).__name__})"
        return [Condition("health.no-report", "critical", text, command)]
    if report.get("phase") == "stopped":
        return [Condition("health.stopped", "info", "the node was stopped after a last checkpoint", command)]
    if not 0 <= age_ns < STALE_NS:
        text = "the node's last report is too old: its agent has ended, hangs, or has a full disk"
        return [Condition("health.silent", "critical", text, command), *said]
    return said


def _text(found: dict[str, list[Condition]]) -> str:
    lines = []
    for node, conditions in found.items():
        lines.append(f"{node}: {'well' if not conditions else ''}".rstrip())
        for c in conditions:
            lines += [f"  {c.severity:8} {c.code}  {c.text}", f"           next: {c.command}"]
    return "\n".join(lines) + "\n"
