"""A topology collapsed to classes: equal devices, gateways and edge sites are counted, not listed.

A `Block` is an edge site (or none: gateways that hang on the cloud) with the kinds of gateway under it; edge sites
whose blocks are equal are one block. A kind of gateway is its own class and what devices of which groups it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from ganglion.core.topology import Path, Site, Topology, member

_NONE = (0, 0)

Counts = tuple[int, ...]
"""Devices of each group of the topology, in its order."""


@dataclass(frozen=True, slots=True)
class Run:
    """Gateways ``first`` to ``last`` (not included) of the sites alike that ``site`` stands for."""

    site: str
    first: int
    last: int


@dataclass(slots=True)
class Kind:
    """Gateways of one block that do not differ: ``site`` is an example of them."""

    site: str
    counts: Counts
    many: int = 0


Runs = tuple[tuple[Run, ...], ...]
"""Per kind, the gateways it consists of."""


@dataclass(frozen=True, slots=True)
class Block:
    """``edge``: an example of its edge sites, None for the cloud; ``many`` of them, each with all of ``kinds``.

    ``runs``: per edge site alike, per kind, the gateways it consists of, in their order.
    """

    edge: str | None
    edges: tuple[tuple[str, int], ...]
    kinds: tuple[Kind, ...]
    runs: tuple[tuple[tuple[Run, ...], ...], ...]

    @property
    def many(self) -> int:
        return len(self.edges)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The blocks, and how many sites each site of the topology stands for."""

    topology: Topology
    blocks: tuple[Block, ...]
    alike: dict[str, int]
    signs: dict[str, int]
    """Site -> number of its class."""

    @property
    def gateways(self) -> int:
        """Gateways with devices."""
        return sum(block.many * sum(kind.many for kind in block.kinds) for block in self.blocks)

    @property
    def devices(self) -> int:
        return sum(group.count for group in self.topology.devices.values())

    def sites_of(self, run: Run) -> Iterator[str]:
        """The names of a run's gateways, written out."""
        for number in range(run.first, run.last):
            yield member(run.site, number, self.alike[run.site])


def collapse(topology: Topology) -> Fleet:
    """The classes of a topology; gateways without devices are left out."""
    alike = topology.alike()
    pieces = _pieces(topology, alike)
    signs = signatures(topology)
    under: dict[str, list[str]] = {}
    for site_id in pieces:
        parent = topology.sites[site_id].parent
        assert parent is not None
        under.setdefault(parent, []).append(site_id)
    found: dict[Hashable, tuple[str | None, tuple[Kind, ...], list[tuple[str, int]], list[Runs]]] = {}
    for parent, gateways in under.items():
        site = topology.sites[parent]
        edge = parent if site.tier == "edge" else None
        for number in range(alike[parent]):
            kinds, runs = _kinds(topology, signs, gateways, pieces, number)
            if not kinds:
                continue
            key = (edge and signs[parent], *((signs[k.site], k.counts, k.many) for k in kinds))
            if key not in found:
                found[key] = (edge, kinds, [], [])
            found[key][2].append((parent, number))
            # The same kinds in another order of the file are kinds in the same order here: they are sorted.
            found[key][3].append(runs)
    blocks = tuple(Block(edge, tuple(e), kinds, tuple(runs)) for edge, kinds, e, runs in found.values())
    return Fleet(topology, blocks, alike, signs)


def _pieces(topology: Topology, alike: dict[str, int]) -> dict[str, list[tuple[int, int, Counts]]]:
    """Gateway -> stretches (first, last, devices of each group at each) of the sites it stands for."""
    tables: list[dict[str, tuple[int, int]]] = []
    for group in topology.devices.values():
        table = {}
        if group.counts is not None:
            table = {g: (n, 0) for g, n in zip(group.gateways, group.counts, strict=True) if n}
        else:
            each, rest = divmod(group.count, sum(alike[g] for g in group.gateways))
            for gateway in group.gateways:
                one_more = min(rest, alike[gateway])
                rest -= one_more
                if each or one_more:
                    table[gateway] = (each, one_more)
        tables.append(table)
    found = {}
    for site_id, site in topology.sites.items():
        if site.tier != "gateway":
            continue
        shares = [t.get(site_id, _NONE) for t in tables]
        total = alike[site_id]
        if total == 1:
            counts = tuple(each + more for each, more in shares)
            if any(counts):
                found[site_id] = [(0, 1, counts)]
            continue
        if not any(any(s) for s in shares):
            continue
        cuts = sorted({0, total, *(more for _, more in shares)})
        found[site_id] = [
            (first, last, tuple(each + (first < more) for each, more in shares))
            for first, last in pairwise(cuts)
        ]
    return found


