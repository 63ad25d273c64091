"""A fold as C: written, compiled, tried on hostile rows, loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import KernelError
from ganglion.kernels.c.proof import claim, keep_claim
from ganglion.kernels.c.toolchain import Compiler, build_library
from ganglion.kernels.folds.fold import Array, Fold, Part, ReferenceFolder

SYMBOL = "gg_fold"
ROWS = 3000
"""Hostile rows a library is tried on."""
SEED = 1

_C = {
    "bool": "uint8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "f32": "float",
    "f64": "double",
}
_NUMPY = {
    "bool": np.bool_,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "f32": np.float32,
    "f64": np.float64,
}
_FFI = cffi.FFI()
_FFI.cdef(f"void {SYMBOL}(int32_t n, int32_t m, const int32_t *slot, void **in, double *table);")
_buffer: Callable[[Any], Any] = _FFI.from_buffer  # its stubs know no NumPy arrays

# Rows of one slot keep their accumulators in registers; of many, each row finds its own in the table.
_SOURCE = """\
#include <stdint.h>
#define PARTS {parts}

static double one_nan(double x) {{
    union {{ uint64_t bits; double value; }} nan = {{ 0x7ff8000000000000u }};
    return x == x ? x : nan.value;
}}

void {symbol}(int32_t n, int32_t m, const int32_t *slot, void **in, double *table) {{
{columns}
    if (slot == 0) {{
{load}
        for (int32_t i = 0; i < n; i++) {{
{registers}
        }}
{store}
        m = 1;
    }} else {{
        for (int32_t i = 0; i < n; i++) {{
            double *p = table + (int64_t)slot[i] * PARTS;
{memory}
        }}
    }}
    for (int64_t k = 0; k < (int64_t)m * PARTS; k++) table[k] = one_nan(table[k]);
}}
"""


def source(fold: Fold) -> str:
    """The C of a fold, with one function: ``gg_fold(n, m, slot, in, table)``."""

    def lines(indent: int, made: Iterable[str]) -> str:
        return "\n".join(" " * indent + line for line in made)

    def updates(place: Callable[[int], str]) -> list[str]:
        return [_update(part, place(k)) for k, part in enumerate(fold.parts)]

    numbers = range(len(fold.parts))
    declared = [
        f"const {_C[d]} *restrict c{k} = (const {_C[d]} *)in[{k}];" for k, d in enumerate(fold.columns)
    ]
    return _SOURCE.format(
        parts=len(fold.parts),
        symbol=SYMBOL,
        columns=lines(4, declared or ["(void)in;"]),
        load=lines(8, (f"double p{k} = table[{k}];" for k in numbers)),
        registers=lines(12, updates("p{}".format)),
        store=lines(8, (f"table[{k}] = p{k};" for k in numbers)),
        memory=lines(12, updates("p[{}]".format)),
    )


def _update(part: Part, p: str) -> str:
    x = f"(double)c{part.column}[i]"
    match part.function:
        case "count":
            return f"{p} += 1.0;"
        case "sum":
            return f"{p} += {x};"
        case "squares":
            return f"{{ double x = {x}; x = x * x; {p} += x; }}"
        case "min":  # a NaN is taken, and stays: nothing is less than it
            return f"{{ double x = {x}; if (x < {p} || x != x) {p} = x; }}"
        case "max":
            return f"{{ double x = {x}; if (x > {p} || x != x) {p} = x; }}"


class CompiledFolder:
    """A fold in a loaded library."""

    def __init__(self, fold: Fold, path: Path) -> None:
        self.fold = fold
        self.path = path
        self._loaded: Any = _FFI.dlopen(str(path))
        self._call = getattr(self._loaded, SYMBOL)
        self._types = [_NUMPY[dtype] for dtype in fold.columns]
        self._in = _FFI.new("void *[]", max(1, len(fold.columns)))

    def add(
        self, table: npt.NDArray[np.float64], columns: Sequence[Array], rows: int, slots: Array | None
    ) -> None:
        held: list[Array] = [np.ascontiguousarray(c, t) for c, t in zip(columns, self._types, strict=True)]
        assert all(c.shape == (rows,) for c in held)
        for k, array in enumerate(held):
            self._in[k] = _buffer(array)
        chosen: Any = _FFI.NULL
        if slots is not None:
            places = np.ascontiguousarray(slots, np.int32)
            assert places.shape == (rows,) and (not rows or 0 <= places.min() <= places.max() < len(table))
            chosen = _FFI.cast("int32_t *", _buffer(places))
        self._call(rows, len(table), chosen, self._in, _FFI.cast("double *", _buffer(table)))


def _wild(rng: np.random.Generator, rows: int, kind: np.dtype[Any]) -> Array:
    """Special values and any bits among ordinary numbers: sums soon become infinite, or a NaN."""
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e308, -1e308, 5e-324, 1.0, -1.0])
    any_bits = rng.integers(0, 256, rows * kind.itemsize, dtype=np.uint8).view(kind)
    chosen = [rng.random(rows) < 0.02, rng.random(rows) < 0.15]
    with np.errstate(all="ignore"):
        return np.select(chosen, [any_bits, rng.choice(special, rows).astype(kind)], _calm(rng, rows, kind))


def _calm(rng: np.random.Generator, rows: int, kind: np.dtype[Any]) -> Array:
    """Ordinary numbers of many sizes: sums stay finite, and round otherwise in every other order."""
    return (rng.normal(0, 1, rows) * 10.0 ** rng.uniform(-8, 8, rows)).astype(kind)


def _zeros(rng: np.random.Generator, rows: int, kind: np.dtype[Any]) -> Array:
    """Zeros of both signs, and numbers on one side of them: the least or greatest is the first zero."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    return rng.choice(np.array([0.0, -0.0, side, 2 * side, 0.1 * side]), rows).astype(kind)


