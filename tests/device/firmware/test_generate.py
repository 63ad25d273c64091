"""Predicates in C have NumPy's values; what firmware cannot run or hold is refused by name."""

from __future__ import annotations

import random
from typing import Any

import cffi
import numpy as np
import pytest

import ganglion as gg
from ganglion.core.errors import FlowError
from ganglion.core.labels import Labels
from ganglion.core.schema import Field, Schema, TensorType
from ganglion.device.firmware.generate import generate, path_of_class
from ganglion.device.firmware.layout import Limits, RowLayout
from ganglion.device.firmware.predicate import predicate_of
from ganglion.engine.operators import physical
from ganglion.flow.assignment import Assignment
from ganglion.flow.expression import Expression, record
from ganglion.flow.stages import WhereStage
from ganglion.kernels.c.toolchain import build_library, compilers
from tests.device.firmware.benches import PLANT_PART, assigned, needs_compiler, plant

# --- predicates ---

SCHEMA = Schema(
    (
        Field("flag", TensorType("bool")),
        Field("small", TensorType("i16")),
        Field("real", TensorType("f32")),
        Field("other", TensorType("f32")),
        Field("scaled", TensorType("i16"), scale=(0.1,)),
        Field("whole", TensorType("i32")),
        Field("more", TensorType("i32")),
        Field("on", TensorType("bool")),
    )
)
PREDICATES_N = 300
CONSTANTS: tuple[Any, ...] = (0, 1, -1, 2, 7, 300, -32768, 2**31 - 1, -(2**31), 2**40, True, False)
REALS = (0.0, -0.0, 0.1, 2.5, -1e-3, 1e-45, 3.4e38, 1e300, 16777217.0)
HOSTILE = np.array(
    [0, 0x80000000, 1, 0x007FFFFF, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF],
    np.uint32,
)


def drawn(chance: random.Random, depth: int) -> Any:
    """Some expression, often one that NumPy or the recorder refuses."""
    if depth == 0 or chance.random() < 0.15:
        if chance.random() < 0.7:
            return Expression("field", (chance.choice(SCHEMA.names),))
        return chance.choice(CONSTANTS + REALS)
    left = drawn(chance, depth - 1)
    op = chance.choice("+-*/&|~na<l>g=!")
    if op in "~na":
        return (
            left
            if not isinstance(left, Expression)
            else ~left
            if op == "~"
            else -left
            if op == "n"
            else abs(left)
        )
    right = drawn(chance, depth - 1)
    return {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right,
        "&": lambda: left & right,
        "|": lambda: left | right,
        "<": lambda: left < right,
        "l": lambda: left <= right,
        ">": lambda: left > right,
        "g": lambda: left >= right,
        "=": lambda: left == right,
        "!": lambda: left != right,
    }[op]()


def tried(chance: random.Random) -> Expression:
    """An expression that records and that the engine can evaluate; raises what either raises."""
    found = drawn(chance, 4)
    kept = record(lambda _t: found, SCHEMA)
    kept.evaluate(physical(SCHEMA.fields, {f.name: np.ones(1, f.type.numpy) for f in SCHEMA.fields}))
    return kept


def recorded(chance: random.Random) -> Expression:
    while True:
        try:
            return tried(chance)
        except (FlowError, TypeError, OverflowError, ZeroDivisionError, ValueError):
            continue


def hostile_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = np.zeros(count, RowLayout(SCHEMA).dtype())
    for field in SCHEMA.fields:
        if field.type.dtype == "f32":
            bits = rng.integers(0, 2**32, count, np.uint32)
            bits[::2] = rng.choice(HOSTILE, len(bits[::2]))
            rows[field.name] = np.where(
                rng.random(count) < 0.5, bits.view(np.float32), rng.normal(0, 5, count)
            )
        elif field.type.dtype == "bool":
            rows[field.name] = rng.random(count) < 0.5
        else:
            ends = np.iinfo(field.type.numpy)
            wide = rng.integers(ends.min, ends.max, count, endpoint=True)
            near = rng.choice([0, 1, -1, 2, 7, 300, ends.min, ends.max], count)
            rows[field.name] = np.where(rng.random(count) < 0.5, near, wide)
    return rows


@needs_compiler
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("compiler", compilers(), ids=lambda c: c.kind)
def test_predicates_have_the_values_of_numpy(compiler, tmp_path, seed: int, rng: np.random.Generator) -> None:
    chance = random.Random(seed)
    expressions: list[Expression] = []
    functions: list[str] = []
    while len(expressions) < PREDICATES_N:
        found = recorded(chance)
        stage = WhereStage("w", ("s",), SCHEMA, Labels(), predicate=found)
        try:
            text = predicate_of(stage, "r")
        except FlowError:
            continue
        functions.append(
            f"uint8_t p{len(expressions)}(const uint8_t *r) {{ (void)r; return (uint8_t){text}; }}"
        )
        expressions.append(found)
    table = ", ".join(f"p{k}" for k in range(len(expressions)))
    source = "\n".join(
        [
            '#include "kernel_runtime.h"',
            *functions,
            f"static uint8_t (*const all[])(const uint8_t *) = {{{table}}};",
            "void run(uint32_t k, const uint8_t *rows, uint32_t stride, uint32_t n, uint8_t *out)",
            "{ for (uint32_t i = 0; i < n; i++) out[i] = all[k](rows + i * stride); }",
        ]
    )
    ffi: Any = cffi.FFI()
    ffi.cdef("void run(uint32_t k, const char *rows, uint32_t stride, uint32_t n, char *out);")
    loaded = ffi.dlopen(str(build_library(source, compiler, tmp_path, ("-O2",))))
    rows = hostile_rows(rng, 2000)
    columns = physical(SCHEMA.fields, {f.name: np.ascontiguousarray(rows[f.name]) for f in SCHEMA.fields})
    stride = rows.dtype.itemsize
    content = rows.tobytes()[16:] + bytes(16)
    both = 0
    for k, expression in enumerate(expressions):
        wanted = np.broadcast_to(expression.evaluate(columns), len(rows))
        got = np.zeros(len(rows), np.uint8)
        loaded.run(k, ffi.from_buffer(content), stride, len(rows), ffi.from_buffer(got))
        different = np.flatnonzero(got != wanted)
        assert not different.size, f"{expression} on {rows[different[0]]}: {got[different[0]]}"
        both += 0 < wanted.sum() < len(rows)
    assert both > PREDICATES_N // 2, "most predicates hold for some rows and not for others"


