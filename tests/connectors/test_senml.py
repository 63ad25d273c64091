"""SenML in CBOR against RFC 8428's example, as a law, and against arbitrary bytes."""

import math
from decimal import Decimal

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ganglion.connectors import senml
from ganglion.connectors.senml import Record, exact_seconds, nanoseconds, pack, resolve, unpack
from ganglion.core.errors import DataError

# RFC 8428 section 6: the CBOR of the example of section 5.1.3 with base time as a double.
SECTION_6 = bytes.fromhex(
    "87a721781b75726e3a6465763a6f773a3130653230373361303130383030363a"
    "22fb41d303a15b00106223614120050067766f6c7461676501615602fb405e066666666666"
    "a3006763757272656e74062402fb3ff3333333333333a3006763757272656e74062302fb3ff4cccccccccccd"
    "a3006763757272656e74062202fb3ff6666666666666a3006763757272656e74062102f93e00"
    "a3006763757272656e74062002fb3ff999999999999aa3006763757272656e74060002fb3ffb333333333333"
)
BASE = "urn:dev:ow:10e2073a0108006:"
EXAMPLE = (
    Record(
        base_name=BASE,
        base_time=1276020076.001,
        base_unit="A",
        base_version=5,
        name="voltage",
        unit="V",
        value=120.1,
    ),
    *(
        Record(name="current", time=t, value=v)
        for t, v in zip(range(-5, 1), (1.2, 1.3, 1.4, 1.5, 1.6, 1.7), strict=True)
    ),
)

decimals = st.builds(
    lambda mantissa, exponent: Decimal(mantissa).scaleb(exponent),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-20, 8),
)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | decimals
times = st.integers(-(2**62), 2**62).map(exact_seconds) | st.integers(-(2**40), 2**40)
maybe_text = st.none() | st.text(st.characters(codec="utf-8"), max_size=12)


def maybe(strategy):
    return st.none() | strategy


records = st.builds(
    Record,
    maybe_text,
    maybe(times),
    maybe_text,
    maybe(numbers),
    maybe(numbers),
    maybe(st.integers(0, 10)),
    maybe_text,
    maybe_text,
    maybe(times),
    maybe(times),
    maybe(numbers),
    maybe_text,
    maybe(st.booleans()),
    maybe(st.binary(max_size=300)),
    maybe(numbers),
)


def resolved_or_error(payload, now_s=None):
    try:
        return resolve(unpack(payload), now_s)
    except DataError as error:
        return error


def test_the_example_of_the_rfc_both_ways():
    assert unpack(SECTION_6) == EXAMPLE
    assert pack(EXAMPLE) == SECTION_6


def test_the_example_resolves_as_section_4_6_says():
    first, *currents = resolve(EXAMPLE)
    assert (first.name, first.unit, first.value) == (BASE + "voltage", "V", 120.1)
    assert first.time == Decimal("1276020076.001")
    assert [c.unit for c in currents] == ["A"] * 6
    assert [c.time for c in currents] == [Decimal("1276020076.001") + t for t in range(-5, 1)]


@given(st.lists(records, min_size=1, max_size=6))
def test_unpack_undoes_pack(some):
    assert unpack(pack(some)) == tuple(some)


@given(st.lists(records, min_size=1, max_size=3))
def test_packs_are_plain_cbor_to_others(some):
    rows = cbor2.loads(pack(some))
    assert [row.get(0) for row in rows] == [record.name for record in some]
    assert [row.get(8) for row in rows] == [record.data for record in some]


@given(st.integers(-(2**63), 2**63 - 1))
def test_nanoseconds_survive(time_ns):
    (back,) = unpack(pack([Record(base_time=exact_seconds(time_ns))]))
    assert back.base_time is not None
    assert nanoseconds(back.base_time) == time_ns


@given(st.lists(records, min_size=1, max_size=4))
def test_what_unpacks_resolves_or_is_bad_data(some):
    got = resolved_or_error(pack(some), now_s=Decimal(1764000000))
    assert (
        got.code.startswith("senml.") if isinstance(got, DataError) else all(r.time.is_finite() for r in got)
    )


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: b"\x81\xa2\x00\x61a" + tail))
@example(bytes.fromhex("81a102c48219ffff01"))  # 1e65535
@example(bytes.fromhex("81a102c4821b7fffffffffffffff01"))
@example(bytes.fromhex("81a102c482c24900ffffffffffffffff01"))
@example(bytes.fromhex("9b7fffffffffffffff"))
@example(bytes.fromhex("81a1085b7fffffffffffffff"))
@example(b"\x81" * 5000)
def test_any_bytes_are_records_or_bad_data(payload):
    got = resolved_or_error(payload)
    assert not isinstance(got, DataError) or got.code.startswith("senml.")