_KINDS = (_wild, _calm, _zeros)
_BATCHES = (1, 7, 64)


def hostile(fold: Fold, rows: int, seed: int, kind: Callable[..., Array]) -> list[Array]:
    """Columns of one kind of floats, and of any whole numbers."""
    rng = np.random.default_rng(seed)
    made: list[Array] = []
    for dtype in fold.columns:
        numpy = np.dtype(_NUMPY[dtype])
        if numpy.kind == "f":
            made.append(kind(rng, rows, numpy))
        elif dtype == "bool":
            made.append(rng.random(rows) < 0.5)
        else:
            made.append(rng.integers(0, 256, rows * numpy.itemsize, dtype=np.uint8).view(numpy))
    return made


def agrees(folder: CompiledFolder, rows: int = ROWS, seed: int = SEED) -> bool:
    """True when it gives the reference's bytes on ``rows`` hostile rows, of one slot and of many, in any batches."""
    reference = ReferenceFolder(folder.fold)
    rng = np.random.default_rng(seed)
    done = 0
    while done < rows:
        slots_max = int(rng.choice((1, 40)))
        wanted, got = folder.fold.fresh(slots_max), folder.fold.fresh(slots_max)
        kind = _KINDS[int(rng.integers(len(_KINDS)))]
        for size in rng.permutation(_BATCHES).tolist():
            columns = hostile(folder.fold, size, seed + done, kind)
            slots = None if slots_max == 1 else rng.integers(0, slots_max, size, dtype=np.int32)
            reference.add(wanted, columns, size, slots)
            folder.add(got, columns, size, slots)
            done += size
        if wanted.tobytes() != got.tobytes():
            return False
    return True


def compiled(fold: Fold, compilers: Iterable[Compiler], directory: Path) -> CompiledFolder | None:
    """The fold, built by the first compiler whose library gives the reference's bytes; None when none does."""
    for compiler in compilers:
        try:
            folder = CompiledFolder(fold, build_library(source(fold), compiler, directory))
        except KernelError:
            continue
        if claim(folder.path):
            return folder
        if agrees(folder):
            what = f"library for this machine by {compiler.label}"
            keep_claim(folder.path, what, f"{ROWS} hostile rows of fold {fold.digest[:12]}")
            return folder
    return None
