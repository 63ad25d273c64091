"""Simulated, labelled three-phase waveforms of a feeder: faults, load steps, capacitor switching.

    python examples/feeder/generate.py OUT --seed 7 --faults 60 --others 30 [--part train|dev]

The network is pandapower's CIGRE medium-voltage benchmark (`create_cigre_network_mv`), **re-rated** to 60 Hz
and 4.16 kV so that the quantities have the size of the IEEE-123 recordings; DATA.md lists every change.

From the library: load flow at three load levels, and the IEC 60909 impedances at every bus (`calc_sc`, case
"max"): positive sequence from the three-phase, zero sequence from the single-phase short circuit. The library
ships no zero-sequence data with this network; they are assumed here (`LINE_ZERO`; transformers Dyn, solidly
grounded, zero-sequence equal to positive impedance).

Derived here: the currents of the ten kinds of fault through a resistance, from the sequence networks written
in phase coordinates, `I = (1 + Y Z)^-1 Y E` (as R -> 0 they are the library's currents; a test compares); the
head's voltage by the source impedance; DC offset of each phase from the point on wave and the X / (omega R)
of the faulted loop; capacitor inrush (one LC mode). Assumed: voltage ringing, fifth harmonic, noise, load
unbalance.

Buses are split by name into the parts "train" and "dev"; no bus is in both. The same arguments give the same
bytes on one version of the libraries.
"""

from __future__ import annotations

import argparse
import csv
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("AG", "BG", "CG", "AB", "BC", "CA", "ABG", "BCG", "CAG", "ABC")
OTHERS = ("LOAD_STEP", "CAP_ON", "CAP_OFF")
PARTS = ("train", "dev", "all")
COLUMNS = "row,event_id,fault_bus,event,is_fault,fault_resistance_ohm,load_mult,inception_sample"

HZ, SAMPLES_PER_SECOND, SAMPLES, CYCLE = 60.0, 3840, 768, 64
OMEGA = 2 * np.pi * HZ
NOMINAL_KV = 4.16
VOLT_PER_LSB, AMP_PER_LSB = 0.25, 1.0
RESISTANCE_OHM = (0.05, 30.0)
LOAD_LEVELS = (0.4, 0.75, 1.1)
LENGTH_SCALE, TRAFO_MVA = 0.15, 10.0
FEEDER_LOAD_SCALE, BUSBAR_LOAD_SCALE = 0.35, 0.1
LINE_ZERO = {"cs": (0.817, 1.598), "ol": (0.658, 1.611)}
"""Zero-sequence R and X in ohm per km at 50 Hz of cable and overhead line: assumed, not from the library."""
UNBALANCE = np.array([1.16, 0.86, 0.98])
"""Share of the three phases in the feeder's load: a feeder with many single-phase laterals."""
EVENTS_MAX = 20_000

TURN = np.exp(2j * np.pi / 3)
FORTESCUE = np.array([[1, 1, 1], [1, TURN**2, TURN], [1, TURN, TURN**2]])
"""Sequence quantities (0, 1, 2) -> phase quantities (a, b, c)."""
BALANCED = FORTESCUE[:, 1]


@dataclass(frozen=True)
class Place:
    """A bus where something can happen: impedances seen from it, and the feeder head that measures it."""

    name: str
    head: int
    z1_ohm: complex
    z0_ohm: complex
    volt: np.ndarray
    """Complex phase-to-ground voltage per load level, V, angle counted from the head's voltage."""
    short_circuit_a: dict[str, float]
    """The library's currents "3ph", "2ph" and "1ph" without resistance, at voltage factor c = 1.1."""


@dataclass(frozen=True)
class Head:
    """A feeder's measuring point: source impedance; voltage (V) and load current (A) per load level."""

    z1_ohm: complex
    z0_ohm: complex
    volt: np.ndarray
    amp: np.ndarray


