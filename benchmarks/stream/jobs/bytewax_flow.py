"""The job as a Bytewax dataflow. Run with: python -m bytewax.run bytewax_flow:flow, settings in the environment.

The source is a `DynamicSource` whose partition takes from a queue what the paho client's thread has put there, at
most BATCH messages at once, as Bytewax's documentation does it for inputs of one's own; the sink publishes with
paho. Event time is ts, `EventClock` waits WAIT_S of system time for rows that come late. No recovery store: it is
not durable.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators.windowing import EventClock, TumblingWindower
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

PORT = int(os.environ["STREAM_PORT"])
PATTERN = os.environ["STREAM_PATTERN"]
WAIT_S = float(os.environ["STREAM_WAIT_S"])
BATCH = 1000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WIDTH = timedelta(seconds=1)


class Messages(StatelessSourcePartition[bytes]):
    def __init__(self) -> None:
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        put = self._queue.put
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="bytewax-in")
        self._client.on_message = lambda _client, _data, message: put(message.payload)
        self._client.on_connect = lambda *_: self._client.subscribe(PATTERN)
        self._client.connect("127.0.0.1", PORT)
        self._client.loop_start()

    def next_batch(self) -> Iterable[bytes]:
        taken: list[bytes] = []
        with suppress(Empty):
            while len(taken) < BATCH:
                taken.append(self._queue.get_nowait())
        return taken


class Broker(DynamicSource[bytes]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Messages:
        return Messages()


class Publishing(StatelessSinkPartition[tuple[str, bytes]]):
    def __init__(self) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.connect("127.0.0.1", PORT)
        self._client.loop_start()

    def write_batch(self, items: list[tuple[str, bytes]]) -> None:
        for topic, payload in items:
            self._client.publish(topic, payload)


class Topics(DynamicSink[tuple[str, bytes]]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Publishing:
        return Publishing()


def event_time(reading: dict[str, Any]) -> datetime:
    return EPOCH + timedelta(milliseconds=reading["ts"])


def folded(total: list[float], reading: dict[str, Any]) -> list[float]:
    total[0] += 1
    total[1] += reading["temp"]
    return total


def merged(one: list[float], other: list[float]) -> list[float]:
    return [one[0] + other[0], one[1] + other[1]]


def alarm(reading: dict[str, Any]) -> tuple[str, bytes]:
    return "out/alarms", orjson.dumps({k: reading[k] for k in ("sensor", "ts", "temp")})


def window(item: tuple[str, tuple[int, list[float]]]) -> tuple[str, bytes]:
    sensor, (number, (count, total)) = item
    answer = {"sensor": sensor, "start": number * 1000, "count": count, "mean": total / count}
    return "out/windows", orjson.dumps(answer)


flow = Dataflow("stream")
rows = op.map("decode", op.input("broker", flow, Broker()), orjson.loads)
good = op.filter("good", rows, lambda r: r["q"] == 0)
hot = op.filter("hot", good, lambda r: r["temp"] > 100)
op.output("alarms", op.map("alarm", hot, alarm), Topics())
means = win.fold_window(
    "means",
    op.key_on("sensor", good, lambda r: r["sensor"]),
    EventClock(ts_getter=event_time, wait_for_system_duration=timedelta(seconds=WAIT_S)),
    TumblingWindower(length=WIDTH, align_to=EPOCH),
    lambda: [0, 0.0],
    folded,
    merged,
)
op.output("windows", op.map("window", means.down, window), Topics())
