"""Store and forward: what happens after a cut, how fast writes are safe, what a fleet of message servers takes.

python benchmarks/store_forward/run.py [--quick] [--repeats N] [--json FILE]

A site writes to its own disk while its uplink is cut for 120 s (10 s with --quick); seconds are counted from the heal.
Three ways are compared in turn, each several times: this project's configuration, plain JetStream sourcing on the same
servers, and a Mosquitto bridge where Debian's mosquitto is installed. The parent's server is asked what has come;
afterwards every message is read there and its number checked.
Writes wait for fsync where a way does that; the bridge acknowledges before. "without fsync" is our way with an inbox
that does not wait for the disk, which is not safe: it shows what waiting costs. One JSON line per measurement is
appended to benchmarks/results/store_forward.jsonl; a full run writes the tables of docs/reference/store-and-forward.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))
RESULTS = REPOSITORY / "benchmarks" / "results" / "store_forward.jsonl"
PAGE = REPOSITORY / "docs" / "reference" / "store-and-forward.md"

from benchmarks.store_forward import fleet, page  # noqa: E402 # see above
from benchmarks.store_forward.ways import MOSQUITTO, WAYS, Arrivals, Ours, settled  # noqa: E402 # see above

SIZES = (200, 60_000)
"""Bytes of a message: a few rows, and the batch that gateways aim at."""
PER_S = {200: 500, 60_000: 20}
"""Messages written per second while the link is cut."""
PATIENCE_S = 300.0
REPEATS, CUT_S, GATEWAYS = 3, 120.0, 50
QUICK = {"repeats": 1, "cut_s": 10.0, "gateways": 8}
SEQUENTIAL, TOGETHER, AT_ONCE = 500, 4_000, 64


async def writes(way: Any, start: int) -> tuple[dict[str, float], int]:
    """How long one write takes until it is safe, and how many a second many at once are."""
    took = []
    number = start
    for _ in range(SEQUENTIAL):
        began = time.perf_counter()
        await way.append(number)
        took.append(time.perf_counter() - began)
        number += 1
    began = time.perf_counter()
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> None:
        async with turn:
            await way.append(n)

    await asyncio.gather(*(one(n) for n in range(number, number + TOGETHER)))
    rate = TOGETHER / (time.perf_counter() - began)
    took.sort()
    return {
        "write_p50_ms": took[len(took) // 2] * 1e3,
        "write_p99_ms": took[len(took) * 99 // 100] * 1e3,
        "writes_per_s": rate,
    }, number + TOGETHER


async def after_a_cut(way: Any, arrivals: Arrivals, start: int, cut_s: float, per_s: int) -> dict[str, Any]:
    """Writes through a cut of the uplink, heals it, and waits until all is there."""
    way.relay.cut()
    number, began = start, time.monotonic()
    while (now := time.monotonic() - began) < cut_s:
        due = start + int(now * per_s)
        if due > number:
            await asyncio.gather(*(way.append(n) for n in range(number, due)))
            number = due
        await asyncio.sleep(0.05)
    backlog = number - start
    urgent = arrivals.urgent
    way.relay.heal()
    healed = time.monotonic()
    await asyncio.gather(way.append(number), way.append_urgent(urgent))
    flowing = await settled(lambda: arrivals.highest >= start, PATIENCE_S)
    flowing = None if flowing is None else time.monotonic() - healed

    async def live() -> float | None:
        await settled(lambda: arrivals.urgent > urgent or arrivals.highest >= number, PATIENCE_S)
        return time.monotonic() - healed

    async def drained() -> float | None:
        there = await settled(lambda: arrivals.highest >= number, PATIENCE_S)
        return None if there is None else time.monotonic() - healed

    live_s, drained_s = await asyncio.gather(live(), drained())
    await way.read()
    moving = None if drained_s is None or flowing is None else drained_s - flowing
    return {
        "backlog": backlog,
        "flowing_s": flowing,
        "live_s": live_s,
        "drained_s": drained_s,
        "drained_per_s": backlog / moving if moving else None,
        **arrivals.judged(number + 1),
    }


async def one_way(kind: Any, size: int, cut_s: float) -> dict[str, Any]:
    """All of one way, once."""
    arrivals = Arrivals()
    with tempfile.TemporaryDirectory(prefix="store-forward-", ignore_cleanup_errors=True) as root:
        way = kind(Path(root), arrivals, size)
        await way.start()
        try:
            written, number = await writes(way, 0)
            await settled(lambda: arrivals.highest >= number - 1, PATIENCE_S)
            found = await after_a_cut(way, arrivals, number, cut_s, PER_S[size])
        finally:
            await way.close()
    return {**written, **found}


class WithoutFsync(Ours):
    """Our way, but the parent's inbox answers before anything is written: not safe, only to see what fsync costs."""

    name = "without fsync at the parent"

    async def start(self) -> None:
        from ganglion.messaging import provision

        plain = provision._plain

        def unsafe(name: str, *given: Any) -> dict[str, Any]:
            extra = {"persist_mode": "async"} if name == "IN_up" else {}
            return {**plain(name, *given), **extra}

        provision._plain = unsafe
        try:
            await super().start()
        finally:
            provision._plain = plain


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "load": os.getloadavg()[0],
    }


