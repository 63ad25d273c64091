"""The live table of a run: one row per site, refreshed four times a second from the nodes' own reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ganglion.core.units import format_bytes
from ganglion.host.ports import Clock
from ganglion.placement import Plan
from ganglion.sim.world import World

REFRESH_PER_SECOND = 4
STALE_NS = 2_000_000_000
Watch = Callable[[World, Plan], None]


class _View:
    """Renders the world anew at each refresh."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._world: World | None = None

    def watch(self, world: World, _plan: Plan) -> None:
        self._world = world

    def __rich__(self) -> Group | Text:
        world = self._world
        if world is None:
            return Text("planning ...")
        now_ns = self._clock.monotonic_ns()
        table = Table(box=None, padding=(0, 2), header_style="bold")
        for title in ("site", "state", "input", "owed to parent", "uplink", "commands", "restarts"):
            table.add_column(title, justify="left" if title in ("site", "state") else "right")
        for name, kept in world.keeper.all.items():
            table.add_row(*self._row(world, name, kept.report(), kept.restarts, now_ns))
        return Group(self._head(world, now_ns), table)

    def _head(self, world: World, now_ns: int) -> Table:
        head = Table.grid(padding=(0, 2))
        total_s = world.duration_ns / 1e9
        played_s = (now_ns - world.state.play_started_ns) / 1e9 if world.state.play_started_ns else 0.0
        shown_s = min(total_s, max(0.0, played_s))
        head.add_row(
            Text(world.state.phase, style="bold cyan"),
            ProgressBar(total=total_s, completed=shown_s, width=40),
            f"{shown_s:.0f} / {total_s:.0f} s",
        )
        return head

    def _row(
        self, world: World, name: str, report: dict[str, Any] | None, restarts: int, now_ns: int
    ) -> tuple[str | Text, ...]:
        relay = world.relays.get(name)
        uplink = format_bytes(relay.bytes.up) if relay else ""
        again = str(restarts) if restarts else ""
        if report is None:
            return name, Text("starting", style="yellow"), "", "", uplink, "", again
        if "phase" not in report:
            frames = f"{report['frames']} frames"
            return name, Text("measuring", style="green"), frames, "", "", str(report["commands"]), again
        state = Text(report["phase"], style="green" if report["phase"] == "ready" else "yellow")
        if report["trouble"]:
            state = Text(report["trouble"][0][:40], style="red")
        elif now_ns - report["at_ns"] > STALE_NS:
            state = Text("silent", style="red")
        elif relay is not None and relay.is_cut:
            state = Text("island", style="bold magenta")
        owed = str(report["ordinal"] - report["delivered"]) if relay else ""
        ingest = report["ingest"]
        return (
            name,
            state,
            str(report["input_seq"]),
            owed,
            uplink,
            str(ingest["commands"]) if ingest else "",
            again,
        )


@contextlib.contextmanager
def watching(clock: Clock, *, quiet: bool) -> Iterator[Watch]:
    """Shows the table on standard error while the block runs; gives what `run` calls with the world.

    Without a terminal nothing is drawn.
    """
    view = _View(clock)
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield view.watch
        return
    with Live(view, console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True):
        yield view.watch
