"""A fleet's plan that stands while the fleet changes: only what a change touches is solved again.

A change of a gateway is one choice at the prices of its edge site; only where that site is full then, gateways under it
are moved, as few as make room. The certificate goes along: at unchanged prices every other gateway's bound holds.
Nothing is changed until a `Patch` is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ganglion.core.errors import PlacementInfeasible
from ganglion.core.topology import Path, Site, Topology, member
from ganglion.flow.assignment import ALL
from ganglion.flow.stages import TIERS
from ganglion.placement import rules
from ganglion.placement.blocks import Pool, mend
from ganglion.placement.columns import SHARED, Floats, enumerate_columns, merged_sums, stencil
from ganglion.placement.decompose import FleetSolution, limits_left
from ganglion.placement.demand import demand
from ganglion.placement.expansion import Expansion, Pattern
from ganglion.placement.figures import Ground
from ganglion.placement.fleet import Block, Counts, signature
from ganglion.placement.gateways import Batch, Choice, Table, choose
from ganglion.placement.measured import uplink_row_bytes
from ganglion.placement.patches import Gateway, Move, Patch, nothing_fits
from ganglion.placement.routes import route
from ganglion.placement.solver import OutOfBudget

_SLACK = 1e-9
_ENDLESS = 1e12
STEPS = (1.0, 2.0, 5.0, 20.0, 1e3)
"""Multiples of an edge site's prices at which its gateways are asked what else they could do."""


@dataclass(slots=True)
class _Edge:
    site: Site | None
    gateways: dict[str, None]
    used: Floats
    limit: Floats
    prices: Floats


