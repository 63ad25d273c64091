"""The commands and their options."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import orjson
import typer
from rich.console import Console

from ganglion.cli.calibrate import calibrate_command
from ganglion.cli.compare import compare_command
from ganglion.cli.device import device
from ganglion.cli.health import health
from ganglion.cli.learning import model
from ganglion.cli.live import watching
from ganglion.cli.node import node
from ganglion.cli.planning import Question, answer
from ganglion.cli.replay import replay
from ganglion.cli.sim import sim
from ganglion.cli.site import site
from ganglion.core.errors import GanglionError, RunError
from ganglion.core.topology import Topology
from ganglion.core.units import parse_duration_ns, parse_size_bytes
from ganglion.device.emulation import RunsAs
from ganglion.flow.load import load_flow
from ganglion.flow.spec import FlowSpec
from ganglion.host.system import system_host
from ganglion.placement import GAP_MAX
from ganglion.sim.run import Job, load_topology, prepare
from ganglion.sim.run import run as run_world
from ganglion.sim.rundir import make_run_dir
from ganglion.sim.settings import Settings, parse_cut
from ganglion.sim.text import text as report_text

EXIT_UNSOUND = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Write a data flow once; see where each stage runs, and run it there.",
)

app.add_typer(device, name="device")
app.add_typer(node, name="node")
app.command("calibrate")(calibrate_command)
app.command("compare")(compare_command)
app.add_typer(model, name="model")
app.add_typer(sim, name="sim")
app.command()(replay)
app.add_typer(site, name="site")
app.command()(health)

FlowDir = Annotated[Path, typer.Argument(metavar="FLOW_DIR", help="A folder with flow.py and topology.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Devices = Annotated[
    int | None, typer.Option("--devices", help="This many devices in all, shared out to the gateways.")
]
Pins = Annotated[
    list[str] | None, typer.Option("--pin", help="STAGE=TIER: force a stage onto a tier. Repeatable.")
]


@app.command()
def flow(flow_dir: FlowDir, as_json: AsJson = False) -> None:
    """Print a flow as a diagram, or as its stable JSON."""
    spec = load_flow(flow_dir)
    sys.stdout.write(spec.dumps() if as_json else spec.diagram())


@app.command()
def plan(
    flow_dir: FlowDir,
    why_stage: Annotated[
        str | None,
        typer.Option(
            "--why", metavar="STAGE", help="Say what every other tier would mean for a stage, or for all."
        ),
    ] = None,
    what_if: Annotated[
        str | None,
        typer.Option(
            "--what-if", metavar="CHANGE", help='Such as "link gw7 bandwidth=1Mbit" or "node edge1 dies".'
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--compare", metavar="POLICIES", help="cloud-only,edge-only,edge-ward,greedy,fastest"),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective", metavar="WORDS", help='Such as "money, then latency" or "money + 50 EUR/t carbon".'
        ),
    ] = None,
    gap: Annotated[
        float,
        typer.Option("--gap", metavar="SHARE", help="A certified gap that is small enough for a fleet."),
    ] = GAP_MAX,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw the plan on its topology.")
    ] = None,
    devices: Devices = None,
    pin: Pins = None,
    as_json: AsJson = False,
) -> None:
    """Print where each stage runs, the predicted loop latency, bytes per day and money per month."""
    spec, topology = _given(flow_dir, devices)
    question = Question(why_stage, what_if, against, svg)
    text, value = answer(spec, topology, _pins(pin), objective, question, gap_max=gap)
    sys.stdout.write(_json(value) if as_json else text)


@app.command()
def run(
    flow_dir: FlowDir,
    duration: Annotated[str, typer.Option("--for", help="How long the devices measure.")] = "40s",
    cut: Annotated[
        list[str] | None,
        typer.Option("--cut", metavar="SITE@FROM-TO", help="Cut a site's uplink. Repeatable."),
    ] = None,
    devices: Devices = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Play these recordings: events.npz and labels.csv."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the report as JSON.")
    ] = None,
    pin: Pins = None,
    seed: Annotated[int, typer.Option("--seed", help="What the flow's generator draws from.")] = 7,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", metavar="DIR", help="Where all state goes (default: runs/FLOW-TIME)."),
    ] = None,
    devices_as: Annotated[
        str | None,
        typer.Option(
            "--devices-as",
            help="What devices run: board (the flow's image on emulated Cortex-M4F), qemu or qemu-serial (its image on "
            "boards in QEMU, at Ethernet or a serial line), firmware (its C, compiled for this machine), python (the "
            "engine). Default: board where the extra 'emulator' is installed and frames are few enough, else firmware.",
        ),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(
            "--record", metavar="SIZE", help="Gateways keep this much of their newest inputs for replay."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a flow on this machine as real processes, and report what was measured.

    Exit status 0: nothing acknowledged was lost or doubled and no reflex was missed. 1: something was. 2: it could
    not be run.
    """
    if report is not None:
        _writable(report)
    asked = Settings(
        flow_dir=flow_dir,
        run_dir=Path(),
        duration_ns=parse_duration_ns(duration),
        cuts=tuple(parse_cut(c) for c in cut or ()),
        devices=devices,
        data_dir=data,
        pins=_pins(pin),
        seed=seed,
        devices_as=_devices_as(devices_as),
        recording_bytes_max=0 if record is None else parse_size_bytes(record),
    )
    job = prepare(asked)
    directory = make_run_dir(flow_dir, run_dir)
    result = asyncio.run(_interruptible(job, replace(asked, run_dir=directory), quiet=as_json))
    content = _json(result)
    if report is not None:
        report.write_text(content, encoding="utf-8")
    sys.stdout.write(content if as_json else report_text(result))
    if not as_json:
        sys.stdout.write(f"state and logs: {directory}\n")
    if not result["ok"]:
        raise typer.Exit(EXIT_UNSOUND)


