"""``ganglion replay``: a gateway's recorded inputs through today's code."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer

from ganglion.sim.replay import Replay, read_recordings
from ganglion.sim.replay import replay as play

EXIT_DIFFERS = 1


def replay(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A recording (.glog), or a node's directory `recording`.")
    ],
    flow: Annotated[
        Path | None,
        typer.Option("--flow", metavar="FLOW_DIR", help="Let this flow decide, not the recorded one."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per file of the recording.")
    ] = False,
) -> None:
    """Play what came into a gateway through today's code, and show what it decides.

    Exit status 0: every command and every message to the parent is as it was. 1: something differs. 2: the recording
    cannot be played.
    """
    results = [play(records, flow) for records in read_recordings(file)]
    for result in results:
        sys.stdout.write(orjson.dumps(result.to_json()).decode() + "\n" if as_json else _text(result))
    if not all(result.same for result in results):
        raise typer.Exit(EXIT_DIFFERS)


def _text(result: Replay) -> str:
    start = result.start
    lines = [
        (
            f"{start.site}, file {start.number}: {_time(start.wall_ns)} to {_time(result.until_ns)} UTC, "
            f"{result.arrivals} requests, {result.entries} journal entries"
        ),
        f"  flow: {'as recorded' if result.same_flow else 'another than was recorded'}",
    ]
    lines += [f"  note: {note}" for note in result.notes]
    for one in result.decisions:
        stage, _, row = one.command_id.partition(":")
        origin, _, seq = row.rpartition(":")  # names of origins may hold colons
        told = "" if one.then == one.now else "  now only" if one.now else "  then only"
        lines.append(f"  {_time(one.at_ns)}  {stage}  {origin}  row {seq}{told}")
    differ = [d for d in result.decisions if d.then != d.now]
    messages = result.differing_messages
    commands_told = f"{len(differ)} differ" if differ else "as recorded"
    messages_told = (
        f"{len(messages)} differ, the first is number {messages[0]}" if messages else "as recorded"
    )
    lines.append(f"  commands: {sum(d.now for d in result.decisions)}, {commands_told}")
    lines.append(f"  messages to the parent: {len(result.messages_now)}, {messages_told}")
    return "\n".join(lines) + "\n"


def _time(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
