"""Flows and topologies for the tests: a small feeder whose parts can be replaced, and random ones."""

from __future__ import annotations

import json

import numpy as np
import yaml

import ganglion as gg
from ganglion.core.topology_text import read_topology
from ganglion.flow.stages import By, Tier

SMALL = """
topology: 1
currency: EUR
electricity_per_kwh: 0.3
classes:
  relay: {ns_per_call: 2000, ns_per_operation: 2, hop_us: 200, memory: 64MB, watts_idle: 0.1, watts_busy: 0.4}
  box: {ns_per_call: 1000, ns_per_operation: 1, hop_us: 400, memory: 64MB, watts_idle: 4, watts_busy: 10}
  hall: {ns_per_call: 500, ns_per_operation: 1, hop_us: 300, memory: 1GB, price_per_cpu_month: 20, price_per_month: 7}
sites:
  cloud: {tier: cloud, jurisdiction: IE, node: {class: hall}}
  edge1:
    {tier: edge, parent: cloud, jurisdiction: DE, node: {class: hall},
     uplink: {latency: 15ms, bandwidth: 100Mbit, price_per_gb: 0.05, energy_nj_per_byte: 200}}
  gw1:
    {tier: gateway, parent: edge1, jurisdiction: DE, node: {class: box},
     uplink: {latency: 40ms, bandwidth: 5Mbit, price_per_gb: 4.0, energy_nj_per_byte: 4000}}
  gw2:
    {tier: gateway, parent: edge1, jurisdiction: FR, node: {class: box},
     uplink: {latency: 40ms, bandwidth: 5Mbit, price_per_gb: 2.0, energy_nj_per_byte: 4000}}
devices:
  relay:
    {class: relay, count: 3, gateways: [gw1, gw2], actuators: [breaker],
     link: {latency: 1ms, bandwidth: 1Mbit, energy_nj_per_byte: 1000}}
"""


@gg.kernel(x=gg.f32[4])
def level(x):
    return {"mean": np.mean(x), "peak": np.max(np.abs(x))}


@gg.kernel(x=gg.f32[4])
def spread(x):
    low, high = np.min(x), np.max(x)
    return {"mean": (low + high) / 2, "peak": np.sqrt((high - low) * (high - low))}


@gg.kernel(f=level, state={"on": False, "n": 0})
def decide(f, s):
    want = np.where(f.peak > 1.2, True, s.on)
    return {"trip": want, "peak": f.peak}, True, {"on": want, "n": s.n + 1}


def small_topology(**changes):
    """The small feeder; ``sites__gw1__uplink__bandwidth="1bit"`` replaces one value, None removes it."""
    value = yaml.safe_load(SMALL)
    for path, new in changes.items():
        *way, last = path.split("__")
        target = value
        for key in way:
            target = target[key]
        if new is None:
            del target[last]
        else:
            target[last] = new
    return read_topology(json.dumps(value, indent=1), "small.yaml")


def small_flow(
    *, within="50ms", keep_in=(), on=(), minutes_on=(), sink="cloud", keep="1h", by="origin", rollup=True
):
    flow = gg.Flow("small")
    frames = flow.source("frames", gg.Frame(4, unit="A"), every="20ms", keep_in=keep_in)
    rows = frames.map(level, on=on)
    trips = rows.map(decide).where(lambda t: t.trip, id="trips", selectivity=1e-4)
    trips.act("breaker", "open", within=within)
    frames.around(trips, before="100ms", after="200ms", id="incident").sink("incidents")
    window = rows.window("1min", by=by, keep=keep)
    minutes = window.aggregate(mean=gg.mean("mean"), peak=gg.max("peak"), id="minutes", on=minutes_on)
    minutes.sink("trends", at=sink)
    if rollup and by == "origin":
        minutes.rollup(id="totals").sink("feeder_totals")
    return flow.spec()


