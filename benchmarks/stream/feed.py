"""What sends a plan's readings and hears the answers, as a cell or a soak leads it: here, with a broker between."""

from __future__ import annotations

import json
import pickle
import select
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stream import processes

HERE = Path(__file__).parent
QUIET_S = 4.0
"""A peer that has said nothing for so long, beyond what it waits for late rows, has said all."""
END_S = 30.0

Heard = list[tuple[int, bytes, bytes]]
"""(monotonic time in ns, topic, payload)."""


class Feed(ABC):
    """The load of a cell. ``heard_at``: when the last message was told of, in monotonic seconds."""

    heard_at = 0.0

    @abstractmethod
    def prepared(self, seconds: float) -> None:
        """Waits until all packets are made."""

    @abstractmethod
    def begin(self, start_ns: int) -> None:
        """The plan begins at that monotonic time."""

    @abstractmethod
    def sent(self, seconds: float) -> None:
        """Waits until all readings were sent."""

    @abstractmethod
    def end(self) -> tuple[Any, Heard]:
        """When each row was sent, and all that was heard."""

    def drained(self, wait_s: float, seconds: float) -> bool:
        """Returns when nothing has been heard for a while: True; or False when it was still talking at the end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and time.monotonic() - self.heard_at < QUIET_S + wait_s:
            time.sleep(0.05)
        return time.monotonic() < end


def kept(directory: Path) -> tuple[Any, Heard]:
    """What a load maker and a listener have written into a directory."""
    heard: Heard = pickle.loads((directory / "heard.pickle").read_bytes())
    return dict(np.load(directory / "sent.npz")), heard


def ended(directory: Path) -> RuntimeError:
    """The error to raise when a load maker says no more."""
    return RuntimeError("the load maker ended: " + (directory / "load.log").read_text()[-400:])


class BrokerFeed(Feed):
    """A sender and a listener, each a process, at a broker's port."""

    def __init__(self, directory: Path, port: int, plan: dict[str, Any], kind: str) -> None:
        self._directory = directory
        (directory / "plan.json").write_text(json.dumps(plan))
        self.heard_at = time.monotonic()
        self.listener = self._started("listen", str(port), str(directory / "heard.pickle"))
        self.sender = self._started(
            kind, str(port), str(directory / "plan.json"), str(directory / "sent.npz")
        )

    def _started(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "load.py"), *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return processes.start(command, processes.LOAD_CORE, self._directory / "load.log", **pipes)

    def _line(self, process: subprocess.Popen[str], seconds: float) -> str:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], seconds)[0]:
            raise TimeoutError(f"the load maker said nothing for {seconds:g} s")
        line = process.stdout.readline()
        if not line:
            raise ended(self._directory)
        return line

    def _listen(self) -> None:
        assert self.listener.stdout is not None
        for _ in self.listener.stdout:
            self.heard_at = time.monotonic()

    def prepared(self, seconds: float) -> None:
        self._line(self.listener, seconds)
        threading.Thread(target=self._listen, daemon=True).start()
        self._line(self.sender, seconds)

    def begin(self, start_ns: int) -> None:
        processes.tell(self.sender, str(start_ns))

    def sent(self, seconds: float) -> None:
        self._line(self.sender, seconds)

    def end(self) -> tuple[Any, Heard]:
        for process in (self.listener, self.sender):
            processes.tell(process, "")
            process.wait(END_S)
        return kept(self._directory)

    def stop(self) -> None:
        for process in (self.listener, self.sender):
            processes.stop(process)
