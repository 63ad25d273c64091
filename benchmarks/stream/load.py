"""The load maker and the listener: processes of their own on the broker's core, with one clock (CLOCK_MONOTONIC).

python load.py send PORT PLAN.json OUT.npz   sends the plan's readings; says `ready` when all packets are made
python load.py soak PORT PLAN.json OUT.npz   sends second after second, each made while the one before is sent
python load.py listen PORT OUT.pickle        keeps every message below out/ with its time, until its input ends
"""

from __future__ import annotations

import json
import pickle
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from benchmarks.stream import readings as plans
from benchmarks.stream.mqtt_socket import Connection, publish

CHUNKS_PER_S = 1000
FAST_CHUNK_ROWS = {plans.MAX: 64, plans.DIRECT: 800}
"""Of unpaced phases: to the broker in small parcels, to the engine itself in parcels of about 64 KiB."""
SAVE_EVERY_S = 0.05


def chunks(rows: plans.Readings) -> list[tuple[int, int]]:
    """Rows that are sent at once: those due in the same millisecond, or `FAST_CHUNK_ROWS` where all are due."""
    edges = []
    for place, phase in [*enumerate(rows.parts), (-1, None)]:
        first, count = rows.first_of(place), rows.count_of(place)
        if phase is not None and not phase.paced:
            edges += list(range(first, first + count, FAST_CHUNK_ROWS[phase.rate]))
        else:
            ms = rows.due_ns[first : first + count] // (1_000_000_000 // CHUNKS_PER_S)
            edges += (first + np.flatnonzero(np.diff(ms, prepend=-1))).tolist()
    return list(zip(edges, [*edges[1:], len(rows.sensor)], strict=True))


Parcel = tuple[bytes, int, int, int]
"""Packets that are sent at once; when, in ns after the beginning; the first row in it, and the one after its last."""


def parcels(plan: dict[str, Any]) -> tuple[plans.Readings, list[Parcel]]:
    """The plan's readings, and their packets in the order of sending."""
    parts = [plans.Phase(**p) for p in plan["phases"]]
    rows = plans.readings(parts, plan["base_ms"], plan["seed"])
    topics = [plan["topic"].format(plans.name(s)).encode() for s in range(plans.SENSORS)]
    packets = [
        publish(topics[s], payload) for s, payload in zip(rows.sensor.tolist(), rows.payloads(), strict=True)
    ]
    return rows, [(b"".join(packets[a:b]), int(rows.due_ns[a]), a, b) for a, b in chunks(rows)]


def transmit(
    rows: plans.Readings, made: list[Parcel], start_ns: int, write: Callable[[bytes], object]
) -> dict[str, Any]:
    """Paced by the monotonic clock; what is late is sent at once. When each row was sent, and how late."""
    paced = {place: phase.paced for place, phase in enumerate(rows.parts)}
    sent_ns = np.zeros(len(rows.sensor), np.int64)
    behind_ns = np.zeros(len(rows.sensor), np.int64)
    monotonic_ns, sleep = time.monotonic_ns, time.sleep
    for content, due_ns, first, end in made:
        wait_ns = start_ns + due_ns - monotonic_ns()
        if wait_ns > 0:
            sleep(wait_ns / 1e9)
        now = monotonic_ns()
        sent_ns[first:end] = now
        behind_ns[first:end] = now - start_ns - due_ns if paced.get(int(rows.phase[first])) else 0
        write(content)
    return {"sent_ns": sent_ns, "behind_ns": behind_ns}


def send(port: int, plan: dict[str, Any], out: Path) -> None:
    """Sends the plan's readings to a broker."""
    rows, made = parcels(plan)
    connection = Connection(port, "load")
    print("ready", flush=True)
    start_ns = int(sys.stdin.readline())  # of the monotonic clock
    connection.socket.settimeout(None)
    np.savez(out, **transmit(rows, made, start_ns, connection.socket.sendall))
    print("sent", flush=True)
    sys.stdin.readline()  # the connection stays until everything was taken
    connection.close()


def soak(port: int, plan: dict[str, Any], out: Path) -> None:
    """Rows of each millisecond are made just before they are sent; when each millisecond was sent is kept."""
    topics = [plan["topic"].format(plans.name(s)).encode() for s in range(plans.SENSORS)]
    seconds, rate = plan["seconds"], plan["rate"]
    sent_ns = np.zeros((seconds, CHUNKS_PER_S), np.int64)
    behind_ns = np.zeros((seconds, CHUNKS_PER_S), np.int64)
    connection = Connection(port, "load")
    print("ready", flush=True)
    start_ns = int(sys.stdin.readline())
    connection.socket.settimeout(None)
    for number in range(seconds):
        rows = plans.second(rate, plan["base_ms"], number, plan["seed"])
        edges = np.searchsorted(
            rows.ts_ms, plan["base_ms"] + number * 1000 + np.arange(CHUNKS_PER_S + 1)
        ).tolist()
        for ms in range(CHUNKS_PER_S):
            first, end = edges[ms], edges[ms + 1]
            if first == end:
                continue
            part = plans.Second(*(c[first:end] for c in (rows.ts_ms, rows.sensor, rows.temp, rows.bad)))
            pairs = zip(part.sensor.tolist(), part.payloads(), strict=True)
            content = b"".join(publish(topics[s], payload) for s, payload in pairs)
            due_ns = start_ns + number * 1_000_000_000 + ms * 1_000_000
            wait_ns = due_ns - time.monotonic_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)
            sent_ns[number, ms] = time.monotonic_ns()
            behind_ns[number, ms] = sent_ns[number, ms] - due_ns
            connection.socket.sendall(content)
    connection.socket.sendall(closing(plan, topics))
    np.savez(out, sent_ns=sent_ns, behind_ns=behind_ns, start_ns=start_ns)
    print("sent", flush=True)
    sys.stdin.readline()
    connection.close()


def closing(plan: dict[str, Any], topics: list[bytes]) -> bytes:
    """Rounds of all sensors that close their last windows."""
    end_ms = plan["base_ms"] + plan["seconds"] * 1000
    packets = []
    for turn in range(plans.FLUSHES):
        ts_ms = end_ms + plans.FLUSH_AFTER_MS + 1000 * turn
        for sensor in range(plans.SENSORS):
            payload = b'{"ts":%d,"sensor":"%s","temp":20.00,"q":0}' % (ts_ms, plans.name(sensor).encode())
            packets.append(publish(topics[sensor], payload))
    return b"".join(packets)


def listen(port: int, out: Path) -> None:
    """Keeps (time, topic, payload); times are taken when bytes are read."""
    connection = Connection(port, "listener")
    connection.subscribe("out/#")
    print("ready", flush=True)
    kept: list[tuple[int, bytes, bytes]] = []
    counted = 0
    told = time.monotonic()
    while True:
        readable, _, _ = select.select([connection.socket, sys.stdin], [], [], 0.1)
        if connection.socket in readable:
            now = time.monotonic_ns()
            kept += [(now, topic, payload) for topic, payload in connection.messages()]
        if sys.stdin in readable:
            break
        if len(kept) > counted and time.monotonic() - told > SAVE_EVERY_S:
            counted, told = len(kept), time.monotonic()
            print(counted, flush=True)
    out.write_bytes(pickle.dumps(kept))
    connection.close()


def main(arguments: list[str]) -> None:
    if arguments[0] in ("send", "soak"):
        kind = send if arguments[0] == "send" else soak
        kind(int(arguments[1]), json.loads(Path(arguments[2]).read_text()), Path(arguments[3]))
    else:
        listen(int(arguments[1]), Path(arguments[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
