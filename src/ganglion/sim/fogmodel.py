"""Messages through a tree of fog nodes, event by event: links that send one message at a time, shared processors.

For comparing figures with other simulators (iFogSim's case study in the tests) and for delays that a sum of means does
not show: queues on a full link, batches on one processor. Times are in milliseconds. Nothing is random: arrivals are
given, and each step turns the times at which messages are ready into those at which they leave.

Links: first in, first out, constant size; leaving times by Lindley's recursion (D. V. Lindley, 1952). Processors: work
of messages that are there at once is shared equally (processor sharing).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Hop:
    """A link: bytes per millisecond, latency in milliseconds. Each sender has one of its own."""

    bytes_per_ms: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Sent:
    """``order`` sorts the given messages as they were sent; they start at ``start`` and arrive at ``arrive``."""

    order: NDArray[np.int64]
    start: Times
    arrive: Times


def send(ready: Times, size_bytes: float, hop: Hop) -> Sent:
    """Messages of one size over one link, in the order in which they are ready (ties: as given)."""
    order = np.argsort(ready, kind="stable")
    each = size_bytes / hop.bytes_per_ms
    place = np.arange(len(ready))
    # Lindley: a message starts when it is ready, or when the one before it is through.
    start = np.maximum.accumulate(ready[order] - each * place) + each * place
    return Sent(order, start, start + each + hop.latency_ms)


def process(ready: Times, work: float, rate: float) -> Times:
    """When messages, sorted by when they are ready, are done: ``work`` each, ``rate`` per ms, shared equally."""
    assert (np.diff(ready) >= 0).all(), "messages are given as they come"
    done = np.zeros(len(ready))
    # Attained service: a message is done when what each one present has received reaches its own mark.
    present: list[tuple[float, int]] = []
    served, now, coming = 0.0, 0.0, 0
    while coming < len(ready) or present:
        finish = now + (present[0][0] - served) * len(present) / rate if present else np.inf
        if coming < len(ready) and ready[coming] <= finish:
            if present:
                served += (ready[coming] - now) * rate / len(present)
            now = ready[coming]
            heapq.heappush(present, (served + work, coming))
            coming += 1
        else:
            served, now = present[0][0], finish
            done[heapq.heappop(present)[1]] = now
    return done


@dataclass(slots=True)
class Network:
    """What links carried until ``end_ms``: bytes times latency over the time, the measure of operator placement papers.

    Pietzuch et al., Network-aware operator placement, ICDE 2006. A message counts on a link when it has started there.
    """

    end_ms: float
    total: float = 0.0

    def carried(self, start: Times, size_bytes: float, hop: Hop) -> None:
        """Counts messages that started on a link."""
        self.total += float((start <= self.end_ms).sum()) * size_bytes * hop.latency_ms

    @property
    def use(self) -> float:
        """Bytes x milliseconds per millisecond."""
        return self.total / self.end_ms