@given(st.lists(records, min_size=1, max_size=3), st.data())
def test_altered_packs_are_records_or_bad_data(some, data):
    payload = bytearray(pack(some))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    got = resolved_or_error(bytes(payload))
    assert not isinstance(got, DataError) or got.code.startswith("senml.")


@pytest.mark.parametrize(
    "payload,code",
    [
        (b"", "senml.cbor"),
        (SECTION_6[:-1], "senml.cbor"),
        (SECTION_6 + b"\x00", "senml.cbor"),
        (bytes.fromhex("9fa10061ffff"), "senml.cbor"),
        (bytes.fromhex("81a200616100616b"), "senml.cbor"),
        (bytes.fromhex("80"), "senml.pack"),
        (bytes.fromhex("a0"), "senml.pack"),
        (bytes.fromhex("8101"), "senml.pack"),
        (bytes.fromhex("81a102c11a5612aeb0"), "senml.tag"),
        (bytes.fromhex("81a103d82361612b"), "senml.tag"),
        (bytes.fromhex("81a102d90fff01"), "senml.tag"),
        (cbor2.dumps([{0: 1}]), "senml.value"),
        (cbor2.dumps([{2: True}]), "senml.value"),
        (cbor2.dumps([{2: "1"}]), "senml.value"),
        (cbor2.dumps([{4: 1}]), "senml.value"),
        (cbor2.dumps([{8: "eHg"}]), "senml.value"),
        (cbor2.dumps([{2: math.nan}]), "senml.value"),
        (cbor2.dumps([{6: math.inf}]), "senml.value"),
        (cbor2.dumps([{"new_": 1}]), "senml.label"),
        (cbor2.dumps([{1.5: 1}]), "senml.label"),
        (cbor2.dumps([{-1: 11}]), "senml.version"),
        (cbor2.dumps([{0: "a"}] * (senml.RECORDS_MAX + 1)), "senml.size"),
        (bytes(senml.PAYLOAD_BYTES_MAX + 1), "senml.size"),
    ],
)
def test_bad_packs_name_their_fault(payload, code):
    with pytest.raises(DataError) as caught:
        unpack(payload)
    assert caught.value.code == code


def test_labels_that_need_not_be_understood_are_ignored():
    assert unpack(cbor2.dumps([{0: "a", 2: 1, "x": 2, 99: 3, -40: 4}])) == (Record(name="a", value=1),)


@pytest.mark.parametrize(
    "records_,code",
    [
        ([Record(value=1)], "senml.name"),
        ([Record(name="-a", value=1)], "senml.name"),
        ([Record(name="a b", value=1)], "senml.name"),
        ([Record(name="a")], "senml.value"),
        ([Record(name="a", value=1, boolean=True)], "senml.value"),
        ([Record(name="a", value=1e308, base_value=1e308)], "senml.value"),
        (
            [Record(name="a", value=1, base_version=9), Record(name="a", value=1, base_version=10)],
            "senml.version",
        ),
    ],
)
def test_records_that_do_not_resolve_name_their_fault(records_, code):
    with pytest.raises(DataError) as caught:
        resolve(records_)
    assert caught.value.code == code


def test_bases_reach_the_records_after_them_only():
    resolved = resolve(
        [
            Record(name="a", value=1),
            Record(base_name="d:", base_value=10, base_time=exact_seconds(2**60), base_sum=5),
            Record(name="a", value=Decimal("0.5"), sum=1),
            Record(base_name="e:", name="b", text="on"),
        ]
    )
    assert [(r.name, r.value, r.sum) for r in resolved] == [
        ("a", 1, None),
        ("d:a", Decimal("10.5"), 6),
        ("e:b", None, 5),
    ]
    assert nanoseconds(resolved[1].time) == 2**60


def test_relative_times_become_absolute_with_a_now():
    now = Decimal("1764000000.5")
    relative, absolute = resolve(
        [Record(name="a", value=1, time=-2), Record(name="a", value=1, time=2**28)], now_s=now
    )
    assert relative.time == now - 2
    assert absolute.time == 2**28


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, 2**64, -(2**64) - 1, Decimal("NaN"), Decimal("1E+60"), Decimal(2**63), "\ud800"],
)
def test_values_cbor_cannot_carry_are_refused(value):
    with pytest.raises(DataError) as caught:
        pack([Record(text=value) if isinstance(value, str) else Record(value=value)])
    assert caught.value.code == "senml.value"


def test_packs_are_bounded():
    for some in ([Record(name="a")] * (senml.RECORDS_MAX + 1), [Record(data=bytes(senml.PAYLOAD_BYTES_MAX))]):
        with pytest.raises(DataError) as caught:
            pack(some)
        assert caught.value.code == "senml.size"
