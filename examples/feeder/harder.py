"""Harder simulated events than `generate.py` makes: what protection has to tell apart when a fault is weak.

    python examples/feeder/harder.py OUT --seed 7 --faults 300 --others 300 [--part train|dev]

Same network, folder layout and split of buses as `generate.py`. Faults: through 10 to 300 ohm, and for half of those of
one phase to ground through an arc, which conducts only while the voltage is above its own (Emanuel et al., "High
impedance fault arcing on sandy soil in 15 kV distribution feeders", IEEE Trans. Power Delivery 5 (2), 1990: two voltage
sources back to back behind diodes; here both and the resistance change from half wave to half wave). Others: load steps
with more unbalance, loads of one phase or between two, capacitors, starting motors (locked-rotor current at a low power
factor), transformers that are switched on (flux with an offset beyond a knee, decaying), drives (fifth and seventh
harmonic). On top of all: noise up to 1.5 %, harmonics of the load and its flicker. Substation, load and its unbalance
differ from event to event.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from examples.feeder import generate as g
else:  # run as a script, or imported by a file beside it
    import generate as g  # type: ignore[no-redef] # the same module by its plain name

RESISTANCE_OHM = (10.0, 300.0)
OTHERS = ("LOAD_STEP", "LOAD_1PH", "MOTOR_START", "INRUSH", "DRIVE_ON", "CAP_ON", "CAP_OFF")
NOISE = (0.004, 0.015)
"""Standard deviation of white noise, as a share of the amplitude before the event."""
SOURCE, LOADS = (0.003, 2.0), (0.5, 4.0)
"""Source impedance and load, as shares of the benchmark's; drawn evenly in the logarithm."""
TRANSFORMER_KVA = (50, 500)
T = np.arange(g.SAMPLES) / g.SAMPLES_PER_SECOND


def _smooth(wave: np.ndarray, after: int) -> np.ndarray:
    """The fundamental of the first cycles, carried on over the whole record: a voltage without its noise."""
    cycles = after // g.CYCLE * g.CYCLE
    basis = np.exp(-1j * g.OMEGA * T)
    phasor = 2 * (wave[..., :cycles] * basis[:cycles]).mean(-1)
    return np.real(np.multiply.outer(phasor, np.conj(basis)))


def arc(volt: np.ndarray, ohm: float, rng: np.random.Generator) -> np.ndarray:
    """The current of an arc behind ``ohm`` under a voltage (n,): nothing while the voltage is below the arc's own.

    The two voltages are 10 to 50 % of the peak and differ; they and the resistance change by 15 % with each half wave.
    """
    peak = np.abs(volt).max()
    own = peak * rng.uniform(0.1, 0.5) * np.array([1.0, rng.uniform(0.6, 1.4)])
    half = np.cumsum(np.diff(np.sign(volt), prepend=np.sign(volt[:1])) != 0)
    change = np.exp(rng.normal(0, 0.15, (2, half[-1] + 1)))
    level = np.where(volt > 0, own[0], own[1]) * change[0][half]
    return np.sign(volt) * np.maximum(np.abs(volt) - level, 0) / (ohm * change[1][half])


def inrush(volt: np.ndarray, start: int, kva: float, rng: np.random.Generator) -> np.ndarray:
    """Magnetising currents (3, n) of a transformer that is switched on at sample ``start`` under voltages (3, n).

    The flux is the voltage's integral from the residual flux (up to 70 %) on; its offset decays in 50 to 200 ms.
    Beyond the knee (115 to 125 % of the rated flux) the air-core inductance gives 4 to 10 times the rated current at
    an offset of the rated flux.
    """
    amplitude = np.abs(volt).max()
    rated_a = kva / (np.sqrt(3) * g.NOMINAL_KV) * np.sqrt(2)
    rated_flux = amplitude / g.OMEGA
    turn = rng.uniform(0, 2 * np.pi)
    residual = 0.7 * rng.random() * rated_flux * np.cos(turn + np.array([0, 2, 4]) * np.pi / 3)
    since = np.arange(volt.shape[1]) >= start
    steady = np.cumsum(volt, axis=1) / g.SAMPLES_PER_SECOND
    steady -= steady[:, : 3 * g.CYCLE].mean(1, keepdims=True)  # the flux in step with the voltage
    late = np.where(since, T - T[start], 0)
    offset = (residual - steady[:, start])[:, None] * np.exp(-late / rng.uniform(0.05, 0.2))
    flux = (steady + offset) / rated_flux
    knee = rng.uniform(1.15, 1.25)
    slope = rated_a * rng.uniform(4, 10) / (2 - knee)
    return since * slope * (np.maximum(flux - knee, 0) - np.maximum(-flux - knee, 0))


@dataclass(frozen=True)
class Feeder:
    """A feeder head before an event: impedance behind it (3, 3), phasors (3) of voltage and load current.

    ``volt`` is phase A's voltage at the place where something happens.
    """

    place: g.Place
    z_ohm: np.ndarray
    v_pre: np.ndarray
    i_pre: np.ndarray
    volt: complex

    @property
    def load_a(self) -> float:
        """Mean of the three load currents, A RMS."""
        return float(np.abs(self.i_pre).mean())


