"""The stream path side by side with its peers: filter, one-second mean and count per sensor, alarm, over MQTT.

python benchmarks/stream/run.py --install            make the peers' environments, outside the repository
python benchmarks/stream/run.py [--quick] [--json FILE] [--peers A,B] [--rates 1000,max] [--repeats N] [--seconds S]
    [--rows N]
python benchmarks/stream/run.py --late               out-of-order and late readings against DuckDB and Bytewax
python benchmarks/stream/run.py --soak 30m [--rates 20000] [--peers A]   is it flat?

One hundred sensors publish JSON with QoS 0 to Mosquitto; every peer subscribes there and publishes its alarms and
windows there. At the rate `direct` the load maker itself answers the peer as a broker would, so no broker takes part.
Broker, load maker and listener have core 0, the peer and all that it starts has core 1. Peers take turns within each
rate and repeat, each started afresh: a cold phase of two seconds, a pause, then the measured phase. Latency is from
before an alarm's reading is sent until its alarm is read, by one monotonic clock. Windows are compared with a plain
reference: a peer whose windows or counts are wrong is said to be. A peer that is missing is left out by name.

Medians over the repeats with their spread; bars at the end, met or missed. One JSON line per cell is appended to
benchmarks/results/stream.jsonl; a run that is not quick writes the tables of docs/reference/stream.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))
RESULTS = REPOSITORY / "benchmarks" / "results" / "stream.jsonl"
PAGE = REPOSITORY / "docs" / "reference" / "stream.md"

from benchmarks.stream import bars, broker, environments, page, processes, profile, table  # noqa: E402 # see above
from benchmarks.stream.cell import Case, measured  # noqa: E402 # see above
from benchmarks.stream.peers import Peer, peers  # noqa: E402 # see above
from benchmarks.stream.readings import DIRECT, MAX  # noqa: E402 # see above
from ganglion.core.errors import GanglionError  # noqa: E402 # see above
from ganglion.core.units import parse_duration_ns  # noqa: E402 # see above

RATES = (1_000, 5_000, 20_000, 45_000, MAX, DIRECT)
QUICK_RATES = (5_000, MAX)
REPEATS = 5
RATE_MIN = 100
SECONDS, QUICK_SECONDS = 10.0, 3.0
ROWS_MAX, QUICK_ROWS_MAX, ROWS_MIN = 500_000, 150_000, 10_000


def machine() -> dict[str, Any]:
    """What a figure depends on; the load is of the moment a cell begins."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in told if "model name" in line), platform.machine())
    return {"python": platform.python_version(), "machine": platform.machine(), "cpu": cpu,
            "system": platform.system(), "cpus": os.cpu_count()}  # fmt: skip


def chosen(options: argparse.Namespace, work: Path) -> list[Peer]:
    """The peers that take part; says which do not, and why."""
    every = peers()
    names = options.peers.split(",") if options.peers else [p.name for p in every]
    unknown = set(names) - {p.name for p in every}
    if unknown:
        raise SystemExit(
            f"there is no peer {', '.join(sorted(unknown))}\nknown: {', '.join(p.name for p in every)}\n"
            "next: name some of those with --peers A,B"
        )
    found = []
    for peer in every:
        if peer.name in names:
            why = peer.missing(work)
            if why:
                print(f"skipped {peer.name}: {why}", flush=True)
            else:
                found.append(peer)
    return found


def rates_of(text: str | None, *, quick: bool) -> tuple[int, ...]:
    """1000,max -> (1000, MAX)."""
    if not text:
        return QUICK_RATES if quick else RATES
    codes = {name: code for code, name in table.RATE_NAMES.items()}
    rates = []
    for part in text.split(","):
        if part not in codes and not (part.isdecimal() and int(part) >= RATE_MIN):
            raise SystemExit(
                f"{part!r} is no rate\nnext: write readings per second, from {RATE_MIN}, or {' or '.join(codes)}: "
                "--rates 5000,max"
            )
        rates.append(codes[part] if part in codes else int(part))
    return tuple(rates)


def duration_s(text: str) -> float:
    """30m -> 1800."""
    try:
        seconds = parse_duration_ns(text.removesuffix("m") + "min" if text.endswith("m") else text) / 1e9
    except GanglionError as error:
        raise SystemExit(str(error)) from error
    if seconds < 20:
        raise SystemExit(f"a soak of {text} says nothing\nnext: give it at least 20s, better 30m")
    return seconds


def fit_to_run() -> None:
    """Says what is missing for any cell, by name."""
    if broker.program() is None:
        raise SystemExit(
            "skipped stream: there is no Mosquitto\nnext: install Debian's package mosquitto, or your system's"
        )
    if (os.cpu_count() or 1) < 2:
        raise SystemExit(
            "skipped stream: one core for the load and one for the engine are needed, here is one"
        )


