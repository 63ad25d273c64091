"""A plan drawn on its topology, as SVG: tiers from left to right, what runs at each node, what goes up each link.

Gateways that do the same are drawn once, with their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from ganglion.core.topology import Topology
from ganglion.core.units import format_bytes, format_duration
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS
from ganglion.placement.plan import Aggregate, LinkUse, NodeUse, Plan

ROWS_MAX = 14
"""Kinds of gateway that are drawn; more are counted."""
STAGES_MAX = 12
GATEWAYS_MAX = 300
"""Of more the kinds are drawn, not the gateways."""
KINDS_MAX = 6
"""Kinds of gateway of such a fleet, and of edge site."""
_WIDTH, _COLUMN, _BOX, _LINE, _TOP = 1240, 310, 220, 15, 96
_PAPER, _INK, _FAINT, _FULL = "#fcfcfa", "#1f2430", "#8a8f99", "#c2410c"
_TIMES = "\N{MULTIPLICATION SIGN}"
_FOOT = (
    f"bold: part of a reflex · {_TIMES}n: so many that do the same · "
    "a link's width and colour: its share of bandwidth (orange above 60 %)"
)
_FILL = {"device": "#e7f0e4", "gateway": "#e3ecf5", "edge": "#f3ead9", "cloud": "#ece5f3"}


@dataclass(slots=True)
class _Card:
    """One node, or several that do the same."""

    title: str
    tier: str
    stages: list[str]
    use: NodeUse
    reflexes: set[str]
    many: int = 1
    top: float = 0.0
    up: LinkUse | None = None
    parent: str = ""
    names: list[str] = field(default_factory=list)
    label: str = ""
    """What is written at its top, instead of its title."""

    @property
    def height(self) -> float:
        return 40 + _LINE * (min(len(self.stages), STAGES_MAX + 1) + 1)


def picture(plan: Plan, spec: FlowSpec, topology: Topology) -> str:
    """The SVG text. Of more than `GATEWAYS_MAX` gateways the kinds are drawn, the most frequent ones."""
    if plan.summary.gateways > GATEWAYS_MAX and plan.aggregate is not None:
        cards, left_out = _kinds(plan.aggregate(), spec)
    else:
        cards, left_out = _cards(plan, spec, topology.expanded()), ""
    columns: dict[str, list[_Card]] = {t: [c for c in cards.values() if c.tier == t] for t in TIERS}
    height = max(_lay(column) for column in columns.values())
    for tier in ("gateway", "edge", "cloud"):
        _centre(columns, tier, cards, height)
    height = max(c.top + c.height for c in cards.values()) + 60
    body = [_head(plan, spec)]
    body += [_text(_left(t), _TOP - 14, t, size=13, weight=600) for t in TIERS if columns[t]]
    body += [_wire(card, cards) for card in cards.values() if card.parent]
    body += [_box(card) for card in cards.values()]
    body.append(_text(24, height - 18, _FOOT + left_out, size=12, fill=_FAINT))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" font-family="system-ui, DejaVu Sans, sans-serif">'
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>' + "".join(body) + "</svg>\n"
    )


def _cards(plan: Plan, spec: FlowSpec, topology: Topology) -> dict[str, _Card]:
    """Node -> its card; nodes that do the same share one."""
    leading = {n for act in spec.reflexes for n in (*spec.ancestors(act.id), act.id)}
    runs: dict[str, dict[str, set[str]]] = {u.node: {} for u in plan.nodes}
    for p in plan.placements:
        runs[p.node].setdefault(p.stage, set()).add(p.path)
    links = {u.link.partition(">")[0]: u for u in plan.links}
    cards: dict[str, _Card] = {}
    same: dict[tuple[object, ...], _Card] = {}
    for use in plan.nodes:
        path = use.node.removeprefix("device:")
        place = path if use.tier == "device" else topology.site_of(use.node)
        site = path.rpartition("-")[0] if use.tier == "device" else place
        above = topology.sites[site].parent if use.tier != "device" else site
        parent = "" if above is None else topology.node_id(above)
        stages = [s.id for s in spec.stages if s.id in runs[use.node]]
        group = path.rpartition("-")[2] if use.tier == "device" else topology.sites[site].node.class_name
        near = topology.sites[site].parent if use.tier in ("device", "gateway") else site
        key = (use.tier, group, near, tuple(stages), *_siblings(topology, site, runs))
        if use.tier in ("device", "gateway") and key in same:
            same[key].many += 1
            same[key].names.append(use.node)
            cards[use.node] = same[key]
            continue
        card = _Card(use.node, use.tier, stages, use, leading, up=links.get(place), parent=parent)
        same[key] = cards[use.node] = card
    kept = _few(cards)
    return {name: card for name, card in kept.items() if card.title == name}


def _kinds(found: Sequence[Aggregate], spec: FlowSpec) -> tuple[dict[str, _Card], str]:
    """Cards of a fleet's kinds of node, and how many gateways are of kinds that are not drawn."""
    leading = {n for act in spec.reflexes for n in (*spec.ancestors(act.id), act.id)}
    kept: set[str] = set()
    cards: dict[str, _Card] = {}
    gateways = [one for one in found if one.tier == "gateway"]
    edges = [one for one in found if one.tier == "edge"]
    drawn = {one.name for one in (*gateways[:KINDS_MAX], *edges[:KINDS_MAX])}
    for one in found:
        if one.tier in ("gateway", "edge") and one.name not in drawn:
            continue
        if one.tier != "cloud" and one.parent not in kept:
            continue
        kept.add(one.name)
        cards[one.name] = _Card(
            one.name, one.tier, list(one.stages), one.use, leading, one.many, up=one.up, parent=one.parent
        )
        if one.tier == "device":  # a line leads to its gateways
            cards[one.name].label = one.name.partition(" ")[0]
    missed = sum(one.many for one in gateways if one.name not in kept)
    return cards, f" · {missed:,} gateways of other kinds are not drawn" if missed else ""


