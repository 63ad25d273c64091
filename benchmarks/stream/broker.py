"""Mosquitto from the distribution, on the load's core: its log tells who has subscribed; and its feed."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.stream import processes
from benchmarks.stream.feed import BrokerFeed
from ganglion.host.loopback import SystemPorts

CONFIGURATION = """\
listener {port} 127.0.0.1
user {user}
allow_anonymous true
max_queued_messages 0
max_inflight_messages 0
persistence false
set_tcp_nodelay true
log_dest file {log}
log_type error
log_type subscribe
"""
PLACES = ("/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto")


def program() -> str | None:
    """Where Mosquitto is; Debian keeps it in a directory that is not on everyone's path."""
    return shutil.which("mosquitto") or next((p for p in PLACES if Path(p).exists()), None)


def version() -> str:
    found = program()
    assert found is not None
    text = subprocess.run([found, "-h"], capture_output=True, text=True, check=False).stdout
    return text.splitlines()[0].removeprefix("mosquitto version ").strip()


class Broker:
    """One broker, from its start to `stop`."""

    def __init__(self, directory: Path) -> None:
        found = program()
        assert found is not None
        self._directory = directory
        self._feed: BrokerFeed | None = None
        self.port = SystemPorts().free()
        self.log = directory / "broker.log"
        settings = directory / "mosquitto.conf"
        self.log.touch()
        settings.write_text(CONFIGURATION.format(port=self.port, log=self.log, user=getpass.getuser()))
        self.process = processes.start(
            [found, "-c", str(settings)], processes.LOAD_CORE, directory / "broker.out"
        )
        processes.wait_for(self._answers, 10, "the broker does not listen")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def subscribed(self, pattern: str) -> bool:
        """Whether anybody has subscribed to that pattern."""
        return any(line.split()[-1:] == [pattern] for line in self.log.read_text().splitlines())

    def load(self, plan: dict[str, Any], kind: str = "send") -> BrokerFeed:
        """A load maker of that kind for the plan, and a listener."""
        self._feed = BrokerFeed(self._directory, self.port, plan, kind)
        return self._feed

    def stop(self) -> None:
        """Ends the load maker and the listener too."""
        if self._feed is not None:
            self._feed.stop()
        processes.stop(self.process)
