"""A file of readings through Bytewax windows: python bytewax_replay.py READINGS.jsonl OUT.jsonl WAIT_S BATCH.

Windows per sensor and over all sensors, with the same clock. It writes a line per window, and at the end how many rows
Bytewax itself called late.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators.windowing import EventClock, TumblingWindower
from bytewax.testing import TestingSink, cluster_main

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WIDTH = timedelta(seconds=1)


class _Lines(StatelessSourcePartition[bytes]):
    def __init__(self, path: str, batch: int) -> None:
        self._lines = iter(Path(path).read_bytes().splitlines())
        self._batch = batch

    def next_batch(self) -> Iterable[bytes]:
        taken = [line for _, line in zip(range(self._batch), self._lines, strict=False)]
        if not taken:
            raise StopIteration
        return taken


class Lines(DynamicSource[bytes]):
    def __init__(self, path: str, batch: int) -> None:
        self._given = path, batch

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Lines:
        return _Lines(*self._given)


def folded(total: list[float], reading: dict[str, Any]) -> list[float]:
    total[0] += 1
    total[1] += reading["temp"]
    return total


def merged(one: list[float], other: list[float]) -> list[float]:
    return [one[0] + other[0], one[1] + other[1]]


def main() -> None:
    source, out, wait_s, batch = sys.argv[1:]
    flow = Dataflow("replay")
    rows = op.map("decode", op.input("lines", flow, Lines(source, int(batch))), orjson.loads)
    good = op.filter("good", rows, lambda r: r["q"] == 0)
    closed: list[Any] = []
    late: list[Any] = []
    for name, key in (("sensor", lambda r: r["sensor"]), ("all", lambda _: "all")):
        clock = EventClock(
            ts_getter=lambda r: EPOCH + timedelta(milliseconds=r["ts"]),
            wait_for_system_duration=timedelta(seconds=float(wait_s)),
        )
        windower = TumblingWindower(length=WIDTH, align_to=EPOCH)
        keyed = op.key_on(f"key_{name}", good, key)
        means = win.fold_window(f"means_{name}", keyed, clock, windower, lambda: [0, 0.0], folded, merged)
        op.output(f"closed_{name}", means.down, TestingSink(closed))
        op.output(f"late_{name}", means.late, TestingSink(late))
    cluster_main(flow, [], 0)
    lines = [
        json.dumps({"key": key, "start": number * 1000, "count": count, "mean": total / count})
        for key, (number, (count, total)) in closed
    ]
    told = {"late": len(late), "late_all": sum(key == "all" for key, _ in late)}
    Path(out).write_text("\n".join([*lines, json.dumps(told)]) + "\n")


if __name__ == "__main__":
    main()
