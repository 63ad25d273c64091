"""Flows of 10, 20 and 30 stages and fleets of 10 to 1,000,000 devices for the placement benchmark; seeded."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

import ganglion as gg
from ganglion.core.topology import Topology
from ganglion.flow.spec import FlowSpec

Pressure = Literal["slack", "binding", "edge-congested"]
Shape = Literal["classes", "unique"]
PER_GATEWAY, GATEWAYS_PER_EDGE = 50, 500
GROUPS = ("relay", "meter", "camera")


@gg.kernel(x=gg.f32[64])
def level(x):
    return {"mean": np.mean(x), "peak": np.max(np.abs(x)), "rms": np.sqrt(np.mean(x * x))}


@gg.kernel(x=gg.f32[64])
def texture(x):
    mean, peak, rms = 0.0, 0.0, 0.0
    for _ in range(8):
        x = x[1:] - x[:-1]
        mean, peak, rms = mean + np.mean(np.abs(x)), peak + np.max(np.abs(x)), rms + np.sqrt(np.mean(x * x))
    return {"mean": mean, "peak": peak, "rms": rms}


@gg.kernel(f=level)
def scaled(f):
    return {"mean": f.mean * 0.5, "peak": f.peak * 0.5, "rms": f.rms * 0.5}


def flow_of(stages: int) -> FlowSpec:
    """A reflex, frames around it, and as many branches of features, selections and windows as make ``stages``."""
    flow = gg.Flow("bench")
    frames = flow.source("frames", gg.Frame(64, unit="A"), every="200ms")
    rows = frames.map(level, id="level")
    trips = rows.where(lambda r: r.peak > 3, id="trips", selectivity=1e-4)
    trips.act("breaker", "open", within="100ms")
    trips.sink("alarms")
    frames.around(trips, before="1s", after="1s", id="near").sink("incidents")
    fine = frames.map(texture, id="texture")
    fine.window("1min", keep="1h").aggregate(peak=gg.max("peak"), id="minutes").sink("trends")
    for number in range((stages - 10) // 5):
        source = fine.map(scaled, id=f"map{number}") if number % 2 else frames.map(texture, id=f"map{number}")
        if number % 2:
            source.where(lambda r: r.peak > 1, id=f"high{number}", selectivity=0.05).sink(f"highs{number}")
            source.window("10s", keep="10min").aggregate(peak=gg.max("peak"), id=f"tens{number}").sink(
                f"shapes{number}"
            )
        else:
            tens = source.window("10s", keep="10min").aggregate(peak=gg.max("peak"), id=f"tens{number}")
            tens.sink(f"shapes{number}")
            tens.rollup(id=f"totals{number}").sink(f"all{number}")
    spec = flow.spec()
    assert len(spec.stages) == stages, len(spec.stages)
    return spec


def fleet_of(devices: int, pressure: Pressure, shape: Shape, seed: int = 7) -> Topology:
    """``devices`` in three groups at a gateway per 50, an edge site per 500 gateways."""
    rng = np.random.default_rng(seed)
    gateways = max(1, devices // PER_GATEWAY)
    edges = max(1, gateways // GATEWAYS_PER_EDGE)
    at_gateway = 8.0 if pressure == "slack" else 0.7
    at_edge = 8.0 * GATEWAYS_PER_EDGE if pressure != "edge-congested" else 0.002 * -(-gateways // edges)
    classes = {
        # Devices that do it all, that can only measure, and that pay dearly for computing.
        "relay": _kind(200_000, 400, 300, "2MB", watts=(0.1, 0.4)),
        "meter": _kind(
            400_000, 800, 400, "24KB", watts=(0.05, 0.2), cannot_run=["map", "where", "window", "around"]
        ),
        "camera": _kind(300_000, 2500, 100, "64MB", watts=(2.0, 60.0)),
        "box": _kind(150_000, 600, 60, "512MB", cpus=at_gateway, watts=(4.0, 10.0)),
        "lean": _kind(250_000, 700, 80, "256MB", cpus=at_gateway, watts=(3.0, 8.0)),
        "hall": _kind(50_000, 60, 20, "4000GB", cpus=at_edge, price=2.0),
        "region": _kind(30_000, 40, 20, "900000GB", cpus=10_000.0, price=30.0),
    }
    sites: dict[str, Any] = {"cloud": {"tier": "cloud", "node": {"class": "region"}, "jurisdiction": "IE"}}
    above = {"latency": "15ms", "bandwidth": "100Gbit", "price_per_gb": 0.3, "energy_nj_per_byte": 200.0}
    prices = (0.5, 1.0, 2.0, 4.0)
    names: list[str] = []
    if shape == "unique":
        for e in range(edges):
            sites[f"e{e}"] = {"tier": "edge", "parent": "cloud", "node": {"class": "hall"}, "uplink": above}
        for g in range(gateways):
            kind, price = ("box", "lean")[g % 2], prices[g // 2 % 4]
            sites[f"g{g}"] = _gateway(f"e{g * edges // gateways}", kind, price)
            names.append(f"g{g}")
    else:
        many = min(edges, 8)
        each = max(1, gateways // (edges * 6))
        for e in range(many):
            count = edges // many + (e < edges % many)
            sites[f"e{e}"] = {
                "tier": "edge",
                "parent": "cloud",
                "node": {"class": "hall"},
                "uplink": above,
                "count": count,
            }
            for k in range(min(6, gateways)):
                sites[f"g{e}k{k}"] = {
                    **_gateway(f"e{e}", ("box", "lean")[k % 2], prices[k % 4]),
                    "count": each,
                }
                names.append(f"g{e}k{k}")
    groups: dict[str, Any] = {}
    for place, name in enumerate(GROUPS):
        total = devices // 3 + (place < devices % 3)
        link = {"latency": "2ms", "bandwidth": "1Mbit", "energy_nj_per_byte": (3000.0, 12000.0, 800.0)[place]}
        # Where classes are few, their mixes still differ: most meters are at two kinds of gateway in three.
        there = [n for n in names if shape == "unique" or name != "meter" or n[-1] in "0123"]
        group = {"class": name, "count": total, "gateways": there, "actuators": ["breaker"], "link": link}
        if shape == "unique":
            mix = rng.multinomial(total, rng.dirichlet(np.full(gateways, 30.0)))
            group["counts"] = [int(n) for n in mix]
        groups[name] = group
    value = {
        "topology": 1,
        "electricity_per_kwh": 0.3,
        "carbon_g_per_kwh": 300.0,
        "classes": classes,
        "sites": sites,
        "devices": groups,
    }
    return Topology.model_validate(value)


def _kind(
    call: float,
    operation: float,
    hop: float,
    memory: str,
    cpus: float = 1.0,
    watts=(0.0, 0.0),
    price=0.0,
    cannot_run=(),
) -> dict[str, Any]:
    return {
        "ns_per_call": float(call), "ns_per_operation": float(operation), "hop_us": float(hop), "memory": memory,
        "cpus": float(cpus), "watts_idle": float(watts[0]), "watts_busy": float(watts[1]),
        "price_per_cpu_month": float(price), "cannot_run": list(cannot_run),
    }  # fmt: skip


def _gateway(parent: str, kind: str, price: float) -> dict[str, Any]:
    uplink = {"latency": "40ms", "bandwidth": "20Mbit", "price_per_gb": price, "energy_nj_per_byte": 4000.0}
    return {"tier": "gateway", "parent": parent, "node": {"class": kind}, "uplink": uplink}
