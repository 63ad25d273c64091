"""The benchmark's table and plot: written into docs/reference/placement.md between its two marks, and as an SVG."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
PRESSURES = ("slack", "binding", "edge-congested")
_LEGEND = (
    "Policies and flat HiGHS are given as multiples of the plan's cost; `fails` is the share of devices that a policy "
    "leaves without a place although there is one."
)
COLOURS = {"slack": "#4d7c5a", "binding": "#2f6690", "edge-congested": "#c2410c"}


def last_run(results: Path) -> list[dict[str, Any]]:
    """The rows of the last full run."""
    rows = [json.loads(text) for text in results.read_text().splitlines()]
    full = [r for r in rows if not r["quick"]]
    assert full, "there is no full run yet"
    return [r for r in full if r["run"] == full[-1]["run"]]


def line(row: dict[str, Any]) -> str:
    """One case for the terminal."""
    flat = row.get("flat")
    parts = [
        f"{row['devices']:>9,} {row['stages']} {row['pressure']:<14} {row['shape']:<7}",
        f"{row['seconds']:7.3f} s ({row['cpu_seconds']:.3f} s busy)",
        f"{row['peak_bytes'] / 1e6:5.0f} MB  gap {row['gap']:.1e}",
        *(f"{name} {_policy(p)}" for name, p in row["policies"].items()),
    ]
    if flat:
        parts.append(f"flat {_flat(flat)}")
    if "repair_ms" in row:
        parts.append(f"repair {row['repair_ms']['median']:.2f} ms")
    return "  ".join(parts)


def _policy(policy: dict[str, Any]) -> str:
    if policy["unplaced"]:
        return f"fails {policy['unplaced']:.1%}"
    return f"{policy['times']:.4g}"


def _flat(flat: dict[str, Any] | None) -> str:
    if flat is None:
        return "-"
    if flat["times"] is None:
        return f"nothing in {flat['seconds']:.0f} s"
    return f"{flat['times']:.5g} in {flat['seconds']:.1f} s"


def _without(found: dict[str, Any]) -> str:
    gap = "proved" if found["gap"] == 0 else f"gap {found['gap']:.1e}"
    return f"{found['times']:.5g}, {gap}"


def write(rows: list[dict[str, Any]], page: Path, plot: Path) -> None:
    """Puts table and plot where the documentation shows them."""
    rows = sorted(rows, key=lambda r: (r["stages"], r["shape"], PRESSURES.index(r["pressure"]), r["devices"]))
    plot.write_text(_plot(rows))
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{_tables(rows)}{END}{after}")


def _tables(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    head = (
        f"Measured {first['run'][:10]} on {first['cpus']} cores ({first['machine']}, Python {first['python']}), with a "
        f"load average from {min(r['load'] for r in rows):.0f} to {max(r['load'] for r in rows):.0f} meanwhile: "
        "elapsed times are a loaded machine's. A plan is one thread; `busy` is the processor time it took."
    )
    titles = ("devices", "stages", "pressure", "gateways", "busy", "elapsed", "peak memory", "certified gap")
    titles += ("greedy", "edge-ward", "cloud-only", "flat HiGHS, 10 s", "without HiGHS: cost, gap")
    lines = [
        head,
        "",
        "![Processor time of a plan by devices](placement.svg)",
        "",
        _LEGEND,
        "",
        f"| {' | '.join(titles)} |",
        "| ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for r in rows:
        policies = " | ".join(_policy(p) for p in r["policies"].values())
        gap = "0, proved" if r["gap"] == 0 else f"{r['gap']:.1e}"
        lines.append(
            f"| {r['devices']:,} | {r['stages']} | {r['pressure']} | {r['shape']} | "
            f"{r['cpu_seconds']:.2f} s | {r['seconds']:.2f} s | {r['peak_bytes'] / 1e6:.0f} MB | {gap} | {policies} | "
            f"{_flat(r.get('flat'))} | {_without(r['without'])} |"
        )
    lines += [
        "",
        *_bars(rows),
        "",
        "Repairs of single changes, medians in processor milliseconds; `slowest` is elapsed:",
        "",
        *_repairs(rows),
        "",
        *_verdict(rows),
        "",
    ]
    return "\n".join(lines)


def _bars(rows: list[dict[str, Any]]) -> list[str]:
    """What was to be shown, in the run's own figures."""
    million = [r for r in rows if r["devices"] == 1_000_000]
    classes = [r for r in million if r["shape"] == "classes"]
    unique = [r for r in million if r["shape"] == "unique" and r["pressure"] == "edge-congested"]
    repairs = [r["repair_ms"]["median"] for r in rows if "repair_ms" in r]
    halves = [r["repair_ms"]["by_kind"]["a link halves"] for r in rows if "repair_ms" in r]
    parts = [
        f"{sum(r['gap'] == 0 for r in rows)} of {len(rows)} plans are proved; the widest gap is {_widest(rows):.1e}."
    ]
    for title, chosen in (("few classes", classes), ("20,000 unique gateways, full edge sites", unique)):
        if chosen:
            parts.append(
                f"A million devices, {title}: at most {max(r['cpu_seconds'] for r in chosen):.2f} s of processor time "
                f"({max(r['seconds'] for r in chosen):.2f} s elapsed), gap at most {_widest(chosen):.1e}."
            )
    if repairs:
        parts.append(
            f"A repair takes at most {max(repairs):.2f} ms in the median; the slowest kind, a link of another "
            f"bandwidth, for which columns are made anew, {statistics.median(halves):.1f} ms "
            f"({max(halves):.1f} ms at most)."
        )
    return [" ".join(parts)]