@dataclass(frozen=True)
class Event:
    """Phasors (RMS, 3 phases) before and after, and how the change comes about."""

    v_pre: np.ndarray
    i_pre: np.ndarray
    v_step: np.ndarray
    i_step: np.ndarray
    tau_s: float
    ring_share: float = 0.0
    inrush_hz: float = 0.0
    inrush_ohm: float = 1.0
    at_zero: bool = False


@dataclass(frozen=True)
class Feeder:
    """What the waveforms need to know of the solved network."""

    heads: dict[int, Head]
    places: list[Place]


def _network() -> Any:
    """The re-rated benchmark with zero-sequence data and split lines."""
    import pandapower as pp
    from pandapower.networks import create_cigre_network_mv

    net = create_cigre_network_mv()
    net.f_hz = HZ
    low = net.bus.vn_kv < 100
    net.bus.loc[low, "vn_kv"] = NOMINAL_KV
    net.trafo[["vn_lv_kv", "sn_mva"]] = [NOMINAL_KV, TRAFO_MVA]
    net.trafo["vector_group"], net.trafo["mag0_percent"], net.trafo["mag0_rx"] = "Dyn", 100.0, 0.0
    net.trafo["vk0_percent"], net.trafo["vkr0_percent"] = net.trafo.vk_percent, net.trafo.vkr_percent
    net.trafo["si0_hv_partial"] = 0.9
    net.ext_grid["x0x_max"], net.ext_grid["r0x0_max"] = 1.0, 0.1
    busbars = net.load.bus.isin(net.trafo.lv_bus)
    net.load["scaling"] = np.where(busbars, BUSBAR_LOAD_SCALE, FEEDER_LOAD_SCALE)
    line = net.line
    line["length_km"] *= LENGTH_SCALE
    line["x_ohm_per_km"] *= HZ / 50
    line["r0_ohm_per_km"] = [LINE_ZERO[kind][0] for kind in line.type]
    line["x0_ohm_per_km"] = [LINE_ZERO[kind][1] * HZ / 50 for kind in line.type]
    line["c0_nf_per_km"], line["endtemp_degree"] = line.c_nf_per_km, 80.0
    switched = set(net.switch.element[net.switch.et == "l"])
    for index in [i for i in line.index if i not in switched]:
        _split(pp, net, index)
    return net


def _split(pp: Any, net: Any, index: int) -> None:
    """Puts a bus in the middle of a line; the first half keeps the line's index."""
    old = net.line.loc[index]
    name = f"{old.from_bus}-{old.to_bus}"
    middle = pp.create_bus(net, NOMINAL_KV, name=name)
    keep = ["r_ohm_per_km", "x_ohm_per_km", "c_nf_per_km", "r0_ohm_per_km", "x0_ohm_per_km", "c0_nf_per_km"]
    keep += ["max_i_ka", "endtemp_degree", "type"]
    half = float(old.length_km) / 2
    pp.create_line_from_parameters(net, middle, int(old.to_bus), half, **{key: old[key] for key in keep})
    net.line.loc[index, "to_bus"] = middle
    net.line.loc[index, "length_km"] = half


@cache
def solve() -> Feeder:
    """Load flows and short-circuit impedances of the network, once per process."""
    import pandapower as pp
    from pandapower.shortcircuit import calc_sc

    net = _network()
    head_line = {int(bus): int(net.line.index[net.line.from_bus == bus][0]) for bus in net.trafo.lv_bus}
    volts, power = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own deprecation notices
        rated = net.load.scaling.copy()
        for level in LOAD_LEVELS:
            net.load["scaling"] = rated * level
            pp.runpp(net, numba=False)
            angle = np.exp(1j * np.deg2rad(net.res_bus.va_degree))
            volts.append(net.res_bus.vm_pu * angle * NOMINAL_KV * 1e3 / np.sqrt(3))
            power.append((net.res_line.p_from_mw + 1j * net.res_line.q_from_mvar) * 1e6)
        results = {}
        for kind in ("3ph", "2ph", "1ph"):
            calc_sc(net, fault=kind, case="max")
            results[kind] = net.res_bus_sc.copy()
    z1 = results["3ph"].rk_ohm + 1j * results["3ph"].xk_ohm
    z0 = results["1ph"].rk0_ohm + 1j * results["1ph"].xk0_ohm
    heads, places = {}, []
    for head, line in head_line.items():
        volt = np.array([abs(v[head]) for v in volts])
        amp = np.array([np.conj(s[line] / (3 * u)) for s, u in zip(power, volt, strict=True)])
        heads[head] = Head(complex(z1[head]), complex(z0[head]), volt, amp)
        for bus in _downstream(net, head):
            seen = np.array([v[bus] * abs(v[head]) / v[head] for v in volts])
            name = str(net.bus.name[bus]).removeprefix("Bus ")
            amps = {kind: float(table.ikss_ka[bus]) * 1e3 for kind, table in results.items()}
            places.append(Place(name, head, complex(z1[bus]), complex(z0[bus]), seen, amps))
    return Feeder(heads, sorted(places, key=lambda p: p.name))


