"""Frames that tell builds apart: ordinary signals, and everything floating point can be asked for.

A build may claim "same bits" for a program only when it gives the reference's bytes on all of these.
"""

from __future__ import annotations

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ir.interpret import Computed
from ganglion.kernels.ir.program import Program
from ganglion.kernels.ops.op import Array

_SPECIAL = np.array(
    [
        *(0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 0x00000001),
        *(0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0x3F800000, 0xBF800000, 0x4B000000, 0x4F000000, 0xCF000000),
        0x1E3CE508,
    ],
    np.uint32,
).view(np.float32)
"""Zeros, infinities, NaNs, subnormals, the largest and smallest, ends of whole numbers, the root of the smallest."""


def _ordinary(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    scale = 10.0 ** rng.uniform(-1, 2, (shape[0],) + (1,) * (len(shape) - 1))
    return np.asarray(rng.normal(0, 1, shape) * scale)


def _signal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    t = np.arange(int(np.prod(shape[1:]))).reshape(shape[1:]) / 64
    phase = rng.uniform(0, 6.3, (shape[0],) + (1,) * (len(shape) - 1))
    waves = np.sin(6.283185 * t + phase) * 230 + np.sin(44 * t + 3 * phase) * 11
    return np.asarray(waves + rng.normal(0, 0.5, shape))


def _constant(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    value = np.float32(rng.normal(0, 10, (shape[0],) + (1,) * (len(shape) - 1)))
    return np.asarray(np.broadcast_to(value, shape))


def _any_bits(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(0, 1 << 32, shape, dtype=np.uint32).view(np.float32)


def _tiny(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    subnormal = (
        rng.integers(0, 1 << 23, shape, dtype=np.uint32) | rng.integers(0, 2, shape, dtype=np.uint32) << 31
    )
    underflowing = rng.normal(0, 1e-20, shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.5, subnormal.view(np.float32), underflowing)


def _spiked(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    spikes = rng.choice(_SPECIAL, shape)
    return np.where(rng.random(shape) < 0.05, spikes, rng.normal(0, 3, shape).astype(np.float32))


def _between(rng: np.random.Generator, shape: tuple[int, ...], steps: Array) -> Array:
    """Half way between two whole numbers of steps, and next to it: where a wrong rounding shows."""
    step = rng.choice(steps, (shape[0],) + (1,) * (len(shape) - 1))
    halves = ((rng.integers(-300, 300, shape) + 0.5) * step.astype(np.float64)).astype(np.float32)
    near = np.nextafter(halves, rng.choice(np.array([-np.inf, np.inf], np.float32), shape))
    return np.where(rng.random(shape) < 0.7, halves, near)


_KINDS = (_ordinary, _signal, _constant, _any_bits, _tiny, _spiked)


def frames(kind: TensorType, count: int, seed: int, steps: Array | None = None) -> Array:
    """``count`` frames of a type, a sixth of each kind in turn: (count, *shape).

    ``steps``: scales by which values are quantised; half of the last kind then lies between whole numbers of those.
    """
    rng = np.random.default_rng(seed)
    shape = (count, *kind.shape)
    if kind.dtype == "bool":
        return rng.random(shape) < 0.5
    if kind.dtype == "i32":
        wild = rng.integers(-(1 << 31), 1 << 31, shape, dtype=np.int64)
        calm = rng.integers(-100, 101, shape, dtype=np.int64)
        return np.where(rng.random(shape) < 0.3, wild, calm).astype(np.int32)
    out = np.empty(shape, np.float32)
    with np.errstate(all="ignore"):
        for turn, make in enumerate(_KINDS):
            chosen = out[turn :: len(_KINDS)]
            if len(chosen):
                out[turn :: len(_KINDS)] = make(rng, chosen.shape)
        last = out[2 * len(_KINDS) - 1 :: 2 * len(_KINDS)]
        if steps is not None and len(last):
            last[:] = _between(rng, last.shape, steps)
    return out


def _steps(program: Program) -> Array | None:
    """The constant scales by which a program quantises."""
    places = [node.inputs[1] for node in program.nodes if node.op == "quantize"]
    known = [program.nodes[n].attributes["value"] for n in places if program.nodes[n].op == "const"]
    return np.concatenate([np.ravel(v) for v in known]) if known else None


def inputs(program: Program, count: int, seed: int) -> dict[str, Array]:
    """Hostile frames for every input of a program."""
    steps = _steps(program)
    return {
        name: frames(program.nodes[number].type, count, seed + place, steps)
        for place, (name, number) in enumerate(program.inputs)
    }


def states(program: Program, count: int, seed: int) -> dict[str, Array]:
    """States for each of ``count`` frames: the first is the initial one, the others are hostile."""
    held = {}
    for place, field in enumerate(program.state):
        held[field.name] = frames(program.nodes[field.node].type, count, seed + 1000 + place)
        held[field.name][0] = field.initial
    return held


def differences(wanted: Computed, got: Computed) -> int:
    """In how many frames any output, ``emit`` or next state has other bytes."""
    frames_n = len(wanted.emit)
    differs = wanted.emit != got.emit
    pairs = [(wanted.outputs, got.outputs), (wanted.state, got.state)]
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for name in ours:
            a, b = (np.ascontiguousarray(x[name]).reshape(frames_n, -1) for x in (ours, theirs))
            differs = differs | (a.view(np.uint8) != b.view(np.uint8)).any(axis=1)
    return int(differs.sum())