def one_cell(peer: Peer, case: Case, work: Path, seed: int, *, keep: bool) -> dict[str, Any]:
    """A cell's figures, or why it has none."""
    kept: dict[str, Any] = {"delete": not keep} if sys.version_info >= (3, 12) else {}
    with tempfile.TemporaryDirectory(prefix="stream-", **kept) as scratch:
        try:
            return measured(peer, case, work, Path(scratch), seed)
        except (TimeoutError, RuntimeError, ConnectionError) as error:
            log = Path(scratch) / "engine.log"
            said = log.read_text(errors="replace")[-500:] if log.exists() else ""
            return {"failed": f"{type(error).__name__}: {error}", "said": said}


def compare(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """All cells, peers in turns; each is written down at once."""
    rates = rates_of(options.rates, quick=options.quick)
    every = chosen(options, work)
    repeats = options.repeats or (1 if options.quick else REPEATS)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    rows_max = options.rows or (QUICK_ROWS_MAX if options.quick else ROWS_MAX)
    run = datetime.now(UTC).isoformat(timespec="seconds")
    facts = machine()
    versions = {p.name: p.versions(work) for p in every}
    out = options.json or (RESULTS if options.profile is None else Path(os.devnull))
    out.parent.mkdir(exist_ok=True)
    rows = []
    for repeat in range(repeats):
        for rate in rates:
            turn = repeat % len(every) if every else 0
            for peer in [*every[turn:], *every[:turn]]:
                load = os.getloadavg()[0]
                case = Case(rate, seconds, rows_max, options.profile)
                figures = one_cell(peer, case, work, repeat + 1, keep=options.keep)
                row = {"run": run, "quick": options.quick, "repeat": repeat, "peer": peer.name, "what": peer.what,
                       "durable": peer.durable, "rate": rate, "seconds": seconds, **facts, "load": load,
                       "versions": versions[peer.name], **figures}  # fmt: skip
                rows.append(row)
                print(table.line(row), flush=True)
                if options.profile is not None:
                    print(profile.text(options.profile))
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, two rates, three seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the lines to FILE instead")
    parser.add_argument("--peers", metavar="A,B", help="only these")
    parser.add_argument(
        "--rates",
        metavar="R,R",
        help="readings per second, max (through the broker), or direct (without one)",
    )
    parser.add_argument("--repeats", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, metavar="S", help="of the measured phase, at least 1")
    parser.add_argument(
        "--rows", type=int, metavar="N", help="readings of the measured phase at most, 10000 or more"
    )
    parser.add_argument("--work", type=Path, default=environments.work_directory(), metavar="DIR",
                        help="where the peers' environments are kept")  # fmt: skip
    parser.add_argument("--install", action="store_true", help="make the peers' environments and end")
    parser.add_argument("--late", action="store_true", help="out-of-order and late readings")
    parser.add_argument("--soak", metavar="TIME", help="run one peer for so long, as in 30m")
    parser.add_argument("--profile", type=Path, metavar="FILE",
                        help="sample a Python peer while it is measured, which slows it")  # fmt: skip
    parser.add_argument("--page-only", action="store_true", help="write the page from the last full results")
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats is not None and options.repeats < 1:
        raise SystemExit("nothing is measured without a repeat\nnext: --repeats 5")
    if options.seconds is not None and options.seconds < 1:
        raise SystemExit("a measured phase lasts at least a second\nnext: --seconds 10")
    if options.rows is not None and options.rows < ROWS_MIN:
        raise SystemExit(f"a measured phase has at least {ROWS_MIN} readings\nnext: --rows 2000000")
    if options.install:
        failed = environments.install(options.work)
        for name, why in failed.items():
            print(f"could not install {name}: {why}")
        raise SystemExit(1 if failed else 0)
    if options.page_only:
        page.write(RESULTS, PAGE)
        return
    fit_to_run()
    # Whoever ends this program ends what it started: a SystemExit passes through every finally.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    os.sched_setaffinity(0, {processes.LOAD_CORE})
    if options.late:
        from benchmarks.stream import late

        late.run(options, RESULTS, machine())
    elif options.soak:
        from benchmarks.stream import soak

        soak.run(options, duration_s(options.soak), RESULTS, machine())
    else:
        rows = compare(options, options.work)
        print(table.summary(rows))
        print(bars.text(bars.of(rows)))
        if not options.quick and options.json is None and options.profile is None:
            page.write(RESULTS, PAGE)


if __name__ == "__main__":
    main()