def _downstream(net: Any, head: int) -> list[int]:
    """Buses behind `head` over closed lines (the network is operated radially)."""
    open_lines = set(net.switch.element[(net.switch.et == "l") & ~net.switch.closed])
    lines = net.line.drop(index=list(open_lines))
    edges = [(int(a), int(b)) for a, b in zip(lines.from_bus, lines.to_bus, strict=True)]
    found, fresh = {head}, {head}
    while fresh:
        fresh = {b for pair in edges for a, b in (pair, pair[::-1]) if a in fresh} - found
        found |= fresh
    return sorted(found - {head})


def places_of(part: str) -> list[Place]:
    """Places of "train", "dev" or "all"; every third by name is in dev. ValueError for another part."""
    if part not in PARTS:
        raise ValueError(f"part is {part!r}, not one of {', '.join(PARTS)}")
    every = solve().places
    return [p for n, p in enumerate(every) if part == "all" or (n % 3 == 1) == (part == "dev")]


def phase_impedance(z1_ohm: complex, z0_ohm: complex) -> np.ndarray:
    """Complex (3, 3) impedance in phase coordinates from sequence impedances, negative equal to positive."""
    return np.asarray(FORTESCUE @ np.diag([z0_ohm, z1_ohm, z1_ohm]) @ np.linalg.inv(FORTESCUE))


def fault_admittance(kind: str, resistance_ohm: float) -> np.ndarray:
    """(3, 3) admittance of a resistance between two phases, or from each named phase to ground (ABC too)."""
    y = np.zeros((3, 3))
    phases = ["ABC".index(letter) for letter in kind.removesuffix("G")]
    if len(phases) == 2 and not kind.endswith("G"):
        a, b = phases
        y[a, a] = y[b, b] = 1 / resistance_ohm
        y[a, b] = y[b, a] = -1 / resistance_ohm
    else:
        y[phases, phases] = 1 / resistance_ohm
    return y


def fault_current(place: Place, kind: str, resistance_ohm: float, volt: complex) -> np.ndarray:
    """Complex RMS current (3 phases, A) into a fault at `place`, pre-fault voltage `volt` of phase A in V."""
    y, z = fault_admittance(kind, resistance_ohm), phase_impedance(place.z1_ohm, place.z0_ohm)
    return np.asarray(np.linalg.solve(np.eye(3) + y @ z, y @ (volt * BALANCED)))


def loop_tau_s(place: Place, kind: str, resistance_ohm: float) -> float:
    """Time constant X / (omega R) of the faulted loop, s."""
    z = place.z1_ohm + resistance_ohm
    if kind.endswith("G") and len(kind) == 2:
        z = 2 * place.z1_ohm + place.z0_ohm + 3 * resistance_ohm
    elif len(kind) == 2:
        z = 2 * place.z1_ohm + resistance_ohm
    return float(z.imag / (OMEGA * z.real))


