"""The tables: for the terminal, and in docs/reference/store-and-forward.md between its two marks."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
CUT = {
    "flowing_s": ("flowing", "{:.2f} s"),
    "live_s": ("live", "{:.2f} s"),
    "drained_s": ("drained", "{:.1f} s"),
    "drained_per_s": ("messages/s", "{:,.0f}"),
    "lost": ("lost", "{:.0f}"),
    "doubled": ("doubled", "{:.0f}"),
    "out_of_order": ("out of order", "{:.0f}"),
    "write_p50_ms": ("write p50", "{:.2f} ms"),
    "write_p99_ms": ("p99", "{:.2f} ms"),
    "writes_per_s": ("writes/s", "{:,.0f}"),
}
FLEET = {
    "memory_bytes": ("memory, MB", "{:.0f}"),
    "memory_bytes_each": ("each, MB", "{:.1f}"),
    "idle_cpus": ("idle, % of one core", "{:.1f}"),
}
SCALE = {"memory_bytes": 1e-6, "memory_bytes_each": 1e-6, "idle_cpus": 100}
LIVE_BAR_S, DRAIN_BAR_PER_S = 2.0, 10_000


def line(row: dict[str, Any]) -> str:
    """One measurement for the terminal."""
    about = f"{row['size']:>6} B" if row["what"] == "cut" else f"{row['gateways']:>3} gateways"
    names = CUT if row["what"] == "cut" else FLEET
    cells = [f"{title} {_cell(name, form, [row[name]])}" for name, (title, form) in names.items()]
    return f"{row['way']:<28}{about:<13}" + "  ".join(cells)


def _cell(name: str, form: str, values: list[Any]) -> str:
    known = [v * SCALE.get(name, 1) for v in values if v is not None]
    if not known:
        return "never"
    middle = form.format(statistics.median(known))
    if len(known) == 1 or min(known) == max(known):
        return middle
    return f"{middle} ({form.format(min(known))} to {form.format(max(known))})"


def _groups(rows: list[dict[str, Any]], what: str) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["what"] == what:
            found.setdefault((row["way"], row.get("size", row.get("gateways", 0))), []).append(row)
    return found


def medians(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """``way, size`` -> name -> median; None where it never happened."""
    found = {}
    for what, names in (("cut", CUT), ("fleet", FLEET)):
        for (way, size), group in _groups(rows, what).items():
            values = {n: [r[n] for r in group if r[n] is not None] for n in names}
            found[f"{what}, {way}, {size}"] = {
                n: statistics.median(v) if v else None for n, v in values.items()
            }
    return found


def text(middle: dict[str, dict[str, Any]]) -> str:
    """The medians for the terminal."""
    lines = []
    for key, values in middle.items():
        names = CUT if key.startswith("cut") else FLEET
        cells = [f"{names[n][0]} {_cell(n, names[n][1], [v])}" for n, v in values.items()]
        lines.append(f"{key:<46}" + "  ".join(cells))
    return "\n".join(lines)


def bars(middle: dict[str, dict[str, Any]]) -> list[str]:
    """Each bar, met or missed."""
    found = []
    for size in (200, 60_000):
        ours = middle[f"cut, ganglion, {size}"]
        live, drain = ours["live_s"], ours["drained_per_s"]
        met = live is not None and live <= LIVE_BAR_S
        found.append(f"live within {LIVE_BAR_S:g} s, {size} B: {live:.2f} s: {'met' if met else 'MISSED'}")
        told = "never" if drain is None else f"{drain:,.0f} messages/s, {drain * size / 1e6:,.1f} MB/s"
        met = drain is not None and drain >= DRAIN_BAR_PER_S
        found.append(
            f"drained at {DRAIN_BAR_PER_S:,} messages/s, {size} B: {told}: {'met' if met else 'MISSED'}"
        )
        wrong = sum(ours[n] for n in ("lost", "doubled", "out_of_order"))
        found.append(f"nothing lost, doubled, out of order, {size} B: {'met' if wrong == 0 else 'MISSED'}")
    return found


def write(rows: list[dict[str, Any]], page: Path) -> None:
    """Puts the tables where the documentation shows them."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{_tables(rows)}\n{END}{after}")


def _tables(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    head = (
        f"Measured {first['run'][:10]} on {first['cpus']} cores ({first['machine']}, Python {first['python']}), load "
        f"average {first['load']:.1f} when it began; medians (least to most) of what was repeated, ways in turn; "
        f"repeats: {1 + max(r['repeat'] for r in rows)}."
    )
    lines = [
        head,
        "",
        *_table(rows, "cut", CUT, "message"),
        "",
        *_table(rows, "fleet", FLEET, "gateways"),
        "",
        "Bars:",
        "",
        *(f"- {bar}" for bar in bars(medians(rows))),
    ]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]], what: str, names: dict[str, tuple[str, str]], about: str) -> list[str]:
    lines = [
        f"| way | {about} | " + " | ".join(title for title, _ in names.values()) + " |",
        "| --- | ---: |" + " ---: |" * len(names),
    ]
    for (way, size), group in sorted(_groups(rows, what).items(), key=lambda g: (g[0][1], g[0][0])):
        cells = [_cell(n, form, [r[n] for r in group]) for n, (_, form) in names.items()]
        told = f"{size:,} B" if what == "cut" else f"{size}"
        lines.append(f"| {way} | {told} | " + " | ".join(cells) + " |")
    return lines
