"""What an image for a Cortex-M holds: bytes per kind of memory, and its deepest stack, read from its code."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganglion.core.errors import FlowError

_PT_LOAD = 1
_SHT_SYMTAB = 2
_STT_OBJECT, _STT_FUNC = 1, 2


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function or variable."""

    name: str
    at: int
    size: int
    kind: int


class Elf:
    """A linked 32-bit little-endian ELF file."""

    def __init__(self, content: bytes) -> None:
        assert content[:6] == b"\x7fELF\x01\x01", "not a 32-bit little-endian ELF file"
        self._content = content
        header = struct.unpack_from("<HHIIIIIHHHHHH", content, 16)
        self.segments = [
            struct.unpack_from("<IIIIIIII", content, header[4] + k * header[8]) for k in range(header[9])
        ]
        rows = [
            struct.unpack_from("<IIIIIIIIII", content, header[5] + k * header[10]) for k in range(header[11])
        ]
        names = rows[header[12]]
        self._sections = {self._text(names[4], r[0]): r for r in rows}
        self._rows = rows
        self.symbols = list(self._symbols())

    @staticmethod
    def read(path: Path) -> Elf:
        """The file at ``path``."""
        return Elf(path.read_bytes())

    def _text(self, table: int, at: int) -> str:
        end = self._content.index(b"\0", table + at)
        return self._content[table + at : end].decode()

    def _symbols(self) -> Iterator[Symbol]:
        for row in self._rows:
            if row[1] != _SHT_SYMTAB:
                continue
            names = self._rows[row[6]][4]
            for at in range(row[4], row[4] + row[5], 16):
                name, value, size, info, _, section = struct.unpack_from("<IIIBBH", self._content, at)
                if section:
                    yield Symbol(self._text(names, name), value, size, info & 15)

    def section(self, name: str) -> bytes:
        """A section's content; empty when there is none."""
        row = self._sections.get(name)
        return b"" if row is None else self._content[row[4] : row[4] + row[5]]

    def variable(self, name: str) -> Symbol:
        """A variable by its name."""
        return next(s for s in self.symbols if s.name == name and s.kind == _STT_OBJECT)

    def loaded(self, at: int, size: int) -> bytes:
        """Bytes of the image at an address."""
        for kind, offset, address, _, file_size, *_ in self.segments:
            if kind == _PT_LOAD and address <= at and at + size <= address + file_size:
                start = offset + at - address
                return self._content[start : start + size]
        raise AssertionError(f"nothing lies at {at:#x}")

    def bytes_at(self, start: int, end: int) -> tuple[int, int]:
        """(bytes in the file, bytes in memory) of what is linked to addresses from ``start`` to ``end``."""
        inside = [s for s in self.segments if s[0] == _PT_LOAD and start <= s[2] < end]
        return sum(s[4] for s in inside), sum(s[5] for s in inside)


@dataclass(frozen=True, slots=True)
class Stack:
    """``depth_bytes``: the most that can be on the stack; ``chain``: the calls that lead there."""

    depth_bytes: int
    chain: tuple[str, ...]


def worst_stack(elf: Elf, entry: str, indirect: Sequence[str]) -> Stack:
    """The deepest chain of calls from ``entry``. Calls through pointers may lead to the functions ``indirect``.

    Raises `FlowError` ``firmware.stack`` when functions call each other in a circle, or a frame has no fixed size.
    """
    return _Calls(elf, indirect).deepest(entry)


