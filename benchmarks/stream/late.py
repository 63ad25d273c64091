"""The replay of out-of-order and late readings: a gateway over MQTT, Bytewax, and plain references of the same rows.

One hundred sensors for half a minute, and again for half a minute three hours later; every reading arrives up to five
seconds after its time, and what one sensor measured in the first half minute arrives with the second, three hours late.
The references are plain Python and DuckDB over all rows at once; they have to agree before anybody is judged by them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stream import environments, page, processes, readings
from benchmarks.stream.broker import Broker
from benchmarks.stream.cell import READY_S
from benchmarks.stream.mqtt_socket import Connection, publish
from benchmarks.stream.peers import JOBS, Ganglion

SECONDS, QUICK_SECONDS = 30, 6
PER_SENSOR_S = 10
SHUFFLE_MS = 5_000
LATE_MS = 3 * 3_600_000
LATE = 42
RATE = 10_000
QUIET_S = 5.0
MEAN_OFF = 1e-6
BYTEWAX = ((0.0, 1000), (5.0, 1000), (10.0, 1000), (30.0, 1000))
"""(wait in seconds, rows the source gives at once)."""

Key = tuple[str, int]
Windows = dict[Key, tuple[int, float]]


def arrivals(seconds: int, base_ms: int) -> list[tuple[int, bytes]]:
    """(sensor, payload) of every reading in the order of arrival."""
    rng = np.random.default_rng(readings.SEED)
    count = seconds * PER_SENSOR_S
    pieces = []
    for stretch_ms in (0, LATE_MS):
        sensor = np.repeat(np.arange(readings.SENSORS), count)
        ts = stretch_ms + np.tile(np.arange(count) * 1000 // PER_SENSOR_S, readings.SENSORS)
        arrival = ts + rng.integers(0, SHUFFLE_MS, len(ts))
        if stretch_ms == 0:
            arrival = arrival + LATE_MS * (sensor == LATE)
        temp = np.round(20 + 0.1 * sensor + rng.normal(0, 1, len(ts)), 2)
        bad = rng.random(len(ts)) < 0.1
        pieces.append((arrival, sensor, ts, temp, bad))
    arrival, sensor, ts, temp, bad = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.argsort(arrival, kind="stable")
    rows = zip(
        sensor[order].tolist(), ts[order].tolist(), temp[order].tolist(), bad[order].tolist(), strict=True
    )
    return [
        (s, b'{"ts":%d,"sensor":"%s","temp":%.2f,"q":%d}' % (base_ms + t, readings.name(s).encode(), v, q))
        for s, t, v, q in rows
    ]


def plain(rows: list[tuple[int, bytes]]) -> Windows:
    """(sensor or all, start) -> (count, mean), by a dictionary."""
    values: defaultdict[Key, list[float]] = defaultdict(list)
    for _, payload in rows:
        reading = json.loads(payload)
        if not reading["q"]:
            start = reading["ts"] - reading["ts"] % 1000
            values[reading["sensor"], start].append(reading["temp"])
            values["all", start].append(reading["temp"])
    return {key: (len(v), sum(v) / len(v)) for key, v in values.items()}


def differences(found: Windows, expected: Windows) -> dict[str, Any]:
    """What is missing, wrong or too much; readings are counted in the windows per sensor only."""
    lost = {False: 0, True: 0}
    wrong = 0
    for key, (count, mean) in expected.items():
        got = found.get(key, (0, 0.0))
        lost[key[0] == "all"] += max(0, count - got[0])
        wrong += key in found and (got[0] != count or abs(got[1] - mean) > MEAN_OFF * abs(mean))
    rows = sum(count for (key, _), (count, _) in expected.items() if key != "all")
    missing = sum(k not in found for k in expected)
    return {
        "windows": len(found), "missing": missing, "wrong": wrong, "extra": sum(k not in expected for k in found),
        "lost_rows": lost[False], "lost_share": lost[False] / rows, "lost_rows_all": lost[True],
        "lost_share_all": lost[True] / rows,
    }  # fmt: skip


def _read(path: Path) -> tuple[Windows, dict[str, Any]]:
    found, told = {}, {}
    for line in path.read_text().splitlines():
        one = json.loads(line)
        if "key" in one:
            found[one["key"], one["start"]] = one["count"], one["mean"]
        else:
            told = one
    return found, told


def _job(command: list[str], seconds: float = 300) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1][:300])


class Replay(Ganglion):
    """A gateway with the replay's flow."""

    flow = "replay"


