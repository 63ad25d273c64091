"""What happened, in order, as one hash: equal hashes mean equal runs."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

LINES_KEPT = 2_000


class Trace:
    """Every visible event with its virtual time. The last `LINES_KEPT` are kept; ``keep`` gets each of them."""

    def __init__(self, keep: Callable[[str], None] | None = None) -> None:
        self.events = 0
        self.last: deque[str] = deque(maxlen=LINES_KEPT)
        self._keep = keep
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, now_ns: int, who: str, what: str) -> None:
        """One event: nanoseconds since the world began, the component, and what it did."""
        line = f"{now_ns} {who} {what}"
        self.events += 1
        self.last.append(line)
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        if self._keep is not None:
            self._keep(line)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits."""
        return self._hash.hexdigest()
