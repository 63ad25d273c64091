"""Declared routes: what every form of payload becomes, and that nothing odd passes, crashes or takes others with it."""

import base64
import json
import math
import struct

import cbor2
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ganglion as gg
from ganglion.connectors.mqtt.columns import Column, Numbers, Odd, Refused, Times
from ganglion.connectors.mqtt.devices import Devices
from ganglion.connectors.mqtt.mapping import Mapper
from ganglion.connectors.mqtt.reading import Published
from ganglion.connectors.mqtt.routes import Routes
from ganglion.core.declarations import declaration
from ganglion.core.errors import TopologyError
from ganglion.core.schema import Field, Schema, TensorType
from ganglion.core.topology_mqtt import Route
from ganglion.messaging import subjects

NOW_NS = 1_700_000_000_123_456_789
ROW = Schema(gg.Row(temp=gg.f32, q=gg.i16).fields)
JSON = {"topic": "in", "devices": "sensor", "stream": "readings", "device": "sensor"}
TIMED = {**JSON, "time": {"field": "ts", "unit": "ms"}}


def mapper(schema=ROW, count=100, **route):
    return Mapper(declaration(Route, {**TIMED, **route}), schema, Devices("gw-sensor", count))


def take(one, payloads, topics=None):
    routes = Routes([one])
    published = Published()
    published.payloads += payloads
    published.topics += [routes.resolve(t) for t in topics or ["in"] * len(payloads)]
    readings, letters = routes.take(published, NOW_NS)
    return readings[0] if readings else None, letters


def rows(found):
    return [
        (found.origins[o], t, *values)
        for o, t, *values in zip(
            found.origin.tolist(),
            found.time_ns.tolist(),
            *(c.tolist() for c in found.columns.values()),
            strict=True,
        )
    ]


def reading(**changes):
    return orjson.dumps({"ts": 1_700_000_000_000, "sensor": "s1", "temp": 21.5, "q": 0} | changes)


def test_json_becomes_columns():
    found, letters = take(mapper(), [reading(), reading(sensor="s2", temp=3), reading(q=1.0)])
    assert not letters
    assert rows(found) == [
        ("gw-sensor-s1", 1_700_000_000_000_000_000, 21.5, 0),
        ("gw-sensor-s2", 1_700_000_000_000_000_000, 3.0, 0),
        ("gw-sensor-s1", 1_700_000_000_000_000_000, 21.5, 1),
    ]
    assert found.seq is None
    assert {c.dtype.str for c in found.columns.values()} == {"<f4", "<i2"}


@pytest.mark.parametrize(
    "payload, code",
    [
        (b"nonsense", "mqtt.payload"),
        (b"", "mqtt.payload"),
        (b"[]", "mqtt.payload"),
        (b"3", "mqtt.payload"),
        (b"[3]", "mqtt.payload"),
        (b"\xff\xfe", "mqtt.payload"),
        (b'{"ts": 1, "sensor": "s1", "q": 0}', "mqtt.field"),
        (reading(temp=None), "mqtt.value"),
        (reading(temp="hot"), "mqtt.value"),
        (reading(temp=True), "mqtt.value"),
        (reading(temp=1e39), "mqtt.value"),
        (reading(q=1.5), "mqtt.value"),
        (reading(q=40_000), "mqtt.value"),
        (reading(q=[]), "mqtt.value"),
        (reading(ts="now"), "mqtt.time"),
        (reading(ts=-1), "mqtt.time"),
        (reading(ts=2**62), "mqtt.time"),
        (reading(ts=True), "mqtt.time"),
        (reading(sensor=""), "mqtt.device"),
        (reading(sensor="x" * 65), "mqtt.device"),
        (reading(sensor=None), "mqtt.device"),
        (reading(sensor=["s1"]), "mqtt.device"),
        (reading(sensor=True), "mqtt.device"),
        (reading(sensor=1.5), "mqtt.device"),
    ],
)
def test_an_odd_payload_is_refused_alone(payload, code):
    found, letters = take(mapper(), [reading(temp=1), payload, reading(temp=2)])
    assert [(letter.code, letter.payload, letter.topic) for letter in letters] == [(code, payload, "in")]
    assert letters[0].why
    assert found.columns["temp"].tolist() == [1, 2]


