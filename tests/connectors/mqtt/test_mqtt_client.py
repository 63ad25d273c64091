"""The client against a broker that does what the test says: order of acknowledgements, back-pressure, coming back."""

import asyncio
import random
from contextlib import asynccontextmanager
from typing import Any

import pytest

import ganglion as gg
from ganglion.connectors.mqtt import client as client_module
from ganglion.connectors.mqtt.client import Client
from ganglion.connectors.mqtt.compiled import proven
from ganglion.connectors.mqtt.connection import AT_ONCE, TOGETHER_MAX, Pace
from ganglion.connectors.mqtt.devices import Devices
from ganglion.connectors.mqtt.mapping import Mapper
from ganglion.connectors.mqtt.packets import (
    V3,
    V5,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Puback,
    Publish,
    Suback,
    Subscribe,
    decode,
    encode,
)
from ganglion.connectors.mqtt.properties import Property
from ganglion.connectors.mqtt.routes import Routes
from ganglion.connectors.mqtt.settings import Settings
from ganglion.core.declarations import declaration
from ganglion.core.errors import ConnectorError, MessagingError
from ganglion.core.schema import Schema
from ganglion.core.topology_mqtt import Route
from ganglion.host.system import SystemClock
from ganglion.kernels.c.toolchain import compilers
from tests.connectors.mqtt.clients import running, until


class Broker:
    """Takes one client after the other; `heard` are their packets, all of them."""

    def __init__(self, level):
        self.level = level
        self.heard = []
        self.granted = None
        self.refusal = 0
        self.session = False
        self.properties = {}
        self.silent = False
        self.connections = 0
        self.writer: Any = None
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def listening(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            if self.writer is not None:
                self.writer.close()

    def send(self, *packets):
        self.writer.write(b"".join(encode(p, self.level) for p in packets))

    async def _serve(self, reader, writer):
        self.connections += 1
        self.writer = writer
        try:
            while True:
                head = (await reader.readexactly(1))[0]
                size = shift = 0
                while True:
                    byte = (await reader.readexactly(1))[0]
                    size |= (byte & 0x7F) << shift
                    shift += 7
                    if byte < 0x80:
                        break
                packet = decode(head, await reader.readexactly(size), self.level)
                self._answer(packet)
                async with self._news:
                    self.heard.append(packet)
                    self._news.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, packet):
        if self.silent:
            return
        if isinstance(packet, Connect):
            self.send(Connack(self.session, self.refusal, self.properties))
        elif isinstance(packet, Subscribe):
            granted = [qos & 3 for _, qos in packet.filters] if self.granted is None else self.granted
            self.send(Suback(packet.packet_id, tuple(granted)))

    async def until(self, condition):
        async with self._news, asyncio.timeout(20):
            while not condition(self.heard):
                await self._news.wait()

    def of(self, kind):
        return [p for p in self.heard if isinstance(p, kind)]


def settings(broker, **changes):
    return Settings(
        "127.0.0.1",
        broker.port,
        broker.level,
        "gw",
        **({"subscriptions": (("in/#", 1),)} | changes),
    )


def connected(broker, deliver, pace=AT_ONCE, **changes):
    return running(settings(broker, **changes), deliver, pace=pace)


async def nothing(published):
    return None


def run(scenario, level=V5):
    async def whole():
        async with Broker(level).listening() as broker:
            await scenario(broker)

    asyncio.run(whole())


@pytest.mark.parametrize("level", [V3, V5])
def test_messages_are_acknowledged_when_they_are_safe_and_in_order(level):
    async def scenario(broker):
        futures = []

        async def deliver(published):
            futures.append((asyncio.get_running_loop().create_future(), published.payloads))
            return futures[-1][0]

        async with connected(broker, deliver) as client:
            await until(lambda: client.subscribed)
            for number in (3, 1, 2):
                broker.send(Publish("in/a", b"%d" % number, 1, number))
                await until(lambda: sum(len(p) for _, p in futures) == len(broker.of(Puback)) + 1 or futures)
                await asyncio.sleep(0.02)
            await until(lambda: len(futures) == 3)
            futures[2][0].set_result(None)
            futures[1][0].set_result(None)
            await asyncio.sleep(0.05)
            assert not broker.of(Puback)
            futures[0][0].set_result(None)
            await broker.until(lambda heard: sum(isinstance(p, Puback) for p in heard) == 3)
            assert [p.packet_id for p in broker.of(Puback)] == [3, 1, 2]
        await broker.until(lambda heard: isinstance(heard[-1], Disconnect))

    run(scenario, level)


