"""A fleet's plan written out as far as someone asks: one node's assignment, or every placement, loop, link, node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ganglion.core.errors import PlacementInfeasible
from ganglion.core.topology import Topology, member
from ganglion.flow.assignment import ALL, Assignment
from ganglion.flow.stages import TIERS
from ganglion.placement import cost, figures
from ganglion.placement.columns import Floats
from ganglion.placement.decompose import FleetSolution, final_picks
from ganglion.placement.demand import Key, demand, merged_stages
from ganglion.placement.figures import Ground
from ganglion.placement.fleet import Run
from ganglion.placement.measured import uplink_row_bytes
from ganglion.placement.objective import QUANTITIES
from ganglion.placement.plan import Detail, Loop, Money, Placement
from ganglion.placement.routes import HOURS_PER_MONTH, SECONDS_PER_MONTH, Spot, Wire, routes

PLACEMENTS_MAX = 100_000
"""Stages on paths that are written out at once; nodes one by one have no limit."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """``many`` gateways of a kind take the same columns: face -> column."""

    picks: dict[str, int]
    many: int


class Expansion:
    """What a `FleetSolution` says about each site, device group and stage."""

    def __init__(self, solution: FleetSolution, selectivities: Mapping[str, float]) -> None:
        self.solution = solution
        self._selectivities = selectivities
        self.terrain = solution.terrain
        self.taken = self._taken()

    @cached_property
    def patterns(self) -> list[dict[int, list[Pattern]]]:
        """Per block, per kind: its patterns."""
        return [self._patterns(b) for b in range(len(self.terrain.fleet.blocks))]

    def _taken(self) -> dict[str, Floats]:
        """Face -> devices that take each of its columns."""
        found = {name: np.zeros(len(t.cost)) for name, t in self.solution.tables.items()}
        for block, batches, plan in zip(
            self.terrain.fleet.blocks, self.terrain.batches, self.solution.blocks, strict=True
        ):
            for batch, picks in zip(batches, final_picks(batches, plan), strict=True):
                counts = np.repeat(batch.counts, batch.many, axis=0) * block.many
                for t, name in enumerate(batch.faces):
                    found[name] += np.bincount(picks[:, t], weights=counts[:, t], minlength=len(found[name]))
        return found

    def _patterns(self, block: int) -> dict[int, list[Pattern]]:
        """Kind -> its patterns, in the order in which its gateways take them."""
        found: dict[int, list[Pattern]] = {}
        plan = self.solution.blocks[block]
        for batch, picks in zip(
            self.terrain.batches[block], final_picks(self.terrain.batches[block], plan), strict=True
        ):
            kinds = np.repeat(batch.kinds, batch.many)
            rows, many = np.unique(np.column_stack([kinds, picks]), axis=0, return_counts=True)
            for row, number in zip(rows.tolist(), many.tolist(), strict=True):
                columns = dict(zip(batch.faces, row[1:], strict=True))
                found.setdefault(row[0], []).append(Pattern(columns, number))
        return found

    def ranks_of(self, face: str, column: int) -> dict[str, int]:
        """Stage -> rank in a column."""
        table = self.solution.tables[face].columns
        return dict(zip(self.solution.stencils[face].stages, table.ranks[column].tolist(), strict=True))

    def tiers(self) -> dict[str, dict[str, int]]:
        """Stage -> tier -> devices whose rows it works on there."""
        devices = self.terrain.fleet.devices
        found: dict[str, dict[str, int]] = {
            s: {TIERS[r]: devices} for s, r in self.solution.merged_ranks.items()
        }
        for face, taken in self.taken.items():
            for column in np.flatnonzero(taken):
                for stage, rank in self.ranks_of(face, int(column)).items():
                    tally = found.setdefault(stage, {})
                    tally[TIERS[rank]] = tally.get(TIERS[rank], 0) + round(float(taken[column]))
        order = [s.id for s in self.terrain.spec.stages]
        return {s: found[s] for s in order if s in found}

    @staticmethod
    def _counts(counts: tuple[int, ...]) -> list[int]:
        return [c for c in counts if c]

    def gateways(self) -> Iterator[tuple[str, str | None, dict[str, int], tuple[int, ...]]]:
        """(gateway, edge site, face -> column, devices of each group) of every gateway, written out."""
        fleet = self.terrain.fleet
        for block, kinds in zip(fleet.blocks, self.patterns, strict=True):
            for (edge, number), runs in zip(block.edges, block.runs, strict=True):
                name = None if block.edge is None else member(edge, number, fleet.alike[edge])
                for kind, stretches in enumerate(runs):
                    sites = (s for run in stretches for s in fleet.sites_of(run))
                    counts = block.kinds[kind].counts
                    for pattern in kinds[kind]:
                        for _ in range(pattern.many):
                            yield next(sites), name, pattern.picks, counts

    def loops(self) -> tuple[Loop, ...]:
        """The slowest chosen loop of every reflex on every face."""
        found = []
        for face, table in self.solution.tables.items():
            way = self.terrain.ground.ways[face]
            used = np.flatnonzero(self.taken[face])
            acts = self.terrain.spec.reflexes
            for a, act in enumerate(acts):
                fixed, within = cost.loop_fixed_ns(way), act.within_ns
                share = table.columns.sums[used, -len(acts) + a].max() if len(used) else 0.0
                found.append(Loop(act.id, face, round(fixed + share * max(within - fixed, 0)), within))
        return tuple(found)

    def money(self) -> Money:
        """The month's bill: what is decided, and what is paid whatever is decided."""
        sums = dict(zip(QUANTITIES, self.solution.sums[: len(QUANTITIES)].tolist(), strict=True))
        links, energy, fixed = sums["links"], sums["energy"], 0.0
        topology = self.terrain.topology
        for spot, number in self._spots():
            energy += (
                number * spot.node_class.watts_idle / 1000 * HOURS_PER_MONTH * topology.electricity_per_kwh
            )
            fixed += number * spot.node_class.price_per_month
        for wire, number in self._wires():
            moved = number * cost.idle_bytes_per_s(wire) * SECONDS_PER_MONTH
            links += moved * (wire.per_byte - wire.energy_per_byte)
            energy += moved * wire.energy_per_byte
        return Money(links, energy, sums["cpu"], fixed)

    def _spots(self) -> Iterator[tuple[Spot, int]]:
        ways, found = self.terrain.ground.ways, self.terrain.faces
        for name, path in found.paths.items():
            yield ways[name].spots[0], path.count
        for b, block in enumerate(self.terrain.fleet.blocks):
            for k, kind in enumerate(block.kinds):
                way = ways[next(name for name in found.of[b][k] if name is not None)]
                yield way.spots[1], kind.many * block.many
                if k == 0 and 2 in way.spots:
                    yield way.spots[2], block.many
        yield next(iter(ways.values())).spots[3], 1

    def _wires(self) -> Iterator[tuple[Wire, int]]:
        ways, found = self.terrain.ground.ways, self.terrain.faces
        for b, block in enumerate(self.terrain.fleet.blocks):
            for k, kind in enumerate(block.kinds):
                way = ways[next(name for name in found.of[b][k] if name is not None)]
                for wire in way.wires:
                    if wire.lower == 1:
                        yield wire, kind.many * block.many
                    elif wire.lower == 2 and k == 0:
                        yield wire, block.many

    # -- written out -----------------------------------------------------------------------------------
    def detail(self) -> Detail:
        """Everything, for every path; raises ``placement.size`` when that is more than can be written out."""
        terrain = self.terrain
        groups = len(terrain.topology.devices)
        if terrain.fleet.gateways * groups * len(terrain.spec.stages) > PLACEMENTS_MAX:
            raise PlacementInfeasible(
                "placement.size",
                f"the plan of {terrain.fleet.gateways} gateways is not written out at once",
                why=f"at most {PLACEMENTS_MAX} stages on paths are",
                next_step="ask for one node: plan.assignment(NODE), or for the summary: plan.tiers()",
            )
        topology = terrain.topology.expanded()
        ways = routes(topology)
        origins = {path.id: path.count for path in topology.paths()}
        row_bytes = uplink_row_bytes(terrain.spec, topology)
        loads = demand(terrain.spec, origins, self._selectivities, row_bytes)
        ground = Ground(terrain.spec, topology, ways, loads)
        chosen = self._all_ranks(topology)
        return written_out(ground, {key: chosen[key] for key in ground.loads})

    def _all_ranks(self, topology: Topology) -> dict[Key, int]:
        names = list(topology.devices)
        found: dict[Key, int] = {(s, ALL): r for s, r in self.solution.merged_ranks.items()}
        for gateway, _, picks, counts in self.gateways():
            present = [name for name, count in zip(names, counts, strict=True) if count]
            for (face, column), group in zip(picks.items(), present, strict=True):
                for stage, rank in self.ranks_of(face, column).items():
                    found[stage, f"{gateway}-{group}"] = rank
        return found

    def assignment(self, node: str) -> Assignment:
        """One node's part, without writing out the others'. Raises `KeyError` for a node that is not there."""
        where = self._locate(node)
        if where is None:
            return self.detail().assigned[node]
        gateway, edge, picks, counts = where
        terrain = self.terrain
        ground = self._around(gateway, edge, counts)
        names = list(terrain.topology.devices)
        present = [name for name, count in zip(names, counts, strict=True) if count]
        ranks: dict[Key, int] = {(s, ALL): r for s, r in self.solution.merged_ranks.items()}
        for (face, column), group in zip(picks.items(), present, strict=True):
            for stage, rank in self.ranks_of(face, column).items():
                ranks[stage, f"{gateway}-{group}"] = rank
        return figures.assignments(ground, ranks)[node]

    def _locate(self, node: str) -> tuple[str, str | None, dict[str, int], tuple[int, ...]] | None:
        """The gateway of a node (its own, or of its devices); None for the nodes that are above several."""
        terrain = self.terrain
        if node.startswith("device:"):
            wanted = node.removeprefix("device:").rpartition("-")[0]
        else:
            own = {s.node.id: name for name, s in terrain.topology.sites.items() if s.node.id is not None}
            wanted = own.get(node, node)
        for block, kinds in zip(terrain.fleet.blocks, self.patterns, strict=True):
            for (edge, number), runs in zip(block.edges, block.runs, strict=True):
                for kind, stretches in enumerate(runs):
                    at = _place(wanted, stretches, terrain.fleet.alike)
                    if at is None:
                        continue
                    name = None if block.edge is None else member(edge, number, terrain.fleet.alike[edge])
                    for pattern in kinds[kind]:
                        if at < pattern.many:
                            return wanted, name, pattern.picks, block.kinds[kind].counts
                        at -= pattern.many
        if self._is_site(wanted):
            return None
        raise KeyError(node)

    def _is_site(self, site: str) -> bool:
        if site in self.terrain.topology.sites:
            return True
        stem, _, number = site.rpartition("x")
        return number.isdigit() and int(number) < self.terrain.fleet.alike.get(stem, 0)

    def _around(self, gateway: str, edge: str | None, counts: tuple[int, ...]) -> Ground:
        """The ground of one gateway's paths alone, with the merged stages' spots."""
        topology = self.terrain.topology
        stem = gateway if gateway in topology.sites else gateway.rpartition("x")[0]
        sites = {s: topology.sites[s] for s in topology.chain(stem)}
        above = topology.sites[stem].parent
        renamed = {}
        for site_id, site in sites.items():
            name = gateway if site_id == stem else edge if site.tier == "edge" and edge else site_id
            parent = site.parent
            if site_id == stem and edge is not None and above is not None:
                parent = edge
            renamed[name] = site.model_copy(update={"parent": parent, "count": 1})
        groups = {
            name: group.model_copy(update={"count": count, "gateways": (gateway,), "counts": None})
            for (name, group), count in zip(topology.devices.items(), counts, strict=True)
            if count
        }
        small = topology.model_copy(update={"sites": renamed, "devices": groups})
        ways = routes(small)
        if merged_stages(self.terrain.spec):
            ways[ALL] = self.terrain.ground.ways[ALL]
        origins = {path.id: path.count for path in small.paths()}
        spec = self.terrain.spec
        loads = demand(spec, origins, self._selectivities, uplink_row_bytes(spec, topology))
        return Ground(spec, small, ways, loads)


def _place(site: str, runs: tuple[Run, ...], alike: Mapping[str, int]) -> int | None:
    """How many gateways of the runs come before ``site``; None when it is not among them."""
    before = 0
    for run in runs:
        many = alike[run.site]
        stem, _, number = site.rpartition("x")
        at = 0 if many == 1 and site == run.site else None
        if many > 1 and stem == run.site and number.isdigit() and str(int(number)) == number:
            at = int(number)
        if at is not None and run.first <= at < run.last:
            return before + at - run.first
        before += run.last - run.first
    return None


def written_out(ground: Ground, ranks: Mapping[Key, int]) -> Detail:
    """Every figure of chosen ranks."""
    placements = tuple(
        Placement(stage, path, TIERS[rank], ground.ways[path].spots[rank].node)
        for (stage, path), rank in ranks.items()
    )
    return Detail(
        placements,
        figures.loops(ground, ranks),
        figures.links(ground, ranks),
        figures.nodes(ground, ranks),
        figures.assignments(ground, ranks),
    )
