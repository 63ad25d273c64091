"""The CoAP codec against the examples of RFC 7252 and against arbitrary bytes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.message import Code, Message, MessageType, Option, decode, encode
from ganglion.core.errors import DataError

TEMPERATURE = ((Option.URI_PATH, b"temperature"),)

# RFC 7252 Appendix A: the bytes follow from the fields the figures give; 16 and 17 are drawn bit by bit there.
APPENDIX_A = {
    "figure 16 request": (
        "40017d34 bb74656d7065726174757265",
        Message(MessageType.CON, Code.GET, 0x7D34, options=TEMPERATURE),
    ),
    "figure 16 response": (
        "60457d34 ff32322e332043",
        Message(MessageType.ACK, Code.CONTENT, 0x7D34, payload=b"22.3 C"),
    ),
    "figure 17 request": (
        "41017d35 20 bb74656d7065726174757265",
        Message(MessageType.CON, Code.GET, 0x7D35, b"\x20", TEMPERATURE),
    ),
    "figure 17 response": (
        "61457d35 20 ff32322e332043",
        Message(MessageType.ACK, Code.CONTENT, 0x7D35, b"\x20", payload=b"22.3 C"),
    ),
    "figure 20 empty acknowledgement": ("60007d38", Message(MessageType.ACK, Code.EMPTY, 0x7D38)),
    "figure 20 separate response": (
        "4145ad7b 53 ff32322e332043",
        Message(MessageType.CON, Code.CONTENT, 0xAD7B, b"\x53", payload=b"22.3 C"),
    ),
    "figure 20 its acknowledgement": ("6000ad7b", Message(MessageType.ACK, Code.EMPTY, 0xAD7B)),
}

options = st.lists(
    st.tuples(st.integers(0, 65535), st.binary(max_size=300) | st.binary(min_size=12, max_size=14)),
    max_size=8,
).map(lambda pairs: tuple(sorted(pairs, key=lambda pair: pair[0])))
codes = st.integers(1, 31) | st.integers(64, 191)
messages = st.builds(
    Message,
    st.sampled_from(MessageType),
    codes,
    st.integers(0, 65535),
    st.binary(max_size=8),
    options,
    st.binary(max_size=100),
)


def message_or_error(datagram):
    try:
        return decode(datagram)
    except DataError as error:
        return error


@pytest.mark.parametrize("name", APPENDIX_A)
def test_examples_of_the_rfc(name):
    text, message = APPENDIX_A[name]
    assert encode(message).hex() == text.replace(" ", "")
    assert decode(bytes.fromhex(text)) == message


@given(messages)
def test_decode_undoes_encode(message):
    assert decode(encode(message)) == message


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda tail: b"\x42\x02\x00\x07ab" + tail))
@example(b"")
@example(b"\x40\x01\x00\x00\xff")
def test_any_bytes_are_a_message_or_bad_data(datagram):
    got = message_or_error(datagram)
    if isinstance(got, Message):
        # Only lengths written longer than needed may differ, so the second reading is the first.
        assert decode(encode(got)) == got
    else:
        assert got.code.startswith("coap.")


@given(messages, st.data())
def test_altered_messages_are_messages_or_bad_data(message, data):
    datagram = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    got = message_or_error(bytes(datagram))
    assert isinstance(got, Message) or got.code.startswith("coap.")


@pytest.mark.parametrize(
    "text,code",
    [
        ("", "coap.truncated"),
        ("400100", "coap.truncated"),
        ("42010001aa", "coap.truncated"),
        ("40010001b5616263", "coap.truncated"),
        ("40010001d0", "coap.truncated"),
        ("40010001e001", "coap.truncated"),
        ("80010001", "coap.version"),
        ("49010001" + "00" * 9, "coap.token-length"),
        ("40200001", "coap.code"),
        ("40c00001", "coap.code"),
        ("41000001aa", "coap.empty"),
        ("40000001ff01", "coap.empty"),
        ("40010001f0", "coap.option"),
        ("400100010f", "coap.option"),
        ("40010001e0fef2e0fef2", "coap.option"),
        ("40010001ff", "coap.payload-marker"),
    ],
)
def test_malformed_datagrams_name_their_fault(text, code):
    with pytest.raises(DataError) as caught:
        decode(bytes.fromhex(text))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "message",
    [
        Message(MessageType.CON, 1, 0, bytes(9)),
        Message(MessageType.CON, 1, 65536),
        Message(MessageType.CON, 256, 0),
        Message(MessageType.CON, 1, 0, options=((65536, b""),)),
        Message(MessageType.CON, 1, 0, options=((1, bytes(wire.OPTION_BYTES_MAX + 1)),)),
        Message(MessageType.ACK, 0, 0, payload=b"x"),
    ],
)
def test_what_no_datagram_can_say_is_not_encoded(message):
    with pytest.raises(DataError) as caught:
        encode(message)
    assert caught.value.code == "coap.encode"


def test_options_of_any_order_are_sorted_and_repeats_keep_theirs():
    unordered = Message(MessageType.CON, 1, 0, options=((15, b"q"), (11, b"a"), (12, b""), (11, b"b")))
    assert decode(encode(unordered)).options == ((11, b"a"), (11, b"b"), (12, b""), (15, b"q"))


def test_request_options_are_read_back():
    made = wire.request_options(("grün", "a/b"), ("x=1",), 112, 60)
    assert wire.texts(made, Option.URI_PATH) == ("grün", "a/b")
    assert wire.texts(made, Option.URI_QUERY) == ("x=1",)
    assert wire.uint(made, Option.CONTENT_FORMAT) == 112
    assert wire.uint(made, Option.ACCEPT) == 60
    assert wire.uint(wire.request_options(("a",), (), 0), Option.CONTENT_FORMAT) == 0
    assert wire.uint(made, 60) is None
    for segment in ("x" * 256, "\ud800"):
        with pytest.raises(DataError):
            wire.request_options((segment,))
    with pytest.raises(DataError) as caught:
        wire.texts(((Option.URI_PATH, b"\xff"),), Option.URI_PATH)
    assert caught.value.code == "coap.text"


def test_critical_options_must_be_known_and_short():
    assert wire.unknown_critical(((3, b"host"), (60, bytes(9)), (258, b"elective"))) is None
    assert wire.unknown_critical(((9, b""),)) == 9
    assert wire.unknown_critical(((11, bytes(256)),)) == 11
