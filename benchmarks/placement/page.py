"""The benchmark's table and plot: written into docs/reference/placement.md between its two marks, and as an SVG."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
PRESSURES = ("slack", "binding", "edge-congested")
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
        f"{row['seconds']:7.3f} s  {row['peak_bytes'] / 1e6:5.0f} MB  gap {row['gap']:.1e}",
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
        f"load average of {first['load']:.0f} when it began: times on a loaded machine."
    )
    titles = ("devices", "stages", "pressure", "gateways", "time", "peak memory", "certified gap")
    titles += ("greedy", "edge-ward", "cloud-only", "flat HiGHS, 10 s")
    lines = [
        head,
        "",
        "![Time to plan by devices](placement.svg)",
        "",
        f"| {' | '.join(titles)} |",
        "| ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for r in rows:
        policies = " | ".join(_policy(p) for p in r["policies"].values())
        gap = "0, proved" if r["gap"] == 0 else f"{r['gap']:.1e}"
        lines.append(
            f"| {r['devices']:,} | {r['stages']} | {r['pressure']} | {r['shape']} | {r['seconds']:.2f} s | "
            f"{r['peak_bytes'] / 1e6:.0f} MB | {gap} | {policies} | {_flat(r.get('flat'))} |"
        )
    lines += [
        "",
        "Repairs of single changes, medians in milliseconds:",
        "",
        *_repairs(rows),
        "",
        *_verdict(rows),
        "",
    ]
    return "\n".join(lines)


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
        lines.append(f"{case} | {cells} | {ms['max']:.0f} | {ms['gap_after']:.1e} |")
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
    """Time over devices, both logarithmic: one line per pressure and shape, at 10 stages; dots for 20 and 30."""
    width, height, left, top, right, bottom = 760, 380, 64, 30, 190, 46
    low, high = 0.01, 30.0

    def x(devices: float) -> float:
        return left + (math.log10(devices) - 1) / 5 * (width - left - right)

    def y(seconds: float) -> float:
        share = (math.log10(min(max(seconds, low), high)) - math.log10(low)) / math.log10(high / low)
        return height - bottom - share * (height - top - bottom)

    font = 'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12"'
    edge = width - right
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {font}>',
        f'<rect width="{width}" height="{height}" fill="#fcfcfa"/>',
        '<text x="64" y="18" font-size="13" font-weight="600">seconds to plan, by devices</text>',
    ]
    for power in range(1, 7):
        at = f'x="{x(10**power):.0f}" y="{height - 26}" text-anchor="middle"'
        parts += [f'<text {at} fill="#555">{10**power:,}</text>']
    for value in (0.01, 0.1, 1, 10):
        ends = f'x1="{left}" x2="{edge}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts += [f'<line {ends} stroke="#e2e2dd"/>']
        parts += [
            f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value:g}</text>'
        ]
    place = 0
    for shape, dash in (("classes", "5 4"), ("unique", "")):
        for pressure, colour in COLOURS.items():
            chosen = [r for r in rows if r["shape"] == shape and r["pressure"] == pressure]
            points = sorted((r["devices"], r["seconds"]) for r in chosen if r["stages"] == 10)
            path = " ".join(f"{'L' if i else 'M'}{x(d):.1f},{y(s):.1f}" for i, (d, s) in enumerate(points))
            stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
            parts += [f'<path d="{path}" fill="none" {stroke}/>']
            for r in chosen:
                at = f'cx="{x(r["devices"]):.1f}" cy="{y(r["seconds"]):.1f}" r="{1.5 + r["stages"] / 12:.1f}"'
                parts += [f'<circle {at} fill="{colour}" fill-opacity="0.55"/>']
            ly = top + 18 + 20 * place
            parts += [f'<line x1="{edge + 14}" x2="{edge + 40}" y1="{ly}" y2="{ly}" {stroke}/>']
            parts += [f'<text x="{edge + 46}" y="{ly + 4}">{pressure}, {shape}</text>']
            place += 1
    note = top + 18 + 20 * place + 8
    parts += [f'<text x="{edge + 14}" y="{note}" fill="#555">lines: 10 stages; larger</text>']
    parts += [f'<text x="{edge + 14}" y="{note + 15}" fill="#555">dots: 20 and 30 stages</text>']
    return "\n".join([*parts, "</svg>"]) + "\n"
