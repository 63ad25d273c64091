"""Tier vectors as columns: every way to place one device's own stages, with what each adds to every sum.

A `Stencil` is what a device of one group at one class of gateway under one class of edge site faces; its stages' tiers
are a column. Hard rules filter columns, a device's own capacities and deadlines too; what columns take of the gateway,
the edge site and the cloud stays beside them. Columns are built stage by stage; of two beginnings that no later stage
can tell apart the worse one is dropped, so the list is complete until it is cut at `COLUMNS_MAX`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ganglion.flow.assignment import ALL
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ActStage
from ganglion.placement import cost
from ganglion.placement.demand import DATAGRAM_ROW_BYTES_MAX, Load
from ganglion.placement.dominance import pareto, pareto_in_sets
from ganglion.placement.figures import Ground
from ganglion.placement.jurisdictions import lies_in
from ganglion.placement.objective import QUANTITIES, Objective
from ganglion.placement.routes import CLOUD, DEVICE, EDGE, GATEWAY, RANKS, Spot, Wire
from ganglion.placement.rules import CPU_SHARE_MAX, Rule, Seat
from ganglion.placement.terms import seat_quantities, wire_quantities

Floats = NDArray[np.float64]
Ranks = NDArray[np.int8]

COLUMNS_MAX = 20_000
"""Beginnings of columns that are kept; where there are more, columns are priced by HiGHS instead."""
_PRUNE_FROM = 256
_SLACK = 1e-9

ROWS = ("cpu", "memory", "bandwidth")
_FIRST = len(QUANTITIES)
OWN = slice(_FIRST, _FIRST + 4)
"""Shares of the device's processors, memory, link and flash."""
AT_GATEWAY = slice(_FIRST + 4, _FIRST + 7)
AT_EDGE = slice(_FIRST + 7, _FIRST + 10)
AT_CLOUD = slice(_FIRST + 10, _FIRST + 12)
SHARED = slice(_FIRST + 4, _FIRST + 12)
"""Shares of what devices share: of the gateway, the edge site, the cloud."""
WIDTH = _FIRST + 12
_START = {DEVICE: OWN.start, GATEWAY: AT_GATEWAY.start, EDGE: AT_EDGE.start, CLOUD: AT_CLOUD.start}
_QUANTITY = {name: place for place, name in enumerate(QUANTITIES)}


@dataclass(slots=True)
class Stencil:
    """Per stage and rank, and per stage and wire it goes up, a vector of `WIDTH` sums and one share per deadline."""

    path: str
    stages: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]
    allowed: tuple[tuple[int, ...], ...]
    floors: tuple[int, ...]
    """Lowest rank of a reader that is merged with other paths, which is decided already: 9 without one."""
    tops: tuple[int, ...]
    """Highest rank of such a reader, -1 without one."""
    seats: Floats
    crossings: Floats
    """[stage, lower rank of the wire, sum]; infinite where rules forbid the way."""
    urgent: Floats
    """[stage, sum]: what it is more on the device's link when a reflex waits beyond it."""
    leading: tuple[tuple[int, ...], ...]
    """Per stage its readers that lead to an actuator, when it does too."""
    readers: tuple[tuple[int, ...], ...]

    @property
    def upper(self) -> Floats:
        """No column has larger sums."""
        finite = np.where(np.isfinite(self.crossings), self.crossings, 0.0)
        seats = np.stack([self.seats[s, list(a) or [0]].max(axis=0) for s, a in enumerate(self.allowed)])
        return np.asarray(
            seats.sum(axis=0) + finite.sum(axis=(0, 1)) + np.maximum(self.urgent, 0).sum(axis=0)
        )


