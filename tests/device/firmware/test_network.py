"""Whatever a network does: every row once, in order, or shed and counted; the same commands once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.message import Code, Message, MessageType, Option, request_options
from ganglion.core.packing import pack
from ganglion.device.firmware.box import Sent
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.device.firmware.layout import Limits
from ganglion.kernels.c.toolchain import compilers
from tests.device.firmware.benches import (
    GATEWAY,
    ORIGIN,
    core_of,
    firmware_of,
    needs_compiler,
    plant,
    plant_frames,
)
from tests.device.firmware.networks import LOST, MS, URGENT_PART, WELL, Fate, S, Site, measure

pytestmark = needs_compiler
SMALL = Limits(messages_max=8, message_bytes=128, commands_max=4)


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    built = {}

    def of(limits: Limits = SMALL) -> HostedFirmware:
        if limits not in built:
            firmware = firmware_of(plant(), URGENT_PART, limits)
            built[limits] = HostedFirmware.build(firmware, compilers()[0], tmp_path_factory.mktemp("network"))
        return built[limits]

    return of


@pytest.fixture
def site(hosted) -> Site:
    made = hosted()
    return Site(core_of(made.firmware, made.device())).start()


def some(count: int) -> np.ndarray:
    return plant_frames(np.random.default_rng(1), count)


# --- rows up ---

fates = st.one_of(
    st.just(WELL),
    st.just(LOST),
    st.builds(Fate, st.lists(st.integers(0, 3 * S), min_size=1, max_size=3).map(tuple)),
)


@settings(max_examples=60)
@given(
    st.lists(fates, max_size=60),
    st.lists(st.sampled_from([0, Code.CHANGED, Code.SERVICE_UNAVAILABLE]), max_size=30),
    st.lists(st.booleans(), max_size=30),
    st.integers(1, 2**32 - 1),
)
def test_every_row_arrives_once_and_in_order(hosted, fates, codes, apart, chance) -> None:
    made = hosted(Limits(messages_max=80, message_bytes=128))
    site = Site(core_of(made.firmware, made.device()))
    left, answers, ways = list(fates), list(codes), list(apart)
    site.fate = lambda: left.pop() if left else WELL
    site.answers = lambda _asked: answers.pop() if answers else Code.CHANGED
    site.apart = lambda: ways.pop() if ways else False
    site.start(chance)
    measure(site, some(40))
    site.drain()
    counts = site.core.report().uplinks
    assert site.numbers("level") == list(range(40))
    assert site.numbers("every_third") == list(range(2, 40, 3))
    assert all(c.offered == c.acknowledged and not c.shed for c in counts.values())
    assert Counter(site.ended).keys() == {"level", "every_third"}
    assert sum(map(len, site.acknowledged)) == 53


def test_at_the_limit_the_oldest_rows_that_lead_nowhere_are_shed_first(site: Site) -> None:
    site.silent = True
    measure(site, some(30))
    site.silent = False
    site.drain()
    counts = site.core.report().uplinks
    assert counts["level"].shed > 0, "there is room for fewer messages than there are urgent rows"
    # every_third had at most one message of rows under way, which is kept, then only those behind the shed ones.
    assert (
        counts["every_third"].shed + counts["every_third"].acknowledged == counts["every_third"].offered == 10
    )
    level = site.numbers("level")
    assert level[0] == 0, "what is under way may be at the gateway already, so it is kept"
    assert level[1:] == list(range(level[1], 30)), "the newest are kept"
    assert counts["level"].acknowledged == len(level) == 30 - counts["level"].shed


def test_urgent_rows_are_kept_while_there_is_anything_else_to_shed(hosted) -> None:
    made = hosted(Limits(messages_max=24, message_bytes=64))
    site = Site(core_of(made.firmware, made.device())).start()
    site.silent = True
    measure(site, some(22))
    assert site.core.report().uplinks["level"].shed == 0
    assert site.core.report().uplinks["every_third"].shed > 0
    site.silent = False
    site.drain()
    assert site.numbers("level") == list(range(22))


def test_rows_shed_while_they_were_gathered_leave_the_others_as_they_were(hosted) -> None:
    made = hosted(Limits(messages_max=4, message_bytes=128))
    silent, heard = (Site(core_of(made.firmware, made.device())).start() for _ in range(2))
    silent.silent = True
    for site in (silent, heard):
        measure(site, some(9))
        site.silent = False
        site.drain()
    assert silent.core.report().uplinks["every_third"].shed == 3, "each was being gathered when it was shed"
    assert silent.journal["level"] and set(silent.journal["level"]) <= set(heard.journal["level"])
    assert "every_third" not in silent.journal


def test_urgent_rows_go_at_once_and_others_gather(site: Site) -> None:
    measure(site, some(1))
    assert [a.path for a in site.asked] == [("s", "level")]
    measure(site, some(2))
    site.until(site.now_ns + 2 * S)
    by_stream = {a.path[1]: a.at_ns for a in site.asked}
    assert by_stream["every_third"] <= 30 * MS + 1 * S
    asked = len(site.asked)
    site.until(site.now_ns + 60 * S)
    assert len(site.asked) == asked, "nothing is held, so it sleeps"


def test_urgent_messages_leave_first(tmp_path) -> None:
    firmware = firmware_of(plant(), {"runs": ("level",), "exports": ("raw", "level")}, SMALL)
    assert [e.urgent for e in firmware.streams] == [False, True]
    made = HostedFirmware.build(firmware, compilers()[0], tmp_path)
    site = Site(core_of(firmware, made.device())).start()
    measure(site, some(4), MS * 2)
    full = [a.path[1] for a in site.asked if a.at_ns == 8 * MS]
    assert full == ["level", "raw"], "four rows of raw fill a message when level's row is due as well"


def test_a_message_without_an_answer_goes_again_with_growing_waits_and_then_under_a_new_number(
    site: Site,
) -> None:
    site.silent = True
    site.frame(some(1)[0])
    site.until(4 * S)
    tries = [a for a in site.asked if a.path == ("s", "level")]
    waits = np.diff([a.at_ns for a in tries])
    assert 400 * MS <= waits[0] <= 600 * MS
    assert len(waits) == 2 + (waits[0] * 7 < 4 * S) and (waits[1:] == 2 * waits[:-1]).all()
    assert len({(a.message.message_id, a.message.token, a.message.payload) for a in tries}) == 1
    site.until(5 * S)
    again = next(a for a in site.asked if a.at_ns >= 4 * S)
    assert again.at_ns == 4 * S + 200 * MS
    assert (again.message.message_id, again.message.token) != (
        tries[0].message.message_id,
        tries[0].message.token,
    )
    assert again.message.payload == tries[0].message.payload
    assert site.core.report().uplinks["level"].retries == 1


def test_who_is_not_urgent_asks_a_silent_gateway_less_and_less(site: Site) -> None:
    site.silent = True
    measure(site, some(3))
    site.until(site.now_ns + 120 * S)
    ids = {a.message.token: a.at_ns for a in reversed(site.asked) if a.path == ("s", "every_third")}
    waits = np.diff(sorted(ids.values()))
    assert waits[0] == 4200 * MS and waits[-1] == 7200 * MS, "a try of 4 s, then 0.2 s, at last 3.2 s"


def test_who_is_urgent_asks_a_silent_gateway_as_often_as_at_first(site: Site) -> None:
    site.silent = True
    site.frame(some(1)[0])
    site.until(60 * S)
    tries = {a.message.token: a.at_ns for a in reversed(site.asked)}
    assert set(np.diff(sorted(tries.values())).tolist()) == {4200 * MS}


def test_after_an_answer_waits_are_short_again(site: Site) -> None:
    for _ in range(2):
        site.silent = True
        measure(site, some(3))
        site.until(site.now_ns + 30 * S)
        tries = {a.message.token: a.at_ns for a in reversed(site.asked) if a.path == ("s", "every_third")}
        waits = np.diff(sorted(tries.values()))
        assert waits[0] == 4200 * MS < waits[1]
        site.silent = False
        site.until(site.now_ns + 30 * S)
        site.asked.clear()


def test_every_row_of_a_refused_message_is_counted(site: Site) -> None:
    site.answers = lambda asked: Code.FORBIDDEN if asked.path[1] == "every_third" else Code.CHANGED
    measure(site, some(9))
    site.drain()
    assert site.core.report().uplinks["every_third"].refused == 3


def test_what_the_gateway_will_never_take_is_counted_and_the_next_goes(site: Site) -> None:
    site.answers = lambda asked: Code.BAD_REQUEST if len(site.asked) < 3 else Code.CHANGED
    measure(site, some(9))
    site.drain()
    counts = site.core.report().uplinks["level"]
    assert counts.refused == 2 and counts.acknowledged == 7 and counts.retries == 0
    assert site.numbers("level") == list(range(2, 9))


def test_answers_that_belong_to_nothing_are_rejected_and_change_nothing(site: Site) -> None:
    site.silent = True
    site.frame(some(1)[0])
    asked = site.asked[0].message
    stranger = ("127.0.0.1", 7)
    ack = wire.encode(Message(MessageType.ACK, Code.CHANGED, asked.message_id, asked.token))
    assert site.core.receive(0, stranger, ack) == []
    assert site.core.receive(0, stranger, wire.encode(Message(MessageType.RST, 0, asked.message_id))) == []
    assert (
        site.core.receive(0, stranger, wire.encode(Message(MessageType.NON, Code.CHANGED, 3, asked.token)))
        == []
    )
    other = wire.encode(Message(MessageType.ACK, Code.CHANGED, asked.message_id ^ 1, asked.token))
    assert site.core.receive(0, GATEWAY, other) == []
    token = wire.encode(Message(MessageType.CON, Code.CHANGED, 5, asked.token[:-1] + b"?"))
    (reset,) = site.core.receive(0, GATEWAY, token)
    assert isinstance(reset, Sent) and reset.datagram == bytes((0x70, 0, 0, 5))
    (pong,) = site.core.receive(0, GATEWAY, wire.encode(Message(MessageType.CON, 0, 9)))
    assert isinstance(pong, Sent) and pong.datagram == bytes((0x70, 0, 0, 9))
    (malformed,) = site.core.receive(0, GATEWAY, b"\x49\x01\x00\x07")
    assert isinstance(malformed, Sent) and malformed.datagram == bytes((0x70, 0, 0, 7))
    report = site.core.report()
    assert report.coap.unmatched == 5 and report.coap.malformed == 1
    assert report.uplinks["level"].acknowledged == report.uplinks["level"].retries == 0
    assert report.ledger.received == 7 and report.ledger.sent == 4


def test_a_separate_response_is_acknowledged_each_time_and_taken_once(site: Site) -> None:
    site.silent = True
    site.frame(some(1)[0])
    asked = site.asked[0].message
    assert site.core.receive(0, GATEWAY, wire.encode(Message(MessageType.ACK, 0, asked.message_id))) == []
    assert site.core.next_ns == 4 * S, "it is not sent again, the response may take its time"
    response = wire.encode(Message(MessageType.CON, Code.CHANGED, 5, asked.token))
    for time in range(2):
        records = site.core.receive(0, GATEWAY, response)
        assert Sent(GATEWAY, bytes((0x60, 0, 0, 5))) in records
        assert len(records) == 2 - time
    assert site.core.report().uplinks["level"].acknowledged == 1


def test_the_ledger_counts_what_energy_follows_from(site: Site) -> None:
    measure(site, some(6))
    site.drain()
    ledger = site.core.report().ledger
    assert ledger.frames == 6
    assert ledger.sent == len(site.asked)
    assert ledger.sent_bytes == sum(len(wire.encode(a.message)) for a in site.asked)
    assert ledger.received == ledger.sent and ledger.received_bytes == 12 * ledger.received
    assert ledger.wakeups >= ledger.frames + ledger.received


# --- commands down ---


def put(payload: bytes, message_id: int, path: str = "a/siren", **more) -> Message:
    options = more.pop("options", request_options(path.split("/")))
    method = more.pop("method", Code.PUT)
    return Message(more.pop("kind", MessageType.CON), method, message_id, b"tok", options, payload)


def order(name: str = "c1", seq: int = 3, verb: str = "on") -> bytes:
    return pack({"verb": verb, "id": name, "seq": seq})


def test_a_command_is_obeyed_once_per_id_and_answered_each_time(site: Site) -> None:
    site.send_down(put(order(), 1))
    site.send_down(put(order(), 1))
    site.send_down(put(order(), 2))
    site.send_down(put(order("c2"), 3))
    assert [(c.actuator, c.verb, c.command_id, c.seq, c.repeated) for c in site.commands] == [
        ("siren", "on", "c1", 3, False),
        ("siren", "on", "c1", 3, True),
        ("siren", "on", "c2", 3, False),
    ]
    assert [(r.type, r.code, r.message_id, r.token) for r in site.replies] == [
        (MessageType.ACK, Code.CHANGED, n, b"tok") for n in (1, 1, 2, 3)
    ]
    assert site.core.report().coap.duplicates == 1


@pytest.mark.parametrize(
    "message, code",
    [
        (put(order(), 1, "a/horn"), Code.NOT_FOUND),
        (put(order(), 1, "b/siren"), Code.NOT_FOUND),
        (put(order(), 1, "a"), Code.NOT_FOUND),
        (put(order(), 1, "a/siren/x"), Code.NOT_FOUND),
        (put(order(), 1, "a/x/siren"), Code.NOT_FOUND),
        (put(order(), 1, method=Code.POST), Code.NOT_FOUND),
        (put(b"", 1), Code.BAD_REQUEST),
        (put(b"\xa0", 1), Code.BAD_REQUEST),
        (put(order()[:-1], 1), Code.BAD_REQUEST),
        (put(order(seq=-1), 1), Code.BAD_REQUEST),
        (put(order(), 1, options=((Option.URI_PATH, b"a"), (Option.URI_PATH, b"\xff"))), Code.BAD_REQUEST),
        (put(order("c" * 200), 1), Code.BAD_REQUEST),
        (put(order(), 1, options=((9, b""),)), Code.BAD_OPTION),
        (put(order(), 1, options=((Option.PROXY_URI, b"x"),)), Code.PROXYING_NOT_SUPPORTED),
        (put(order() + b"\0" * 2000, 1), Code.REQUEST_ENTITY_TOO_LARGE),
    ],
)
def test_what_cannot_be_obeyed_is_answered_with_its_code(site: Site, message: Message, code: int) -> None:
    site.send_down(message)
    assert [(r.type, r.code) for r in site.replies] == [(MessageType.ACK, code)]
    assert site.commands == []


def test_a_request_that_wants_no_acknowledgement_is_answered_without_one(site: Site) -> None:
    site.send_down(put(order(), 1, kind=MessageType.NON))
    assert [(r.type, r.code, r.token) for r in site.replies] == [(MessageType.NON, Code.CHANGED, b"tok")]
    site.send_down(put(order(), 1, kind=MessageType.NON))
    assert len(site.replies) == len(site.commands) == 1


def test_a_number_used_again_is_another_request(site: Site) -> None:
    site.send_down(put(order("c1"), 1))
    site.send_down(put(order("c2"), 1))
    assert [c.command_id for c in site.commands] == ["c1", "c2"]
    site.until(248 * S)
    site.send_down(put(order("c2"), 1))
    assert [c.repeated for c in site.commands] == [False, False, True], "its exchange is over, its id is not"


def test_as_many_commands_are_remembered_as_there_is_room_for(site: Site) -> None:
    for k in range(SMALL.commands_max + 1):
        site.send_down(put(order(f"c{k}"), k))
    site.send_down(put(order(f"c{SMALL.commands_max}"), 90))
    site.send_down(put(order("c1"), 91))
    site.send_down(put(order("c0"), 92))
    assert [c.repeated for c in site.commands[-3:]] == [True, True, False], "the oldest id was forgotten"


def test_its_own_reflex_and_the_gateways_repeat_of_it_are_one_command(hosted, tmp_path) -> None:
    part = {"runs": ("level", "alarms", "siren_on"), "exports": ("alarms",)}
    firmware = firmware_of(plant(), part)
    made = HostedFirmware.build(firmware, compilers()[0], tmp_path)
    site = Site(core_of(firmware, made.device())).start()
    frame = np.full((2, 4), 300, np.int16)
    frame[0] = -30
    site.frame(frame)
    (own,) = site.commands
    assert own.command_id == f"siren_on:{ORIGIN}:{own.seq}"
    site.send_down(put(order(own.command_id, own.seq), 1))
    assert [c.repeated for c in site.commands] == [False, True]