def feeder(place: g.Place, load_mult: float, rng: np.random.Generator) -> Feeder:
    """The benchmark's feeder with another substation and other loads: what is learned must not be its impedance.

    Source impedance 0.003 to 2 times the benchmark's, load 0.5 to 4 times, unbalance of 15 %, angle of 6 degrees.
    """
    head = g.solve().heads[place.head]
    _, v_pre, i_pre, volt = g._before(place, load_mult, rng)
    source = float(np.exp(rng.uniform(*np.log(SOURCE))))
    shares = np.clip(rng.normal(1, 0.15, 3), 0.6, 1.4)
    tilt = np.exp(1j * np.deg2rad(rng.normal(0, 6))) * np.exp(rng.uniform(*np.log(LOADS)))
    z = g.phase_impedance(head.z1_ohm * source, head.z0_ohm * source)
    even = np.abs(i_pre).mean() * i_pre / np.abs(i_pre)
    return Feeder(place, z, v_pre, even * shares * tilt, volt)


def _step(f: Feeder, amps: Any, tau_s: float, rng: np.random.Generator, **more: Any) -> g.Event:
    """Phasors (3) of a current that is added; the load draws less while the voltage is low."""
    v_step = -f.z_ohm @ amps
    ring = {"ring_share": rng.uniform(0.1, 0.5)} | more
    return g.Event(f.v_pre, f.i_pre, v_step, amps + f.i_pre * v_step / f.v_pre, tau_s, **ring)


def _single(rng: np.random.Generator, load_a: float) -> np.ndarray:
    """A load of 2 to 15 % of a phase's current, of one phase or (every third time) between two."""
    angle = np.exp(-1j * np.arccos(rng.uniform(0.8, 1.0)))
    size = load_a * rng.uniform(0.02, 0.15) * rng.choice([-1, 1])
    a, b = rng.permutation(3)[:2]
    amps = np.zeros(3, complex)
    if rng.random() < 1 / 3:
        between = (g.BALANCED[a] - g.BALANCED[b]) / np.sqrt(3) * size * angle
        amps[a], amps[b] = between, -between
    else:
        amps[a] = g.BALANCED[a] * size * angle
    return amps


def _capacitor(f: Feeder, kind: str, load_mult: float, rng: np.random.Generator) -> g.Event:
    event = g._other(f.place, kind, load_mult, rng)
    before = f.i_pre - event.i_step if kind == "CAP_OFF" else f.i_pre
    return replace(event, v_pre=f.v_pre, i_pre=before, v_step=-f.z_ohm @ event.i_step)


def _phasors(f: Feeder, kind: str, ohm: float, load_mult: float, rng: np.random.Generator) -> g.Event:
    """The part of an event that phasors describe; arcs, inrush and harmonics come on top."""
    if kind in ("CAP_ON", "CAP_OFF"):
        return _capacitor(f, kind, load_mult, rng)
    if kind in g.KINDS and ohm > 0:
        amps = g.fault_current(f.place, kind, ohm, f.volt)
        return _step(f, amps, g.loop_tau_s(f.place, kind, ohm), rng)
    if kind == "LOAD_STEP":
        size = rng.uniform(0.05, 0.5) * rng.choice([-1, 1])
        tilt = np.exp(1j * np.deg2rad(rng.normal(0, 5)))
        return _step(f, f.i_pre * size * tilt * rng.normal(1, 0.03, 3), 1e-3, rng)
    if kind == "LOAD_1PH":
        return _step(f, _single(rng, f.load_a), 1e-3, rng)
    if kind == "MOTOR_START":
        rated_a = rng.uniform(30, 300) / (np.sqrt(3) * g.NOMINAL_KV * 0.8)
        angle = np.arccos(rng.uniform(0.15, 0.35))
        amps = rated_a * rng.uniform(5, 7) * np.exp(-1j * angle) * g.BALANCED * rng.normal(1, 0.01, 3)
        return _step(f, amps, float(np.tan(angle)) / g.OMEGA, rng)
    if kind == "DRIVE_ON":
        amps = f.load_a * rng.uniform(0.05, 0.3) * g.BALANCED * rng.normal(1, 0.01, 3)
        return _step(f, amps, 1e-4, rng)
    none = np.zeros(3, complex)
    return g.Event(f.v_pre, f.i_pre, none, none, 0.0)


