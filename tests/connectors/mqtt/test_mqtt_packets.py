"""Packets of MQTT 3.1.1 and 5: round trips, the standard's own examples, and whatever else may come over a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.connectors.mqtt import properties
from ganglion.connectors.mqtt.packets import (
    V3,
    V5,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    decode,
    encode,
)
from ganglion.connectors.mqtt.properties import Cursor, Property, encode_varint
from ganglion.connectors.mqtt.reading import take
from ganglion.core.errors import ConnectorError

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
topics = texts.map(lambda t: t.replace("+", "p").replace("#", "h")).filter(bool)
blobs = st.binary(max_size=60)
ids = st.integers(1, 0xFFFF)
values = {
    properties._U8: st.integers(0, 255),
    properties._U16: st.integers(0, 0xFFFF),
    properties._U32: st.integers(0, 0xFFFFFFFF),
    properties._VARINT: st.integers(0, properties.VARINT_MAX),
    properties._TEXT: texts,
    properties._BYTES: blobs,
    properties._PAIR: st.tuples(texts, texts),
}


def valued(name):
    one = values[properties._FORMS[name]]
    return st.lists(one, min_size=1, max_size=3).map(tuple) if name in properties.REPEATABLE else one


some_properties = st.lists(st.sampled_from(list(Property)), unique=True, max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({n: valued(n) for n in names})
)


@st.composite
def packets(draw, level):
    props = draw(some_properties) if level == V5 else {}
    kind = draw(st.integers(0, 8))
    if kind == 0:
        user = draw(st.none() | texts)
        return Connect(
            level,
            draw(texts),
            draw(st.booleans()),
            draw(st.integers(0, 65535)),
            user,
            draw(st.none() | blobs),
            props,
        )
    if kind == 1:
        return Connack(draw(st.booleans()), draw(st.integers(0, 255)), props)
    if kind == 2:
        qos = draw(st.integers(0, 1))
        return Publish(
            draw(topics),
            draw(blobs),
            qos,
            draw(ids) if qos else 0,
            draw(st.booleans()),
            bool(qos and draw(st.booleans())),
            props,
        )
    if kind == 3:
        return Puback(draw(ids), draw(st.integers(0, 255)) if level == V5 else 0, props)
    if kind == 4:
        filters = st.lists(st.tuples(texts, st.integers(0, 63)), min_size=1, max_size=4)
        return Subscribe(draw(ids), tuple(draw(filters)), props)
    if kind == 5:
        return Suback(draw(ids), tuple(draw(st.lists(st.integers(0, 255), max_size=4))), props)
    if kind == 6:
        return Disconnect(draw(st.integers(0, 255)) if level == V5 else 0, props)
    return Pingreq() if kind == 7 else Pingresp()


def opened(content):
    cursor = Cursor(content)
    head = cursor.take(1)[0]
    return head, cursor.take(cursor.varint()), cursor


@pytest.mark.parametrize("level", [V3, V5])
@given(data=st.data())
def test_every_packet_comes_back(level, data):
    packet = data.draw(packets(level))
    head, body, cursor = opened(encode(packet, level))
    cursor.finish()
    assert decode(head, body, level) == packet


@pytest.mark.parametrize("level", [V3, V5])
@given(data=st.data())
def test_packets_come_back_one_by_one_wherever_reads_end(level, data):
    sent = [
        *data.draw(st.lists(packets(level), max_size=4)),
        Publish("long", b"x" * data.draw(st.sampled_from((0, 119, 300)))),
    ]
    content = b"".join(encode(p, level) for p in sent)
    cut = data.draw(st.integers(0, len(content)))
    held, got = bytearray(content[:cut]), []
    for more in (content[cut:], b""):
        while (packet := take(held, level)) is not None:
            got.append(packet)
        held += more
    assert got == sent
    assert not held


@pytest.mark.parametrize("level", [V3, V5])
@given(head=st.integers(0, 255), body=st.binary(max_size=80))
def test_bytes_of_whatever_kind_are_a_packet_or_refused(level, head, body):
    try:
        packet = decode(head, body, level)
    except ConnectorError as error:
        assert error.code == "mqtt.packet"  # noqa: PT017  # either is right
    else:
        again = encode(packet, level)
        head, body, _ = opened(again)
        assert decode(head, body, level) == packet


@pytest.mark.parametrize("level", [V3, V5])
@given(data=st.data())
def test_a_cut_packet_is_refused(level, data):
    packet = data.draw(packets(level))
    head, body, _ = opened(encode(packet, level))
    cut = data.draw(st.integers(0, len(body)))
    try:
        decode(head, body[:cut], level)
    except ConnectorError as error:
        assert error.code == "mqtt.packet"  # noqa: PT017  # either is right


# MQTT 5, table 1-1: sizes of variable byte integers.
@pytest.mark.parametrize(
    "value, written",
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2_097_151, "ffff7f"),
        (2_097_152, "80808001"),
        (268_435_455, "ffffff7f"),
    ],
)
def test_lengths_are_written_as_in_the_standard(value, written):
    assert encode_varint(value).hex() == written
    assert Cursor(bytes.fromhex(written)).varint() == value


def test_known_bytes():
    # 3.1.1, figure 3.6 and its like: user and password, clean, keep alive 10 s.
    connect = Connect(V3, "a", clean=True, keep_alive_s=10, user="u", password=b"p")
    assert encode(connect, V3).hex(" ") == "10 13 00 04 4d 51 54 54 04 c2 00 0a 00 01 61 00 01 75 00 01 70"
    assert encode(Publish("a/b", b"x", 1, 10), V3).hex(" ") == "32 08 00 03 61 2f 62 00 0a 78"
    assert encode(Publish("a/b", b"x", 1, 10), V5).hex(" ") == "32 09 00 03 61 2f 62 00 0a 00 78"
    assert encode(Puback(10), V5).hex(" ") == "40 02 00 0a"


def test_a_broker_of_3_1_1_refuses_in_its_own_form():
    assert decode(0x20, b"\x00\x01", V5) == Connack(session_present=False, reason=1)


@pytest.mark.parametrize(
    "head, body, why",
    [
        (0x34, b"\0\1a\0\1", "QoS 2"),
        (0x38, b"\0\1a", "repeated"),
        (0x30, b"\0\0", "topic"),
        (0x30, b"\0\3a/+", "topic"),
        (0x30, b"\0\2\xff\xff", "UTF-8"),
        (0x30, b"\0\1\0", "U+0000"),
        (0x32, b"\0\1a\0\0", "identifier is 0"),
        (0x41, b"\0\1", "flags"),
        (0x60, b"\0\1", "type 6"),
        (0x82, b"\0\1", "without a filter"),
        (0x10, b"\0\4MQIs\4\2\0\0\0\0", "not of MQTT"),
        (0x10, b"\0\4MQTT\3\2\0\0\0\0", "level 3"),
        (0x10, b"\0\4MQTT\4\4\0\0\0\0", "will"),
    ],
)
def test_what_the_protocol_forbids_is_refused_with_the_reason(head, body, why):
    with pytest.raises(ConnectorError) as caught:
        decode(head, body, V3)
    assert caught.value.code == "mqtt.packet"
    assert why in caught.value.why


@pytest.mark.parametrize(
    "body, why",
    [
        (b"\0\1a\2\x7f\0", "no property"),
        (b"\0\1a\4\x23\0\1\x23", "ends"),
        (b"\0\1a\6\x23\0\1\x23\0\1", "twice"),
        (b"\0\1a\x80\0", "shortest"),
        (b"\0\1a\xff\xff\xff\xff\1", "four bytes"),
    ],
)
def test_properties_that_cannot_be_are_refused(body, why):
    with pytest.raises(ConnectorError) as caught:
        decode(0x30, body, V5)
    assert why in caught.value.why


def test_what_does_not_fit_is_not_sent():
    with pytest.raises(ConnectorError) as caught:
        encode(Publish("t" * 65_536, b""), V3)
    assert caught.value.code == "mqtt.size"
