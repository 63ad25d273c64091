"""``ganglion sim``: plays scenarios in the deterministic world."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import orjson
import typer

from ganglion.core.errors import RunError
from ganglion.sim.virtual.play import Verdict, lay, play
from ganglion.sim.virtual.scenario import built_in_names, load_scenario

SEEDS_MAX = 1_000_000
EXIT_UNSOUND = 1
DAY_S = 86_400

sim = typer.Typer(
    no_args_is_help=True, help="Play scenarios in a deterministic world of virtual time and faults."
)


@sim.command(name="list")
def list_scenarios() -> None:
    """Name the scenarios that need no file."""
    sys.stdout.write("".join(f"{name}\n" for name in built_in_names()))


@sim.command()
def run(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Scenario files (TOML), or names of built-in scenarios."),
    ],
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Play this seed.")] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="A..B", help="Play all seeds from A to B, both included.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write every event of the (last) world to FILE."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per world.")] = False,
) -> None:
    """Play worlds and print a line for each: the verdict, and the hash of all that happened.

    The same scenario and seed give the same hash on every run, machine and Python version. Exit status 0: every
    checker held in every world. 1: one did not. 2: a scenario could not be played.
    """
    chosen = _seeds(seed, seeds)
    grounds = [lay(load_scenario(file)) for file in files]
    started_s, days, failed, count = time.process_time(), 0.0, 0, 0
    for ground in grounds:
        for one in chosen:
            with _keeping(trace) as keep:
                verdict = play(ground, one, keep)
            count += 1
            failed += not verdict.ok
            days += verdict.virtual_ns / 1e9 / DAY_S
            sys.stdout.write(orjson.dumps(verdict.to_json()).decode() + "\n" if as_json else _line(verdict))
            sys.stdout.flush()
    if count > 1 and not as_json:
        hours = (time.process_time() - started_s) / 3600
        sys.stdout.write(
            f"{count} worlds, {failed} failed; {days:.2f} fleet-days at {days / max(hours, 1e-9):.0f} per hour of CPU\n"
        )
    if failed:
        raise typer.Exit(EXIT_UNSOUND)


def _line(verdict: Verdict) -> str:
    head = f"{verdict.scenario} seed {verdict.seed}: {'ok' if verdict.ok else 'FAILED'}  trace {verdict.digest}  "
    counts = (
        f"{verdict.acknowledged} rows acknowledged, {verdict.commands} commands, {verdict.faults} faults, "
        f"{verdict.restarts} restarts, {verdict.virtual_ns / 1e9:.0f} s of {verdict.sites} sites and "
        f"{verdict.devices} devices\n"
    )
    if verdict.ok:
        return head + counts
    again = f"  again: ganglion sim run {verdict.file} --seed {verdict.seed} --trace trace.txt\n"
    return head + counts + "".join(f"  {finding}\n" for finding in verdict.findings) + again


def _seeds(seed: int | None, seeds: str | None) -> range:
    if seeds is None:
        first = last = 1 if seed is None else seed
    else:
        match = re.fullmatch(r"(\d{1,20})\.\.(\d{1,20})", seeds)
        first, last = (int(match[1]), int(match[2])) if match else (1, 0)
    if not 0 <= first <= last < first + SEEDS_MAX or (seed is not None and seeds is not None):
        raise RunError(
            "cli.seeds",
            f"the seeds {seeds if seeds is not None else seed} cannot be played",
            why=f"one number with --seed, or A..B with --seeds; from 0 on, at most {SEEDS_MAX}",
            next_step="write it like --seeds 1..20",
        )
    return range(first, last + 1)


@contextmanager
def _keeping(path: Path | None) -> Iterator[Callable[[str], None] | None]:
    """What takes the lines of a trace, if they are wanted."""
    if path is None:
        yield None
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise RunError(
            "cli.trace",
            f"the trace cannot be written to {path}",
            why=error.strerror or str(error),
            next_step="name another file with --trace",
        ) from error
    with file:

        def keep(line: str) -> None:
            file.write(line + "\n")

        yield keep
