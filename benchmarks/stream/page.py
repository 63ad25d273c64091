"""The tables of docs/reference/stream.md, between their marks: from the newest full comparison, late test and soak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.stream import bars, table

BEGIN, END = "<!-- benchmark {}: begin -->", "<!-- benchmark {}: end -->"


def _lines(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(text) for text in results.read_text().splitlines() if text.strip()]


def newest(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The rows of the newest full run of a kind: ``cell``, ``late`` or ``soak``."""
    fitting = [r for r in rows if r.get("kind", "cell") == kind and not r.get("quick")]
    return [r for r in fitting if r["run"] == fitting[-1]["run"]] if fitting else []


def write(results: Path, page: Path) -> None:
    """Fills in each part for which there is a full run; the others stay as they are."""
    rows = _lines(results)
    text = page.read_text()
    for kind, made in (("cell", comparison), ("late", late), ("soak", soak)):
        found = newest(rows, kind)
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


def comparison(rows: list[dict[str, Any]]) -> str:
    """Every rate's table, who took part, and the bars."""
    first = rows[0]
    repeats = len({r["repeat"] for r in rows})
    head = _head(first, [r["load"] for r in rows])
    lines = [f"{head} Medians of {repeats} repeats (least .. most), {first['seconds']:g} s each.", ""]
    titles = [title for title, _, _ in table.COLUMNS]
    for rate in dict.fromkeys(r for r, _ in table.cells(rows)):
        lines += [
            f"**{table.rate_name(rate)} readings per second offered**"
            if rate
            else "**As fast as the broker takes them**",
            "",
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
        versions = ", ".join(f"{k} {v}" for k, v in own[0]["versions"].items()) or "-"
        lines.append(f"| {peer} | {versions} | {own[0]['what']} | {sum('failed' in r for r in own)} |")
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
