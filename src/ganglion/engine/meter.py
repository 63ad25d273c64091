"""What work takes of a processor, by name: cheap enough to be always on, and bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

WORKS_MAX = 2_000
"""Names a meter keeps; what comes under further ones is not counted."""


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

    Work between `begin` and `end` must not wait for anything: then it is the thread's only work.
    """

    def __init__(self, cpu_ns: Callable[[], int]) -> None:
        self.begin = cpu_ns
        """The moment at which some work begins, for `end`."""
        self.works: dict[str, Work] = {}

    def end(self, name: str, rows: int, began_ns: int, row_bytes: int = 0) -> None:
        """Some work ends."""
        took_ns = self.begin() - began_ns
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