def by_gateway(rows: list[tuple[int, bytes]], work: Path, directory: Path) -> tuple[Windows, dict[str, Any]]:
    """The newest revisions that a gateway published, and how many revisions it took; gaps are an error."""
    peer = Replay("ganglion-durable", "", durable=True)
    broker = Broker(directory)
    heard: list[tuple[bytes, bytes]] = []
    try:
        peer.start(work, directory, broker.port)
        processes.wait_for(
            lambda: peer.ready() and broker.subscribed(peer.pattern), READY_S, "the gateway is not ready"
        )
        listener = Connection(broker.port, "late-listener")
        listener.subscribe("out/#")
        listener.socket.settimeout(None)
        threading.Thread(target=_keep, args=(listener, heard), daemon=True).start()
        _play(rows, broker.port)
        last = -1
        while len(heard) > last:
            last = len(heard)
            time.sleep(QUIET_S)
        report = peer.report()
    finally:
        peer.stop()
        broker.stop()
    return _newest(heard, report)


def _keep(connection: Connection, heard: list[tuple[bytes, bytes]]) -> None:
    try:
        while True:
            heard.extend(connection.messages())
    except (ConnectionError, OSError):
        return


def _play(rows: list[tuple[int, bytes]], port: int) -> None:
    """In the order of arrival, a hundredth of a second's rows at once; then rounds that close the windows."""
    connection = Connection(port, "late-load")
    names = [readings.TOPIC.format(readings.name(s)).encode() for s in range(readings.SENSORS)]
    size = RATE // 100
    for at in range(0, len(rows), size):
        connection.socket.sendall(b"".join(publish(names[s], payload) for s, payload in rows[at : at + size]))
        time.sleep(0.01)
    end_ms = max(json.loads(payload)["ts"] for _, payload in rows[-1000:])
    for turn in range(readings.FLUSHES):
        ts = end_ms + 60_000 + 1000 * turn
        for s in range(readings.SENSORS):
            payload = b'{"ts":%d,"sensor":"%s","temp":20.00,"q":0}' % (ts, readings.name(s).encode())
            connection.socket.sendall(publish(names[s], payload))
        time.sleep(0.2)
    connection.close()