def stencil(
    ground: Ground,
    path: str,
    forbidden: Mapping[Seat, frozenset[Rule]],
    merged_ranks: Mapping[str, int],
) -> Stencil:
    """What one device of ``path`` faces, where merged stages run at ``merged_ranks``."""
    spec, way = ground.spec, ground.ways[path]
    own = [s for s in spec.stages if s.id not in merged_ranks]
    place = {s.id: i for i, s in enumerate(own)}
    loads = [replace(ground.loads[s.id, path], members=1) for s in own]
    acts = [i for i, s in enumerate(own) if isinstance(s, ActStage)]
    chains = [{place[n] for n in (*spec.ancestors(own[a].id), own[a].id)} for a in acts]
    lead = set().union(*chains) if chains else set()
    spots = {rank: replace(spot, count=1) for rank, spot in way.spots.items()}
    wires = [replace(wire, count=1) for wire in way.wires]
    width = WIDTH + len(acts)
    seats = np.zeros((len(own), len(RANKS), width))
    crossings = np.zeros((len(own), len(RANKS), width))
    urgent = np.zeros((len(own), width))
    fixed = cost.loop_fixed_ns(way)
    left = [max(cost.deadline_ns(loads[a]) - fixed, 0.0) for a in acts]
    readers = [[c.id for c in spec.consumers(s.id)] for s in own]
    for i, load in enumerate(loads):
        for rank, spot in spots.items():
            seats[i, rank] = _seat(load, spot, width)
            _loops(seats[i, rank], cost.compute_ns(load, spot), i, chains, left)
        leads = any(place.get(r, -1) in lead for r in readers[i]) and i in lead
        for wire in wires:
            ends = (spots[wire.lower], spots[wire.upper])
            crossings[i, wire.lower] = _crossing(load, wire, ends, width, urgent=False)
            if _barred(load, wire, ends[1]):
                crossings[i, wire.lower] = np.inf
            elif wire.device_link and leads:
                urgent[i] = _crossing(load, wire, ends, width, urgent=True) - crossings[i, wire.lower]
                _loops(urgent[i], cost.loop_stream_ns(load, way), i, chains, left)
    return Stencil(
        path,
        tuple(s.id for s in own),
        tuple(tuple(place[n] for n in s.inputs) for s in own),
        tuple(tuple(r for r in RANKS if not forbidden[s.id, path, r]) for s in own),
        *_merged_readers(readers, merged_ranks),
        seats,
        crossings,
        urgent,
        tuple(tuple(place[r] for r in names if place.get(r, -1) in lead and i in lead)
              for i, names in enumerate(readers)),
        tuple(tuple(place[r] for r in names if r in place) for names in readers),
    )  # fmt: skip


