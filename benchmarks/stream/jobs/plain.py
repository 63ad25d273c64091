"""The job as a loop in plain Python: orjson and a dictionary. In memory; nothing survives a crash, late rows are lost.

python plain.py raw|paho PORT PATTERN

``raw`` reads the socket itself, with as little as possible between: what Python can do at best. ``paho`` is what
most would write, with the usual client. A window is given when its sensor's time passes its end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.stream.mqtt_socket import Connection, publish

WIDTH_MS = 1000
LIMIT = 100.0
Publish = Callable[[str, bytes], object]


class Job:
    """Filter, alarm, mean and count per sensor and second."""

    def __init__(self, send: Publish) -> None:
        self._send = send
        self._open: dict[str, list[float]] = {}  # sensor -> start, count, sum

    def take(self, payload: bytes) -> None:
        reading = orjson.loads(payload)
        if reading["q"]:
            return
        ts, sensor, temp = reading["ts"], reading["sensor"], reading["temp"]
        if temp > LIMIT:
            self._send("out/alarms", b'{"sensor":"%s","ts":%d,"temp":%.2f}' % (sensor.encode(), ts, temp))
        start = ts - ts % WIDTH_MS
        window = self._open.get(sensor)
        if window is None:
            self._open[sensor] = [start, 1, temp]
        elif window[0] == start:
            window[1] += 1
            window[2] += temp
        elif start > window[0]:
            answer = {"sensor": sensor, "start": window[0], "count": window[1], "mean": window[2] / window[1]}
            self._send("out/windows", orjson.dumps(answer))
            self._open[sensor] = [start, 1, temp]


def raw(port: int, pattern: str) -> None:
    connection = Connection(port, "plain-raw")
    out = bytearray()
    job = Job(lambda topic, payload: out.extend(publish(topic.encode(), payload)))
    connection.subscribe(pattern)
    connection.socket.settimeout(None)
    while True:
        for _, payload in connection.messages():
            job.take(payload)
        if out:
            connection.socket.sendall(out)
            out.clear()


def paho(port: int, pattern: str) -> None:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2, client_id="plain-paho")
    job = Job(client.publish)
    client.on_message = lambda _client, _data, message: job.take(message.payload)
    client.on_connect = lambda *_: client.subscribe(pattern)
    client.connect("127.0.0.1", port)
    client.loop_forever()


def main() -> None:
    kind, port, pattern = sys.argv[1:]
    {"raw": raw, "paho": paho}[kind](int(port), pattern)


if __name__ == "__main__":
    main()