def random_topology(rng):
    """One to three gateways under none to two edge sites, one or two device groups; capacities that may bind."""

    def pick(*values):
        return values[rng.integers(len(values))]

    def near(value):
        return float(np.round(value * 10 ** rng.uniform(-0.7, 0.7), 6))

    def kind(memory):
        watts = near(2)
        return {
            "ns_per_call": near(2000),
            "ns_per_operation": near(2),
            "hop_us": near(400),
            "memory": f"{int(near(memory))}B",
            "cpus": pick(1.0, 1.0, 0.02),
            "watts_idle": watts,
            "watts_busy": watts + near(4),
            "price_per_cpu_month": pick(0.0, near(30)),
            "cannot_run": pick([], [], [], [], [], ["window"], ["around", "window"], ["map"]),
        }

    def link(rate, price):
        return {
            "latency": f"{near(0.8)}ms",
            "bandwidth": f"{int(near(rate))}bit",
            "price_per_gb": pick(0.0, near(price)),
            "energy_nj_per_byte": near(1000),
        }

    def place():
        return pick("DE", "DE", "DE", "FR", "US", "DE-BY")

    sites = {
        "cloud": {"tier": "cloud", "node": {"class": "c3"}, "jurisdiction": pick("IE", "IE", "DE", "US")}
    }
    edges = [f"edge{i}" for i in range(rng.integers(0, 3))]
    for name in edges:
        own = {"tier": "edge", "parent": "cloud", "node": {"class": "c2"}, "jurisdiction": place()}
        sites[name] = own | {"uplink": link(400_000, 0.2)}
    gateways = [f"gw{i}" for i in range(rng.integers(1, 4))]
    for name in gateways:
        own = {"tier": "gateway", "parent": pick(*edges, *edges, "cloud"), "node": {"class": "c1"}}
        sites[name] = own | {"uplink": link(120_000, 3), "jurisdiction": place()}
    devices = {}
    for name in ("a", "b")[: rng.integers(1, 3)]:
        chosen = [g for g in gateways if rng.random() < 0.8] or gateways[:1]
        devices[name] = {
            "class": "c0",
            "count": int(rng.integers(1, 7)),
            "gateways": chosen if name == "a" else chosen[:1],
            "actuators": pick(["breaker"], ["breaker"], ["valve", "breaker"]),
            "link": link(1_000_000, 0.1),
        }
    value = {
        "topology": 1,
        "electricity_per_kwh": near(0.3),
        "classes": {"c0": kind(60_000), "c1": kind(300_000), "c2": kind(1_000_000), "c3": kind(3_000_000)},
        "sites": sites,
        "devices": devices,
    }
    return read_topology(json.dumps(value, indent=1), "random.yaml")


def random_flow(rng):
    """A source with some of: a second map, a reflex, frames around it, windows, a merge, constraints."""

    def chance(share):
        return rng.random() < share

    flow = gg.Flow("random")
    keep_in = (("EU",), ("EU",), ("DE", "IE"), ("DE",))[rng.integers(4)] if chance(0.25) else ()
    pairs: tuple[tuple[Tier, ...], ...] = (("device", "gateway"), ("gateway", "edge"), ("edge", "cloud"))
    on = pairs[rng.integers(3)] if chance(0.2) else ()
    frames = flow.source(
        "frames", gg.Frame(4), every=("5ms", "20ms", "200ms")[rng.integers(3)], keep_in=keep_in
    )
    rows = frames.map(level, id="rows")
    trips = rows.where(
        lambda r: (r.peak > 5) | (r.mean < 0), id="trips", selectivity=float(rng.choice([1e-4, 0.01, 0.3]))
    )
    ends = 0
    if chance(0.6):
        within = ("8ms", "30ms", "100ms")[rng.integers(3)]
        source = (
            trips if chance(0.7) else rows.map(decide).where(lambda t: t.trip, id="tripped", selectivity=0.01)
        )
        source.act("breaker", "open", within=within)
        ends += source is trips
    if chance(0.6) or not ends:
        frames.around(trips, before="100ms", after="200ms", id="near").sink(
            "incidents", at=("edge", "cloud", "cloud", "cloud", "cloud", "cloud")[rng.integers(6)]
        )
    by: By = "all" if chance(0.3) else "origin"
    aggregated = rows.window("1s", by=by, keep="10s").aggregate(peak=gg.max("peak"), id="seconds", on=on)
    aggregated.sink(
        "trends",
        at=("edge", "gateway", "cloud", "cloud", "cloud", "cloud", "cloud", "cloud")[rng.integers(8)],
    )
    if by == "origin" and chance(0.4):
        aggregated.rollup(id="totals").sink("all_trends")
    return flow.spec()
