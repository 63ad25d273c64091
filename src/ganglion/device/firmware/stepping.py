"""Frames through a kernel or a network of an image, on an emulated processor: results, and what they took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ganglion.device.firmware.calls import Calls, Room
from ganglion.kernels.ir.interpret import Computed
from ganglion.kernels.ir.program import Program
from ganglion.kernels.networks.emission import EmittedNetwork
from ganglion.kernels.ops.op import Array

FRAMES_BYTES_MAX = 32 << 20
"""What the frames of one request may take of the room."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a kernel gave for its frames, and the instructions each of them took, 0 where they are not counted."""

    computed: Computed
    instructions: tuple[int, ...]


def step(
    calls: Calls,
    program: Program,
    symbol: str,
    workspace_bytes: int,
    given: Mapping[str, Array],
    table: Array,
) -> Stepped:
    """Frames through ``SYMBOL_step``: each with the state of its own number, or all in turn with the only one.

    ``given``: (frames, *shape) of each input; ``table``: one state, or as many as frames; changed in place.
    """
    inputs = [np.ascontiguousarray(given[n], program.nodes[k].type.numpy) for n, k in program.inputs]
    frames = len(inputs[0])
    kinds = {name: program.nodes[n].type for name, n in program.outputs}
    outputs = {name: np.empty((frames, *kind.shape), kind.numpy) for name, kind in kinds.items()}
    emitted, counts = np.empty(frames, np.bool_), list[int]()
    each = sum(a.nbytes for a in (*inputs, *outputs.values())) // frames + table.itemsize + 256
    at_once = max(1, FRAMES_BYTES_MAX // each)
    for first in range(0, frames, at_once):
        part = slice(first, first + at_once)
        held = table if len(table) == 1 else table[part]
        results = [a[part] for a in outputs.values()]
        done = _at_once(calls, (f"{symbol}_step", workspace_bytes), [a[part] for a in inputs], held, results)
        emitted[part] = done.emitted
        counts += done.instructions
    state = {f.name: table[f.name].copy() for f in program.state}
    return Stepped(Computed(outputs, emitted, state), tuple(counts))


@dataclass(frozen=True, slots=True)
class _Done:
    emitted: Array
    instructions: tuple[int, ...]


def _at_once(
    calls: Calls, function: tuple[str, int], inputs: list[Array], table: Array, results: list[Array]
) -> _Done:
    """As many frames as there is room for; ``function``: its name and workspace; fills ``results`` and ``table``."""
    n, room = len(inputs[0]), Room(calls.pointer_bytes)
    places = [room.put(a.tobytes()) for a in inputs]
    targets = [room.place(a.nbytes) for a in results]
    states, emit, work = room.put(table.tobytes()), room.place(n), room.place(function[1])
    rows = []
    for k in range(n):
        taken = room.pointers(p + k * a[0].nbytes for p, a in zip(places, inputs, strict=True))
        made = room.pointers(p + k * a[0].nbytes for p, a in zip(targets, results, strict=True))
        own = states + (k * table.itemsize if len(table) > 1 else 0)
        rows.append((taken, own, made, emit + k, work))
    wanted = [(p, a.nbytes) for p, a in zip(targets, results, strict=True)]
    done = calls.call(function[0], rows, room.given, [*wanted, (emit, n), (states, table.nbytes)])
    for content, array in zip(done.read, results, strict=False):
        array[:] = np.frombuffer(content, array.dtype).reshape(array.shape)
    if table.itemsize:
        table[:] = np.frombuffer(done.read[-1], table.dtype)
    return _Done(np.frombuffer(done.read[-2], np.bool_), done.instructions)


@dataclass(frozen=True, slots=True)
class NetworkStepped:
    """What a network gave for its frames (frames, elements), and the instructions each of them took."""

    integers: npt.NDArray[np.int8]
    instructions: tuple[int, ...]


def step_network(calls: Calls, written: EmittedNetwork, frames: npt.NDArray[np.int8]) -> NetworkStepped:
    """Int8 frames through ``SYMBOL_step`` of a network."""
    n, room = len(frames), Room(calls.pointer_bytes)
    given, size = room.put(frames.tobytes()), written.output_bytes
    made, work = room.place(n * size), room.place(written.workspace_bytes)
    rows = [(given + k * written.input_bytes, made + k * size, work) for k in range(n)]
    done = calls.call(f"{written.symbol}_step", rows, room.given, [(made, n * size)])
    return NetworkStepped(np.frombuffer(done.read[0], np.int8).reshape(n, size), done.instructions)
