"""A loop whose steps hang together: ``scan`` runs a program for each element of a sequence and carries values on.

Its result is a block of 32-bit words: the last carried values, then what each step gave. ``pick`` takes one of them
out. So every node has one value with one type, like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, Writer, flat_index, require

WORD_BYTES = 4
C_TYPES = {"f32": "float", "i32": "int32_t", "bool": "uint8_t"}


class Body(Protocol):
    """What a scan needs of the program that it repeats."""

    @property
    def nodes(self) -> Sequence[Any]:
        """Its nodes, each with a type."""

    @property
    def inputs(self) -> Sequence[tuple[str, int]]:
        """Names and nodes of what it is given: carried values, the element, what it takes in from round it."""

    @property
    def outputs(self) -> Sequence[tuple[str, int]]:
        """Names and nodes of the next carried values and, if there is any, of what it gives."""


@dataclass(frozen=True, slots=True)
class Place:
    """A value in the block: where it begins, in words, and its type."""

    offset: int
    type: TensorType


def words(kind: TensorType) -> int:
    """Words that a value takes in the block; truth values take a byte each."""
    size = kind.elements * (1 if kind.dtype == "bool" else WORD_BYTES)
    return -(-size // WORD_BYTES)


def places(body: Body, carries: int, steps: int) -> list[Place]:
    """The carried values and, if the body gives any, what all steps gave."""
    kinds = [body.nodes[n].type for _, n in body.outputs]
    kept = kinds[:carries] + [TensorType(k.dtype, (steps, *k.shape)) for k in kinds[carries:]]
    offsets = [0, *accumulate(words(k) for k in kept)]
    return [Place(offset, kind) for offset, kind in zip(offsets, kept, strict=False)]


def _scan_type(types: Types, attributes: Attributes) -> TensorType:
    body, carries = attributes["body"], attributes["carries"]
    require(len(types) > carries and len(types[carries].shape) > 0, "a scan runs along an axis")
    steps = types[carries].shape[0]
    given = [
        *types[:carries],
        TensorType(types[carries].dtype, types[carries].shape[1:]),
        *types[carries + 1 :],
    ]
    wanted = [body.nodes[n].type for _, n in body.inputs]
    require(
        wanted == given, f"the step takes {', '.join(map(str, wanted))}, not {', '.join(map(str, given))}"
    )
    kept = [body.nodes[n].type for _, n in body.outputs]
    require(kept[:carries] == wanted[:carries], "what is carried on keeps its type")
    last = places(body, carries, steps)[-1]
    return TensorType("i32", (last.offset + words(last.type),))


def evaluate_scan(
    run: Callable[[Any, dict[str, Array]], dict[str, Array]], arrays: Sequence[Array], attributes: Attributes
) -> Array:
    """The block; ``run(body, inputs)`` computes one step's outputs by name."""
    body, carries = attributes["body"], attributes["carries"]
    given, names = [name for name, _ in body.inputs], [name for name, _ in body.outputs]
    frames = max(a.shape[0] for a in arrays)
    whole = [np.broadcast_to(a, (frames, *a.shape[1:])) for a in arrays]
    carry, sequence, rest = whole[:carries], whole[carries], whole[carries + 1 :]
    gave: list[Array] = []
    for step in range(sequence.shape[1]):
        inputs = dict(zip(given, [*carry, sequence[:, step], *rest], strict=True))
        outputs = run(body, inputs)
        carry = [outputs[n] for n in names[:carries]]
        gave += [outputs[n] for n in names[carries:]]
    kept = carry + ([np.stack(gave, axis=1)] if gave else [])
    return np.concatenate([_packed(a) for a in kept], axis=1)


