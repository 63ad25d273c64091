"""A second opinion on plans: every figure and rule of placement, computed from the documents, not from the code.

It takes tiers, and adds up what each stage and each crossing takes; nothing of it is shared with
``ganglion.placement`` but the constants that describe this version's programs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ganglion.flow.stages import ActStage, AroundStage, MapStage, SourceStage, WhereStage, WindowStage
from ganglion.placement import demand as d
from ganglion.placement.jurisdictions import lies_in

TIERS = ("device", "gateway", "edge", "cloud")
MONTH_S = 30.4375 * 86400


@dataclass
class Take:
    """What some decisions take: money, loops, shares of capacities; ``broken``: kinds of rules they break."""

    sums: Counter = field(default_factory=Counter)
    loops: dict = field(default_factory=dict)
    broken: set = field(default_factory=set)


class Judge:
    """One flow on one topology."""

    def __init__(self, spec, topology, pins=None, selectivities=None):
        self.spec, self.topology = spec, topology
        self.pins, self.shares = pins or {}, selectivities or {}
        self.paths = topology.paths()
        self.merged: set[str] = set()
        for s in spec.stages:
            if (isinstance(s, WindowStage) and s.by == "all") or self.merged & set(s.inputs):
                self.merged.add(s.id)
        self.chain = {a.id: set(spec.ancestors(a.id)) | {a.id} for a in spec.reflexes}
        self.needed = set().union(*self.chain.values()) if self.chain else set()
        self.shared = {
            t: self.paths[0].nodes[t]
            for t in TIERS[1:]
            if len({p.nodes.get(t) for p in self.paths}) == 1 and t in self.paths[0].nodes
        }
        self.idle: Counter[tuple[str, str]] = Counter()
        for site_id, site in topology.sites.items():
            if site.uplink is not None and any(site_id in p.sites.values() for p in self.paths):
                self.idle["link", topology.uplink_id(site_id)] += (
                    150 * 8 / site.uplink.bandwidth_bit_per_s / 0.8
                )

    # -- what is given ---------------------------------------------------------------------------------
    def rate(self, stage):
        """Rows per second out: of one origin, or of all for merged ones."""
        s = self.spec[stage]
        ins = [self.rate_in(stage, i) for i in range(len(s.inputs))]
        match s:
            case SourceStage():
                return 1e9 / s.every_ns
            case WhereStage():
                return ins[0] * self.shares.get(stage, s.selectivity)
            case AroundStage():
                near = sum(int(ns / 1e9 * ins[0] + 1e-6) for ns in (s.before_ns, s.after_ns))
                return min(ins[0], ins[1] * (near + 1))
            case WindowStage():
                return min(ins[0], 1e9 / s.width_ns)
        return ins[0]

    def rate_in(self, stage, place=0):
        name = self.spec[stage].inputs[place]
        many = sum(p.count for p in self.paths) if stage in self.merged and name not in self.merged else 1
        return self.rate(name) * many

    def compute_s(self, stage, kind):
        s = self.spec[stage]
        row = sum(f.type.elements for f in s.schema.fields)
        if isinstance(s, SourceStage):
            calls, operations = 0, 0
        elif isinstance(s, MapStage):
            calls, operations = s.kernel.cost.calls, s.kernel.cost.operations
        elif isinstance(s, WhereStage):
            steps = str(s.predicate.to_json()).count("[")
            calls, operations = 1, steps + row
        elif isinstance(s, WindowStage):
            calls, operations = 1 + len(s.aggregates), 2 + 4 * len(s.aggregates)
        else:
            calls, operations = 1, row
        return (calls * kind.ns_per_call + operations * kind.ns_per_operation) * 1e-9

    def memory(self, stage):
        s = self.spec[stage]
        row = s.schema.row_bytes + 16
        extra = 0
        if isinstance(s, MapStage):
            extra = s.kernel.state_bytes
        if isinstance(s, AroundStage):
            extra = max(64, np.ceil((s.before_ns + s.after_ns) * 1e-9 * self.rate_in(stage))) * (row + 500)
        if isinstance(s, WindowStage):
            origins = sum(p.count for p in self.paths) if stage in self.merged else 1
            extra = min(20_000, -(-s.keep_ns // s.width_ns) + 2) * (1000 + 360 * origins)
        return 4 * row + extra

    def messages(self, stage, how):
        rate = self.rate(stage)
        if how == "urgent":
            return rate
        size, period = (64_000, 1.0) if how == "batched" else (800, 1.0)
        s = self.spec[stage]
        often = 1 / period
        if isinstance(s, AroundStage):
            around_s = (s.before_ns + s.after_ns) / 1e9
            often = min(often, self.rate_in(stage, 1) * (1 + around_s / period))
        return min(rate, max(often, rate / max(1, size // s.schema.row_bytes)))

    def sent(self, stage, how):
        schema = self.spec[stage].schema
        fixed, each = (250, 12) if how == "batched" else (100, 8)
        per_message = 16 + fixed + each * len(schema.fields)
        integers = sum(f.type.size_bytes for f in schema.fields if f.type.dtype == "i16" and f.type.shape)
        row = schema.row_bytes - (integers / 2 if how == "batched" else 0)
        return self.rate(stage) * row + self.messages(stage, how) * per_message

    # -- what a decision takes -------------------------------------------------------------------------
    def spot(self, path, tier):
        """(node, class, how many alike, memory, jurisdiction) or None."""
        if tier == "device":
            kind = self.topology.classes[self.topology.devices[path.group].class_name]
            return (
                path.nodes["device"],
                kind,
                path.count,
                kind.memory_bytes,
                self.topology.sites[path.gateway].jurisdiction,
            )
        if tier not in path.sites:
            return None
        site = path.sites[tier]
        kind = self.topology.node_class(site)
        return (
            path.nodes[tier],
            kind,
            1,
            self.topology.memory_bytes(site),
            self.topology.sites[site].jurisdiction,
        )

    def busy(self, take, spot, cpus):
        node, kind, alike, _, _ = spot
        watts = (
            (kind.watts_busy - kind.watts_idle) / 1000 * MONTH_S / 3600 * self.topology.electricity_per_kwh
        )
        take.sums["money"] += cpus * alike * (kind.price_per_cpu_month + watts)
        take.sums["cpu", node] += cpus / (0.8 * kind.cpus)

    def sit(self, take, stage, path, tier, origins):
        """The stage at a tier of a path (any path for merged stages)."""
        s = self.spec[stage]
        take.sums["height"] += TIERS.index(tier)
        spot = self.spot(path, tier)
        if self.pins.get(stage, tier) != tier:
            take.broken.add("pin")
        if s.constraint.tiers and tier not in s.constraint.tiers:
            take.broken.add("tier")
        if stage in self.needed and tier in ("edge", "cloud"):
            take.broken.add("offline")
        if spot is None or (stage in self.merged and tier not in self.shared):
            take.broken.add("topology")
            return
        node, kind, _, room, place = spot
        if s.kind in kind.cannot_run:
            take.broken.add("capability")
        if s.constraint.jurisdictions and not lies_in(place, s.constraint.jurisdictions):
            take.broken.add("jurisdiction")
        if isinstance(s, ActStage) and (
            stage in self.merged
            or tier != "gateway"
            or s.actuator not in self.topology.devices[path.group].actuators
        ):
            take.broken.add("actuator")
        many = 1 if tier == "device" else origins
        if tier == "gateway" and any(stage in c and stage != a for a, c in self.chain.items()):
            many *= 2
        work = 0.0 if isinstance(s, SourceStage) else self.rate_in(stage) * self.compute_s(stage, kind)
        self.busy(take, spot, work * many)
        take.sums["memory", node] += self.memory(stage) * many / max(room, 1e-9)

    def cross(self, take, stage, path, origins, tier, readers):
        """The stage's output on every link of the path that it goes over; ``readers``: (stage, tier)."""
        below = "device"
        for upper in TIERS[1:]:
            if upper not in path.nodes:
                continue
            beyond = [r for r, t in readers if TIERS.index(t) >= TIERS.index(upper)]
            if TIERS.index(tier) <= TIERS.index(below) and beyond:
                urgent = any(r in c and stage in c for r in beyond for c in self.chain.values())
                self.link(take, stage, path, origins, below, upper, urgent)
            below = upper

    def link(self, take, stage, path, origins, below, upper, urgent):
        s = self.spec[stage]
        low, high = self.spot(path, below), self.spot(path, upper)
        if below == "device":
            link, alike, name = (
                self.topology.devices[path.group].link,
                path.count,
                f"{path.id}>{path.gateway}",
            )
            how = "urgent" if urgent else "gathered"
            self.busy(take, low, self.messages(stage, how) * low[1].hop_us * 1e-6)
            if s.schema.row_bytes > 65_000:
                take.broken.add("capability")
        else:
            site = path.sites[below]
            link, alike, name, how = self.topology.uplink(site), 1, self.topology.uplink_id(site), "batched"
        self.busy(take, high, self.messages(stage, how) * origins * high[1].hop_us * 1e-6)
        size = self.sent(stage, how) * origins
        take.sums["link", name] += size / alike * 8 / link.bandwidth_bit_per_s / 0.8
        joule = link.energy_nj_per_byte * 1e-9
        per_byte = link.price_per_gb * 1e-9 + joule / 3.6e6 * self.topology.electricity_per_kwh
        take.sums["money"] += size * MONTH_S * per_byte
        if s.constraint.jurisdictions and not lies_in(high[4], s.constraint.jurisdictions):
            take.broken.add("jurisdiction")

    def loop(self, take, path, tiers):
        link = self.topology.devices[path.group].link
        device, gateway = self.spot(path, "device")[1], self.spot(path, "gateway")[1]
        for act, chain in self.chain.items():
            if act in self.merged or any(self.spot(path, tiers[s]) is None for s in chain):
                continue
            took = 2 * link.latency_ns * 1e-9 + 128 * 8 / link.bandwidth_bit_per_s + device.hop_us * 1e-6
            for stage in chain:
                took += self.compute_s(stage, self.spot(path, tiers[stage])[1])
                above = [
                    c.id
                    for c in self.spec.consumers(stage)
                    if c.id in self.needed and tiers.get(c.id) != "device"
                ]
                if tiers[stage] == "device" and above:
                    row = self.spec[stage].schema
                    size = row.row_bytes + 116 + 8 * len(row.fields)
                    took += (device.hop_us + gateway.hop_us) * 1e-6 + size * 8 / link.bandwidth_bit_per_s
            take.loops[act, path.id] = took
            take.sums["latency"] += took * 1000 * path.count
            if took > self.spec[act].within_ns * 1e-9 and self.topology.devices[path.group].actuators:
                take.broken.add("deadline")

    # -- verdicts --------------------------------------------------------------------------------------
    def of_path(self, path, tiers, common):
        """What one path's own stages take, given the tiers of the merged ones."""
        take = Take()
        everything = tiers | common
        for stage, tier in tiers.items():
            self.sit(take, stage, path, tier, path.count)
            for name in self.spec[stage].inputs:
                if TIERS.index(tiers[name]) > TIERS.index(tier):
                    take.broken.add("up")
            readers = [(c.id, everything[c.id]) for c in self.spec.consumers(stage)]
            self.cross(take, stage, path, path.count, tier, readers)
            if any(TIERS.index(t) < TIERS.index(tier) for r, t in readers):
                take.broken.add("up")
        self.loop(take, path, everything)
        return take

    def of_merged(self, common):
        take = Take()
        for stage, tier in common.items():
            self.sit(take, stage, self.paths[0], tier, 1)
            readers = [(c.id, common[c.id]) for c in self.spec.consumers(stage)]
            if any(TIERS.index(t) < TIERS.index(tier) for r, t in readers):
                take.broken.add("up")
            if tier in self.shared:
                self.cross(take, stage, self.paths[0], 1, tier, readers)
        return take

    def judge(self, tiers):
        """The whole: ``tiers`` is (stage, path id) -> tier, path ``*`` for merged stages."""
        common = {s: tiers[s, "*"] for s in self.merged}
        whole = self.of_merged(common)
        for path in self.paths:
            own = {s.id: tiers[s.id, path.id] for s in self.spec.stages if s.id not in self.merged}
            part = self.of_path(path, own, common)
            whole.sums.update(part.sums)
            whole.loops |= part.loops
            whole.broken |= part.broken
        whole.sums.update(self.idle)
        for key, used in whole.sums.items():
            if isinstance(key, tuple) and used > 1 + 1e-7:
                whole.broken.add({"link": "bandwidth"}.get(key[0], key[0]))
        return whole

    def best(self, order=("money", "latency", "height")):
        """By trying everything: the objectives of the best in that order, or None."""
        alone = [s.id for s in self.spec.stages if s.id not in self.merged]
        merged = sorted(self.merged, key=[s.id for s in self.spec.stages].index)
        found = []
        for choice in itertools.product(TIERS, repeat=len(merged)):
            common = dict(zip(merged, choice, strict=True))
            base = self.of_merged(common)
            if base.broken:
                continue
            base.sums.update(self.idle)
            parts = [[t.sums for t in self.columns(p, alone, common)] for p in self.paths]
            if all(parts):
                found.append(_combined(base.sums, parts))
        found = [f for f in found if len(f)]
        columns = [OBJECTIVES.index(name) for name in order]
        return _lexicographic(np.concatenate(found)[:, columns]) if found else None

    def columns(self, path, alone, common):
        """Every way to place one path's stages that breaks no rule by itself."""
        done = []

        def extend(tiers, left):
            if not left:
                take = self.of_path(path, tiers, common)
                if not take.broken:
                    done.append(take)
                return
            stage = self.spec[left[0]]
            for tier in TIERS:
                lowest = max([TIERS.index(tiers[i]) for i in stage.inputs], default=0)
                probe = Take()
                if TIERS.index(tier) >= lowest:
                    self.sit(probe, stage.id, path, tier, path.count)
                    if not probe.broken:
                        extend(tiers | {stage.id: tier}, left[1:])

        extend({}, alone)
        return done


OBJECTIVES = ("money", "latency", "height")


def _combined(base, parts):
    """(n, 3) objectives of every combination of one column per path that fits the capacities."""
    keys = [
        *OBJECTIVES,
        *sorted({k for s in [base, *itertools.chain(*parts)] for k in s if isinstance(k, tuple)}),
    ]
    total = np.array([[base[k] for k in keys]])
    for columns in parts:
        table = np.array([[c[k] for k in keys] for c in columns])
        total = (total[:, None, :] + table[None, :, :]).reshape(-1, len(keys))
        total = total[(total[:, 3:] <= 1).all(axis=1)]
        assert len(total) < 3_000_000, "the instance is too large to try everything"
    return total[:, :3]


def _lexicographic(rows, slack=1e-7):
    for column in range(3):
        rows = rows[rows[:, column] <= rows[:, column].min() + slack]
    return rows[0]


assert (d.UPLINK_IDLE_BYTES_PER_S, d.GATHER_BYTES, d.BATCH_BYTES, d.WINDOWS_MAX) == (150, 800, 64_000, 20_000)