class _Calls:
    def __init__(self, elf: Elf, indirect: Sequence[str]) -> None:
        self._elf = elf
        functions = [s for s in elf.symbols if s.kind == _STT_FUNC and s.size]
        self._functions = {s.at & ~1: s for s in functions}
        self._named = {s.name: s.at & ~1 for s in functions}
        self._indirect = [self._named[n] for n in indirect if n in self._named]
        # $t and $d: where code and where constants begin.
        self._marks = sorted(
            (s.at & ~1, s.name[:2] == "$d") for s in elf.symbols if s.name[:2] in ("$t", "$d")
        )
        self._frames = dict(_stack_sizes(elf.section(".stack_sizes")))
        self._done: dict[int, Stack] = {}
        self._under_way: list[int] = []

    def deepest(self, entry: str) -> Stack:
        return self._depth(self._named[entry])

    def _depth(self, at: int) -> Stack:
        known = self._done.get(at)
        if known is not None:
            return known
        function = self._functions[at]
        if at in self._under_way:
            circle = [self._functions[a].name for a in self._under_way[self._under_way.index(at) :]]
            raise _unbounded(f"{' calls '.join([*circle, function.name])}", "recursion has no bound")
        self._under_way.append(at)
        code = list(self._instructions(function))
        frame = self._frames.get(at)
        if frame is None:  # the compiler's own library says nothing of its frames
            frame = sum(_pushed(function.name, first, second) for _, first, second in code)
        below = max(
            (self._depth(callee) for callee in self._callees(function, code)),
            key=lambda s: s.depth_bytes,
            default=Stack(0, ()),
        )
        self._under_way.pop()
        self._done[at] = Stack(frame + below.depth_bytes, (function.name, *below.chain))
        return self._done[at]

    def _callees(self, function: Symbol, code: Sequence[tuple[int, int, int]]) -> set[int]:
        start, end = function.at & ~1, (function.at & ~1) + function.size
        found: set[int] = set()
        for at, first, second in code:
            target = _target(at, first, second)
            if target is not None and not start <= target < end:
                assert target in self._functions, f"{function.name} jumps to {target:#x}"
                found.add(target)
            if target == start and second & 0xD000 == 0xD000 and first & 0xF800 == 0xF000:
                found.add(start)
            if second < 0 and first & 0xFF07 == 0x4700 and first & 0x0078 != 0x0070:
                found.update(self._indirect)  # BX or BLX of a register that is not the link register
        return found

    def _instructions(self, function: Symbol) -> Iterator[tuple[int, int, int]]:
        """(address, first halfword, second halfword or -1) of each instruction, constants left out."""
        at, end = function.at & ~1, (function.at & ~1) + function.size
        code = self._elf.loaded(at, function.size)
        base = at
        while at + 2 <= end:
            if self._is_data(at):
                at += 2
                continue
            first = int.from_bytes(code[at - base : at - base + 2], "little")
            if first >> 11 in (0b11101, 0b11110, 0b11111):
                yield at, first, int.from_bytes(code[at - base + 2 : at - base + 4], "little")
                at += 4
            else:
                yield at, first, -1
                at += 2

    def _is_data(self, at: int) -> bool:
        low, high = 0, len(self._marks)
        while low < high:
            middle = (low + high) // 2
            if self._marks[middle][0] <= at:
                low = middle + 1
            else:
                high = middle
        return low > 0 and self._marks[low - 1][1]


def _stack_sizes(content: bytes) -> Iterator[tuple[int, int]]:
    """The section that clang writes: for each function its address (4 bytes) and its frame's size (ULEB128)."""
    at = 0
    while at < len(content):
        function = int.from_bytes(content[at : at + 4], "little") & ~1
        at += 4
        size = shift = 0
        while True:
            byte = content[at]
            at += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        yield function, size


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _target(at: int, first: int, second: int) -> int | None:
    """Where a branch or call with a fixed target leads."""
    if second < 0:
        if first & 0xF800 == 0xE000:
            return at + 4 + 2 * _signed(first & 0x7FF, 11)
        if first & 0xF000 == 0xD000 and first & 0x0E00 != 0x0E00:
            return at + 4 + 2 * _signed(first & 0xFF, 8)
        return None
    if first & 0xF800 != 0xF000 or not second & 0x8000:
        return None
    sign = first >> 10 & 1
    if second & 0x1000:  # B.W and BL
        ones = sign ^ 1
        one, two = (second >> 13 & 1) ^ ones, (second >> 11 & 1) ^ ones
        offset = sign << 24 | one << 23 | two << 22 | (first & 0x3FF) << 12 | (second & 0x7FF) << 1
        return at + 4 + _signed(offset, 25)
    if not second & 0x4000 and (first >> 6 & 0xF) < 0xE:  # B.W of a condition
        parts = (
            (second >> 11 & 1) << 19 | (second >> 13 & 1) << 18 | (first & 0x3F) << 12 | (second & 0x7FF) << 1
        )
        return at + 4 + _signed(sign << 20 | parts, 21)
    return None


def _pushed(name: str, first: int, second: int) -> int:
    """Bytes an instruction takes from the stack."""
    if second < 0:
        if first & 0xFE00 == 0xB400:
            return 4 * (first & 0x1FF).bit_count()
        return 4 * (first & 0x7F) if first & 0xFF80 == 0xB080 else 0
    if first == 0xE92D:
        return 4 * second.bit_count()
    if first == 0xF84D and second & 0xFFF == 0xD04:
        return 4
    if first & 0xFFBF == 0xED2D:
        return 4 * (second & 0xFF)
    if first & 0xFBFF in (0xF1AD, 0xF2AD) and second & 0x8F00 == 0x0D00:
        return _sp_constant(name, first, second)
    return 0


def _sp_constant(name: str, first: int, second: int) -> int:
    wide = (first >> 10 & 1) << 11 | (second >> 12 & 7) << 8 | second & 0xFF
    if first & 0x0200 or wide < 0x100:  # SUBW, or a plain byte
        return wide
    if wide >> 10 == 0:
        raise _unbounded(name, "its frame is not understood")
    rotated = (wide & 0x7F | 0x80) << (32 - (wide >> 7))
    return rotated & 0xFFFF_FFFF


def _unbounded(what: str, why: str) -> FlowError:
    return FlowError(
        "firmware.stack",
        f"the stack that the image needs is not known: {what}",
        why=why,
        next_step="report it with the flow: kernels and runtime are written without recursion",
    )