class Standing:
    """The gateways of a planned fleet one by one, and what each shares with others."""

    def __init__(
        self, solution: FleetSolution, selectivities: Mapping[str, float], pins: Mapping[str, str]
    ) -> None:
        self._solution, self._selectivities, self._pins = solution, dict(selectivities), dict(pins)
        self._topology = solution.terrain.topology
        self._tables, self._stencils = dict(solution.tables), dict(solution.stencils)
        fixed = merged_sums(solution.terrain.ground, solution.merged_ranks)
        self._gateway_limit, self._edge_limit, self._cloud_limit = limits_left(fixed)
        terrain = solution.terrain
        row_bytes = uplink_row_bytes(terrain.spec, self._topology)
        one = demand(terrain.spec, {"one": 1}, self._selectivities, row_bytes)
        self._loads = {stage: load for (stage, path), load in one.items() if path == "one"}
        self._faces: dict[object, str] = {}
        self._edges: dict[str | None, _Edge] = {}
        self.gateways: dict[str, Gateway] = {}
        self._read()
        self._cloud_used = np.sum([e.used[3:] for e in self._edges.values()], axis=0)

    def _read(self) -> None:
        terrain, solution = self._solution.terrain, self._solution
        sites = self._topology.sites
        for block, plan in zip(terrain.fleet.blocks, solution.blocks, strict=True):
            for edge, number in block.edges:
                if block.edge is None:
                    self._edges[None] = _Edge(None, {}, np.zeros(5), np.full(3, _ENDLESS), np.zeros(3))
                else:
                    name = member(edge, number, terrain.fleet.alike[edge])
                    self._edges[name] = _Edge(sites[edge], {}, np.zeros(5), self._edge_limit, plan.prices)
        for path in terrain.faces.paths.values():
            edge_site = self._edge_site(path.sites.get("edge"), sites)
            self._faces[path.group, signature(sites[path.gateway]), edge_site and signature(edge_site)] = (
                path.id
            )
        patterns = Expansion(solution, self._selectivities).patterns
        for b, block in enumerate(terrain.fleet.blocks):
            self._read_block(block, patterns[b], self._bounds(terrain.batches[b], solution.blocks[b].prices))

    def _bounds(self, batches: Sequence[Batch], prices: Floats) -> dict[int, float]:
        """Kind -> the bound of one of its gateways at the prices."""
        found: dict[int, float] = {}
        every = np.concatenate([prices, self._solution.cloud_prices])
        for batch in batches:
            choice = choose(batch, [self._tables[f] for f in batch.faces], every, self._gateway_limit)
            found.update(zip(batch.kinds.tolist(), choice.bound.tolist(), strict=True))
        return found

    def _read_block(
        self, block: Block, kinds: Mapping[int, list[Pattern]], bounds: Mapping[int, float]
    ) -> None:
        fleet = self._solution.terrain.fleet
        for (edge, number), runs in zip(block.edges, block.runs, strict=True):
            name = None if block.edge is None else member(edge, number, fleet.alike[edge])
            for kind, stretches in enumerate(runs):
                sites = (s for run in stretches for s in fleet.sites_of(run))
                site, counts = self._topology.sites[block.kinds[kind].site], block.kinds[kind].counts
                for pattern in kinds[kind]:
                    faces, picks = tuple(pattern.picks), tuple(pattern.picks.values())
                    cost, above = self._measured(faces, picks, counts)
                    for _ in range(pattern.many):
                        self._put(
                            Gateway(next(sites), site, name, counts, faces, picks, cost, above, bounds[kind])
                        )

    @staticmethod
    def _edge_site(name: str | None, sites: Mapping[str, Site]) -> Site | None:
        return None if name is None else sites[name]

    @property
    def cost(self) -> float:
        """The objective's first level, of all that gateways and their devices decide."""
        return sum(g.cost for g in self.gateways.values())

    @property
    def gap(self) -> float:
        """How much dearer than the best the plan may be now."""
        bound = sum(g.bound for g in self.gateways.values())
        bound -= sum(float(e.prices @ e.limit) for e in self._edges.values())
        bound -= float(self._solution.cloud_prices @ self._cloud_limit)
        return max(0.0, self.cost - bound) / max(abs(self.cost), 1e-12)

    # -- changes ---------------------------------------------------------------------------------------
    def devices(self, gateway: str, group: str, more: int) -> Patch:
        """``more`` devices of a group (fewer, when negative) at a gateway."""
        old = self.gateways[gateway]
        place = list(self._topology.devices).index(group)
        count = old.counts[place] + more
        assert count >= 0, f"{gateway} has only {old.counts[place]} devices of {group}"
        counts = (*old.counts[:place], count, *old.counts[place + 1 :])
        return self._touched([self._best(old.name, old.site, old.edge, counts)])

    def altered(self, gateway: str, site: Site) -> Patch:
        """The gateway is as ``site`` says: another node, uplink, jurisdiction."""
        old = self.gateways[gateway]
        return self._touched([self._best(old.name, site, old.edge, old.counts)])

    def rehomed(self, gateways: Iterable[str], edge: str | None) -> Patch:
        """The gateways' parent is another edge site, or the cloud (None)."""
        olds = [self.gateways[name] for name in gateways]
        return self._touched([self._best(g.name, g.site, edge, g.counts) for g in olds])

    def cut_off(self, gateways: Iterable[str]) -> Patch:
        """The gateways cannot be reached: nothing of theirs may move, and their reflexes need nothing from above."""
        names = tuple(gateways)
        after = {name: replace(self.gateways[name], reachable=False) for name in names}
        return Patch({name: self.gateways[name] for name in names}, after, (), 0.0, names)

    def healed(self, gateways: Iterable[str]) -> Patch:
        """They are reachable again, and placed as well as it can be now."""
        return self._touched(
            [self._best(g.name, g.site, g.edge, g.counts) for g in map(self.gateways.get, gateways) if g]
        )

    def gone(self, gateways: Iterable[str]) -> Patch:
        """The gateways are no more, and neither are their devices."""
        names = tuple(gateways)
        before = {name: self.gateways[name] for name in names}
        return Patch(before, dict.fromkeys(names), (), -sum(g.cost for g in before.values()))

    def under(self, edge: str | None) -> tuple[str, ...]:
        """The gateways of an edge site."""
        return tuple(self._edges[edge].gateways)

    def topology(self) -> Topology:
        """The topology as it is now, each gateway written out."""
        old, alike = self._topology, self._solution.terrain.fleet.alike
        sites = {old.cloud: old.sites[old.cloud]}
        for site_id, site in old.sites.items():
            if site.tier == "edge":
                names = [member(site_id, n, alike[site_id]) for n in range(alike[site_id])]
                sites |= {name: site.model_copy(update={"count": 1}) for name in names}
        for gateway in self.gateways.values():
            parent = old.cloud if gateway.edge is None else gateway.edge
            sites[gateway.name] = gateway.site.model_copy(update={"parent": parent, "count": 1})
        groups = {}
        for place, (name, group) in enumerate(old.devices.items()):
            shares = {g.name: g.counts[place] for g in self.gateways.values() if g.counts[place]}
            if shares:
                gateways, counts = tuple(shares), tuple(shares.values())
                groups[name] = group.model_copy(
                    update={"gateways": gateways, "counts": counts, "count": sum(counts)}
                )
        return old.model_copy(update={"sites": sites, "devices": groups})

    def tiers(self) -> dict[tuple[str, str], str]:
        """(stage, path) -> tier, for all gateways."""
        found: dict[tuple[str, str], str] = {
            (s, ALL): TIERS[r] for s, r in self._solution.merged_ranks.items()
        }
        for gateway in self.gateways.values():
            for (group, stage), rank in self._ranks(gateway).items():
                found[stage, f"{gateway.name}-{group}"] = TIERS[rank]
        return found

    def accept(self, patch: Patch) -> None:
        """Makes it so."""
        for name, old in patch.before.items():
            assert self.gateways.get(name) is old, "the fleet changed since the patch was made"
        for old in patch.before.values():
            if old is not None:
                edge = self._edges[old.edge]
                edge.used = edge.used - old.above
                del edge.gateways[old.name]
                del self.gateways[old.name]
                self._cloud_used = self._cloud_used - old.above[3:]
        for new in patch.after.values():
            if new is not None:
                self._put(new)
                self._cloud_used = self._cloud_used + new.above[3:]

    # -- one gateway -----------------------------------------------------------------------------------
    def _put(self, gateway: Gateway) -> None:
        self.gateways[gateway.name] = gateway
        edge = self._edges[gateway.edge]
        edge.gateways[gateway.name] = None
        edge.used = edge.used + gateway.above

    def _batch(self, faces: tuple[str, ...], counts: list[list[int]]) -> Batch:
        number = len(counts)
        return Batch(faces, np.arange(number), np.array(counts, dtype=float), np.ones(number, dtype=np.int64))

    def _prices(self, edge: str | None) -> Floats:
        return np.concatenate([self._edges[edge].prices, self._solution.cloud_prices])

    def _best(self, name: str, site: Site, edge: str | None, counts: Counts) -> Gateway:
        """The best choice at the edge site's prices; raises ``placement.infeasible``."""
        present = [c for c in counts if c]
        if not present:
            return Gateway(name, site, edge, counts, (), (), 0.0, np.zeros(5), 0.0)
        faces = tuple(
            self._face(group, site, edge)
            for group, count in zip(self._topology.devices, counts, strict=True)
            if count
        )
        tables = [self._tables[f] for f in faces]
        if not all(len(t.cost) for t in tables):
            raise nothing_fits(name)
        found = choose(self._batch(faces, [present]), tables, self._prices(edge), self._gateway_limit)
        if np.isinf(found.cost[0]):
            raise nothing_fits(name)
        picks = tuple(int(c) for c in found.picks[0])
        return Gateway(
            name,
            site,
            edge,
            counts,
            faces,
            picks,
            float(found.cost[0]),
            found.above[0],
            float(found.bound[0]),
        )

    def _measured(
        self, faces: tuple[str, ...], picks: tuple[int, ...], counts: Counts
    ) -> tuple[float, Floats]:
        """What given columns cost, and take above."""
        cost, above = 0.0, np.zeros(5)
        for face, pick, count in zip(faces, picks, (c for c in counts if c), strict=True):
            cost += count * float(self._tables[face].cost[pick])
            above = above + count * self._tables[face].above[pick]
        return cost, above

    def _face(self, group: str, site: Site, edge: str | None) -> str:
        """The face of a group's devices there; made when there was none like it."""
        above = self._edges[edge].site
        key = (group, signature(site), above and signature(above))
        if key in self._faces:
            return self._faces[key]
        name = f"face{len(self._faces)}-{group}"
        topology, terrain = self._topology, self._solution.terrain
        cloud = topology.cloud
        sites = {cloud: topology.sites[cloud]}
        chain = {"gateway": "gateway", "cloud": cloud}
        if above is not None:
            sites["edge"] = above.model_copy(update={"parent": cloud, "count": 1})
            chain["edge"] = "edge"
        parent = cloud if above is None else "edge"
        sites["gateway"] = site.model_copy(update={"parent": parent, "count": 1})
        small = topology.model_copy(update={"sites": sites})
        path = Path(name, "gateway", group, 1, chain, {"device": f"device:{name}", **chain})
        ways = {name: route(small, path), ALL: terrain.ground.ways[ALL]}
        loads = {(stage, name): load for stage, load in self._loads.items()}
        ground = Ground(terrain.spec, small, ways, loads)
        barred = rules.forbidden(terrain.spec, ways, ground.loads, self._pins)
        face = stencil(ground, name, barred, self._solution.merged_ranks)
        weights = self._solution.weights
        active = np.ones(SHARED.stop - SHARED.start, dtype=bool)
        active[3:] = [bool(p) for p in self._prices(edge)]
        columns = enumerate_columns(face, weights, active)
        self._stencils[name], self._faces[key] = face, name
        self._tables[name] = Table.make(columns, weights)
        return name

    # -- edge sites ------------------------------------------------------------------------------------
    def _touched(self, changed: Sequence[Gateway]) -> Patch:
        """The patch of changed gateways, and of others that make room for them."""
        after: dict[str, Gateway | None] = {g.name: g for g in changed}
        before: dict[str, Gateway | None] = {g.name: self.gateways.get(g.name) for g in changed}
        for edge in dict.fromkeys(g.edge for g in changed):
            used = self._edges[edge].used[:3]
            for old in before.values():
                used = used - old.above[:3] if old is not None and old.edge == edge else used
            for new in changed:
                used = used + new.above[:3] if new.edge == edge else used
            if (used > self._edges[edge].limit + _SLACK).any():
                for new in self._make_room(edge, {g.name: g for g in changed if g.edge == edge}, set(before)):
                    before.setdefault(new.name, self.gateways.get(new.name))
                    after[new.name] = new
        money = sum(g.cost for g in after.values() if g) - sum(g.cost for g in before.values() if g)
        moves = tuple(m for name in after for m in self._moves(before[name], after[name]))
        return Patch(before, after, moves, money)

    def _make_room(
        self, edge: str | None, changed: Mapping[str, Gateway], leaving: set[str]
    ) -> list[Gateway]:
        """The gateways of a full edge site that have to move: as few and as cheap as what they are asked allows."""
        there = self._edges[edge]
        stay = [self.gateways[n] for n in there.gateways if n not in leaving]
        everyone = [*stay, *changed.values()]
        cost, above = [np.array([g.cost for g in everyone])], [np.array([g.above for g in everyone])]
        asked: list[dict[int, tuple[tuple[int, ...], float, Floats]]] = []
        prices = there.prices if there.prices.any() else self._guess(everyone, there.limit)
        for step in STEPS:
            options = self._ask(everyone, step * prices)
            asked.append(options)
            cost.append(np.array([options[i][1] if i in options else g.cost for i, g in enumerate(everyone)]))
            above.append(
                np.array([options[i][2] if i in options else g.above for i, g in enumerate(everyone)])
            )
        pool = Pool(np.arange(len(everyone)), [], cost, above)
        chosen = np.zeros(len(everyone), np.int64)
        try:
            mend(pool, chosen, there.limit)
        except OutOfBudget as error:
            raise PlacementInfeasible(
                "placement.budget",
                f"no repair was found that makes room at {edge}",
                why=str(error),
                next_step="plan the whole fleet anew: ganglion plan FLOW_DIR",
            ) from error
        found = []
        for i, option in enumerate(chosen.tolist()):
            if option and i in asked[option - 1]:
                picks, value, taken = asked[option - 1][i]
                found.append(replace(everyone[i], picks=picks, cost=value, above=taken))
        return found

    @staticmethod
    def _guess(gateways: Sequence[Gateway], limit: Floats) -> Floats:
        """Prices of an edge site that had room: all its gateways' money for the whole of it."""
        return np.full(3, max(sum(abs(g.cost) for g in gateways), 1e-9)) / np.maximum(limit, 1e-9)

    def _ask(
        self, gateways: Sequence[Gateway], prices: Floats
    ) -> dict[int, tuple[tuple[int, ...], float, Floats]]:
        """What every reachable gateway would do at the prices: its columns, their cost, what they take above."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, gateway in enumerate(gateways):
            if gateway.reachable and gateway.faces:
                groups.setdefault(gateway.faces, []).append(i)
        every = np.concatenate([prices, self._solution.cloud_prices])
        found = {}
        for faces, members in groups.items():
            batch = self._batch(faces, [[c for c in gateways[i].counts if c] for i in members])
            choice: Choice = choose(batch, [self._tables[f] for f in faces], every, self._gateway_limit)
            for row, i in enumerate(members):
                if np.isfinite(choice.cost[row]):
                    picks = tuple(choice.picks[row].tolist())
                    found[i] = (picks, float(choice.cost[row]), choice.above[row])
        return found

    def _moves(self, old: Gateway | None, new: Gateway | None) -> list[Move]:
        if old is None or new is None:
            return []
        found = []
        was, now = self._ranks(old), self._ranks(new)
        for (group, stage), rank in now.items():
            if (group, stage) in was and was[group, stage] != rank:
                found.append(Move(new.name, group, stage, TIERS[was[group, stage]], TIERS[rank]))
        return found

    def _ranks(self, gateway: Gateway) -> dict[tuple[str, str], int]:
        present = [g for g, c in zip(self._topology.devices, gateway.counts, strict=True) if c]
        return {
            (group, stage): int(rank)
            for group, face, pick in zip(present, gateway.faces, gateway.picks, strict=True)
            for stage, rank in zip(
                self._stencils[face].stages, self._tables[face].columns.ranks[pick], strict=True
            )
        }