def _extra(
    f: Feeder, kind: str, ohm: float, volts: np.ndarray, start: int, event: g.Event, rng: np.random.Generator
) -> np.ndarray:
    """Currents (3, n) that phasors do not describe; ``ohm`` is negative for an arc."""
    amps, since = np.zeros((3, g.SAMPLES)), np.arange(g.SAMPLES) >= start
    if kind in g.KINDS and ohm < 0:
        phase = "ABC".index(kind[0])
        amps[phase] = arc(volts[phase] * abs(f.volt / f.v_pre[0]), -ohm, rng) * since
    elif kind == "INRUSH":
        amps = inrush(volts, start, float(np.exp(rng.uniform(*np.log(TRANSFORMER_KVA)))), rng)
    elif kind == "DRIVE_ON":
        size = np.sqrt(2) * abs(event.i_step[0])
        for order, share in ((5, rng.uniform(0.2, 0.4)), (7, rng.uniform(0.08, 0.15))):
            turn = order * (g.OMEGA * T[None] + np.angle(g.BALANCED)[:, None] + rng.uniform(0, 0.3))
            amps += size * share * np.cos(turn) * since
    return amps


def _background(event: g.Event, rng: np.random.Generator) -> np.ndarray:
    """Noise, harmonics of the load current (third and fifth up to 4 %), its flicker (up to 0.8 %): (6, n)."""
    size = np.concatenate([np.abs(event.v_pre), np.abs(event.i_pre)])[:, None] * np.sqrt(2)
    out = rng.normal(0, 1, (6, g.SAMPLES)) * size * np.sqrt(max(rng.uniform(*NOISE) ** 2 - 0.004**2, 0))
    for order in (3, 5):
        share = rng.uniform(0, 0.04) * rng.normal(1, 0.2, (3, 1))
        turn = order * (g.OMEGA * T[None] + np.angle(event.i_pre)[:, None]) + rng.uniform(0, 2 * np.pi)
        out[3:] += size[3:] * share * np.cos(turn)
    flicker = rng.uniform(0, 0.008) * np.cos(2 * np.pi * rng.uniform(3, 12) * T + rng.uniform(0, 2 * np.pi))
    turn = g.OMEGA * T[None] + np.angle(event.i_pre)[:, None]
    out[3:] += size[3:] * flicker * np.cos(turn)
    return np.asarray(out)


def wave_of(
    place: g.Place, kind: str, ohm: float, load_mult: float, start: int, rng: np.random.Generator
) -> np.ndarray:
    """Float (6, 768) in V and A; a negative resistance is that of an arc."""
    f = feeder(place, load_mult, rng)
    event = _phasors(f, kind, ohm, load_mult, rng)
    wave = g.waveform(event, start, rng)
    amps = _extra(f, kind, ohm, _smooth(wave[:3], start), start, event, rng)
    slope = np.gradient(amps, 1 / g.SAMPLES_PER_SECOND, axis=1)
    wave[:3] -= f.z_ohm.real @ amps + f.z_ohm.imag / g.OMEGA @ slope
    wave[3:] += amps
    return np.asarray(wave + _background(event, rng))


def generate(
    out_dir: Path | str,
    *,
    seed: int,
    faults: int = 300,
    others: int = 300,
    part: str = "dev",
    ohm_range: tuple[float, float] = RESISTANCE_OHM,
) -> Path:
    """As `generate.generate`, which says what is written and what is refused; an arc's kind is that of its phase.

    Resistances are drawn evenly in the logarithm from `ohm_range`; arcs are drawn above 10 ohm only.
    """
    if faults < 0 or others < 0 or not 0 < faults + others <= g.EVENTS_MAX:
        raise ValueError(f"faults={faults}, others={others}: give counts with a sum of 1 to {g.EVENTS_MAX}")
    places = g.places_of(part)
    rng = np.random.default_rng(seed)
    kinds = [g.KINDS[n % len(g.KINDS)] for n in range(faults)] + [
        OTHERS[n % len(OTHERS)] for n in range(others)
    ]
    waves, rows = [], []
    for row, pick in enumerate(rng.permutation(len(kinds))):
        kind, place = kinds[pick], places[rng.integers(len(places))]
        is_fault = kind in g.KINDS
        load_mult = round(float(rng.uniform(g.LOAD_LEVELS[0], g.LOAD_LEVELS[-1])), 3)
        ohm = round(float(np.exp(rng.uniform(*np.log(ohm_range)))), 4) if is_fault else 0.0
        arcing = kind in ("AG", "BG", "CG") and rng.random() < 0.5 and ohm > RESISTANCE_OHM[0]
        start = int(rng.integers(3 * g.CYCLE, 6 * g.CYCLE))
        waves.append(g.to_counts(wave_of(place, kind, -ohm if arcing else ohm, load_mult, start, rng)))
        bus = place.name if is_fault else "-"
        rows.append((row, int(pick), bus, kind, int(is_fault), f"{ohm:.4f}", f"{load_mult:.3f}", start))
    return g._write(Path(out_dir), np.stack(waves), rows)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="simulated, labelled feeder waveforms, harder ones")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--others", type=int, default=300)
    parser.add_argument("--part", choices=g.PARTS, default="dev")
    args = parser.parse_args(argv)
    folder = generate(args.out, seed=args.seed, faults=args.faults, others=args.others, part=args.part)
    print(f"{args.faults + args.others} simulated events ({args.part} buses, seed {args.seed}) in {folder}")


if __name__ == "__main__":
    main()