def _packed(array: Array) -> Array:
    flat = np.ascontiguousarray(array).reshape(array.shape[0], -1).view(np.uint8)
    padded = np.zeros((flat.shape[0], -(-flat.shape[1] // WORD_BYTES) * WORD_BYTES), np.uint8)
    padded[:, : flat.shape[1]] = flat
    return padded.view(np.int32)


def _scan_reference(_arrays: Sequence[Array], _attributes: Attributes, _result: TensorType) -> Array:
    raise AssertionError("the interpreter runs scans, since they hold programs")


def _write_scan(writer: Writer, types: Types, attributes: Attributes, _result: TensorType) -> None:
    body, carries = attributes["body"], attributes["carries"]
    steps = types[carries].shape[0]
    kept = places(body, carries, steps)
    pointers = []
    for operand, place in enumerate(kept[:carries]):
        pointer = _pointer(writer, place.type.dtype, f"(r + {writer.span(str(place.offset))})")
        pointers.append(pointer)
        _fill(writer, pointer, place.type, partial(writer.read, operand))
    t = writer.name()
    writer.line(f"for (int {t} = 0; {t} < {steps}; {t}++) {{")
    size = types[carries].elements // steps
    step = f"{t} * {size}"
    given = [
        *pointers,
        f"({writer.pointer(carries)} + {step if writer.shared(carries) else writer.span(step)})",
        *(writer.pointer(j) for j in range(carries + 1, len(types))),
    ]
    shared = [False] * carries + [writer.shared(j) for j in range(carries, len(types))]
    read = writer.program(body, given, shared)
    drafts = [
        _pointer(writer, p.type.dtype, writer.scratch(p.type.dtype, p.type.elements)) for p in kept[:carries]
    ]
    for number, (draft, place) in enumerate(zip(drafts, kept[:carries], strict=True)):
        _fill(writer, draft, place.type, partial(read, number))
    if len(kept) > carries:
        gave = kept[carries]
        each = TensorType(gave.type.dtype, gave.type.shape[1:])
        block = f"(r + {writer.span(str(gave.offset))})"
        target = _pointer(writer, each.dtype, block, f" + {writer.span(f'{t} * {each.elements}')}")
        _fill(writer, target, each, partial(read, carries))
    for pointer, draft, place in zip(pointers, drafts, kept[:carries], strict=True):
        i = writer.name()
        at = writer.place(i)
        each_of = f"for (int {i} = 0; {i} < {place.type.elements}; {i}++)"
        writer.line(f"{each_of} {writer.rows}{pointer}[{at}] = {draft}[{at}];")
    writer.line("}")


def _pointer(writer: Writer, dtype: str, address: str, step: str = "") -> str:
    name, kind = writer.name(), C_TYPES[dtype]
    writer.line(f"{kind} *const {name} = ({kind} *){address}{step};")
    return name


def _fill(writer: Writer, target: str, kind: TensorType, value: Callable[[list[str]], str]) -> None:
    index = writer.loop(kind.shape)
    writer.line(f"{writer.rows}{target}[{writer.place(flat_index(index, kind.shape))}] = {value(index)};")
    writer.end(len(kind.shape) or 1)


def _scan_cost(types: Types, attributes: Attributes, _result: TensorType) -> int:
    body, steps = attributes["body"], types[attributes["carries"]].shape[0]
    moved = sum(int(body.nodes[n].type.elements) for _, n in body.outputs)
    return int(steps * (attributes["step_cost"] + moved))


def _pick_type(types: Types, attributes: Attributes) -> TensorType:
    kind = TensorType(attributes["dtype"], tuple(attributes["shape"]))
    inside = 0 <= attributes["offset"] <= types[0].elements - words(kind)
    require(types[0].dtype == "i32" and len(types[0].shape) == 1 and inside, f"{kind} is not in the block")
    return kind


def _pick(arrays: Sequence[Array], attributes: Attributes, result: TensorType) -> Array:
    first = attributes["offset"]
    block = np.ascontiguousarray(arrays[0][:, first : first + words(result)])
    taken = block.view(np.uint8)[:, : result.elements * result.numpy.itemsize]
    return np.ascontiguousarray(taken).view(result.numpy).reshape(block.shape[0], *result.shape)


LOOP = (
    Op("scan", _scan_type, _scan_reference, None, _write_scan, _scan_cost, grouped=True),
    Op("pick", _pick_type, _pick, cost=lambda _t, _a, _r: 0),
)
