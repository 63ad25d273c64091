"""What MQTT costs a gateway: bytes of a socket to columns, and how fast QoS 1 devices are acknowledged.

python benchmarks/mqtt/run.py [--quick] [--json FILE] [--rounds N] [--messages N]

**Decoding.** PUBLISH packets {ts, sensor, temp, q} of 100 sensors, cut into reads of 1, 16 and 256 messages, as JSON,
CBOR and packed numbers. Beside ours stands what a program that handles each message by itself does at least: find the
packet's parts, parse, append four values. Same bytes, one after the other in each round; processor time per message.

**Acknowledging.** One device with 100 messages of QoS 1 in flight, at the site's own server (stored with an fsync
before the answer) and at mosquitto (3.1.1 and 5; it stores nothing) where it is installed. Wall time, so only the ratio
says something.

Figures are medians over the rounds with their range; one JSON line each is appended to benchmarks/results/mqtt.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))
RESULTS = REPOSITORY / "benchmarks" / "results" / "mqtt.jsonl"

import cbor2  # noqa: E402 # the path comes first
import orjson  # noqa: E402 # see above

import ganglion as gg  # noqa: E402 # see above
from ganglion.connectors.mqtt.client import Client  # noqa: E402 # see above
from ganglion.connectors.mqtt.compiled import proven  # noqa: E402 # see above
from ganglion.connectors.mqtt.devices import Devices  # noqa: E402 # see above
from ganglion.connectors.mqtt.mapping import Mapper  # noqa: E402 # see above
from ganglion.connectors.mqtt.packets import V3, V5, Publish, encode  # noqa: E402 # see above
from ganglion.connectors.mqtt.reading import Reader  # noqa: E402 # see above
from ganglion.connectors.mqtt.routes import Routes  # noqa: E402 # see above
from ganglion.connectors.mqtt.settings import Settings  # noqa: E402 # see above
from ganglion.core.declarations import declaration  # noqa: E402 # see above
from ganglion.core.schema import Schema  # noqa: E402 # see above
from ganglion.core.topology_mqtt import Route  # noqa: E402 # see above
from ganglion.host.system import SystemClock, system_host  # noqa: E402 # see above
from ganglion.kernels.c.toolchain import compilers  # noqa: E402 # see above
from ganglion.messaging.mqtt import GATEWAY_USER, Listener  # noqa: E402 # see above
from ganglion.messaging.server import ServerSettings, SiteServer  # noqa: E402 # see above

SENSORS = 100
READS = (1, 16, 256)
IN_FLIGHT = 100
SCHEMA = Schema(gg.Row(temp=gg.f32, q=gg.i32).fields)
ROUTES: dict[str, dict[str, Any]] = {
    "json": {"device": "sensor", "time": {"field": "ts"}},
    "cbor": {"device": "sensor", "time": {"field": "ts"}, "payload": "cbor"},
    "raw-f64le": {"topic": "in/{sensor}", "device": "{sensor}", "payload": "raw-f64le"},
}


def messages(form: str, count: int) -> list[bytes]:
    """PUBLISH packets of MQTT 3.1.1, QoS 0."""
    draw = random.Random(7)
    packets = []
    for n in range(count):
        sensor, temp, q = f"s{n % SENSORS:04d}", round(20 + draw.gauss(0, 1), 2), int(draw.random() < 0.1)
        reading = {"ts": 1_700_000_000_000 + n // 10, "sensor": sensor, "temp": temp, "q": q}
        if form == "raw-f64le":
            packets.append(encode(Publish(f"in/{sensor}", struct.pack("<dd", temp, q)), V3))
        else:
            dumps = orjson.dumps if form == "json" else cbor2.dumps
            packets.append(encode(Publish("in/readings", dumps(reading)), V3))
    return packets


def ours(form: str, directory: Path | None = None) -> Callable[[bytes], int]:
    """``directory``: of compiled code, which then reads what it can."""
    declared = {"topic": "in/readings", "devices": "sensor", "stream": "readings", **ROUTES[form]}
    routes = Routes([Mapper(declaration(Route, declared), SCHEMA, Devices("gw-sensor", SENSORS))])
    decoder = None if directory is None else proven(routes, compilers(), directory)
    reader = Reader(V3, routes.resolve, decoder=decoder)

    def take(read: bytes) -> int:
        published, _ = reader.feed(read)
        readings, letters = routes.take(published, 10**18)
        assert not letters
        return sum(map(len, readings))

    return take


def one_by_one(form: str) -> Callable[[bytes], int]:
    """The least that a handler of single messages does; it checks nothing."""
    loads: Any = {"json": orjson.loads, "cbor": cbor2.loads}.get(form, lambda p: struct.unpack("<dd", p))
    keys = ("ts", "sensor", "temp", "q")

    def take(read: bytes) -> int:
        columns: list[list[Any]] = [[], [], [], []]
        at = 0
        while at < len(read):
            size, stop = read[at + 1], at + 2 + read[at + 1]
            assert size < 0x80
            start = at + 4 + int.from_bytes(read[at + 2 : at + 4], "big")
            topic, value = read[at + 4 : start].decode(), loads(read[start:stop])
            if form == "raw-f64le":
                value = {"ts": 0, "sensor": topic.rpartition("/")[2], "temp": value[0], "q": value[1]}
            for column, key in zip(columns, keys, strict=True):
                column.append(value[key])
            at = stop
        return len(columns[0])

    return take


def decoding(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for form in ROUTES:
        packets = messages(form, arguments.messages)
        ways = {"ours": ours(form), "one_by_one": one_by_one(form)}
        if form == "json" and compilers():
            with tempfile.TemporaryDirectory() as directory:
                ways["compiled"] = ours(form, Path(directory))
        for size in READS:
            reads = [b"".join(packets[i : i + size]) for i in range(0, len(packets), size)]
            spent: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(arguments.rounds):
                for name, take in ways.items():
                    began = time.process_time()
                    assert sum(map(take, reads)) == len(packets)
                    spent[name].append((time.process_time() - began) / len(packets) * 1e6)
            figures = {f"{name}_us": summary(values) for name, values in spent.items()}
            ratio = figures["ours_us"]["median"] / figures["one_by_one_us"]["median"]
            yield {"part": "decoding", "payload": form, "read": size, **figures, "ratio": round(ratio, 3)}


def summary(values: list[float]) -> dict[str, float]:
    return {k: round(f(values), 3) for k, f in (("median", statistics.median), ("min", min), ("max", max))}


@contextmanager
def mosquitto(directory: Path, port: int) -> Iterator[bool]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        print("mosquitto is not installed: its figures are left out")
        yield False
        return
    text = f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\n"
    (directory / "mosquitto.conf").write_text(text)
    process = subprocess.Popen([program, "-c", directory / "mosquitto.conf"], stderr=subprocess.DEVNULL)
    try:
        yield True
    finally:
        process.terminate()
        process.wait()


async def ignore(_published: Any) -> None:
    return None


@asynccontextmanager
async def connected(port: int, level: int, name: str, **changes: Any) -> Any:
    settings = Settings("127.0.0.1", port, level, name, **changes)
    client = Client(settings, lambda topic: topic, ignore, SystemClock(), random.Random(1))
    running = asyncio.ensure_future(client.run())
    try:
        while not client.subscribed:  # noqa: ASYNC110  # once, before anything is measured
            await asyncio.sleep(0.01)
        yield client
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def acknowledged(port: int, level: int, user: str | None, count: int) -> float:
    """Messages acknowledged a second, with a gateway that takes them."""
    secret = user.encode() if user else None
    gateway = connected(port, level, "gw", subscriptions=(("in/+", 1),), user=user, password=secret)
    async with gateway, connected(port, level, "device", sent_max=IN_FLIGHT) as device:
        arrived: list[bool] = []
        sent, began = 0, time.monotonic()
        while len(arrived) < count:
            while sent < count and sent - len(arrived) < IN_FLIGHT:
                device.publish("in/a", b"x" * 70, qos=1, within_ns=60 * 10**9, done=arrived.append)
                sent += 1
            await asyncio.sleep(0.0005)
        assert all(arrived)
        return count / (time.monotonic() - began)


async def acknowledging(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    host = system_host(directory)
    port, other = host.ports.free(), host.ports.free()
    listener = Listener(port, send=("in/+",))
    server = SiteServer(ServerSettings("gw", host.ports.free(), 1 << 30, mqtt=listener), host)
    await server.start()
    rates: dict[str, list[float]] = {}
    try:
        with mosquitto(directory, other) as there:
            ways: dict[str, tuple[int, int, str | None]] = {"own_server": (port, V3, GATEWAY_USER)}
            if there:
                ways |= {"mosquitto_3": (other, V3, None), "mosquitto_5": (other, V5, None)}
            for _ in range(arguments.rounds):
                for name, (where, level, user) in ways.items():
                    count = arguments.acknowledged if name == "own_server" else 5 * arguments.acknowledged
                    rates.setdefault(name, []).append(await acknowledged(where, level, user, count))
    finally:
        await server.stop()
    figures = {f"{name}_per_s": summary(values) for name, values in rates.items()}
    return {"part": "acknowledging", "in_flight": IN_FLIGHT, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=51_200)
    parser.add_argument("--acknowledged", type=int, default=2_000)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.messages, arguments.acknowledged = 2, 5_120, 300
    facts = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
        "rounds": arguments.rounds,
    }
    lines = list(decoding(arguments))
    with tempfile.TemporaryDirectory() as scratch:
        lines.append(asyncio.run(acknowledging(arguments, Path(scratch))))
    for line in lines:
        print(json.dumps(line))
    with (arguments.json or RESULTS).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(facts | line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
