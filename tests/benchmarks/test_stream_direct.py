"""The stream benchmark's stand-in for a broker, met by plain sockets, and what is sent through it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.stream import direct, load, readings
from benchmarks.stream import mqtt_socket as mqtt
from benchmarks.stream.run import rates_of
from benchmarks.stream.table import rate_name

PATTERN = "sensors/+"
PARCELS = 64
PARCEL_READINGS = 500
PAYLOAD = b"%08d" + b"." * 120
PUBLISHED = 10_000
ANSWER = b"%08d" + b"." * 1_000
BUFFER_BYTES = 1 << 16
STALLED_S = 30.0  # before a socket of a dead-locked test gives up


@contextmanager
def serving():
    patterns: list[str] = []
    server = direct.Server(patterns.append)
    try:
        yield server, patterns
    finally:
        server.stop()


CLEAN = mqtt.text("MQTT") + b"\x04\x02\x00\x3c" + mqtt.text("me")


@contextmanager
def connected(server, connect=CLEAN):
    with socket.create_connection(("127.0.0.1", server.port), timeout=STALLED_S) as client:
        client.sendall(bytes((mqtt.CONNECT,)) + mqtt.length(len(connect)) + connect)
        yield client


def got(client, count):
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def parcel(number):
    first = number * PARCEL_READINGS
    return b"".join(mqtt.publish(b"sensors/a", PAYLOAD % (first + i)) for i in range(PARCEL_READINGS))


def published(number):
    packet = mqtt.publish(b"out/alarms", number.to_bytes(2, "big") + ANSWER % number)
    return bytes((packet[0] | 2,)) + packet[1:]  # QoS 1: the packet's identifier stands before the payload


def test_a_client_that_publishes_and_does_not_read_gets_every_reading_afterwards():
    with serving() as (server, patterns):
        client = mqtt.Connection(server.port, "me")
        for one in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            client.socket.setsockopt(socket.SOL_SOCKET, one, BUFFER_BYTES)
        client.socket.settimeout(STALLED_S)
        client.subscribe(PATTERN)
        assert patterns == [PATTERN]
        send = server.subscriber(PATTERN).send
        sender = threading.Thread(target=lambda: [send(parcel(n)) for n in range(PARCELS)])
        sender.start()
        before_ns = time.monotonic_ns()
        for number in range(1, PUBLISHED):
            client.socket.sendall(published(number))
        assert sender.is_alive()  # readings and answers are each more than the buffers of both ends hold
        values: list[bytes] = []
        acknowledged: list[int] = []
        while len(values) < PARCELS * PARCEL_READINGS or len(acknowledged) < PUBLISHED - 1:
            for first, body in client.packets():
                if first == mqtt.PUBACK:
                    acknowledged.append(int.from_bytes(body, "big"))
                else:
                    values.append(body)
        sender.join()
        client.close()
        assert values == [mqtt.text("sensors/a") + PAYLOAD % n for n in range(PARCELS * PARCEL_READINGS)]
        assert acknowledged == list(range(1, PUBLISHED))
        assert [one[1:] for one in server.heard] == [(b"out/alarms", ANSWER % n) for n in acknowledged]
        times = [one[0] for one in server.heard]
        assert times == sorted(times)
        assert before_ns <= times[0] <= times[-1] <= time.monotonic_ns()


def test_it_answers_what_clients_of_qos_0_ask():
    with serving() as (server, patterns), connected(server) as client:
        assert got(client, 4) == b"\x20\x02\x00\x00"
        client.sendall(b"\x82\x0c\x00\x07" + mqtt.text("a/#") + b"\x01" + mqtt.text("b") + b"\x00")
        assert got(client, 6) == b"\x90\x04\x00\x07\x00\x00"
        assert patterns == ["a/#", "b"]
        client.sendall(b"\xa2\x05\x00\x08" + mqtt.text("b")[:3] + b"\xc0\x00")
        assert got(client, 6) == b"\xb0\x02\x00\x08\xd0\x00"
        client.sendall(mqtt.publish(b"out/x", b"1") + b"\xe0\x00")
        assert got(client, 1) == b""
        assert [one[1:] for one in server.heard] == [(b"out/x", b"1")]
        with pytest.raises(LookupError, match=r"nobody is subscribed to a/#[^\n]*\nnext: "):
            server.subscriber("a/#")


def test_the_load_goes_to_the_first_subscriber_that_is_still_there():
    with serving() as (server, _), connected(server) as gone:
        gone.sendall(b"\x82\x06\x00\x01" + mqtt.text("a") + b"\x00" + b"\xe0\x00")
        assert got(gone, 10) == b"\x20\x02\x00\x00\x90\x03\x00\x01\x00"
        first, second = mqtt.Connection(server.port, "first"), mqtt.Connection(server.port, "second")
        for one in (first, second):
            one.subscribe("a")
        server.subscriber("a").send(mqtt.publish(b"a", b"1"))
        assert list(first.messages()) == [(b"a", b"1")]
        first.close()
        second.close()


@pytest.mark.parametrize(
    "connect, after, answer",
    [
        (mqtt.text("MQTT") + b"\x05\x02\x00\x3c\x00" + mqtt.text("me"), b"", b"\x20\x02\x00\x01"),
        (mqtt.text("MQIsdp") + b"\x03\x02\x00\x3c" + mqtt.text("me"), b"", b"\x20\x02\x00\x01"),
        (mqtt.text("MQTT") + b"\x04\x00\x00\x3c" + mqtt.text("me"), b"\xe0\x00", b"\x20\x02\x00\x00"),
        (b"", b"", b"\x20\x02\x00\x01"),
        (CLEAN, b"\x10\x00", b"\x20\x02\x00\x00"),
        (CLEAN, b"\x34\x05\x00\x01a\x00\x01", b"\x20\x02\x00\x00"),
    ],
    ids=["version 5", "version 3.1", "lasting session", "empty", "connects twice", "QoS 2"],
)  # fmt: skip
def test_what_is_no_client_of_its_kind_is_answered_and_cut_off(connect, after, answer):
    with serving() as (server, _), connected(server, connect) as client:
        client.sendall(after)
        assert got(client, len(answer) + 1) == answer
        assert server.heard == []


def plan(rate):
    parts = [asdict(p) for p in readings.phases(rate, 1.0, 5_000)]
    return {"phases": parts, "base_ms": 1_000, "seed": 6, "topic": readings.TOPIC}


def test_the_fastest_rates_are_not_held_to_the_plan_s_clock():
    rows, parcels = load.parcels(plan(readings.DIRECT))
    warm = rows.phase == 1
    assert warm.sum() == 5_000
    assert np.unique(rows.due_ns[warm]).tolist() == [rows.parts[1].start_ms * 1_000_000]
    sizes = [len(content) for content, _, first, _ in parcels if warm[first]]
    assert max(sizes) > 3 * (1 << 14)
    held = load.parcels(plan(5_000))[0]
    assert np.ptp(held.due_ns[held.phase == 1]) == 4_999 * 1_000_000_000 // 5_000
    held = load.parcels(plan(readings.MAX))[0]
    assert np.ptp(held.due_ns[held.phase == 1]) == 0
    for name in ("phase", "sensor", "ts_ms", "temp", "bad"):
        assert getattr(held, name).tolist() == getattr(rows, name).tolist()


def test_the_sender_gives_every_packet_in_order_with_its_time():
    given = plan(readings.DIRECT)
    given["phases"] = [phase | {"start_ms": 0, "count": 1_000} for phase in given["phases"]]
    rows, parcels = load.parcels(given)
    taken: list[bytes] = []
    before_ns = time.monotonic_ns()
    times = load.transmit(rows, parcels, before_ns - 10**12, taken.append)
    messages = [body for _, body in mqtt.Packets().split(b"".join(taken))]
    expected = zip(rows.sensor.tolist(), rows.payloads(), strict=True)
    assert messages == [mqtt.text(f"sensors/{readings.name(s)}") + payload for s, payload in expected]
    assert before_ns <= times["sent_ns"][0] <= times["sent_ns"][-1] <= time.monotonic_ns()
    assert (np.diff(times["sent_ns"]) >= 0).all()
    assert (times["behind_ns"][rows.phase == 0] > 0).all()
    assert (times["behind_ns"][rows.phase == 1] == 0).all()


def test_rates_are_read_by_name_and_number():
    assert rates_of("20000,max,direct", quick=False) == (20_000, readings.MAX, readings.DIRECT)
    assert [rate_name(r) for r in (20_000, readings.MAX, readings.DIRECT)] == ["20,000", "max", "direct"]
    assert readings.DIRECT in rates_of(None, quick=False)
    for wrong in ("direct,foo", "99", "-1", "0", "1e3", "max,"):
        with pytest.raises(SystemExit, match=r"is no rate\nnext: write readings per second"):
            rates_of(wrong, quick=False)