# --- refusals ---


def code_of(error: pytest.ExceptionInfo[FlowError]) -> str:
    return error.value.code


def part(*runs: str, exports: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    return {"runs": runs, "exports": exports}


def test_a_window_is_refused_by_its_name() -> None:
    with pytest.raises(FlowError) as raised:
        generate(plant(), assigned(plant(), part("level", "seconds", exports=("seconds",))))
    assert code_of(raised) == "firmware.stage" and "seconds is a window" in str(raised.value)


def test_a_source_of_plain_rows_is_refused() -> None:
    flow = gg.Flow("rows")
    flow.source("readings", gg.Row(temp=gg.f32), every="1s").sink("kept", at="gateway")
    with pytest.raises(FlowError) as raised:
        generate(flow.spec(), assigned(flow.spec(), part(exports=("readings",))))
    assert code_of(raised) == "firmware.rows"


def test_streams_that_leave_no_room_for_gathering_are_refused() -> None:
    streams = len(PLANT_PART["exports"])
    generate(plant(), assigned(plant(), PLANT_PART), limits=Limits(messages_max=streams + 1))
    with pytest.raises(FlowError) as raised:
        generate(plant(), assigned(plant(), PLANT_PART), limits=Limits(messages_max=streams))
    assert code_of(raised) == "firmware.limits" and "1 too many" in str(raised.value)


def test_an_image_is_for_one_kind_of_device() -> None:
    both = Assignment(
        "n",
        "s",
        "device",
        "",
        {"level": frozenset({"gw1-relay", "gw1-meter"})},
        {"level": frozenset({"gw1-relay"})},
    )
    with pytest.raises(FlowError) as raised:
        path_of_class(both)
    assert code_of(raised) == "firmware.path" and "gw1-meter, gw1-relay" in str(raised.value)
    assert [e.stage.id for e in generate(plant(), both, path="gw1-relay").streams] == ["level"]
    assert generate(plant(), both, path="gw1-meter").streams == ()


def small_flow(**frame: Any) -> gg.Flow:
    flow = gg.Flow("small")
    source = flow.source("x", gg.Frame(*frame.pop("shape", (4,)), **frame), every="10ms")

    @gg.kernel(x=gg.f32[4] if frame.get("scale") or frame.get("dtype", "f32") == "f32" else gg.i32[4])
    def level(x):
        return {"level": np.max(x)}

    if source.schema.fields[0].type.elements == 4:
        source.map(level).sink("levels")
    source.sink("frames")
    return flow


def test_a_row_that_fits_no_datagram_is_refused() -> None:
    spec = small_flow(shape=(1100,), dtype="f32").spec()
    with pytest.raises(FlowError) as raised:
        generate(spec, assigned(spec, part(exports=("x",))))
    assert code_of(raised) == "firmware.row-size" and "too many" in str(raised.value)


def test_a_type_that_firmware_does_not_convert_is_refused() -> None:
    spec = small_flow(dtype="i64", scale=0.5).spec()
    with pytest.raises(FlowError) as raised:
        generate(spec, assigned(spec, part("level", exports=("level",))))
    assert code_of(raised) == "firmware.type"


def test_an_around_of_an_around_is_refused() -> None:
    flow = gg.Flow("rings")
    source = flow.source("x", gg.Frame(4), every="10ms")

    @gg.kernel(x=gg.f32[4])
    def level(x):
        return {"level": np.max(x)}

    high = source.map(level).where(lambda t: t.level > 1, id="high")
    near = source.around(high, before="10ms", after="10ms", id="near")
    again = near.map(level, id="again").where(lambda t: t.level > 2, id="higher")
    near.around(again, before="10ms", after="10ms", id="nearer").sink("kept")
    spec = flow.spec()
    runs = ("level", "high", "near", "again", "higher", "nearer")
    with pytest.raises(FlowError) as raised:
        generate(spec, assigned(spec, part(*runs, exports=("nearer",))))
    assert code_of(raised) == "firmware.around" and "nearer reads what near gives" in str(raised.value)


def test_a_constant_that_no_integer_holds_is_refused() -> None:
    predicate = record(lambda t: t.whole < 2**70, SCHEMA)
    with pytest.raises(FlowError) as raised:
        predicate_of(WhereStage("w", ("s",), SCHEMA, Labels(), predicate=predicate), "r")
    assert code_of(raised) == "firmware.predicate"
