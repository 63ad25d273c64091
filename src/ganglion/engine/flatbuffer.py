"""Writes FlatBuffers, front to back: tables, texts and vectors, as far as Arrow's messages need them.

A table is a vtable, which says where each slot's value stands, and the values. What is longer than eight bytes stands
further back, and its offset from where it is named is the value. See https://flatbuffers.dev/internals/.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

Writer = Callable[[bytearray], int]
"""Appends itself, aligned, and returns where it begins."""
Scalar = tuple[str, int]
"""A code of `struct` and the number."""
OFFSET_BYTES = 4


def table(values: Mapping[int, Scalar | Writer]) -> Writer:
    """Slot -> value; slots that are left out have their defaults."""
    # The widest first, and the first of them at a multiple of eight: then all are aligned, without holes.
    inline = sorted(values.items(), key=lambda one: -_width(one[1]))
    vtable_bytes = 4 + 2 * (max(values, default=-1) + 1)

    def write(out: bytearray) -> int:
        _align(out, 8, 4 - vtable_bytes)
        vtable = len(out)
        out += bytes(vtable_bytes)
        begin = len(out)
        out += struct.pack("<i", begin - vtable)
        further: list[tuple[int, Writer]] = []
        for slot, value in inline:
            struct.pack_into("<H", out, vtable + 4 + 2 * slot, len(out) - begin)
            if isinstance(value, tuple):
                out += struct.pack(f"<{value[0]}", value[1])
            else:
                further.append((len(out), value))
                out += bytes(OFFSET_BYTES)
        struct.pack_into("<HH", out, vtable, vtable_bytes, len(out) - begin)
        for place, writer in further:
            struct.pack_into("<I", out, place, writer(out) - place)
        return begin

    return write


def text(value: str) -> Writer:
    """UTF-8 with its length before it and a zero behind."""
    content = value.encode()

    def write(out: bytearray) -> int:
        _align(out, 4, 0)
        begin = len(out)
        out += struct.pack("<I", len(content)) + content + b"\0"
        return begin

    return write


def vector(items: Sequence[Writer]) -> Writer:
    """Of tables or texts."""

    def write(out: bytearray) -> int:
        _align(out, 4, 0)
        begin = len(out)
        out += struct.pack("<I", len(items)) + bytes(OFFSET_BYTES * len(items))
        for number, item in enumerate(items):
            place = begin + 4 + OFFSET_BYTES * number
            struct.pack_into("<I", out, place, item(out) - place)
        return begin

    return write


def pairs(numbers: Sequence[int]) -> Writer:
    """A vector of structures of two 64-bit numbers each."""

    def write(out: bytearray) -> int:
        _align(out, 8, 4)  # the numbers, not their count, at a multiple of eight
        begin = len(out)
        out += struct.pack(f"<I{len(numbers)}q", len(numbers) // 2, *numbers)
        return begin

    return write


def buffer(root: Writer) -> bytes:
    """The whole, as long as a multiple of eight."""
    out = bytearray(OFFSET_BYTES)
    struct.pack_into("<I", out, 0, root(out))
    _align(out, 8, 0)
    return bytes(out)


def _width(value: Scalar | Writer) -> int:
    return struct.calcsize(value[0]) if isinstance(value, tuple) else OFFSET_BYTES


def _align(out: bytearray, width: int, rest: int) -> None:
    out += bytes((rest - len(out)) % width)
