"""What work takes of a processor, by name: cheap enough to be always on, and bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

WORKS_MAX = 2_000
"""Names a meter keeps; what comes under further ones is not counted."""
MEASURED_FIRST = 200
UNMEASURED = -1


@dataclass(slots=True)
class Work:
    """``calls``, the ``rows`` and their payload ``row_bytes`` in them, and the nanoseconds of a processor they took.

    The first call is apart, in ``first_ns``: it loads what all others find loaded, and may take a thousand times as
    long.
    """

    calls: int = 0
    rows: int = 0
    cpu_ns: int = 0
    first_ns: int = 0
    row_bytes: int = 0

    def plus(self, other: Work) -> Work:
        """Both together."""
        return Work(
            self.calls + other.calls,
            self.rows + other.rows,
            self.cpu_ns + other.cpu_ns,
            self.first_ns + other.first_ns,
            self.row_bytes + other.row_bytes,
        )

    def to_json(self) -> dict[str, int]:
        return asdict(self)


class Meter:
    """Sums by name since the process started. ``cpu_ns``: processor time of the calling thread, as `Clock` has it.

    Work between `begin` and `end` must not wait for anything: then it is the thread's only work. To ask for processor
    time is a call of the system, which may cost as much as the work: after `MEASURED_FIRST` calls of a name only one
    in ``every`` is measured, and stands for those since the last.
    """

    def __init__(self, cpu_ns: Callable[[], int], every: int = 1) -> None:
        self.works: dict[str, Work] = {}
        self._cpu_ns = cpu_ns
        self._every = every
        self._since: dict[str, int] = {}

    def begin(self, name: str = "") -> int:
        """The moment at which some work begins, for `end`; `UNMEASURED` when this call is not measured.

        Without a name it is, always.
        """
        if self._every > 1 and name:
            work = self.works.get(name)
            since = self._since.get(name, 0) + 1
            if work is not None and work.calls >= MEASURED_FIRST and since < self._every:
                self._since[name] = since
                return UNMEASURED
        return self._cpu_ns()

    def end(self, name: str, rows: int, began_ns: int, row_bytes: int = 0) -> None:
        """Some work ends."""
        took_ns = 0
        if began_ns != UNMEASURED:
            took_ns = (self._cpu_ns() - began_ns) * (self._since.pop(name, 0) + 1)
        work = self.works.get(name)
        if work is None:
            if len(self.works) >= WORKS_MAX:
                return
            self.works[name] = Work(first_ns=took_ns)
            return
        work.calls += 1
        work.rows += rows
        work.row_bytes += row_bytes
        work.cpu_ns += took_ns

    def to_json(self) -> dict[str, dict[str, int]]:
        """Name -> its sums."""
        return {name: work.to_json() for name, work in self.works.items()}
