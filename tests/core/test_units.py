"""Units: a table of spellings, the laws of formatting, and errors that name the units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import GanglionError
from ganglion.core.units import (
    format_bytes,
    format_duration,
    parse_duration_ns,
    parse_rate_bit_per_s,
    parse_size_bytes,
)

DURATIONS = [
    ("0ns", 0),
    ("1ns", 1),
    ("250us", 250_000),
    ("16.7ms", 16_700_000),
    ("16.667ms", 16_667_000),
    ("40s", 40 * 10**9),
    (" 1.5 s ", 1_500_000_000),
    ("1min", 60 * 10**9),
    ("2h", 7_200 * 10**9),
    ("3d", 259_200 * 10**9),
    ("0.1ns", 0),
    ("9223372036854775807ns", 2**63 - 1),
]
SIZES = [
    ("64B", 64),
    ("64KB", 64_000),
    ("64KiB", 65_536),
    ("1.5MB", 1_500_000),
    ("2GiB", 2**31),
    ("1TB", 10**12),
]
RATES = [("9600bit", 9600), ("250Kbit", 250_000), ("10Mbit", 10**7), ("1Gbit", 10**9)]
PARSERS = [
    (parse_duration_ns, "unit.duration", "ms"),
    (parse_size_bytes, "unit.size", "KiB"),
    (parse_rate_bit_per_s, "unit.rate", "Mbit"),
]
WRONG = [
    "",
    "5",
    "ms",
    "-5ms",
    "1e3s",
    "5 parsecs",
    "5MS",
    "1,5s",
    ".5s",
    "5.s",
    "5ms5ms",
    "\u0665s",
    "nan s",
    "5\nB\0",
]


@pytest.mark.parametrize("text, value", DURATIONS)
def test_durations(text, value):
    assert parse_duration_ns(text) == value


@pytest.mark.parametrize("text, value", SIZES)
def test_sizes(text, value):
    assert parse_size_bytes(text) == value


@pytest.mark.parametrize("text, value", RATES)
def test_rates(text, value):
    assert parse_rate_bit_per_s(text) == value


@pytest.mark.parametrize("parse, code, unit", PARSERS)
@pytest.mark.parametrize("text", [*WRONG, 5, None, 1.5, b"5ms", "9" * 10_000 + "s", "9" * 19 + "TB"])
def test_anything_else_is_refused_with_the_units_that_exist(parse, code, unit, text):
    with pytest.raises(GanglionError) as caught:
        parse(text)
    error = caught.value
    assert error.code == code
    assert unit in error.why
    assert error.next_step
    assert len(error.what) < 200


@pytest.mark.parametrize("text", ["2562048h", "9223372037s", "106752d"])
def test_a_duration_past_64_bits_is_refused_not_wrapped(text):
    with pytest.raises(GanglionError) as caught:
        parse_duration_ns(text)
    assert caught.value.code == "unit.duration"


def test_units_of_one_kind_are_none_of_another():
    for parse, text in [
        (parse_duration_ns, "5KB"),
        (parse_size_bytes, "5Mbit"),
        (parse_rate_bit_per_s, "5ms"),
    ]:
        with pytest.raises(GanglionError):
            parse(text)


@pytest.mark.parametrize(
    "duration_ns, text",
    [
        (0, "0ns"),
        (999, "999ns"),
        (1_000, "1us"),
        (16_667_000, "16.67ms"),
        (1_500_000_000, "1.5s"),
        (60 * 10**9, "1min"),
        (5_400 * 10**9, "1.5h"),
        (7 * 86_400 * 10**9, "7d"),
        (99_999 * 86_400 * 10**9, "99999d"),
        (-20_000_000, "-20ms"),
    ],
)
def test_durations_for_people(duration_ns, text):
    assert format_duration(duration_ns) == text


@given(st.integers(0, 9 * 10**18))
def test_a_formatted_duration_parses_back_to_four_digits(duration_ns):
    text = format_duration(duration_ns)
    assert abs(parse_duration_ns(text) - duration_ns) <= duration_ns * 6e-4
    assert "e" not in text


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1 KB"),
        (1_530_000, "1.53 MB"),
        (999_600, "1 MB"),
        (-2_000, "-2 KB"),
        (10**15, "1000 TB"),
        (1.5e12, "1.5 TB"),
    ],
)
def test_bytes_for_people(size, text):
    assert format_bytes(size) == text


@given(st.floats(0, 1e18))
def test_formatted_bytes_never_fall_into_exponents(size):
    text = format_bytes(size)
    number, _ = text.split(" ")
    assert "e" not in number or size < 1e-3  # less than a thousandth of a byte is nobody's size