def _before(place: Place, load_mult: float, rng: np.random.Generator) -> tuple[Head, Any, Any, complex]:
    """Head, its voltages and load currents, and the voltage of phase A at the place, before the event."""
    head = solve().heads[place.head]

    def at(values: np.ndarray) -> complex:
        return complex(*(np.interp(load_mult, LOAD_LEVELS, part) for part in (values.real, values.imag)))

    shares = UNBALANCE * rng.normal(1, 0.02, 3)
    return head, at(head.volt) * BALANCED, at(head.amp) * BALANCED * shares / shares.mean(), at(place.volt)


def _fault(
    place: Place, kind: str, resistance_ohm: float, load_mult: float, rng: np.random.Generator
) -> Event:
    head, v_pre, i_pre, volt = _before(place, load_mult, rng)
    amp = fault_current(place, kind, resistance_ohm, volt)
    v_step = -phase_impedance(head.z1_ohm, head.z0_ohm) @ amp
    load_step = i_pre * v_step / v_pre  # loads of constant impedance draw less while the voltage is low
    return Event(v_pre, i_pre, v_step, amp + load_step, loop_tau_s(place, kind, resistance_ohm), 0.5)


def _other(place: Place, kind: str, load_mult: float, rng: np.random.Generator) -> Event:
    head, v_pre, i_pre, volt = _before(place, load_mult, rng)
    z_head = phase_impedance(head.z1_ohm, head.z0_ohm)
    if kind == "LOAD_STEP":
        size = rng.uniform(0.05, 0.5) * rng.choice([-1, 1])
        tilt = np.exp(1j * np.deg2rad(rng.normal(0, 3)))  # the switched load's own power factor
        step = i_pre * size * tilt * rng.normal(1, 0.015, 3)
        tau_s = float(abs(i_pre[0].imag / i_pre[0].real)) / OMEGA
        return Event(v_pre, i_pre, -z_head @ step, step, tau_s, ring_share=0.2)
    farad = rng.uniform(0.15e6, 0.6e6) / (OMEGA * (NOMINAL_KV * 1e3) ** 2)
    amp = 1j * OMEGA * farad * volt * BALANCED
    henry = place.z1_ohm.imag / OMEGA
    hz, ohm = 1 / (2 * np.pi * np.sqrt(henry * farad)), float(np.sqrt(henry / farad))
    if kind == "CAP_OFF":
        return Event(v_pre, i_pre + amp, z_head @ amp, -amp, 0.0, at_zero=True)
    share = head.z1_ohm.imag / place.z1_ohm.imag
    return Event(v_pre, i_pre, -z_head @ amp, amp, 2 * henry / place.z1_ohm.real, share, hz, ohm)


def waveform(event: Event, inception_sample: int, rng: np.random.Generator) -> np.ndarray:
    """Float (6, 768) in V and A at the feeder head: phasors before and after, transients, harmonic, noise."""
    t = (np.arange(SAMPLES) - inception_sample) / SAMPLES_PER_SECOND
    after = t >= 0
    late = np.where(after, t, 0.0)
    spin = np.exp(1j * (2 * np.pi * rng.normal(HZ, 0.02) * t + rng.uniform(0, 2 * np.pi)))
    start = spin[inception_sample]

    def wave(phasor: np.ndarray, turn: Any = spin) -> np.ndarray:
        return np.asarray(np.sqrt(2) * np.real(np.multiply.outer(phasor, turn)))

    v, i = wave(event.v_pre), wave(event.i_pre)
    v_step, i_step = wave(event.v_step) * after, wave(event.i_step) * after
    ring_hz = rng.uniform(500, 1400)
    if event.inrush_hz:
        decay = np.exp(-late / event.tau_s) * after
        turn = 2 * np.pi * event.inrush_hz * late
        v_start = wave(event.v_pre, start)[:, None]
        i_step += v_start / event.inrush_ohm * np.sin(turn) * decay
        i_step -= wave(event.i_step, start)[:, None] * np.cos(turn) * decay
        v_step -= event.ring_share * v_start * np.cos(turn) * decay
    elif event.at_zero:
        # A breaker pole opens at the first zero of the current that it carries.
        carried = wave(event.i_step)
        sign = np.sign(carried)
        zero = np.diff(sign, axis=1, prepend=sign[:, :1]) != 0
        opened = np.logical_or.accumulate(zero & after, axis=1)
        v_step, i_step = wave(event.v_step) * opened, carried * opened
    else:
        i_step -= wave(event.i_step, start)[:, None] * np.exp(-late / max(event.tau_s, 1e-6)) * after
        ring = np.exp(-late / 1.5e-3) * np.cos(2 * np.pi * ring_hz * late) * after
        v_step -= event.ring_share * wave(event.v_step, start)[:, None] * ring
    v = v + v_step + 0.01 * wave(event.v_pre, spin**5)
    out = np.concatenate([v, i + i_step])
    size = np.concatenate([np.abs(event.v_pre), np.abs(event.i_pre)])[:, None] * np.sqrt(2)
    return np.asarray(out + rng.normal(0, 0.004, out.shape) * size)


