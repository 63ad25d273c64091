"""A stream of bytes is cut into the same packets wherever its reads end, and a bad one ends it with a reason."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.connectors.mqtt import reading
from ganglion.connectors.mqtt.packets import V3, V5, Puback, Publish, encode
from ganglion.connectors.mqtt.properties import Property
from ganglion.connectors.mqtt.reading import Reader
from ganglion.core.errors import ConnectorError

payloads = st.binary(max_size=300)
messages = st.lists(
    st.tuples(
        st.sampled_from(["a", "a/b", "ä/very/long/topic/" + "x" * 120]),
        payloads,
        st.integers(0, 1),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
)


def packets(drawn, level):
    for number, (topic, payload, qos, retain, repeated, with_properties) in enumerate(drawn, 1):
        properties = {Property.USER: (("k", "v"),)} if level == V5 and with_properties else {}
        yield Publish(topic, payload, qos, number if qos else 0, retain, bool(repeated and qos), properties)


def read(reader, content, cuts):
    topics, found, ids, retained, others = [], [], [], 0, []
    edges = [0, *sorted(cuts), len(content)]
    for start, stop in itertools.pairwise(edges):
        published, more = reader.feed(content[start:stop])
        topics += published.topics
        found += published.payloads
        ids += published.packet_ids
        retained += published.retained
        others += more
    return topics, found, ids, retained, others


@pytest.mark.parametrize("level", [V3, V5])
@given(drawn=messages, data=st.data())
def test_wherever_reads_end_the_messages_are_the_same(level, drawn, data):
    sent = list(packets(drawn, level))
    content = b"".join(encode(p, level) for p in sent) + encode(Puback(7), level)
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=8))
    topics, found, ids, retained, others = read(Reader(level, lambda t: t), content, cuts)
    news = [p for p in sent if not p.retain]
    assert (topics, found) == ([p.topic for p in news], [p.payload for p in news])
    assert ids == [p.packet_id for p in sent if p.qos]
    assert retained == len(sent) - len(news)
    assert others == [Puback(7)]


@pytest.mark.parametrize("level", [V3, V5])
@given(drawn=messages, junk=st.binary(min_size=1, max_size=60), at=st.floats(0, 1))
def test_whatever_comes_is_read_or_refused(level, drawn, junk, at):
    content = b"".join(encode(p, level) for p in packets(drawn, level))
    place = int(len(content) * at)
    reader = Reader(level, lambda t: t, packet_bytes_max=10_000)
    try:
        for part in (content[:place], junk, content[place:]):
            reader.feed(part)
    except ConnectorError as error:
        assert error.code == "mqtt.packet"  # noqa: PT017  # either is right


def test_a_known_topic_is_looked_at_once():
    asked = []

    def resolve(topic):
        asked.append(topic)
        return topic

    reader = Reader(V3, resolve)
    for _ in range(3):
        reader.feed(encode(Publish("a", b"1"), V3) * 5)
    assert asked == ["a"]


def test_topics_beyond_the_limit_are_looked_at_again(monkeypatch):
    monkeypatch.setattr(reading, "TOPICS_MAX", 4)
    reader = Reader(V3, lambda t: t)
    published, _ = reader.feed(b"".join(encode(Publish(f"t{i % 9}", b"x"), V3) for i in range(50)))
    assert published.topics == [f"t{i % 9}" for i in range(50)]
    assert len(reader._topics) <= 4


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        b"\x30\x02\x00\x05",  # shorter than its topic
        b"\x30\x00",
        b"\x30\x01\x00",
        b"\x30\x03\x00\x05a\x30\x05\x00\x01ayy",  # the topic would reach into the next packet
        b"\x32\x03\x00\x01a",  # no packet identifier
        b"\x32\x05\x00\x01a\x00\x00",  # it is 0
        b"\x30\x80\x80\x80\x80\x01",
        b"\x30\x85\x00\x00\x01abc",
        b"\x30\xff\xff\x7f",  # larger than the limit
        b"\x36\x05\x00\x01a\x00\x01",  # QoS 3
    ],
)
def test_a_bad_packet_ends_it(content, known):
    reader = Reader(V3, lambda t: t, packet_bytes_max=1000)
    if known:
        reader.feed(encode(Publish("a", b"1"), V3))
    with pytest.raises(ConnectorError) as caught:
        reader.feed(content + encode(Publish("a", b"1"), V3))
    assert caught.value.code == "mqtt.packet"


def test_a_topic_beyond_the_limit_is_refused():
    with pytest.raises(ConnectorError):
        Reader(V3, lambda t: t).feed(encode(Publish("t" * 1025, b""), V3))


def test_a_packet_in_many_parts_is_not_looked_at_until_it_is_whole():
    reader = Reader(V3, lambda t: t)
    content = encode(Publish("a", b"x" * 100_000), V3)
    for at in range(0, len(content) - 1000, 1000):
        assert len(reader.feed(content[at : at + 1000])[0]) == 0
    rest, _ = reader.feed(content[at + 1000 :])
    assert rest.payloads == [b"x" * 100_000]