def _widest(rows: list[dict[str, Any]]) -> float:
    return max(float(r["gap"]) for r in rows)


def _repairs(rows: list[dict[str, Any]]) -> list[str]:
    found = [r for r in rows if "repair_ms" in r]
    kinds = list(dict.fromkeys(k for r in found for k in r["repair_ms"]["by_kind"]))
    lines = [
        "| devices | pressure | gateways | all | " + " | ".join(kinds) + " | slowest | gap after |",
        "| ---: | --- | --- | ---: |" + " ---: |" * (len(kinds) + 2),
    ]
    for r in found:
        by = r["repair_ms"]["by_kind"]
        cells = " | ".join(f"{by[k]:.2f}" if k in by else "-" for k in kinds)
        ms = r["repair_ms"]
        case = f"| {r['devices']:,} | {r['pressure']} | {r['shape']} | {ms['median']:.2f}"
        lines.append(f"{case} | {cells} | {ms['elapsed_max']:.0f} | {ms['gap_after']:.1e} |")
    return lines


def _verdict(rows: list[dict[str, Any]]) -> list[str]:
    """Where greedy is as good, in numbers."""
    placed = [r for r in rows if not r["policies"]["greedy"]["unplaced"]]
    equal = [r for r in placed if r["policies"]["greedy"]["times"] <= 1 + max(1e-6, r["gap"])]
    near = [r for r in placed if r["policies"]["greedy"]["times"] <= 1.01]
    worst = max((r["policies"]["greedy"]["times"] for r in placed), default=1.0)
    failed = len(rows) - len(placed)
    slack = [r for r in placed if r["pressure"] == "slack"]
    text = (
        f"**Where greedy is as good.** Of {len(rows)} cases greedy (the cheapest column that fits, gateway by gateway) "
        f"is as good as the plan in {len(equal)}, within 1 % in {len(near)}, at worst {worst:.3f} times it; in "
        f"{failed} it leaves devices without any placement although one exists. With slack capacities it was as good "
        f"in {sum(r in equal for r in slack)} of {len(slack)}: there the certificate and the explanation are what a "
        "plan adds, not a saving."
    )
    return [text]


def _plot(rows: list[dict[str, Any]]) -> str:
    """Processor time over devices, both logarithmic: a panel per number of stages, a line per pressure and shape."""
    width, height, left, top, bottom, wide, between = 1040, 380, 60, 52, 46, 232, 24
    low, high = 0.01, 100.0

    def x(panel: int, devices: float) -> float:
        return left + panel * (wide + between) + (math.log10(devices) - 1) / 5 * wide

    def y(seconds: float) -> float:
        share = (math.log10(min(max(seconds, low), high)) - math.log10(low)) / math.log10(high / low)
        return height - bottom - share * (height - top - bottom)

    font = 'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {font}>',
        f'<rect width="{width}" height="{height}" fill="#fcfcfa"/>',
        f'<text x="{left}" y="20" font-size="13" font-weight="600">processor seconds of a plan, by devices</text>',
    ]
    for value in (0.01, 0.1, 1, 10, 100):
        at = f'x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end"'
        parts.append(f'<text {at} fill="#555">{value:g}</text>')
    for panel, stages in enumerate(sorted({r["stages"] for r in rows})):
        parts += _panel([r for r in rows if r["stages"] == stages], panel, stages, x, y)
    edge, place = left + 3 * (wide + between), 0
    for shape, dash in SHAPES.items():
        for pressure, colour in COLOURS.items():
            ly = top + 18 + 20 * place
            stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
            parts.append(f'<line x1="{edge}" x2="{edge + 24}" y1="{ly}" y2="{ly}" {stroke}/>')
            parts.append(f'<text x="{edge + 30}" y="{ly + 4}">{pressure}, {shape}</text>')
            place += 1
    return "\n".join([*parts, "</svg>"]) + "\n"


SHAPES = {"classes": "5 4", "unique": ""}
Scale = Callable[[float], float]


def _panel(
    rows: list[dict[str, Any]], panel: int, stages: int, x: Callable[[int, float], float], y: Scale
) -> list[str]:
    start, end = x(panel, 10), x(panel, 1_000_000)
    middle = (start + end) / 2
    parts = [f'<text x="{middle:.0f}" y="44" text-anchor="middle">{stages} stages</text>']
    for value in (0.01, 0.1, 1, 10, 100):
        ends = f'x1="{start:.0f}" x2="{end:.0f}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts.append(f'<line {ends} stroke="#e2e2dd"/>')
    for power, label in ((1, "10"), (3, "1,000"), (5, "100k"), (6, "1M")):
        at = f'x="{x(panel, 10**power):.0f}" y="{y(0.01) + 18:.0f}" text-anchor="middle"'
        parts.append(f'<text {at} fill="#555">{label}</text>')
    for shape, dash in SHAPES.items():
        for pressure, colour in COLOURS.items():
            chosen = [r for r in rows if r["shape"] == shape and r["pressure"] == pressure]
            points = sorted((r["devices"], r["cpu_seconds"]) for r in chosen)
            path = " ".join(
                f"{'L' if i else 'M'}{x(panel, d):.1f},{y(s):.1f}" for i, (d, s) in enumerate(points)
            )
            stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
            parts.append(f'<path d="{path}" fill="none" {stroke}/>')
            parts += [
                f'<circle cx="{x(panel, d):.1f}" cy="{y(s):.1f}" r="2.4" fill="{colour}"/>' for d, s in points
            ]
    return parts
