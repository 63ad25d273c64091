"""A test that firmware carries with it: its kernels on drawn frames, and the hash that the reference gives.

The frames come from a generator that is a few lines of C and of Python, so that nothing but four bytes per kernel is
stored: random bits, ordinary numbers, and the values that floating point is asked about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.device.firmware.generate import Firmware
from ganglion.device.firmware.layout import up
from ganglion.kernels.c.emission import emit
from ganglion.kernels.c.layout import state_dtype
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.ir.program import Program
from ganglion.kernels.ops.op import Array

FRAMES = 64
SEED = 0x9E3779B9
_MASK = 0xFFFF_FFFF
SPECIAL = (0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x00000001, 0x7F7FFFFF, 0x3F800000)

_DRAWN = """\
typedef struct {
  uint32_t chance, hash;
} gd_trial;

static uint32_t gd_draw(gd_trial *t) {
  t->chance ^= t->chance << 13;
  t->chance ^= t->chance >> 17;
  t->chance ^= t->chance << 5;
  return t->chance;
}

/* Four times in eight a number between 2^-7 and 2^9, three times any bits, once a value that is special. */
static uint32_t gd_draw_word(gd_trial *t, uint32_t is_float) {
  static const uint32_t special[8] = {%(special)s};
  uint32_t bits = gd_draw(t), kind = gd_draw(t) >> 29;
  if (!is_float || (kind >= 4 && kind < 7)) return bits;
  if (kind == 7) return special[bits >> 29];
  return (bits & 0x807fffffu) | (120u + (bits >> 23 & 15u)) << 23;
}

static void gd_draw_words(gd_trial *t, uint8_t *at, uint32_t n, uint32_t is_float) {
  for (uint32_t i = 0; i < n; i++) {
    uint32_t word = gd_draw_word(t, is_float);
    gd_copy(at + 4 * i, &word, 4);
  }
}

static void gd_draw_truth(gd_trial *t, uint8_t *at, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) at[i] = (uint8_t)(gd_draw(t) >> 31);
}

static void gd_hash(gd_trial *t, const uint8_t *at, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) t->hash = (t->hash ^ at[i]) * 16777619u;
}
"""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """C that defines ``gd_selftest``, how many kernels differ from the reference, and the memory it is given."""

    source: str
    memory_bytes: int


def selftest(firmware: Firmware) -> SelfTest:
    """The test of a firmware's kernels."""
    trials = [_Trial(symbol, program) for symbol, program in firmware.kernels]
    parts = ['#include "flow.h"\n']
    if trials:
        parts.append(_DRAWN % {"special": ", ".join(f"{s:#010x}u" for s in SPECIAL)})
    tests = "".join(
        f"  differ += gd_trial_{t.symbol}(memory) != {expected(t.program):#010x}u;\n" for t in trials
    )
    source = (
        "/* Kernels on drawn frames, and what the reference makes of them. */\n"
        + "\n".join([*parts, *(t.source() for t in trials)])
        + "\nuint32_t gd_selftest(uint8_t *memory) {\n  uint32_t differ = 0;\n  (void)memory;\n"
        + tests
        + "  return differ;\n}\n"
    )
    return SelfTest(source, max((t.memory_bytes for t in trials), default=16))


class _Trial:
    """One kernel's: its buffers lie one after the other in the memory that is given."""

    def __init__(self, symbol: str, program: Program) -> None:
        self.symbol, self.program = symbol, program
        self.memory_bytes = 0
        self._given = [(self._place(_bytes(kind)), kind) for _, kind in _types(program, program.inputs)]
        self._made = [(self._place(_bytes(kind)), kind) for _, kind in _types(program, program.outputs)]
        self._state = self._place(state_dtype(program).itemsize)
        self._work = self._place(emit(program, symbol).workspace_bytes)

    def _place(self, size: int) -> int:
        at = self.memory_bytes
        self.memory_bytes += up(size, 16)
        return at

    def source(self) -> str:
        symbol, first = self.symbol, _state(self.program).tobytes()
        state = f"memory + {self._state}" if first else "0"
        lines = [
            f"void {symbol}_step(const void *const *in, void *state, void *const *out, uint8_t *emit, void *work);",
            f"static uint32_t gd_trial_{symbol}(uint8_t *memory) {{",
            f"  gd_trial t = {{{SEED:#x}u, 2166136261u}};",
            f"  const void *in[] = {{{', '.join(f'memory + {at}' for at, _ in self._given)}}};",
            f"  void *out[] = {{{', '.join(f'memory + {at}' for at, _ in self._made)}}};",
            "  uint8_t emit;",
        ]
        if first:
            numbers = ", ".join(map(str, first))
            lines.append(f"  static const uint8_t first[{len(first)}] = {{{numbers}}};")
            lines.append(f"  gd_copy({state}, first, {len(first)});")
        lines.append(f"  for (uint32_t n = 0; n < {FRAMES}; n++) {{")
        for at, kind in self._given:
            if kind.dtype == "bool":
                lines.append(f"    gd_draw_truth(&t, memory + {at}, {kind.elements});")
            else:
                is_float = int(kind.dtype == "f32")
                lines.append(f"    gd_draw_words(&t, memory + {at}, {kind.elements}, {is_float});")
        lines.append(f"    {symbol}_step(in, {state}, out, &emit, memory + {self._work});")
        lines.append("    gd_hash(&t, &emit, 1);")
        lines += [f"    gd_hash(&t, memory + {at}, {_bytes(kind)});" for at, kind in self._made]
        if first:
            lines.append(f"    gd_hash(&t, {state}, {len(first)});")
        return "\n".join([*lines, "  }", "  return t.hash;", "}", ""])


def _types(program: Program, pairs: tuple[tuple[str, int], ...]) -> Iterator[tuple[str, TensorType]]:
    for name, number in pairs:
        yield name, program.nodes[number].type


def _bytes(kind: TensorType) -> int:
    return kind.numpy.itemsize * kind.elements


def _state(program: Program) -> Array:
    state = np.zeros(1, state_dtype(program))
    for field in program.state:
        state[field.name] = field.initial
    return state


def expected(program: Program) -> int:
    """The hash that the reference gives for the frames that ``gd_draw`` draws."""
    chance, value = SEED, 2166136261

    def draw() -> int:
        nonlocal chance
        chance ^= chance << 13 & _MASK
        chance ^= chance >> 17
        chance ^= chance << 5 & _MASK
        return chance

    def word(is_float: bool) -> int:
        bits, kind = draw(), draw() >> 29
        if not is_float or 4 <= kind < 7:
            return bits
        if kind == 7:
            return SPECIAL[bits >> 29]
        return bits & 0x807FFFFF | 120 + (bits >> 23 & 15) << 23

    state = _state(program)
    for _ in range(FRAMES):
        given = {}
        for name, kind in _types(program, program.inputs):
            if kind.dtype == "bool":
                drawn = np.array([draw() >> 31 for _ in range(kind.elements)], np.bool_)
            else:
                words = [word(kind.dtype == "f32") for _ in range(kind.elements)]
                drawn = np.array(words, np.uint32).view(kind.numpy)
            given[name] = drawn.reshape(1, *kind.shape)
        held = {f.name: state[f.name] for f in program.state}
        done = interpret(program, given, held or None)
        for field in program.state:
            state[field.name] = done.state[field.name]
        content = np.asarray(done.emit, np.uint8).tobytes()
        content += b"".join(np.ascontiguousarray(done.outputs[n]).tobytes() for n, _ in program.outputs)
        for byte in content + state.tobytes():
            value = (value ^ byte) * 16777619 & _MASK
    return value
