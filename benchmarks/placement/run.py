"""Placement from 10 to 1,000,000 devices: time, memory, certified gap, cost against simpler policies, repair times.

python benchmarks/placement/run.py [--quick] [--json FILE]

Every case runs in a process of its own: the topology is made, then planned three times (the median counts; slow ones
once), once more without HiGHS, then simpler policies and repairs. Flat HiGHS is the whole fleet as one program with ten
seconds, for up to a thousand devices. Both elapsed and processor time are kept: a plan is one thread, so on a machine
with other work processor time says more. The table and the plot in docs/reference/placement.md are written by this
program. One JSON line per case is appended to benchmarks/results/placement.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 # the number of threads is read at import

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))
RESULTS = REPOSITORY / "benchmarks" / "results" / "placement.jsonl"
PAGE = REPOSITORY / "docs" / "reference" / "placement.md"
PLOT = REPOSITORY / "docs" / "reference" / "placement.svg"

from benchmarks.placement import fleets, page  # noqa: E402 # see above
from ganglion.core.errors import PlacementInfeasible  # noqa: E402 # see above
from ganglion.placement import compare, parse_objective, plan, standing, survey, worth  # noqa: E402 # see above

SIZES = (1_000_000, 100_000, 10, 1_000, 10_000, 100)
STAGES = (10, 20, 30)
PRESSURES = ("slack", "binding", "edge-congested")
SHAPES = ("classes", "unique")
POLICIES = ("greedy", "edge-ward", "cloud-only")
SLOW_SECONDS = 8.0
FLAT_SECONDS = 10.0
FLAT_SIZES = (10, 100, 1_000)
REPAIRS = 30


def one(case: dict[str, Any]) -> dict[str, Any]:
    """One case, in this process."""
    spec = fleets.flow_of(case["stages"])
    topology = fleets.fleet_of(case["devices"], case["pressure"], case["shape"])
    started_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times, busy = [], []
    found = None
    for _ in range(3):
        start, began = time.perf_counter(), time.process_time()
        found = plan(spec, topology)
        times.append(time.perf_counter() - start)
        busy.append(time.process_time() - began)
        if times[-1] > SLOW_SECONDS:
            break
    assert found is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    best = worth(found)
    result = {
        **case,
        "seconds": statistics.median(times),
        "seconds_all": times,
        "cpu_seconds": statistics.median(busy),
        "peak_bytes": peak,
        "before_bytes": started_bytes,
        "gap": found.gap,
        "cost": best,
        "gateways": found.summary.gateways,
        "policies": _policies(spec, topology, best),
        "without": _without(spec, topology, best),
    }
    if case["devices"] in FLAT_SIZES:
        result["flat"] = _flat(spec, topology, best)
    if case["devices"] >= 1_000 and case["stages"] == 10:
        result["repair_ms"] = _repairs(spec, topology)
    return result


def _policies(spec: Any, topology: Any, best: float) -> dict[str, Any]:
    terrain = survey(spec, topology, {}, {}, parse_objective("money", topology.currency))
    found = {}
    for name in POLICIES:
        outcome = compare(terrain, name)
        found[name] = {"times": outcome.worth / best, "unplaced": outcome.unplaced / outcome.devices}
    return found


def _without(spec: Any, topology: Any, best: float) -> dict[str, Any]:
    """The plan where HiGHS cannot be imported."""
    kept, sys.modules["highspy"] = sys.modules.get("highspy"), None  # type: ignore[assignment]  # makes imports fail
    began = time.process_time()
    try:
        found = plan(spec, topology)
    finally:
        sys.modules["highspy"] = kept  # type: ignore[assignment]  # it was imported, or is imported anew
        if kept is None:
            del sys.modules["highspy"]
    return {"cpu_seconds": time.process_time() - began, "times": worth(found) / best, "gap": found.gap}


def _flat(spec: Any, topology: Any, best: float) -> dict[str, Any]:
    """The whole as one program, with the same rules, for ten seconds."""
    import highspy  # only here: the planner has its own door to it

    from ganglion.placement import formulation, planner, solver  # the parts, not what is for users

    formulation.COLUMNS_MAX = 10**7
    start = time.perf_counter()
    built = formulation.build(planner.lay_out(spec, topology.expanded(), {}), {})
    costs = built.level({"links": 1.0, "energy": 1.0, "cpu": 1.0})
    highs = solver._prepared(built.program, costs, built.zeros(built.rules), built.program.rows)
    highs.setOptionValue("time_limit", FLAT_SECONDS)
    highs.run()
    info = highs.getInfo()
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return {"seconds": time.perf_counter() - start, "times": None, "gap": None}
    value, bound = float(info.objective_function_value), float(info.mip_dual_bound)
    return {
        "seconds": time.perf_counter() - start,
        "times": value / best,
        "gap": (value - bound) / max(abs(value), 1e-12),
    }


def _repairs(spec: Any, topology: Any) -> dict[str, Any]:
    """Processor milliseconds of proposing and accepting single changes, by kind; the certified gap after all."""
    stand = standing(spec, topology)
    rng = np.random.default_rng(3)
    names = list(stand.gateways)
    edges = list(dict.fromkeys(g.edge for g in stand.gateways.values()))
    times: dict[str, list[float]] = {}
    slowest: list[float] = []

    def timed(kind: str, propose: Any) -> None:
        start, began = time.perf_counter(), time.process_time()
        try:
            stand.accept(propose())
        except PlacementInfeasible:
            kind = "refused"
        slowest.append((time.perf_counter() - start) * 1e3)
        times.setdefault(kind, []).append((time.process_time() - began) * 1e3)

    for turn in range(REPAIRS):
        name = names[int(rng.integers(len(names)))]
        timed("a device joins", lambda name=name: stand.devices(name, "camera", 1))
        other = names[int(rng.integers(len(names)))]
        target = edges[int(rng.integers(len(edges)))]
        timed("a gateway re-homes", lambda other=other, target=target: stand.rehomed([other], target))
        cut = names[int(rng.integers(len(names)))]
        site = stand.gateways[cut].site
        rate = site.uplink.bandwidth_bit_per_s // 2 + turn
        halved = site.model_copy(
            update={"uplink": site.uplink.model_copy(update={"bandwidth_bit_per_s": rate})}
        )
        timed("a link halves", lambda cut=cut, halved=halved: stand.altered(cut, halved))
        timed("a link dies", lambda cut=cut: stand.cut_off([cut]))
        timed("it heals", lambda cut=cut: stand.healed([cut]))
        dead = names.pop(int(rng.integers(len(names)))) if len(names) > 5 else None
        if dead is not None:
            timed("a gateway dies", lambda dead=dead: stand.gone([dead]))
    every = [t for kind in times.values() for t in kind]
    medians = {kind: statistics.median(ts) for kind, ts in times.items()}
    return {
        "median": statistics.median(every),
        "max": max(every),
        "elapsed_max": max(slowest),
        "by_kind": medians,
        "gap_after": stand.gap,
    }


def cases(*, quick: bool) -> list[dict[str, Any]]:
    """All, or a few of each sort."""
    sizes = (100_000, 1_000, 10) if quick else SIZES
    stages = (10,) if quick else STAGES
    return [
        {"devices": d, "stages": s, "pressure": p, "shape": h}
        for d in sizes
        for s in stages
        for h in SHAPES
        for p in PRESSURES
    ]


def main() -> None:
    """Runs the cases, each in its own process, and writes what they measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--page-only", action="store_true", help="write the page from the last full results")
    options = parser.parse_args()
    if options.one is not None:
        sys.stdout.write(json.dumps(one(json.loads(options.one))) + "\n")
        return
    if options.page_only:
        page.write(page.last_run(RESULTS), PAGE, PLOT)
        return
    run = datetime.now(UTC).isoformat(timespec="seconds")
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "machine": platform.machine()}
    rows = []
    RESULTS.parent.mkdir(exist_ok=True)
    for case in cases(quick=options.quick):
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), "--one", json.dumps(case)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        )
        if done.returncode:
            print(case, "failed:", done.stderr.strip().splitlines()[-1][:300])
            continue
        about = {"run": run, "quick": options.quick, **machine, "load": os.getloadavg()[0]}
        row = {**about, **json.loads(done.stdout.splitlines()[-1])}
        rows.append(row)
        print(page.line(row), flush=True)
        with (options.json or RESULTS).open("a") as file:
            file.write(json.dumps(row) + "\n")
    if not options.quick and options.json is None:
        page.write(rows, PAGE, PLOT)


if __name__ == "__main__":
    main()