def _kinds(
    topology: Topology,
    signs: Mapping[str, int],
    gateways: list[str],
    pieces: dict[str, list[tuple[int, int, Counts]]],
    number: int,
) -> tuple[tuple[Kind, ...], tuple[tuple[Run, ...], ...]]:
    """The kinds of gateway at the ``number``-th of the parents alike, and which gateways those are."""
    kinds: dict[tuple[int, Counts], Kind] = {}
    runs: dict[tuple[int, Counts], list[Run]] = {}
    for site_id in gateways:
        site = topology.sites[site_id]
        start, end = number * site.count, (number + 1) * site.count
        sign = signs[site_id]
        for first, last, counts in pieces[site_id]:
            low, high = max(first, start), min(last, end)
            if low < high and any(counts):
                key = (sign, counts)
                if key not in kinds:
                    kinds[key], runs[key] = Kind(site_id, counts), []
                kinds[key].many += high - low
                runs[key].append(Run(site_id, low, high))
    ordered = sorted(kinds)
    return tuple(kinds[k] for k in ordered), tuple(tuple(runs[k]) for k in ordered)


def signatures(topology: Topology) -> dict[str, int]:
    """Site -> number of its class: all about it but its name and its parent."""
    known: dict[Hashable, int] = {}
    return {name: known.setdefault(signature(site), len(known)) for name, site in topology.sites.items()}


def signature(site: Site) -> Hashable:
    """Everything about a site but its name and its parent."""
    uplink = site.uplink
    return (
        site.node.class_name,
        site.node.memory_bytes,
        site.jurisdiction,
        site.carbon_g_per_kwh,
        site.refuses,
        uplink
        and (
            uplink.latency_ns,
            uplink.bandwidth_bit_per_s,
            uplink.price_per_gb,
            uplink.energy_nj_per_byte,
            uplink.duty_max,
        ),
    )


@dataclass(frozen=True, slots=True)
class Faces:
    """What devices face: a path of each group at each class of gateway under each class of edge site."""

    paths: dict[str, Path]
    """Path id -> an example of the paths that are the same but for their number of devices, which is the sum of all."""
    of: tuple[tuple[tuple[str | None, ...], ...], ...]
    """Per block, per kind, per group: the id, None where the kind has no such devices."""


def faces(fleet: Fleet) -> Faces:
    """The different ways up that devices have."""
    topology = fleet.topology
    totals: Counter[str] = Counter()
    example: dict[tuple[str, int, int | None], tuple[str, str]] = {}
    table = []
    signs = fleet.signs
    rows_known: dict[Hashable, tuple[str | None, ...]] = {}
    for block in fleet.blocks:
        above = None if block.edge is None else signs[block.edge]
        rows = []
        for kind in block.kinds:
            key = (above, signs[kind.site], tuple(map(bool, kind.counts)))
            if key not in rows_known:
                site = kind.site
                rows_known[key] = tuple(
                    example.setdefault((group, signs[site], above), (site, f"{site}-{group}"))[1]
                    if count
                    else None
                    for group, count in zip(topology.devices, kind.counts, strict=True)
                )
            row = rows_known[key]
            number = kind.many * block.many
            for name, count in zip(row, kind.counts, strict=True):
                if name is not None:
                    totals[name] += count * number
            rows.append(row)
        table.append(tuple(rows))
    paths = {}
    for (group, _, _), (site, name) in example.items():
        chain: dict[str, str] = {topology.sites[s].tier: s for s in topology.chain(site)}
        nodes = {tier: topology.node_id(s) for tier, s in chain.items()}
        paths[name] = Path(
            name, site, group, totals[name], dict(chain), {"device": f"device:{name}", **nodes}
        )
    return Faces(paths, tuple(table))


def shared_ranks(fleet: Fleet) -> tuple[bool, bool]:
    """Whether all devices are under one gateway, and under one edge site: merged stages may run only above all."""
    one = len(fleet.blocks) == 1 and fleet.blocks[0].many == 1
    block = fleet.blocks[0]
    return one and sum(k.many for k in block.kinds) == 1, one and block.edge is not None