def generate(
    out_dir: Path | str, *, seed: int, faults: int = 60, others: int = 30, part: str = "dev"
) -> Path:
    """Writes `events.npz` and `labels.csv` into `out_dir` (made if missing) and returns it.

    `wave` is int16 (events, 6, 768): Va, Vb, Vc (1 LSB = 0.25 V), Ia, Ib, Ic (1 LSB = 1 A), 3,840 samples per
    second. Fault kinds and other kinds come in turn, so ten faults hold all ten; the rows are shuffled.
    ValueError when a count is negative, both are 0 or more than `EVENTS_MAX`, or for an unknown part.
    """
    if faults < 0 or others < 0 or not 0 < faults + others <= EVENTS_MAX:
        raise ValueError(f"faults={faults}, others={others}: give counts with a sum of 1 to {EVENTS_MAX}")
    places = places_of(part)
    rng = np.random.default_rng(seed)
    kinds = [KINDS[n % len(KINDS)] for n in range(faults)] + [OTHERS[n % len(OTHERS)] for n in range(others)]
    waves, rows = [], []
    for row, pick in enumerate(rng.permutation(len(kinds))):
        kind, place = kinds[pick], places[rng.integers(len(places))]
        is_fault = kind in KINDS
        # Rounded first, so that the label says exactly what was simulated.
        load_mult = round(float(rng.uniform(LOAD_LEVELS[0], LOAD_LEVELS[-1])), 3)
        ohm = round(float(np.exp(rng.uniform(*np.log(RESISTANCE_OHM)))), 4) if is_fault else 0.0
        inception = int(rng.integers(3 * CYCLE, 6 * CYCLE))
        event = _fault(place, kind, ohm, load_mult, rng) if is_fault else _other(place, kind, load_mult, rng)
        waves.append(to_counts(waveform(event, inception, rng)))
        bus = place.name if is_fault else "-"
        rows.append((row, int(pick), bus, kind, int(is_fault), f"{ohm:.4f}", f"{load_mult:.3f}", inception))
    return _write(Path(out_dir), np.stack(waves), rows)


def to_counts(wave: np.ndarray) -> np.ndarray:
    """int16 counts of a (6, n) waveform in V and A; nothing the network can produce is out of range."""
    counts = np.rint(wave / np.array([VOLT_PER_LSB] * 3 + [AMP_PER_LSB] * 3)[:, None])
    assert np.abs(counts).max() < 32767, "the waveform does not fit int16: was the network changed?"
    return counts.astype(np.int16)


def _write(folder: Path, wave: np.ndarray, rows: Iterable[tuple[Any, ...]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "events.npz", wave=wave)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS.split(","))
    writer.writerows(rows)
    (folder / "labels.csv").write_text(text.getvalue(), encoding="utf-8")
    return folder


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="simulated, labelled feeder waveforms")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--others", type=int, default=30)
    parser.add_argument("--part", choices=PARTS, default="dev")
    args = parser.parse_args(argv)
    folder = generate(args.out, seed=args.seed, faults=args.faults, others=args.others, part=args.part)
    print(f"{args.faults + args.others} simulated events ({args.part} buses, seed {args.seed}) in {folder}")


if __name__ == "__main__":
    main()