def _merged_readers(
    readers: Sequence[Sequence[str]], merged_ranks: Mapping[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Per stage the lowest and the highest rank of its merged readers."""
    merged = [[merged_ranks[r] for r in names if r in merged_ranks] for names in readers]
    return tuple(min(m, default=9) for m in merged), tuple(max(m, default=-1) for m in merged)


def moved(face: Stencil, spec: FlowSpec, merged_ranks: Mapping[str, int]) -> Stencil:
    """What the device faces where the same merged stages run at other ranks."""
    readers = [[c.id for c in spec.consumers(s)] for s in face.stages]
    floors, tops = _merged_readers(readers, merged_ranks)
    return replace(face, floors=floors, tops=tops)


def _put(vector: Floats, found: Mapping[str, float]) -> None:
    for name, value in found.items():
        vector[_QUANTITY[name]] += value


def cpu_share(used: float, spot: Spot) -> float:
    """Of what stages may use of a spot's processors."""
    return used / (spot.node_class.cpus * CPU_SHARE_MAX)


def memory_share(used: float, spot: Spot) -> float:
    """Of a spot's memory."""
    return used / max(spot.memory_bytes, 1e-12)


def wire_share(load: Load, wire: Wire, *, urgent: bool) -> float:
    """Of what streams may use of a link."""
    room = max(wire.share_max - cost.idle_share(wire), 1e-12)
    return cost.wire_share(load, wire, urgent=urgent) / room


def _seat(load: Load, spot: Spot, width: int) -> Floats:
    vector = np.zeros(width)
    _put(vector, seat_quantities(load, spot))
    start = _START[spot.rank]
    vector[start] = cpu_share(cost.stage_cpus(load, spot), spot)
    vector[start + 1] = memory_share(cost.stage_memory_bytes(load, spot), spot)
    if spot.flash_bytes is not None:
        vector[start + 3] = cost.stage_flash_bytes(load, spot) / max(spot.flash_bytes, 1e-12)
    return vector


def _crossing(load: Load, wire: Wire, ends: tuple[Spot, Spot], width: int, *, urgent: bool) -> Floats:
    vector = np.zeros(width)
    _put(vector, wire_quantities(load, wire, ends, urgent=urgent))
    for spot in ends:
        vector[_START[spot.rank]] += cpu_share(cost.hop_cpus(load, wire, spot, urgent=urgent), spot)
    vector[_START[wire.lower] + 2] += wire_share(load, wire, urgent=urgent)
    return vector


def _loops(vector: Floats, spent_ns: float, stage: int, chains: list[set[int]], left_ns: list[float]) -> None:
    for a, chain in enumerate(chains):
        if stage in chain:
            vector[WIDTH + a] += spent_ns / left_ns[a] if left_ns[a] > 0 else np.inf
            vector[_QUANTITY["latency_ms"]] += spent_ns / 1e6


def _barred(load: Load, wire: Wire, above: Spot) -> bool:
    stage = load.stage
    if wire.device_link and stage.schema.row_bytes > DATAGRAM_ROW_BYTES_MAX:
        return True
    allowed = stage.constraint.jurisdictions
    if allowed is not None and not lies_in(above.jurisdiction, allowed):
        return True
    return bool(above.refuses & stage.labels.categories)


@dataclass(frozen=True, slots=True)
class Columns:
    """``ranks`` [column, stage] and their ``sums`` [column, sum]; ``complete``: no better one is left out."""

    ranks: Ranks
    sums: Floats
    complete: bool


def enumerate_columns(
    face: Stencil, weights: Floats, active: NDArray[np.bool_], *, most: int | None = None
) -> Columns:
    """All columns that obey the rules of the device itself and that no other one beats.

    ``weights``: of the `WIDTH` sums in the objective; ``active`` of `SHARED`: the shares that may run out; ``most``:
    beginnings that are kept, `COLUMNS_MAX` unless given.
    """
    count, width = len(face.stages), face.seats.shape[2]
    most = COLUMNS_MAX if most is None else most
    done_at = [max((*readers, i)) for i, readers in enumerate(face.readers)]
    ranks = np.zeros((1, 0), dtype=np.int8)
    sums = np.zeros((1, width))
    complete = True
    # Of the device's own shares and deadlines, those that some column could overrun.
    upper = face.upper
    scarce = [r for r in (*range(OWN.start, OWN.stop), *range(WIDTH, width)) if upper[r] > 1]
    for i in range(count):
        lowest = (
            ranks[:, list(face.inputs[i])].max(axis=1) if face.inputs[i] else np.zeros(len(ranks), np.int8)
        )
        parts_r, parts_s = [], []
        for rank in face.allowed[i]:
            if rank > face.floors[i]:
                continue
            keep = np.flatnonzero(lowest <= rank)
            parts_r.append(np.column_stack([ranks[keep], np.full(len(keep), rank, np.int8)]))
            parts_s.append(sums[keep] + face.seats[i, rank])
        if not parts_r:
            return Columns(np.zeros((0, count), np.int8), np.zeros((0, width)), complete)
        ranks, sums = np.concatenate(parts_r), np.concatenate(parts_s)
        for s in range(i + 1):
            if done_at[s] == i:
                sums = sums + _crossed(face, s, ranks)
        fits = (sums[:, OWN] <= 1 + _SLACK).all(axis=1) & (sums[:, WIDTH:] <= 1 + _SLACK).all(axis=1)
        ranks, sums = ranks[fits], sums[fits]
        if len(ranks) > _PRUNE_FROM or i == count - 1:
            open_stages = [s for s in range(i + 1) if done_at[s] > i]
            watched = () if i == count - 1 else scarce
            ranks, sums = _undominated(face, ranks, sums, open_stages, watched, weights, active)
        if len(ranks) > most:
            ranks, sums, complete = *_cut(ranks, sums, weights, active, most), False
    return Columns(ranks, sums, complete)


def _crossed(face: Stencil, s: int, ranks: Ranks) -> Floats:
    own = ranks[:, s]
    highest = np.full(len(ranks), face.tops[s], np.int8)
    for reader in face.readers[s]:
        highest = np.maximum(highest, ranks[:, reader])
    added = np.zeros((len(ranks), face.seats.shape[2]))
    for lower in RANKS[:-1]:
        if face.crossings[s, lower].any():
            over = (own <= lower) & (highest > lower)
            added[over] += face.crossings[s, lower]
    if face.leading[s]:
        waited = np.max([ranks[:, r] for r in face.leading[s]], axis=0)
        added[(own == DEVICE) & (waited > DEVICE)] += face.urgent[s]
    return added


def column_sums(face: Stencil, ranks: Ranks) -> Floats:
    """The sums of given columns."""
    sums = np.zeros((len(ranks), face.seats.shape[2]))
    for s in range(len(face.stages)):
        sums += face.seats[s, ranks[:, s]] + _crossed(face, s, ranks)
    return sums


def key_sums(sums: Floats, weights: Floats, active: NDArray[np.bool_]) -> Floats:
    """What columns are compared by: the weighted objective, then the shares that may run out."""
    return np.column_stack([sums[:, :WIDTH] @ weights, sums[:, SHARED][:, active]])


def _situations(face: Stencil, ranks: Ranks, open_stages: list[int]) -> NDArray[np.int64]:
    """A number for all that later stages see: where open stages are, and how high their output goes already."""
    done = ranks.shape[1]
    digits = []
    for s in open_stages:
        highest = np.full(len(ranks), face.tops[s], np.int64)
        for reader in face.readers[s]:
            if reader < done:
                highest = np.maximum(highest, ranks[:, reader])
        waited = np.zeros(len(ranks), np.int64)
        for reader in face.leading[s]:
            if reader < done:
                waited |= ranks[:, reader] > DEVICE
        digits.append((ranks[:, s] * 5 + highest + 1) * 2 + waited)
    if len(digits) <= 11:
        return np.asarray(np.array(digits).T @ (40 ** np.arange(len(digits), dtype=np.int64)))
    return np.asarray(np.unique(np.array(digits).T, axis=0, return_inverse=True)[1]).ravel()


def _undominated(
    face: Stencil,
    ranks: Ranks,
    sums: Floats,
    open_stages: list[int],
    watched: Sequence[int],
    weights: Floats,
    active: NDArray[np.bool_],
) -> tuple[Ranks, Floats]:
    keys = np.column_stack([key_sums(sums, weights, active), sums[:, list(watched)]])
    kept = pareto_in_sets(keys, _situations(face, ranks, open_stages)) if open_stages else pareto(keys)
    return ranks[kept], sums[kept]


def _cut(
    ranks: Ranks, sums: Floats, weights: Floats, active: NDArray[np.bool_], most: int
) -> tuple[Ranks, Floats]:
    """The best in each key."""
    keys = key_sums(sums, weights, active)
    share = max(1, most // 2 // keys.shape[1])
    places = [np.argsort(keys[:, k], kind="stable")[:share] for k in range(keys.shape[1])]
    kept = np.unique(np.concatenate(places))
    return ranks[kept], sums[kept]


def weights_of(objective: Objective, scale: float) -> Floats:
    """The levels of an objective as one weight per sum: each next level weighs a ``scale``-th of the one before."""
    weights = np.zeros(WIDTH)
    factor = 1.0
    for level in objective.levels:
        for name, weight in level.items():
            weights[_QUANTITY[name]] += factor * weight
        factor *= scale
    return weights


def merged_sums(ground: Ground, merged_ranks: Mapping[str, int]) -> Floats:
    """What the merged stages add where they run at ``merged_ranks``; infinite where rules forbid it."""
    way = ground.ways[ALL]
    total = np.zeros(WIDTH)
    for stage, rank in merged_ranks.items():
        load = ground.loads[stage, ALL]
        total += _seat(load, way.spots[rank], WIDTH)
        above = max((merged_ranks[c.id] for c in ground.spec.consumers(stage)), default=0)
        for wire in way.wires:
            if rank <= wire.lower < above:
                ends = (way.spots[wire.lower], way.spots[wire.upper])
                total += (
                    np.inf
                    if _barred(load, wire, ends[1])
                    else _crossing(load, wire, ends, WIDTH, urgent=False)
                )
    return total
