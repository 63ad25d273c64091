"""The tables of docs/reference/stream.md, from the newest full run of each rate, late test and soak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.stream import bars, table
from benchmarks.stream.readings import DIRECT, MAX

BEGIN, END = "<!-- benchmark {}: begin -->", "<!-- benchmark {}: end -->"
RATE_TITLES = {
    MAX: "As fast as the broker takes them",
    DIRECT: "Fed directly, without a broker, as fast as the engine takes them",
}


def _lines(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(text) for text in results.read_text().splitlines() if text.strip()]


def newest(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The rows of the newest full run of a kind: ``cell``, ``late`` or ``soak``."""
    fitting = [r for r in rows if r.get("kind", "cell") == kind and not r.get("quick")]
    return [r for r in fitting if r["run"] == fitting[-1]["run"]] if fitting else []


def newest_by_rate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the newest full comparison that measured a rate, for every rate."""
    cells = [r for r in rows if r.get("kind", "cell") == "cell"]
    return [row for rate in dict.fromkeys(r["rate"] for r in cells) for row in
            newest([r for r in cells if r["rate"] == rate], "cell")]  # fmt: skip


def write(results: Path, page: Path) -> None:
    """Fills in each part for which there is a full run; the others stay as they are."""
    rows = _lines(results)
    text = page.read_text()
    parts = (
        ("cell", comparison, newest_by_rate(rows)),
        ("late", late, newest(rows, "late")),
        ("soak", soak, newest(rows, "soak")),
    )
    for kind, made, found in parts:
        if found:
            begin, end = BEGIN.format(kind), END.format(kind)
            before, rest = text.split(begin)
            _, after = rest.split(end)
            text = f"{before}{begin}\n{made(found)}\n{end}{after}"
    page.write_text(text)


def _head(row: dict[str, Any], loads: list[float]) -> str:
    loaded = max(loads)
    word = "a quiet machine" if loaded < 3 else "a loaded machine: only ratios within the run mean something"
    return (
        f"Measured {row['run'][:10]} on {row['cpus']} cores of {row['cpu']}, Python {row['python']}; load average "
        f"{min(loads):.1f} to {loaded:.1f} when cells began, {word}."
    )


def _comparison_head(rows: list[dict[str, Any]]) -> str:
    head = _head(rows[0], [r["load"] for r in rows])
    repeats = len({r["repeat"] for r in rows})
    return f"{head} Medians of {repeats} repeats (least .. most), {rows[0]['seconds']:g} s each."


def comparison(rows: list[dict[str, Any]]) -> str:
    """Every rate's table, who took part, and the bars; rates of different runs each say when they were measured."""
    together = len({r["run"] for r in rows}) == 1
    lines = [_comparison_head(rows), ""] if together else []
    titles = [title for title, _, _ in table.COLUMNS]
    for rate in dict.fromkeys(r for r, _ in table.cells(rows)):
        lines += [f"**{RATE_TITLES.get(rate) or f'{rate:,} readings per second offered'}**", ""]
        if not together:
            lines += [_comparison_head([r for r in rows if r["rate"] == rate]), ""]
        lines += [
            f"| peer | {' | '.join(titles)} | |",
            "| --- |" + " ---: |" * len(titles) + " --- |",
        ]
        for (at, peer), cell in table.cells(rows).items():
            if at == rate:
                parts = " | ".join(table.spread(cell, path, form) for _, path, form in table.COLUMNS)
                lines.append(f"| {peer} | {parts} | {table.verdict(cell)} |")
        lines.append("")
    lines += _who(rows)
    lines += ["", "| bar | | measured |", "| --- | --- | --- |"]
    lines += [f"| {b.name} | {bars.WORDS[b.met]} | {b.found} |" for b in bars.of(rows)]
    return "\n".join(lines)


def _who(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| peer | versions | set up as | failed cells |", "| --- | --- | --- | ---: |"]
    for peer in dict.fromkeys(r["peer"] for r in rows):
        own = [r for r in rows if r["peer"] == peer]
        found = dict.fromkeys(", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in own)
        lines.append(
            f"| {peer} | {'; '.join(found) or '-'} | {own[0]['what']} | {sum('failed' in r for r in own)} |"
        )
    return lines


def late(rows: list[dict[str, Any]]) -> str:
    """One line per engine."""
    lines = [
        f"{rows[0]['rows']:,} readings of {rows[0]['sensors']} sensors; {rows[0]['said']}.",
        "",
        "| engine | versions | windows | missing | wrong | readings lost | revisions | against the references |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for r in rows:
        versions = ", ".join(f"{k} {v}" for k, v in r["versions"].items())
        lines.append(
            f"| {r['engine']} | {versions} | {r['windows']:,} | {r['missing']:,} | {r['wrong']:,} | "
            f"{r['lost_rows']:,} ({r['lost_share']:.2%}) | {r['revisions']} | {r['verdict']} |"
        )
    return "\n".join(lines)


def soak(rows: list[dict[str, Any]]) -> str:
    """What was sampled, and the verdict by its rule."""
    lines = []
    for row in rows:
        where = f"{row['cpus']} cores of {row['cpu']}, load average {row['load']:.1f} when it began"
        lines += [
            f"{row['peer']}: {row['minutes']:.1f} minutes at {row['rate']:,}/s on {where}.",
            "",
            "| | first quarter | last quarter | most | rise | flat within | |",
            "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        for name, one in row["series"].items():
            lines.append(
                f"| {name} | {one['first']:.4g} | {one['last']:.4g} | {one['max']:.4g} | {one['rise']:+.3g} | "
                f"{one['bound']:.3g} | {'flat' if one['flat'] else 'NOT FLAT'} |"
            )
        words = ("flat" if row["flat"] else "NOT FLAT") + (", disturbed" if row["disturbed"] else "")
        kept = f"the sink's rows, which the flow keeps, took {row['kept_mb']:.1f} MB"
        lines += ["", f"Lost {row['lost']}, {words}; {kept}.", ""]
    return "\n".join(lines).rstrip()
