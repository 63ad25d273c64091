"""Reaction time, with and without an uplink, and what the uplinks carry: the feeder example, 4 and 40 devices in turn.

python benchmarks/feeder/run.py [--quick] [--json FILE] [--data DIR]

Each repeat runs 4 devices, then 40, for 40 s with a 15 s cut of gw1's uplink. Quoted are medians over the repeats with
their spread, and the ratio of the islanded to the connected p99 of the same run and the same gateway set. One JSON line
per run, with facts about the machine, is appended to benchmarks/results/feeder.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results" / "feeder.jsonl"
FLEETS = (4, 40)


def one_run(devices: int, *, quick: bool, data: str | None) -> dict[str, Any]:
    """The report of one run; raises when the run is not sound."""
    length, cut = ("16s", "gw1@4s-12s") if quick else ("40s", "gw1@12s-27s")
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "ganglion.cli", "run", "examples/feeder", "--json"]
        command += ["--for", length, "--cut", cut, "--devices", str(devices), "--run-dir", f"{scratch}/run"]
        if data:
            command += ["--data", data]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"a run with {devices} devices ended with status {done.returncode}:\n{done.stderr}{done.stdout}"
        )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def figures(report: dict[str, Any]) -> dict[str, float]:
    """The numbers that are compared."""
    connected, islanded = report["reaction_ms_connected"], report["reaction_ms_islanded"]
    return {
        "reaction_p50_ms": report["reaction_ms"]["p50"],
        "reaction_p99_ms": report["reaction_ms"]["p99"],
        "connected_p50_ms": connected["p50"],
        "connected_p99_ms": connected["p99"],
        "islanded_p50_ms": islanded["p50"],
        "islanded_p99_ms": islanded["p99"],
        "islanded_to_connected_p50": islanded["p50"] / connected["p50"],
        "islanded_to_connected_p99": islanded["p99"] / connected["p99"],
        "heal_to_drained_s": report["heal_to_drained_s"]["gw1"],
        "uplink_share_of_raw": report["bytes"]["gateway_uplinks_share_of_raw"],
        "recall": report["detection"]["recall"],
        "false_trips": report["detection"]["false_trips"],
        "lost": report["readings"]["lost"],
        "duplicated": report["readings"]["duplicated"],
        "out_of_order": report["readings"]["out_of_order"],
    }


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    return {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system(),
            "cpus": os.cpu_count()}  # fmt: skip


def main() -> None:
    """Runs, prints a table, appends the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short repeat")
    parser.add_argument("--json", metavar="FILE", help="also write the medians to FILE")
    parser.add_argument("--data", metavar="DIR", help="play these recordings instead of generated ones")
    options = parser.parse_args()
    rows: dict[int, list[dict[str, float]]] = {n: [] for n in FLEETS}
    RESULTS.parent.mkdir(exist_ok=True)
    for repeat in range(1 if options.quick else 5):
        for devices in FLEETS:
            row = figures(one_run(devices, quick=options.quick, data=options.data))
            rows[devices].append(row)
            line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "devices": devices, "repeat": repeat,
                    "quick": options.quick, **machine(), **row}  # fmt: skip
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    medians = {str(n): {k: statistics.median(r[k] for r in rows[n]) for k in rows[n][0]} for n in FLEETS}
    print(f"{'median (min .. max)':28}" + "".join(f"{n} devices".rjust(30) for n in FLEETS))
    for name in rows[FLEETS[0]][0]:
        cells = []
        for n in FLEETS:
            values = [r[name] for r in rows[n]]
            cells.append(
                f"{statistics.median(values):.3g} ({min(values):.3g} .. {max(values):.3g})".rjust(30)
            )
        print(f"{name:28}" + "".join(cells))
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "medians": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