def keep(run: str, quick: bool, row: dict[str, Any]) -> dict[str, Any]:  # as on the command line
    """Appends one measurement to the results."""
    line = {"run": run, "quick": quick, **machine(), **row}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(page.line(line), flush=True)
    return line


async def measured(run: str, repeats: int, *, quick: bool) -> list[dict[str, Any]]:
    """Every way in turn, so that what else the machine does meets all alike."""
    cut_s = QUICK["cut_s"] if quick else CUT_S
    gateways = int(QUICK["gateways"]) if quick else GATEWAYS
    rows = []
    for repeat in range(repeats):
        # Large messages, and what is only there to see the cost of fsync, once: a cut takes its time.
        cases = [(size, kind) for size in SIZES for kind in WAYS if repeat == 0 or size == SIZES[0]]
        cases += [(SIZES[0], WithoutFsync)] if repeat == 0 else []
        for size, kind in cases:
            found = await one_way(kind, size, float(cut_s))
            row = {"what": "cut", "way": kind.name, "size": size, "cut_s": cut_s, "repeat": repeat}
            rows.append(keep(run, quick, {**row, **found}))
        for kind in WAYS:
            with tempfile.TemporaryDirectory(prefix="store-forward-", ignore_cleanup_errors=True) as root:
                if kind.name == "mosquitto bridge":
                    taken = await fleet.of_mosquitto(Path(root), gateways)
                else:
                    taken = await fleet.of_nats(Path(root), gateways, plain=kind is not Ours)
            row = {"what": "fleet", "way": kind.name, "gateways": gateways, "repeat": repeat}
            rows.append(keep(run, quick, {**row, **taken}))
    return rows


def main() -> None:
    """Measures, prints the bars, writes the page after a full run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="a cut of 10 s, once, and 8 gateways")
    parser.add_argument("--json", metavar="FILE", help="also write the medians to FILE")
    parser.add_argument("--repeats", type=int, metavar="N", help=f"{REPEATS} unless quick")
    options = parser.parse_args()
    repeats = options.repeats or (int(QUICK["repeats"]) if options.quick else REPEATS)
    if MOSQUITTO is None:
        print("skipped: mosquitto bridge (Debian's mosquitto is not installed)")
    run = datetime.now(UTC).isoformat(timespec="seconds")
    rows = asyncio.run(measured(run, repeats, quick=options.quick))
    medians = page.medians(rows)
    print("\n" + page.text(medians))
    for verdict in page.bars(medians):
        print(verdict)
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "medians": medians}, indent=1) + "\n")
    if not options.quick:
        page.write(rows, PAGE)


if __name__ == "__main__":
    main()