DEEP = b"[" * 1000 + b"]" * 1000
HUGE = b"\xc2\x59\x13\x88" + b"\x01" * 5000  # 12,000 digits


@pytest.mark.parametrize("key", ["ts", "sensor", "temp", "q"])
@pytest.mark.parametrize("form", ["json", "cbor"])
def test_a_value_that_python_cannot_write_out_is_refused_alone(form, key):
    """It would end the gateway, and again each time the broker gives the message to the next life."""
    good = {"ts": 1_700_000_000_000, "sensor": "s1", "temp": 21.5, "q": 0}
    if form == "json":
        one, odd = orjson.dumps(good), orjson.dumps(good | {key: "ODD"}).replace(b'"ODD"', DEEP)
    else:
        one, odd = cbor2.dumps(good), cbor2.dumps(good | {key: "ODD"}).replace(b"\x63ODD", HUGE)
    found, letters = take(mapper(payload=form), [one, odd, one])
    assert len(found) == 2
    (letter,) = letters
    assert letter.payload == odd
    assert letter.code == {"ts": "mqtt.time", "sensor": "mqtt.device"}.get(key, "mqtt.value")
    assert len(letter.why) < 300
    if form == "cbor":  # later Pythons write out deeper nests
        assert "too large to be shown" in letter.why


def test_a_list_is_many_readings_and_each_is_judged_alone():
    many = [json.loads(reading(temp=t)) for t in (1, 2, "x", 4)]
    found, letters = take(mapper(), [reading(temp=0), orjson.dumps(many), reading(temp=5)])
    assert found.columns["temp"].tolist() == [0, 1, 2, 4, 5]
    assert [letter.code for letter in letters] == ["mqtt.value"]


def test_a_payload_with_too_many_readings_is_refused():
    many = orjson.dumps([json.loads(reading())] * 4097)
    assert take(mapper(), [many])[1][0].code == "mqtt.payload"


def test_keys_may_lie_within_others_and_fields_have_other_names():
    one = mapper(fields={"temp": "data.temperature", "q": "data.quality.code"})
    payload = orjson.dumps(
        {"ts": 5, "sensor": 7, "data": {"temperature": 1.5, "quality": {"code": 3}}, "more": [1]}
    )
    found, letters = take(one, [payload, b'{"ts": 5, "sensor": 7, "data": 3}'])
    assert rows(found) == [("gw-sensor-7", 5_000_000, 1.5, 3)]
    assert [letter.code for letter in letters] == ["mqtt.field"]


def test_without_a_declared_time_it_is_that_of_arrival():
    found, _ = take(Mapper(declaration(Route, JSON), ROW, Devices("gw-sensor", 5)), [reading()])
    assert found.time_ns.tolist() == [1_700_000_000_123_000_000]