def _newest(heard: list[tuple[bytes, bytes]], report: dict[str, Any]) -> tuple[Windows, dict[str, Any]]:
    found: Windows = {}
    revisions: dict[Key, list[int]] = defaultdict(list)
    for topic, payload in heard:
        one = json.loads(payload)
        key = ("all" if topic == b"out/totals" else one["device"], one["start_ns"] // 1_000_000)
        revisions[key].append(one["revision"])
        found[key] = one["n"], one["mean"]
    gaps = sum(numbers != list(range(len(numbers))) for numbers in revisions.values())
    most = max((len(n) for n in revisions.values()), default=0)
    dropped = sum(s.get("dropped", 0) for s in (report.get("stages") or {}).values())
    return found, {"revised": sum(len(n) > 1 for n in revisions.values()), "most": most, "gaps": gaps,
                   "dropped": dropped}  # fmt: skip


def run(options: argparse.Namespace, results: Path, facts: dict[str, Any]) -> None:
    """Every engine against the references; exit status 1 when the gateway is not equal to them."""
    seconds = QUICK_SECONDS if options.quick else SECONDS
    base_ms = int(time.time() - 4 * 3600) * 1000
    rows = arrivals(seconds, base_ms)
    expected = plain(rows)
    said = (
        f"{seconds} s, shuffled within 5 s, and {seconds} s three hours later, when s{LATE:04d}'s first come"
    )
    shared = {"kind": "late", "run": datetime.now(UTC).isoformat(timespec="seconds"), "quick": options.quick, **facts,
              "rows": len(rows), "sensors": readings.SENSORS, "said": said}  # fmt: skip
    lines = []
    with tempfile.TemporaryDirectory(prefix="stream-late-") as scratch:
        source = Path(scratch) / "readings.jsonl"
        source.write_bytes(b"\n".join(payload for _, payload in rows) + b"\n")
        for name, versions, found, told in _engines(rows, source, options.work, Path(scratch)):
            lines.append(shared | _line(name, versions, found, told, expected))
            print(text(lines[-1]), flush=True)
    with (options.json or results).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    if not options.quick and options.json is None:
        from benchmarks.stream.run import PAGE

        page.write(results, PAGE)
    ours = [line for line in lines if line["engine"] in ("ganglion-durable", "duckdb")]
    raise SystemExit(0 if all(line["equal"] for line in ours) else 1)


def _engines(rows: list[tuple[int, bytes]], source: Path, work: Path, directory: Path) -> Any:
    """(name, versions, windows, what more there is to say) of each that is there."""
    out = directory / "out.jsonl"
    if environments.installed(work, "plain"):
        _job(
            [
                str(environments.python_of(work, "plain")),
                str(JOBS / "duckdb_windows.py"),
                str(source),
                str(out),
            ]
        )
        yield "duckdb", _pinned("plain", "duckdb"), _read(out)[0], {}
    else:
        print("skipped duckdb: not installed: run with --install")
    gateway = Replay("ganglion-durable", "", durable=True)
    why = gateway.missing(work)
    if why:
        print(f"skipped ganglion: {why}")
    else:
        yield "ganglion-durable", gateway.versions(work), *by_gateway(rows, work, directory)
    if not environments.installed(work, "bytewax"):
        print("skipped bytewax: not installed: run with --install")
        return
    for wait_s, batch in BYTEWAX:
        command = [str(environments.python_of(work, "bytewax")), str(JOBS / "bytewax_replay.py")]
        _job([*command, str(source), str(out), str(wait_s), str(batch)])
        yield f"bytewax, waits {wait_s:g} s", _pinned("bytewax", "bytewax"), *_read(out)


def _pinned(name: str, package: str) -> dict[str, str]:
    held = dict(pin.split("==") for pin in environments.pins(name))
    return {package: held[package]}


def _line(
    name: str, versions: dict[str, str], found: Windows, told: dict[str, Any], expected: Windows
) -> dict[str, Any]:
    last = max(start for _, start in expected)
    found = {
        key: value for key, value in found.items() if key[1] <= last
    }  # without those of the closing rounds
    off = differences(found, expected)
    equal = not (off["missing"] or off["wrong"] or off["extra"] or told.get("gaps") or told.get("dropped"))
    revisions = "none: a late row is dropped"
    if "revised" in told:
        revisions = f"{told['revised']:,} windows revised, up to {told['most']} times, {told['gaps']} gaps"
    elif name == "duckdb":
        revisions = "none: all rows at once"
    verdict = (
        "equal"
        if equal
        else f"not equal; of the windows over all, {off['lost_share_all']:.2%} of the readings lost"
    )
    return {"engine": name, "versions": versions, **off, "revisions": revisions, "told": told, "equal": equal,
            "verdict": verdict}  # fmt: skip


def text(line: dict[str, Any]) -> str:
    """One engine for the terminal."""
    return (
        f"{line['engine']:<22} {line['windows']:>7,} windows, {line['missing']} missing, {line['wrong']} wrong, "
        f"{line['lost_rows']:,} readings lost ({line['lost_share']:.2%}); {line['revisions']}: {line['verdict']}"
    )