@pytest.mark.skipif(not compilers(), reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("level", [V3, V5])
def test_messages_that_c_has_read_are_handed_over_and_acknowledged(level, tmp_path):
    route = {"topic": "in", "devices": "sensor", "stream": "readings", "device": "id"}
    schema = Schema(gg.Row(temp=gg.f32).fields)
    routes = Routes([Mapper(declaration(Route, route), schema, Devices("gw-sensor", 5))])
    decoder = proven(routes, compilers(), tmp_path)
    assert decoder is not None
    temps: list[float] = []

    async def deliver(published):
        readings, letters = routes.take(published, 0)
        assert not letters
        temps.extend(t for r in readings for t in r.columns["temp"].tolist())

    async def scenario(broker):
        async with running(settings(broker), deliver, resolve=routes.resolve, decoder=decoder) as client:
            await until(lambda: client.subscribed)
            for number in range(1, 6):
                broker.send(Publish("in", b'{"id": "s1", "temp": %d.5}' % number, 1, number))
                await broker.until(lambda heard, n=number: sum(isinstance(p, Puback) for p in heard) == n)
            assert [p.packet_id for p in broker.of(Puback)] == [1, 2, 3, 4, 5]
            assert client.counts.messages == 5

    run(scenario, level)
    assert temps == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert decoder.rows == 3  # the first is not known yet, and the second not tried


def test_what_did_not_become_safe_is_not_acknowledged_and_the_client_comes_back():
    async def scenario(broker):
        outcomes = [MessagingError("messaging.full", "no room"), None]

        async def deliver(published):
            future = asyncio.get_running_loop().create_future()
            outcome = outcomes.pop(0)
            future.set_exception(outcome) if outcome else future.set_result(None)
            return future

        async with connected(broker, deliver) as client:
            await until(lambda: client.subscribed)
            broker.send(Publish("in/a", b"1", 1, 9))
            await until(lambda: broker.connections == 2 and client.subscribed)
            assert not broker.of(Puback)
            broker.send(Publish("in/a", b"1", 1, 9, repeated=True))
            await broker.until(lambda heard: any(isinstance(p, Puback) for p in heard))
            assert client.counts.repeated == 1
        assert [c.clean for c in broker.of(Connect)] == [False, False]
        assert broker.of(Connect)[0].properties[Property.SESSION_EXPIRY_S] == 86_400

    run(scenario)


def test_a_slow_disk_is_felt_by_the_broker():
    async def scenario(broker):
        held, taken = asyncio.Event(), []

        async def deliver(published):
            taken.append(len(published))
            await held.wait()

        async with connected(broker, deliver, unsettled_bytes_max=100_000) as client:
            await until(lambda: client.subscribed)
            content = encode(Publish("in/a", b"x" * 1000), V5)
            for _ in range(20_000):
                broker.writer.write(content)
            for _ in range(100):
                await asyncio.sleep(0.002)
            unsent = broker.writer.transport.get_write_buffer_size()
            assert unsent > 5_000_000
            assert client._connection._unsettled_bytes < 100_000 + 300_000
            held.set()
            await until(lambda: client.counts.messages == 20_000)
        assert client.counts.pauses >= 1

    run(scenario)


def test_retained_messages_are_skipped_and_acknowledged():
    async def scenario(broker):
        taken = []

        async def deliver(published):
            taken.extend(published.payloads)

        async with connected(broker, deliver) as client:
            await until(lambda: client.subscribed)
            broker.send(Publish("in/a", b"old", 1, 5, retain=True), Publish("in/a", b"new", 1, 6))
            await broker.until(lambda heard: sum(isinstance(p, Puback) for p in heard) == 2)
            assert taken == [b"new"]
            assert client.counts.retained == 1

    run(scenario)


@pytest.mark.parametrize(
    "level, reason, why",
    [(V3, 4, "password"), (V3, 1, "version"), (V5, 0x87, "authorised"), (V5, 1, "version")],
)
def test_a_refusal_is_said_with_its_reason(level, reason, why):
    async def scenario(broker):
        broker.refusal = reason
        async with connected(broker, nothing) as client:
            await until(lambda: broker.connections >= 2)
            assert "mqtt.refused" in client.trouble
            assert why in client.trouble
            assert not client.subscribed

    run(scenario, level)


def test_a_subscription_that_is_not_granted_is_said():
    async def scenario(broker):
        broker.granted = [0x80]
        async with connected(broker, nothing) as client:
            await until(lambda: "mqtt.subscription" in client.trouble)
            broker.granted = [0]  # less than asked for is not enough either
            await until(lambda: broker.connections >= 3)
            assert not client.subscribed

    run(scenario)


@pytest.mark.parametrize(
    "content",
    [
        b"\x30\x00",
        b"\xf0\x00",
        encode(Pingreq(), V5),
        encode(Connack(session_present=False, reason=0), V5),
        encode(Suback(1, (0,)), V5),
        encode(Disconnect(0x8E), V5),
        b"HTTP/1.1 400 Bad Request\r\n" + b"x" * 200,
    ],
)
def test_a_broker_that_speaks_nonsense_is_left_and_tried_again(content):
    async def scenario(broker):
        async with connected(broker, nothing) as client:
            await until(lambda: client.subscribed)
            broker.writer.write(content)
            await until(lambda: broker.connections == 2 and client.subscribed)
            assert client.trouble == ""

    run(scenario)


def test_a_message_before_the_answer_is_refused():
    async def scenario(broker):
        broker.silent = True
        async with connected(broker, nothing) as client:
            await until(lambda: broker.of(Connect))
            broker.send(Publish("in/a", b"x"))
            await until(lambda: "mqtt.packet" in client.trouble)

    run(scenario)


def test_a_silent_broker_is_left(monkeypatch):
    monkeypatch.setattr(client_module, "ANSWER_NS_MAX", 100_000_000)
    monkeypatch.setattr(client_module, "TICK_NS", 20_000_000)

    async def scenario(broker):
        broker.silent = True
        async with connected(broker, nothing) as client:
            await until(lambda: broker.connections >= 2)
            assert "mqtt.silent" in client.trouble
            broker.silent = False
            await until(lambda: client.subscribed)

    run(scenario)


def test_pings_keep_the_connection():
    async def scenario(broker):
        broker.properties = {Property.SERVER_KEEP_ALIVE_S: 1}
        async with connected(broker, nothing) as client:
            await broker.until(lambda heard: any(isinstance(p, Pingreq) for p in heard))
            assert client.subscribed

    run(scenario)


def test_nobody_there():
    async def scenario(broker):
        async with connected(broker, nothing) as client:
            await until(lambda: client.subscribed)
            with pytest.raises(ConnectorError) as caught:
                client.publish("x" * 70_000, b"")
            assert caught.value.code == "mqtt.size"
        lost = Client(
            Settings("127.0.0.1", 1, V5, "gw"), lambda t: t, nothing, SystemClock(), random.Random(1)
        )
        running = asyncio.ensure_future(lost.run())
        await until(lambda: "mqtt.unreachable" in lost.trouble)
        with pytest.raises(ConnectorError) as caught:
            lost.publish("out", b"x")
        assert caught.value.code == "mqtt.offline"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(scenario)


def test_commands_go_out_before_publish_returns_and_again_until_they_arrive():
    async def scenario(broker):
        broker.session = True
        arrived: list[bool] = []
        async with connected(broker, nothing, subscriptions=()) as client:
            await until(lambda: client.subscribed)
            client.publish("out", b"fast")
            client.publish("out", b"sure", qos=1, done=arrived.append)
            await broker.until(lambda heard: len([p for p in heard if isinstance(p, Publish)]) == 2)
            broker.writer.close()
            await broker.until(lambda heard: len([p for p in heard if isinstance(p, Publish)]) == 3)
            first, again = broker.of(Publish)[1:]
            assert (first.payload, first.repeated) == (b"sure", False)
            assert (again.payload, again.repeated, again.packet_id) == (b"sure", True, first.packet_id)
            assert not arrived
            broker.send(Puback(again.packet_id))
            await until(lambda: arrived == [True])
            client.publish("out", b"no", qos=1, done=arrived.append)
            await broker.until(lambda heard: len([p for p in heard if isinstance(p, Publish)]) == 4)
            broker.send(Puback(broker.of(Publish)[-1].packet_id, 0x87))
            await until(lambda: arrived == [True, False])

    run(scenario)


def test_a_command_that_comes_too_late_is_given_up(monkeypatch):
    monkeypatch.setattr(client_module, "TICK_NS", 20_000_000)

    async def scenario(broker):
        arrived: list[bool] = []
        async with connected(broker, nothing) as client:
            await until(lambda: client.subscribed)
            client.publish("out", b"x", qos=1, within_ns=50_000_000, done=arrived.append)
            await until(lambda: arrived == [False])
            assert client.counts.publish_failed == 1

    run(scenario)


def test_no_more_is_in_flight_than_the_broker_takes():
    async def scenario(broker):
        broker.properties = {Property.RECEIVE_MAX: 3}
        arrived: list[bool] = []
        async with connected(broker, nothing, sent_max=10) as client:
            await until(lambda: client.subscribed)
            for number in range(10):
                client.publish("out", b"%d" % number, qos=1, done=arrived.append)
            with pytest.raises(ConnectorError) as caught:
                client.publish("out", b"one more", qos=1)
            assert caught.value.code == "mqtt.full"
            for sent in range(10):
                await broker.until(
                    lambda heard, n=sent: len([p for p in heard if isinstance(p, Publish)]) > n
                )
                publishes = broker.of(Publish)
                assert len(publishes) <= sent + 3
                broker.send(Puback(publishes[sent].packet_id))
            await until(lambda: arrived == [True] * 10)
            assert [p.payload for p in broker.of(Publish)] == [b"%d" % n for n in range(10)]

    run(scenario)


def test_the_first_message_goes_at_once_and_those_of_the_rest_after_it_together():
    async def scenario(broker):
        taken = []

        async def deliver(published):
            taken.append(list(published.payloads))

        async with connected(broker, deliver, pace=Pace(rest_ns=500_000_000)) as client:
            await until(lambda: client.subscribed)
            broker.send(Publish("in/a", b"0", 0, 0))
            await until(lambda: taken == [[b"0"]])
            for number in range(1, 6):
                broker.send(Publish("in/a", b"%d" % number, 0, 0))
                await broker.writer.drain()
                await asyncio.sleep(0.005)
            assert taken == [[b"0"]]
            await until(lambda: len(taken) == 2)
            assert taken[1] == [b"1", b"2", b"3", b"4", b"5"]

    run(scenario)


def patient(published):
    return not published.packet_ids and b"!" not in published.payloads


LONG = Pace(hold_ns=60_000_000_000, patient=patient)


def test_messages_that_can_wait_go_with_one_that_cannot():
    async def scenario(broker):
        taken = []

        async def deliver(published):
            taken.append(list(published.payloads))

        async def send(content, qos=0):
            broker.send(Publish("in/a", content, qos, 7 if qos else 0))
            await broker.writer.drain()
            await asyncio.sleep(0.01)

        async with connected(broker, deliver, pace=LONG) as client:
            await until(lambda: client.subscribed)
            await send(b"after a pause")
            await until(lambda: taken == [[b"after a pause"]])
            for number in range(3):
                await send(b"%d" % number)
            assert len(taken) == 1
            await send(b"!")
            await until(lambda: len(taken) == 2)
            assert taken[1] == [b"0", b"1", b"2", b"!"]
            await send(b"3")
            await send(b"asked for", qos=1)
            await until(lambda: len(taken) == 3)
            assert taken[2] == [b"3", b"asked for"]

    run(scenario)


def test_messages_that_can_wait_do_not_wait_for_ever():
    async def scenario(broker):
        taken = []

        async def deliver(published):
            taken.extend(published.payloads)

        async with connected(broker, deliver, pace=Pace(hold_ns=50_000_000, patient=patient)) as client:
            await until(lambda: client.subscribed)
            for number in range(6):
                broker.send(Publish("in/a", b"%d" % number, 0, 0))
                await until(lambda number=number: len(taken) == number + 1)
            assert taken == [b"%d" % n for n in range(6)]

    run(scenario)


def test_what_waits_for_others_is_handed_over_when_the_connection_ends():
    async def scenario(broker):
        taken = []

        async def deliver(published):
            taken.append(list(published.payloads))

        async with connected(broker, deliver, pace=LONG) as client:
            await until(lambda: client.subscribed)
            broker.send(Publish("in/a", b"!", 0, 0))
            await until(lambda: taken)
            broker.send(Publish("in/a", b"1", 0, 0), Publish("in/a", b"2", 0, 0))
            await broker.writer.drain()
            broker.writer.close()
            await until(lambda: broker.connections == 2)
            assert taken == [[b"!"], [b"1", b"2"]]

    run(scenario)


def test_no_more_wait_than_the_limits_allow():
    async def scenario(broker):
        taken = []

        async def deliver(published):
            taken.append(len(published))

        async with connected(broker, deliver, pace=LONG, unsettled_bytes_max=4000) as client:
            await until(lambda: client.subscribed)
            broker.send(Publish("in/a", b"!", 0, 0))
            await until(lambda: taken)
            broker.send(*[Publish("in/a", b"x" * 100, 0, 0)] * 300)
            await until(lambda: sum(taken) > 300 - 4000 // 100)
        taken.clear()
        async with connected(broker, deliver, pace=LONG, unsettled_bytes_max=1 << 30) as client:
            await until(lambda: client.subscribed)
            broker.send(Publish("in/a", b"!", 0, 0))
            await until(lambda: taken)
            for _ in range(2):
                broker.send(*[Publish("in/a", b"x", 0, 0)] * (TOGETHER_MAX // 2))
                await broker.writer.drain()
                await asyncio.sleep(0.01)
            await until(lambda: sum(taken) == 1 + TOGETHER_MAX)

    run(scenario)


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_broker_whose_name_is_none_is_said_and_ends_nothing(host):
    async def test():
        async with running(Settings(host, 1883, V5, "gw"), None) as client:
            await until(lambda: "[mqtt.unreachable]" in client.trouble)

    asyncio.run(test())
