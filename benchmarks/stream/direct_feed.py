"""The rate `direct` as a cell leads it: `direct.py`, which is broker and load in one."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.stream import processes
from benchmarks.stream.feed import END_S, HERE, Feed, Heard, ended, kept

LISTENS_S = 10.0


class DirectBroker(Feed):
    """What `Broker` is and the feed that it gives, from its start to `stop`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._patterns: set[str] = set()
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        command = [sys.executable, str(HERE / "direct.py"), str(directory)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = processes.start(command, processes.LOAD_CORE, directory / "load.log", **pipes)
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.port = int(self._expect("port", LISTENS_S))
        except (TimeoutError, RuntimeError):
            self.stop()
            raise

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "subscribed":
                self._patterns.add(rest)
            elif word == "heard":
                self.heard_at = time.monotonic()
            else:
                self._said.put(line.strip())
        self._said.put("")  # it has ended

    def _expect(self, word: str, seconds: float) -> str:
        """What it says with that word, which has to be its next."""
        try:
            said, _, rest = self._said.get(timeout=seconds).partition(" ")
        except queue.Empty:
            raise TimeoutError(f"the load maker did not say {word!r} for {seconds:g} s") from None
        if said != word:
            raise ended(self._directory)
        return rest

    def subscribed(self, pattern: str) -> bool:
        """Whether anybody has subscribed to that pattern."""
        return pattern in self._patterns

    def load(self, plan: dict[str, Any]) -> DirectBroker:
        """Itself, with that plan."""
        (self._directory / "plan.json").write_text(json.dumps(plan))
        processes.tell(self.process, "")
        return self

    def prepared(self, seconds: float) -> None:
        self._expect("ready", seconds)

    def begin(self, start_ns: int) -> None:
        processes.tell(self.process, str(start_ns))

    def sent(self, seconds: float) -> None:
        self._expect("sent", seconds)

    def end(self) -> tuple[Any, Heard]:
        """Goes on answering the engine, which is still there."""
        processes.tell(self.process, "")
        self._expect("kept", END_S)
        return kept(self._directory)

    def stop(self) -> None:
        processes.stop(self.process)
