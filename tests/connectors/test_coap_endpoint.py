"""Endpoints on loopback, with datagrams lost, repeated, held back and forged on the way."""

import asyncio
import random
import shutil
import socket
from typing import Any

import pytest

from ganglion.connectors.coap import (
    CONTENT_FORMAT_SENML_CBOR,
    CONTENT_FORMAT_TEXT,
    Code,
    Endpoint,
    Message,
    MessageType,
    Option,
    Request,
    Response,
    Settings,
    decode,
    encode,
)
from ganglion.core.errors import ConnectorError, DataError, HostError
from ganglion.core.units import NS_PER_MS

# Short waits make the tests quick; none depends on how long anything takes.
QUICK = Settings(ack_timeout_ns=20 * NS_PER_MS, empty_ack_after_ns=20 * NS_PER_MS, max_retransmit=8)
NEVER = Settings(empty_ack_after_ns=3600 * 10**9, ack_timeout_ns=20 * NS_PER_MS, max_retransmit=8)


def run(coroutine):
    """The test's loop, with a time limit that only a hang reaches."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def opened(seed, handler=None, settings=QUICK, **how):
    return Endpoint.open(handler=handler, random=random.Random(seed), settings=settings, **how)


class Relay(asyncio.DatagramProtocol):
    """A stretch of network between one client and one server; ``fate(up, message)`` says how often each goes on."""

    def __init__(self, server, fate):
        self.server, self.fate = server, fate
        self.client = None
        self.passed = []

    @classmethod
    async def open(cls, server, fate):
        relay = cls(server, fate)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: relay, local_addr=("127.0.0.1", 0))
        return relay

    @property
    def address(self):
        return self.transport.get_extra_info("sockname")

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        up = addr != self.server
        if up:
            self.client = addr
        message = decode(data)
        times = self.fate(up, message)
        self.passed += [(up, message)] * times
        for _ in range(times):
            self.transport.sendto(data, self.server if up else self.client)


class Raw(asyncio.DatagramProtocol):
    """A bare socket to say exactly what a test wants to a peer."""

    def __init__(self):
        self.got: asyncio.Queue = asyncio.Queue()

    @classmethod
    async def open(cls):
        raw = cls()
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: raw, local_addr=("127.0.0.1", 0))
        return raw

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.got.put_nowait((decode(data), addr))

    def say(self, message, address):
        self.transport.sendto(message if isinstance(message, bytes) else encode(message), address)

    async def hear(self):
        return (await self.got.get())[0]


def first(count, times):
    """A fate for the first ``count`` datagrams that answer ``applies``; the others pass once."""
    left = [count]

    def fate_of(applies):
        def fate(up, message):
            if applies(up, message) and left[0]:
                left[0] -= 1
                return times
            return 1

        return fate

    return fate_of


class Work:
    """A handler that counts its runs and answers when told, in the way asked for."""

    def __init__(self, how="now"):
        self.how = how
        self.runs = 0
        self.may_answer = asyncio.Event()

    def __call__(self, request):
        self.runs += 1
        response = Response(Code.CHANGED, str(self.runs).encode(), CONTENT_FORMAT_TEXT)
        return response if self.how == "now" else self.later(response)

    async def later(self, response):
        await self.may_answer.wait()
        return response


def test_a_request_reaches_the_handler_whole_and_its_response_comes_back():
    async def main():
        seen = []

        def handler(request):
            seen.append(request)
            return Response(Code.CREATED, request.payload[::-1], 60)

        async with await opened(1, handler) as server, await opened(2) as client:
            response = await client.request(
                server.address,
                Code.PUT,
                "/s/amps/",
                b"abc",
                CONTENT_FORMAT_SENML_CBOR,
                query=("a=1", "b"),
                accept=60,
            )
            assert response == Response(Code.CREATED, b"cba", 60)
            assert (response.ok, response.status) == (True, "2.01")
            (request,) = seen
            assert request == Request(
                client.address,
                Code.PUT,
                ("s", "amps"),
                ("a=1", "b"),
                CONTENT_FORMAT_SENML_CBOR,
                60,
                b"abc",
                True,
            )
            await client.request(server.address, Code.GET, ("x/y", "ü"))
            assert seen[-1].path == ("x/y", "ü")

    run(main())


def test_one_socket_asks_and_answers_at_once():
    async def main():
        ends: dict[str, Endpoint] = {}

        async def left_handler(request):
            # Asks back over the same pair of sockets before it answers.
            inner = await ends["left"].request(request.peer, Code.GET, "who")
            return Response(Code.CONTENT, b"via " + inner.payload)

        async with (
            await opened(1, left_handler) as left,
            await opened(2, lambda _: Response(Code.CONTENT, b"right")) as right,
        ):
            ends["left"] = left
            response = await right.request(left.address, Code.GET, "ask")
            assert response.payload == b"via right"

    run(main())


@pytest.mark.parametrize("how", ["now", "later"])
def test_lost_requests_are_sent_again_with_growing_waits_and_handled_once(how):
    async def main():
        work = Work(how)
        work.may_answer.set()
        fate = first(3, 0)(lambda up, m: up)
        async with await opened(1, work) as server, await opened(2) as client:
            relay = await Relay.open(server.address, fate)
            response = await client.request(relay.address, Code.POST, "x")
            assert response.payload == b"1"
            assert client.counters.retransmitted >= 3
            relay.transport.close()
        assert work.runs == 1

    run(main())


@pytest.mark.parametrize("how", ["now", "later"])
def test_lost_acknowledgements_are_answered_from_memory(how):
    async def main():
        work = Work(how)
        work.may_answer.set()
        fate = first(2, 0)(lambda up, m: not up)
        async with await opened(1, work, NEVER) as server, await opened(2) as client:
            relay = await Relay.open(server.address, fate)
            response = await client.request(relay.address, Code.POST, "x")
            assert response.payload == b"1"
            assert server.counters.duplicates >= 2
            relay.transport.close()
        assert work.runs == 1

    run(main())


@pytest.mark.parametrize("how", ["now", "later"])
def test_datagrams_repeated_both_ways_change_nothing(how):
    async def main():
        work = Work(how)
        work.may_answer.set()
        async with await opened(1, work) as server, await opened(2) as client:
            relay = await Relay.open(server.address, lambda up, m: 3)
            payloads = [(await client.request(relay.address, Code.POST, "x")).payload for _ in range(20)]
            assert payloads == [str(i).encode() for i in range(1, 21)]
            relay.transport.close()
        assert work.runs == 20

    run(main())


def test_a_retransmission_while_the_handler_runs_is_not_run_again():
    async def main():
        work = Work("later")
        async with await opened(1, work, NEVER) as server, await opened(2) as client:
            asked = asyncio.ensure_future(client.request(server.address, Code.POST, "x"))
            await until(lambda: server.counters.duplicates >= 2)
            work.may_answer.set()
            assert (await asked).payload == b"1"
        assert work.runs == 1

    run(main())


def test_a_slow_handler_is_acknowledged_empty_and_answers_apart():
    async def main():
        work = Work("later")
        async with await opened(1, work) as server, await opened(2) as client:
            relay = await Relay.open(server.address, lambda up, m: 1)
            asked = asyncio.ensure_future(client.request(relay.address, Code.POST, "x"))
            acknowledged = (False, MessageType.ACK, Code.EMPTY)
            await until(lambda: acknowledged in [(up, m.type, m.code) for up, m in relay.passed])
            work.may_answer.set()
            assert (await asked).payload == b"1"
            types = [(up, m.type) for up, m in relay.passed]
            assert (False, MessageType.CON) in types
            await until(lambda: (True, MessageType.ACK) in [(up, m.type) for up, m in relay.passed])
            relay.transport.close()
        assert work.runs == 1

    run(main())


@pytest.mark.parametrize(
    "lost",
    [
        lambda up, m: not up and m.type is MessageType.ACK,  # the empty acknowledgement
        lambda up, m: not up and m.type is MessageType.CON,  # the separate response
        lambda up, m: up and m.type is MessageType.ACK,  # its acknowledgement
    ],
)
def test_a_separate_response_arrives_though_parts_of_the_exchange_are_lost(lost):
    async def main():
        work = Work("later")
        async with await opened(1, work) as server, await opened(2) as client:
            relay = await Relay.open(server.address, first(2, 0)(lost))
            asked = asyncio.ensure_future(client.request(relay.address, Code.POST, "x"))
            await until(lambda: server.counters.sent)  # the empty acknowledgement has gone
            work.may_answer.set()
            assert (await asked).payload == b"1"
            await until(lambda: not server._out)  # the server stops repeating its response
            assert server.counters.expired == 0
            relay.transport.close()
        assert work.runs == 1

    run(main())


def test_thirty_percent_loss_and_duplicates_lose_and_repeat_nothing(seed):
    async def main():
        chance = random.Random(seed)
        done = []

        async def handler(request):
            await asyncio.sleep(chance.choice([0, 0.04]))
            done.append(request.payload)
            return Response(Code.CHANGED, request.payload)

        settings = Settings(
            ack_timeout_ns=10 * NS_PER_MS, max_retransmit=12, empty_ack_after_ns=15 * NS_PER_MS, nstart=4
        )
        async with await opened(1, handler, settings) as server, await opened(2, None, settings) as client:
            relay = await Relay.open(
                server.address, lambda up, m: chance.choices([0, 1, 2], [0.3, 0.5, 0.2])[0]
            )
            sent = [str(i).encode() for i in range(60)]
            responses = await asyncio.gather(
                *(client.request(relay.address, Code.POST, "x", payload) for payload in sent)
            )
            assert [r.payload for r in responses] == sent
            relay.transport.close()
        assert sorted(done) == sorted(sent)

    run(main())


def test_a_silent_peer_is_given_up_after_all_retransmissions():
    async def main():
        silent = await Raw.open()
        settings = Settings(ack_timeout_ns=5 * NS_PER_MS, max_retransmit=3)
        async with await opened(1, None, settings) as client:
            with pytest.raises(ConnectorError) as caught:
                await client.request(silent.transport.get_extra_info("sockname"), Code.GET, "x")
            assert caught.value.code == "coap.timeout"
            assert (client.counters.sent, client.counters.expired) == (4, 1)
        assert len({id(m) for m, _ in [silent.got.get_nowait() for _ in range(4)]}) == 4
        silent.transport.close()

    run(main())


def test_waits_double_from_a_random_first_one():
    async def main():
        loop: Any = asyncio.get_running_loop()
        waits: list[float] = []
        silent = await Raw.open()
        settings = Settings(ack_timeout_ns=10**9, ack_random_factor=1.5, max_retransmit=4)
        async with await opened(1, None, settings) as client:
            real = loop.call_later

            def call_later(delay, callback, *args):
                if getattr(callback, "__name__", "") != "_overdue":
                    return real(delay, callback, *args)
                waits.append(delay)
                return real(0, callback, *args)

            loop.call_later = call_later
            with pytest.raises(ConnectorError):
                await client.request(silent.transport.get_extra_info("sockname"), Code.GET, "x")
        assert 1 <= waits[0] <= 1.5
        assert waits == [waits[0] * 2**i for i in range(5)]
        silent.transport.close()

    run(main())


def test_the_callers_time_limit_holds_though_the_request_was_acknowledged():
    async def main():
        async with await opened(1, Work("later")) as server, await opened(2) as client:
            with pytest.raises(ConnectorError) as caught:
                await client.request(server.address, Code.GET, "x", timeout_ns=100 * NS_PER_MS)
            assert caught.value.code == "coap.timeout"

    run(main())


def test_one_message_per_peer_is_under_way_and_the_rest_wait_their_turn():
    async def main():
        raw = await Raw.open()
        address = raw.transport.get_extra_info("sockname")
        still = Settings(ack_timeout_ns=3600 * 10**9, outstanding_max=3)
        async with await opened(1, None, still) as client:
            asked = [asyncio.ensure_future(client.request(address, Code.GET, str(i))) for i in range(3)]
            apart = b""
            for i in range(3):
                message = await raw.hear()
                assert message.options == ((Option.URI_PATH, str(i).encode()),)
                assert raw.got.empty()
                if i == 0:
                    with pytest.raises(ConnectorError) as caught:
                        await client.request(address, Code.GET, "more")
                    assert caught.value.code == "coap.busy"
                if i == 1:
                    # An acknowledgement alone already makes room (section 4.7); the response comes apart.
                    raw.say(Message(MessageType.ACK, 0, message.message_id), client.address)
                    apart = message.token
                else:
                    raw.say(
                        Message(MessageType.ACK, Code.CONTENT, message.message_id, message.token),
                        client.address,
                    )
            raw.say(Message(MessageType.NON, Code.CONTENT, 9, apart), client.address)
            assert all(r.ok for r in await asyncio.gather(*asked))
        raw.transport.close()

    run(main())


def test_a_request_given_up_while_it_waits_leaves_the_queue():
    async def main():
        raw = await Raw.open()
        address = raw.transport.get_extra_info("sockname")
        async with await opened(1, None, Settings(ack_timeout_ns=3600 * 10**9)) as client:
            under_way = asyncio.ensure_future(client.request(address, Code.GET, "a"))
            message = await raw.hear()
            with pytest.raises(ConnectorError):
                await client.request(address, Code.GET, "b", timeout_ns=NS_PER_MS)
            raw.say(Message(MessageType.ACK, Code.CONTENT, message.message_id, message.token), client.address)
            await under_way
            assert len(client._out) == 0
            assert raw.got.empty()
        raw.transport.close()

    run(main())


def test_handlers_at_work_are_bounded_and_more_requests_are_refused():
    async def main():
        work = Work("later")
        settings = Settings(handlers_max=2, nstart=8)
        async with await opened(1, work, settings) as server, await opened(2, None, settings) as client:
            asked = [asyncio.ensure_future(client.request(server.address, Code.POST, "x")) for _ in range(3)]
            (done, _) = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result().status for task in done] == ["5.03"]
            work.may_answer.set()
            assert sorted(r.status for r in await asyncio.gather(*asked)) == ["2.04", "2.04", "5.03"]
            assert server.counters.refused == 1

    run(main())


def fail(error):
    def handler(request):
        raise error

    return handler


async def fail_later(request):
    raise HostError("host.disk-full", "no space", why="full", next_step="free some")


@pytest.mark.parametrize(
    "handler,status,text",
    [
        (fail(DataError("batch.schema", "wrong fields")), "4.00", "[batch.schema] wrong fields"),
        (fail(HostError("host.disk", "x" * 999)), "5.00", ("[host.disk] " + "x" * 999)[:256]),
        (fail_later, "5.00", "[host.disk-full] no space | why: full | next: free some"),
        (fail(ZeroDivisionError("secret")), "5.00", "ZeroDivisionError"),
        (lambda _: None, "5.00", "TypeError"),
        (lambda _: asyncio.sleep(0), "5.00", "TypeError"),
        (lambda _: Response(Code.CONTENT, bytes(2000)), "5.00", "[coap.size]"),
        (lambda _: Response(999), "5.00", "[coap.encode]"),
    ],
)
def test_errors_of_a_handler_become_responses(handler, status, text):
    async def main():
        async with await opened(1, handler) as server, await opened(2) as client:
            for _ in range(2):
                response = await client.request(server.address, Code.GET, "x")
                assert (response.status, response.ok) == (status, False)
                assert response.payload.decode().startswith(text)
                assert len(response.payload) <= 256
            assert server.counters.failed == 2

    run(main())


def test_requests_that_cannot_be_understood_are_told_so():
    async def main():
        work = Work()
        raw = await Raw.open()
        async with await opened(1, work) as server:
            for message_id, (options, code) in enumerate(
                [
                    (((9, b""),), Code.BAD_OPTION),
                    (((27, b"\x08"),), Code.BAD_OPTION),
                    (((Option.PROXY_URI, b"coap://x"),), Code.PROXYING_NOT_SUPPORTED),
                    (((Option.URI_PATH, b"\xff"),), Code.BAD_REQUEST),
                    (((2000, bytes(1200)),), Code.REQUEST_ENTITY_TOO_LARGE),
                ]
            ):
                raw.say(Message(MessageType.CON, Code.GET, message_id, b"t", options), server.address)
                answer = await raw.hear()
                assert (answer.type, answer.code, answer.token) == (MessageType.ACK, code, b"t")
            assert work.runs == 0
        raw.transport.close()

    run(main())


def test_malformed_and_stray_datagrams_do_not_stop_it(seed):
    async def main():
        chance = random.Random(seed)
        raw = await Raw.open()
        async with await opened(1, lambda _: Response(Code.CONTENT)) as server, await opened(2) as client:
            for _ in range(300):
                raw.say(chance.randbytes(chance.randrange(60)), server.address)
                raw.say(b"\x40" + chance.randbytes(chance.randrange(20)), server.address)
            stray = [
                Message(MessageType.ACK, 0, 1),
                Message(MessageType.RST, 0, 1),
                Message(MessageType.NON, 0, 1),
                Message(MessageType.ACK, Code.CONTENT, 1, b"t"),
                Message(MessageType.RST, Code.CONTENT, 1, b"t"),
                Message(MessageType.NON, Code.CONTENT, 1, b"t"),
                Message(MessageType.ACK, Code.GET, 1, b"t"),
            ]
            for message in stray:
                raw.say(message, server.address)
            assert (await client.request(server.address, Code.GET, "x")).ok
            assert server.counters.malformed > 100
        raw.transport.close()

    run(main())


@pytest.mark.parametrize(
    "message",
    [
        Message(MessageType.CON, Code.EMPTY, 77),  # a ping, section 4.3
        Message(MessageType.CON, Code.CONTENT, 77, b"unknown"),  # a response nobody waits for
        Message(MessageType.CON, Code.GET, 77),  # a request to a client
        bytes.fromhex("4020004d"),  # a reserved code class
    ],
)
def test_confirmable_messages_that_mean_nothing_are_reset(message):
    async def main():
        raw = await Raw.open()
        async with await opened(1) as client:
            raw.say(message, client.address)
            assert await raw.hear() == Message(MessageType.RST, Code.EMPTY, 77)
        raw.transport.close()

    run(main())


def test_a_reset_fails_the_request():
    async def main():
        async with await opened(1) as nobody, await opened(2) as client:
            with pytest.raises(ConnectorError) as caught:
                await client.request(nobody.address, Code.GET, "x")
            assert caught.value.code == "coap.reset"

    run(main())


def test_answers_that_do_not_match_are_not_taken():
    async def main():
        raw, thief = await Raw.open(), await Raw.open()
        async with await opened(1, None, Settings(ack_timeout_ns=3600 * 10**9)) as client:
            asked = asyncio.ensure_future(
                client.request(raw.transport.get_extra_info("sockname"), Code.GET, "x")
            )
            message = await raw.hear()
            right = Message(
                MessageType.ACK, Code.CONTENT, message.message_id, message.token, payload=b"right"
            )
            thief.say(right._replace(payload=b"other peer"), client.address)
            raw.say(right._replace(token=b"other", payload=b"other token"), client.address)
            raw.say(right._replace(message_id=message.message_id ^ 1, payload=b"other id"), client.address)
            raw.say(right, client.address)
            assert (await asked).payload == b"right"
            assert client.counters.unmatched == 3
            asked = asyncio.ensure_future(
                client.request(raw.transport.get_extra_info("sockname"), Code.GET, "x")
            )
            message = await raw.hear()
            raw.say(
                Message(MessageType.ACK, Code.CONTENT, message.message_id, message.token, ((9, b""),)),
                client.address,
            )
            with pytest.raises(ConnectorError) as caught:
                await asked
            assert caught.value.code == "coap.response"
        raw.transport.close()
        thief.transport.close()

    run(main())


def test_an_answer_with_the_id_of_one_request_and_the_token_of_another_is_not_taken():
    async def main():
        raw = await Raw.open()
        address = raw.transport.get_extra_info("sockname")
        async with await opened(1, None, Settings(ack_timeout_ns=3600 * 10**9, nstart=2)) as client:
            asked = [asyncio.ensure_future(client.request(address, Code.GET, "x")) for _ in range(2)]
            one, other = await raw.hear(), await raw.hear()
            crossed = Message(MessageType.ACK, Code.CONTENT, one.message_id, other.token, payload=b"crossed")
            raw.say(crossed, client.address)
            for message in (one, other):
                right = Message(
                    MessageType.ACK, Code.CONTENT, message.message_id, message.token, payload=b"right"
                )
                raw.say(right, client.address)
            assert [r.payload for r in await asyncio.gather(*asked)] == [b"right"] * 2
            assert client.counters.unmatched == 1
        raw.transport.close()

    run(main())


def test_non_confirmable_requests_are_answered_in_kind_and_once():
    async def main():
        work = Work()
        raw = await Raw.open()
        async with await opened(1, work) as server:
            for _ in range(2):
                raw.say(Message(MessageType.NON, Code.GET, 5, b"t"), server.address)
            raw.say(Message(MessageType.NON, Code.GET, 6, b"u"), server.address)
            answers = [await raw.hear(), await raw.hear()]
            assert [(m.type, m.token, m.payload) for m in answers] == [
                (MessageType.NON, b"t", b"1"),
                (MessageType.NON, b"u", b"2"),
            ]
        raw.transport.close()

    run(main())


def test_memory_against_duplicates_is_bounded_and_a_used_again_id_is_a_new_request():
    async def main():
        work = Work()
        raw = await Raw.open()
        async with await opened(1, work, Settings(remembered_max=10)) as server:
            for message_id in [*range(50), 49, 0]:
                raw.say(Message(MessageType.CON, Code.GET, message_id, b"t"), server.address)
                await raw.hear()
            assert len(server._seen) == 10
            assert work.runs == 51  # 49 was remembered, 0 forgotten
            raw.say(Message(MessageType.CON, Code.GET, 49, b"other"), server.address)
            assert (await raw.hear()).payload == b"52"
        raw.transport.close()

    run(main())


def test_seen_messages_are_forgotten_after_their_time():
    async def main():
        work = Work()
        raw = await Raw.open()
        async with await opened(1, work, Settings(exchange_lifetime_ns=1)) as server:
            for _ in range(2):
                raw.say(Message(MessageType.CON, Code.GET, 7, b"t"), server.address)
                await raw.hear()
        assert work.runs == 2
        raw.transport.close()

    run(main())


def test_closing_ends_what_waits_and_what_runs():
    async def main():
        cancelled = asyncio.Event()

        async def handler(request):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        server, client = await opened(1, handler, NEVER), await opened(2)
        asked = asyncio.ensure_future(client.request(server.address, Code.GET, "x"))
        await until(lambda: server._server._serving)
        await server.close()
        assert cancelled.is_set()
        await client.close()
        with pytest.raises(ConnectorError) as caught:
            await asked
        assert caught.value.code == "coap.closed"
        with pytest.raises(ConnectorError) as caught:
            await client.request(server.address, Code.GET, "x")
        assert caught.value.code == "coap.closed"
        await asyncio.gather(client.close(), client.close())
        assert len(asyncio.all_tasks()) == 2  # this one and its time limit

    run(main())


def test_what_cannot_be_sent_is_said_before_anything_is_sent():
    async def main():
        async with await opened(1) as client:
            for host, port in (("localhost", 5683), ("::1", 5683), ("127.0.0.1", 0), ("127.0.0.1", 65536)):
                with pytest.raises(ConnectorError) as caught:
                    await client.request((host, port), Code.GET, "x")
                assert caught.value.code == "coap.address"
            with pytest.raises(DataError) as large:
                await client.request(("127.0.0.1", 5683), Code.GET, "x", bytes(1152))
            assert large.value.code == "coap.size"
            assert client.counters.sent == 0
            with pytest.raises(HostError) as taken:
                await opened(2, port=client.address[1])
            assert taken.value.code == "host.port-taken"
            with pytest.raises(HostError) as nowhere:
                await opened(2, host="203.0.113.1")
            assert nowhere.value.code == "host.network"

    run(main())


def has_ipv6_loopback():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no IPv6 loopback (::1)")
def test_it_works_over_ipv6():
    async def main():
        server = await opened(1, lambda _: Response(Code.CONTENT), host="::1")
        async with server, await opened(2, host="::1") as client:
            assert (await client.request(server.address, Code.GET, "x")).ok

    run(main())


COAP_CLIENTS = ("coap-client", "coap-client-notls", "coap-client-openssl")
COAP_CLIENT = ([path for name in COAP_CLIENTS if (path := shutil.which(name))] or [""])[0]


@pytest.mark.skipif(not COAP_CLIENT, reason="libcoap's coap-client is not installed (Debian: libcoap3-bin)")
@pytest.mark.parametrize("how", ["now", "later"])
def test_libcoap_is_answered(how):
    async def main():
        got = []

        def handler(request):
            got.append(request)
            response = Response(Code.CONTENT, b"hello libcoap", CONTENT_FORMAT_TEXT)
            return response if how == "now" else slowly(response)

        async def slowly(response):
            await asyncio.sleep(0.1)
            return response

        async with await opened(1, handler, Settings(empty_ack_after_ns=20 * NS_PER_MS)) as server:
            uri = "coap://{}:{}/s/amps?a=1".format(*server.address)
            for method, more in (("get", ()), ("post", ("-e", "22.3 C"))):
                process = await asyncio.create_subprocess_exec(
                    COAP_CLIENT, "-m", method, *more, uri, stdout=asyncio.subprocess.PIPE
                )
                out, _ = await process.communicate()
                assert b"hello libcoap" in out
        assert [(r.method, r.path, r.query, r.payload) for r in got] == [
            (Code.GET, ("s", "amps"), ("a=1",), b""),
            (Code.POST, ("s", "amps"), ("a=1",), b"22.3 C"),
        ]

    run(main())