@pytest.mark.parametrize(
    "unit, value, time_ns",
    [
        ("s", 1_700_000_000.25, 1_700_000_000_250_000_000),
        ("s", 3, 3_000_000_000),
        ("ms", 1.5, 1_500_000),
        ("us", 7, 7_000),
        ("ns", 1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
    ],
)
def test_units_of_time(unit, value, time_ns):
    assert Times(unit).bulk((value, value)).tolist() == [time_ns] * 2


def test_topics_name_devices():
    route = {**TIMED, "topic": "plant/+/{line}/{sensor}/temp", "device": "{line}_{sensor}"}
    one = mapper(**route)
    topics = ["plant/a/l1/s1/temp", "plant/b/l1/s2/temp", "plant/a/l1/s1/temp", "plant/a/l1//temp"]
    found, letters = take(one, [reading()] * 4, topics)
    assert [found.origins[o] for o in found.origin] == [
        "gw-sensor-l1_s1",
        "gw-sensor-l1_s2",
        "gw-sensor-l1_s1",
        "gw-sensor-l1_",
    ]
    assert not letters


def test_the_first_route_that_matches_takes_a_message_and_none_is_said():
    first = mapper(topic="a/#", stream="one")
    second = mapper(topic="a/b", stream="two")
    third = mapper(topic="c/+", stream="three")
    routes = Routes([first, second, third])
    published = Published()
    for topic in ("a/b", "c/x", "a", "d", "$SYS/x"):
        published.topics.append(routes.resolve(topic))
        published.payloads.append(reading())
    readings, letters = routes.take(published, NOW_NS)
    assert [(r.stream, len(r)) for r in readings] == [("one", 2), ("three", 1)]
    assert [(letter.topic, letter.code) for letter in letters] == [
        ("d", "mqtt.unrouted"),
        ("$SYS/x", "mqtt.unrouted"),
    ]


def test_devices_beyond_the_group_or_the_pattern_are_refused():
    one = mapper(count=2, admit="s[0-9]")
    found, letters = take(one, [reading(sensor=n) for n in ("s1", "x1", "s2", "s3", "s1")])
    assert [letter.code for letter in letters] == ["mqtt.device"] * 2
    assert len(found) == 3
    assert len(one.devices) == 2


@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_every_name_makes_an_origin_that_may_be_sent_on_and_comes_back_or_is_refused(name):
    devices = Devices("gw-sensor", 10)
    try:
        origin = devices.origin(name, None)
    except Refused:
        assert len(name.encode()) * 3 > 128 - len("gw-sensor-")
        assert devices.names == {}
        return
    assert subjects.parse(subjects.outbox_subject("readings", origin)).origin == origin
    assert origin.rpartition("-")[0] == "gw-sensor"
    again = Devices("gw-sensor", 10)
    again.remember(origin)
    assert again.names == {origin: name}
    assert all(c.isascii() and (c.isalnum() or c in "_.:") for c in origin.removeprefix("gw-sensor-"))


def test_names_that_no_escape_makes_are_not_remembered_and_odd_ones_not_let_in():
    devices = Devices("gw-sensor", 10)
    for origin in ("gw-sensor-a:ff", "gw-sensor-a:2", "gw-sensor-a:41", "gw-other-x", "x"):
        devices.remember(origin)
    assert devices.names == {}
    with pytest.raises(Refused):
        devices.origin("\ud800", None)


def test_sequence_numbers_tell_repeats_within_a_read():
    one = mapper(sequence="n")
    sent = [
        reading(n=n, temp=t, sensor=s) for n, t, s in ((5, 1, "a"), (5, 2, "b"), (4, 3, "a"), (5, 9, "a"))
    ]
    found, _ = take(one, sent)
    assert list(zip(rows(found), found.seq.tolist(), strict=True)) == [
        (("gw-sensor-a", 1_700_000_000_000_000_000, 3.0, 0), 4),
        (("gw-sensor-a", 1_700_000_000_000_000_000, 1.0, 0), 5),
        (("gw-sensor-b", 1_700_000_000_000_000_000, 2.0, 0), 5),
    ]
    assert one.repeated == 1
    found, letters = take(one, [reading(n=x) for x in (1, -1, "2", 1.5, 2**63)])
    assert found.seq.tolist() == [1]
    assert [letter.code for letter in letters] == ["mqtt.sequence"] * 4


def test_times_may_be_the_numbers():
    found, _ = take(mapper(sequence="time"), [reading(ts=2), reading(ts=1), reading(ts=2)])
    assert found.seq.tolist() == found.time_ns.tolist() == [1_000_000, 2_000_000]


def test_cbor_maps():
    one = mapper(payload="cbor")
    good = cbor2.dumps({"ts": 1, "sensor": "s1", "temp": 2.5, "q": 1})
    bad = [good + b"\0", b"\xa1", cbor2.dumps(cbor2.CBORTag(4040, [])), cbor2.dumps({"ts": 1})]
    nan = cbor2.dumps({"ts": 1, "sensor": "s1", "temp": math.nan, "q": 1})
    found, letters = take(one, [good, *bad, nan])
    assert rows(found) == [("gw-sensor-s1", 1_000_000, 2.5, 1)]
    assert [letter.code for letter in letters] == ["mqtt.payload"] * 3 + ["mqtt.field", "mqtt.value"]


def test_nan_is_kept_where_it_is_declared():
    one = mapper(payload="cbor", nan="keep")
    nan = cbor2.dumps({"ts": 1, "sensor": "s1", "temp": math.nan, "q": 1})
    infinite = cbor2.dumps({"ts": 1, "sensor": "s1", "temp": math.inf, "q": 1})
    found, letters = take(one, [nan, infinite])
    assert np.isnan(found.columns["temp"]).tolist() == [True]
    assert len(letters) == 1


def test_senml_in_json_and_cbor():
    pack = [
        {"bn": "urn:dev:mac:ab01:", "bt": 1_700_000_000.5, "n": "temp", "u": "Cel", "v": 20.5},
        {"n": "q", "v": 1},
        {"n": "temp", "t": 1, "v": 21},
        {"n": "q", "t": 1, "v": 2},
        {"n": "humidity", "v": 50},
    ]
    labels = {"bn": -2, "bt": -3, "n": 0, "u": 1, "t": 6, "v": 2}
    expected = [
        ("gw-sensor-urn:3adev:3amac:3aab01", 1_700_000_000_500_000_000, 20.5, 1),
        ("gw-sensor-urn:3adev:3amac:3aab01", 1_700_000_001_500_000_000, 21.0, 2),
    ]
    for form, content in (
        ("senml+json", json.dumps(pack).encode()),
        ("senml+cbor", cbor2.dumps([{labels[k]: v for k, v in r.items()} for r in pack])),
    ):
        one = Mapper(declaration(Route, {**JSON, "payload": form}), ROW, Devices("gw-sensor", 5))
        incomplete = content.replace(b"temp", b"tamp")
        found, letters = take(one, [content, incomplete, b"[]", b"{", b""])
        assert rows(found) == expected, form
        assert [letter.code for letter in letters] == ["mqtt.field"] + ["mqtt.payload"] * 3


@pytest.mark.parametrize(
    "payload",
    [
        b'[{"n": "a", "v": NaN}]',
        b'[{"n": "a", "n": "b", "v": 1}]',
        b'[{"n": "a", "vd": "!"}]',
        b'[{"n": "a_", "v": 1, "x_": 3}]',
        b'[{"bver": 99, "n": "a", "v": 1}]',
        b"[" * 2000,
        b'[{"n": "a", "v": "1"}]',
    ],
)
def test_senml_in_json_that_the_rfc_forbids(payload):
    one = Mapper(declaration(Route, {**JSON, "payload": "senml+json"}), ROW, Devices("gw-sensor", 5))
    assert take(one, [payload])[1][0].code == "mqtt.payload"


def test_senml_in_json_with_numbers_that_no_field_holds():
    one = Mapper(declaration(Route, {**JSON, "payload": "senml+json"}), ROW, Devices("gw-sensor", 5))
    pack = b'[{"bn": "s1:", "bt": 1e9, "n": "temp", "v": 1e999999999}, {"n": "q", "v": 1}]'
    assert take(one, [pack])[1][0].code == "mqtt.value"


def test_senml_data_is_base64_for_addresses():
    from ganglion.connectors.senml_json import unpack_json

    text = base64.urlsafe_b64encode(b"\xff\xfe\xfd\x00").decode().rstrip("=")
    assert unpack_json(json.dumps([{"n": "a", "vd": text}]).encode())[0].data == b"\xff\xfe\xfd\x00"


@pytest.mark.parametrize(
    "form, code", [("raw-f32le", "<fff"), ("raw-f64be", ">ddd"), ("raw-i16be", ">hhh"), ("raw-u8", "BBB")]
)
def test_packed_numbers(form, code):
    schema = Schema((Field("frame", TensorType("f32", (3,)), "A"),))
    route = {**JSON, "topic": "x/{sensor}", "device": "{sensor}", "payload": form}
    one = Mapper(declaration(Route, route), schema, Devices("gw-sensor", 5))
    found, letters = take(
        one, [struct.pack(code, 1, 2, 3), b"\0", struct.pack(code, 4, 5, 6)], ["x/a", "x/a", "x/b"]
    )
    assert found.columns["frame"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert [found.origins[o] for o in found.origin] == ["gw-sensor-a", "gw-sensor-b"]
    assert [(letter.code, letter.payload) for letter in letters] == [("mqtt.payload", b"\0")]


def test_packed_numbers_that_the_stream_cannot_hold():
    schema = Schema(gg.Row(count=gg.i16, level=gg.f32).fields)
    route = {**JSON, "topic": "x/{sensor}", "device": "{sensor}", "payload": "raw-f64le"}
    one = Mapper(declaration(Route, route), schema, Devices("gw-sensor", 1))
    sent = [(1, 0.5), (1.5, 0), (70_000, 0), (math.nan, 0), (2, math.inf), (3, 1e39), (-4, 1.25)]
    found, letters = take(
        one, [struct.pack("<dd", *v) for v in (*sent, (5, 5))], ["x/a"] * len(sent) + ["x/b"]
    )
    assert found.columns["count"].tolist() == [1, -4]
    assert found.columns["level"].tolist() == [0.5, 1.25]
    assert sorted(letter.code for letter in letters) == ["mqtt.device"] + ["mqtt.value"] * 5


@pytest.mark.parametrize(
    "changes, schema, why",
    [
        ({"fields": {"nope": "x"}}, ROW, "no field nope"),
        ({}, Schema((Field("frame", TensorType("f32", (3,))),)), "arrays"),
        ({"payload": "senml+json"}, ROW, "SenML"),
    ],
)
def test_a_route_that_does_not_fit_its_stream_is_refused(changes, schema, why):
    with pytest.raises(TopologyError) as caught:
        mapper(schema, **changes)
    assert caught.value.code == "mqtt.route"
    assert why in caught.value.why


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
wild = st.fixed_dictionaries(
    {},
    optional={
        "ts": st.integers(0, 2**45) | anything,
        "sensor": st.sampled_from(["a", "b"]) | anything,
        "temp": st.floats(-50, 50) | anything,
        "q": st.integers(0, 3) | anything,
        "n": st.integers(0, 5) | anything,
    },
)


@given(
    documents=st.lists(wild | anything, max_size=8),
    sequence=st.sampled_from([None, "n", "time"]),
    form=st.sampled_from(["json", "cbor"]),
    kind=st.sampled_from([gg.f32, gg.f64, gg.i16, gg.i32, gg.i64, gg.boolean]),
)
def test_together_is_as_each_alone(documents, sequence, form, kind):
    """The law of the fast way: it takes exactly what the slow way takes, and neither ever fails."""
    schema = Schema(gg.Row(temp=kind, q=gg.i32).fields)
    dumps = orjson.dumps if form == "json" else cbor2.dumps
    payloads = [dumps(d) for d in documents]
    together, alone = (mapper(schema, payload=form, sequence=sequence) for _ in range(2))
    if payloads:
        found, letters = take(together, payloads)
        one_by_one = [take(alone, [p]) for p in payloads]
        assert len(letters) == sum(len(bad) for _, bad in one_by_one)
        assert sorted(x.code for x in letters) == sorted(x.code for _, bad in one_by_one for x in bad)
        singles = [row for one, _ in one_by_one if one is not None for row in rows(one)]
        taken = rows(found) if found is not None else []
        if sequence is None:
            assert repr(taken) == repr(singles)
        else:
            assert len(taken) + together.repeated == len(singles) + alone.repeated


@given(
    values=st.lists(
        st.integers(-(2**70), 2**70) | st.floats() | st.booleans() | st.none(), min_size=1, max_size=5
    ),
    kind=st.sampled_from(["f32", "f64", "i16", "i32", "i64", "bool"]),
    keep_nan=st.booleans(),
)
def test_a_column_is_taken_exactly_if_each_value_is(values, kind, keep_nan):
    for column in (Column(Field("x", TensorType(kind)), keep_nan), Times("ms"), Numbers()):
        refused = []
        for value in values:
            try:
                column.check(value)
            except Refused as error:
                refused.append(error)
        try:
            column.bulk(values)
        except Odd:
            assert refused
        else:
            assert not refused