def _siblings(
    topology: Topology, site: str, runs: Mapping[str, Mapping[str, set[str]]]
) -> tuple[object, ...]:
    """What the gateway and all its devices run: gateways are alike only when all of that is."""
    if topology.sites[site].tier != "gateway":
        return ()
    nodes = [topology.node_id(site)]
    nodes += [n for g in topology.devices if (n := f"device:{site}-{g}") in runs]
    return tuple((n.rpartition("-")[2] if "-" in n else "", tuple(runs.get(n, ()))) for n in nodes)


def _few(cards: dict[str, _Card]) -> dict[str, _Card]:
    """No more than `ROWS_MAX` kinds of gateway and of devices."""
    found: dict[str, _Card] = {}
    seen: dict[str, int] = dict.fromkeys(TIERS, 0)
    for name, card in cards.items():
        if card.title == name:
            seen[card.tier] += 1
        if seen[card.tier] <= ROWS_MAX:
            found[name] = card
    return found


def _lay(column: list[_Card]) -> float:
    top = float(_TOP)
    for card in column:
        card.top = top
        top += card.height + 18
    return top


def _centre(columns: dict[str, list[_Card]], tier: str, cards: dict[str, _Card], height: float) -> None:
    """Each node beside the middle of what is below it, without overlaps."""
    floor = float(_TOP)
    for card in sorted(columns[tier], key=lambda c: _middle(c, cards, height)):
        card.top = max(floor, _middle(card, cards, height) - card.height / 2)
        floor = card.top + card.height + 18


def _middle(card: _Card, cards: dict[str, _Card], height: float) -> float:
    below = [c.top + c.height / 2 for c in cards.values() if c.parent == card.title]
    return sum(below) / len(below) if below else (height + _TOP) / 2


def _left(tier: str) -> float:
    return 24 + TIERS.index(tier) * _COLUMN


def _head(plan: Plan, spec: FlowSpec) -> str:
    sure = "proved optimal" if plan.proved else f"not proved: at most {plan.gap:.2%} above the best"
    line = f"{plan.money.total:,.2f} {plan.currency} per month, {sure} ({plan.objective})"
    loops = plan.summary.loops
    if loops:
        worst = max(loops, key=lambda x: x.predicted_ns / x.deadline_ns)
        line += (
            f"; slowest reflex {format_duration(worst.predicted_ns)} of {format_duration(worst.deadline_ns)}"
        )
    return _text(24, 34, f"flow {spec.name}", size=18, weight=600) + _text(24, 56, line, size=13)


def _box(card: _Card) -> str:
    x, shown = _left(card.tier), card.stages[:STAGES_MAX]
    frame = (
        f'<rect x="{x}" y="{card.top:.1f}" width="{_BOX}" height="{card.height:.1f}" rx="7" '
        f'fill="{_FILL[card.tier]}" stroke="#c9ccd3"/>'
    )
    parts = [frame]
    title = (card.label or card.title.removeprefix("device:")) + (
        f"  {_TIMES}{card.many:,}" if card.many > 1 else ""
    )
    parts.append(_text(x + 10, card.top + 20, title, size=13, weight=600))
    y = card.top + 20 + _LINE
    for stage in shown:
        parts.append(_text(x + 10, y, stage, size=12, weight=600 if stage in card.reflexes else 400))
        y += _LINE
    if len(card.stages) > len(shown):
        parts.append(_text(x + 10, y, f"and {len(card.stages) - len(shown)} more", size=12, fill=_FAINT))
        y += _LINE
    if not shown:
        parts.append(_text(x + 10, y, "passes on", size=12, fill=_FAINT))
        y += _LINE
    use = card.use
    share = use.cpus / use.cpus_max if use.cpus_max else 0.0
    memory = f"{format_bytes(use.memory_bytes)} of {format_bytes(use.memory_bytes_max)}"
    parts.append(
        _text(x + 10, y, f"cpu {share:.1%} · {memory}", size=11, fill=_FULL if share > 0.9 else _FAINT)
    )
    return "".join(parts)


def _wire(card: _Card, cards: dict[str, _Card]) -> str:
    above = cards.get(card.parent)
    if above is None:  # its gateway is drawn with others that do the same
        above = next((c for c in cards.values() if card.parent in c.names), None)
    if above is None or card.up is None:
        return ""
    x1, y1 = _left(card.tier) + _BOX, card.top + card.height / 2
    x2, y2 = _left(above.tier), above.top + above.height / 2
    use, bend = card.up, (x1 + x2) / 2
    width = 1.5 + 6 * min(use.share, 1.0)
    colour = _FULL if use.share > 0.6 else "#9aa3b2"
    line = (
        f'<path d="M{x1},{y1:.1f} C{bend},{y1:.1f} {bend},{y2:.1f} {x2},{y2:.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="{width:.1f}"/>'
    )
    label = f"{format_bytes(use.bytes_per_day)}/d"
    return line + _text(x1 + 6, y1 - 6, label, size=11, fill=_FAINT)


def _text(x: float, y: float, text: str, *, size: int, weight: int = 400, fill: str = _INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{fill}">'
        f"{escape(text)}</text>"
    )