def _devices_as(text: str | None) -> RunsAs | None:
    if text is None or text in get_args(RunsAs):
        return cast("RunsAs | None", text)
    raise RunError(
        "cli.devices-as",
        f"devices cannot run as {text!r}",
        why=f"they run as {', '.join(get_args(RunsAs))}",
        next_step="name one of those with --devices-as",
    )


async def _interruptible(job: Job, settings: Settings, *, quiet: bool) -> dict[str, Any]:
    """The run; SIGINT and SIGTERM end it cleanly by cancelling it once."""
    host = system_host(settings.run_dir, settings.seed)
    loop = asyncio.get_running_loop()
    with watching(host.clock, quiet=quiet) as watch:
        running = asyncio.ensure_future(run_world(job, settings, host, watch))
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, running.cancel)
        return await running


def _given(flow_dir: Path, devices: int | None) -> tuple[FlowSpec, Topology]:
    spec, topology = load_flow(flow_dir), load_topology(flow_dir)
    return spec, topology if devices is None else topology.with_devices(devices)


def _pins(given: list[str] | None) -> dict[str, str]:
    pins: dict[str, str] = {}
    for pin in given or ():
        stage, equals, tier = pin.partition("=")
        if not (stage and equals and tier):
            raise GanglionError(
                "cli.pin",
                f"--pin {pin!r} cannot be used",
                why="it is not STAGE=TIER",
                next_step="e.g. --pin features=gateway",
            )
        pins[stage] = tier
    return pins


def _writable(path: Path) -> None:
    """Raises ``cli.report`` now, rather than after the run, when the report could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()
            path.unlink()
        else:
            path.open("a").close()
    except OSError as error:
        raise GanglionError(
            "cli.report",
            f"the report cannot be written to {path}",
            why=error.strerror or str(error),
            next_step="name another file with --report",
        ) from error


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n"


def main() -> None:
    """Entry point: one clear line for every operating error."""
    try:
        app()
    except GanglionError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[bold red]error[/] \\[{error.code}] {_plain(error.what)}")
        if error.why:
            console.print(f"  why:  {_plain(error.why)}")
        if error.next_step:
            console.print(f"  next: {_plain(error.next_step)}")
        sys.exit(EXIT_ERROR)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("interrupted; everything was stopped\n")
        sys.exit(EXIT_INTERRUPTED)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
