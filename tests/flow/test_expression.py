"""Predicates: recorded once, they give what NumPy gives; what cannot be recorded fails with the fix."""

import json
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ganglion.core.errors import FlowError
from ganglion.core.schema import Field, Schema, boolean, f32, i32
from ganglion.flow.expression import Expression, record

SCHEMA = Schema(
    (
        Field("rms", f32),
        Field("peak", f32),
        Field("n", i32),
        Field("on", boolean),
        Field("off", boolean),
        Field("v", f32[3]),
    )
)
ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv]
NAN = float("nan")
COMPARE = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
LOGIC = [operator.and_, operator.or_]

constants = st.integers(-100, 100) | st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.float32(0.1), True])


def constant(value):
    return lambda _: value


def field(name):
    return lambda t: getattr(t, name)


def applied(parts):
    op, *inner = parts
    return lambda t: op(*(f(t) for f in inner))


ops = st.sampled_from
fixed = constants.map(constant)
numbers = st.recursive(
    ops(["rms", "peak", "n"]).map(field),
    lambda inner: (
        st.tuples(ops(ARITHMETIC), inner, inner | fixed).map(applied)
        | st.tuples(ops(ARITHMETIC), fixed, inner).map(applied)
        | st.tuples(ops([abs, operator.neg]), inner).map(applied)
    ),
    max_leaves=6,
)
compared = st.tuples(ops(COMPARE), numbers, numbers | fixed) | st.tuples(ops(COMPARE), fixed, numbers)
truths = st.recursive(
    ops(["on", "off"]).map(field) | compared.map(applied),
    lambda inner: st.tuples(ops(LOGIC), inner, inner).map(applied) | inner.map(lambda f: lambda t: ~f(t)),
    max_leaves=5,
)


class Row:
    """What a predicate sees in plain NumPy: the columns as attributes."""

    def __init__(self, columns):
        self.__dict__.update(columns)


rows = st.integers(1, 5).flatmap(
    lambda n: st.fixed_dictionaries(
        {f.name: hnp.arrays(f.type.numpy, (n, *f.type.shape)) for f in SCHEMA.fields}
    )
)


@given(truths, rows)
def test_a_recorded_predicate_gives_what_numpy_gives(predicate, columns):
    with np.errstate(all="ignore"):
        recorded = record(predicate, SCHEMA).evaluate(columns)
        expected = predicate(Row(columns))
    assert recorded.dtype == np.bool_
    assert np.array_equal(recorded, expected)


@given(truths)
def test_a_predicate_prints_stably_and_as_strict_json(predicate):
    first, second = record(predicate, SCHEMA), record(predicate, SCHEMA)
    text = json.dumps(first.to_json(), allow_nan=False)
    assert text == json.dumps(second.to_json())
    assert str(first) == str(second)
    assert json.loads(text) == first.to_json()


@pytest.mark.parametrize(
    "predicate, text",
    [
        (lambda t: t.on, "on"),
        (lambda t: t.on & (t.rms > 5), "(on & (rms > 5))"),
        (lambda t: ~t.on | t.off, "(~(on) | off)"),
        (lambda t: 5 < t.rms, "(rms > 5)"),  # noqa: SIM300 # the constant on the left is the case
        (lambda t: 2 * t.rms + 1 > t.peak / 3 - 1, "(((2 * rms) + 1) > ((peak / 3) - 1))"),
        (lambda t: 1 - t.rms != -abs(t.peak), "((1 - rms) != -(abs(peak)))"),
        (lambda t: True & t.on, "(True & on)"),
        (lambda t: False | t.on, "(False | on)"),
        (lambda t: 1 / t.rms < np.float32(0.5), "((1 / rms) < 0.5)"),
        (lambda t: np.float64(5) < t.rms, "(rms > 5.0)"),
        (lambda t: (t.n & 4) != 0, "((n & 4) != 0)"),
        (lambda t: t.on == True, "(on == True)"),  # noqa: E712 # recorded, not compared
    ],
)
def test_what_is_recorded(predicate, text):
    assert str(record(predicate, SCHEMA)) == text


def test_and_of_integers_is_of_their_bits_as_in_numpy():
    bits = record(lambda t: (t.n & 4) != 0, SCHEMA)
    assert bits.evaluate({"n": np.array([3, 4, 6])}).tolist() == [False, True, True]


WRONG = [
    ("and", lambda t: t.on and t.off, "& for and"),
    ("or", lambda t: t.on or t.off, "| for or"),
    ("not", lambda t: not t.on, "~ for not"),
    ("if", lambda t: t.on if t.off else t.rms > 1, "&"),
    ("chained", lambda t: 1 < t.rms < 5, "parentheses"),
    ("in", lambda t: t.n in (1, 2), "&"),
    ("min", lambda t: min(t.rms, t.peak) > 1, "&"),
    ("no parentheses", lambda t: t.on & t.rms > 5, "&"),
    ("a number", lambda t: t.rms, "compare"),
    ("an array", lambda t: t.v > 1, "reduce arrays"),
    ("an array and a scalar", lambda t: t.v > t.rms, "+ - * /"),
    ("integers' bits", lambda t: t.n & 4, "compare"),
    ("truth and bits", lambda t: t.n & t.on, "compare"),
    ("fractions' bits", lambda t: ~t.rms, "~"),
    ("minus of a truth", lambda t: -t.on, "~"),
    ("difference of truths", lambda t: t.on - t.off, "~"),
    ("a constant", lambda t: True, "lambda t"),
    ("nothing", lambda t: None, "lambda t"),
    ("the row", lambda t: t, "lambda t"),
    ("text", lambda t: t.n == "x", "a number"),
    ("nan", lambda t: t.rms == NAN, "kernel"),
    ("infinity", lambda t: t.rms < float("inf"), "kernel"),
    ("an array constant", lambda t: t.rms > np.ones(2), "a number"),
    ("a complex constant", lambda t: t.rms == 1j, "a number"),
    ("a NumPy function", lambda t: np.sqrt(t.rms) > 1, "abs()"),
    ("an unknown operator", lambda t: t.rms**2 > 1, "+ - * /"),
    ("too large", lambda t: t.n + 2**40 > 1, "fields"),
    ("raises", lambda t: 1 / 0, "fields"),
    ("no argument", lambda: True, "fields"),
    ("no function", 5, "fields"),
    ("endless", lambda t: sum([t.rms] * 5000) > 1, "fields"),
]


@pytest.mark.parametrize("predicate, fix", [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_what_cannot_be_a_predicate_fails_with_the_fix(predicate, fix):
    with pytest.raises(FlowError) as caught:
        record(predicate, SCHEMA)
    assert caught.value.code == "flow.predicate"
    assert caught.value.what
    assert caught.value.why
    assert fix in caught.value.next_step


@pytest.mark.parametrize("name", ["rmz", "trip", "_schema_", "real"])
def test_an_unknown_field_is_named_with_those_that_exist(name):
    with pytest.raises(FlowError) as caught:
        record(lambda t: getattr(t, name) > 1, SCHEMA)
    assert caught.value.code == "schema.unknown-field"
    assert "rms" in caught.value.why


def test_expressions_are_frozen_and_have_no_hash():
    expression = record(lambda t: t.on, SCHEMA)
    for name in ("op", "args"):
        with pytest.raises(AttributeError):
            setattr(expression, name, "x")
    with pytest.raises(TypeError):
        hash(expression)
    assert isinstance(expression == expression, Expression)  # noqa: PLR0124 # it records
