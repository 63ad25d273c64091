"""Lets what is urgent overtake a backlog on a slow link, and keeps a share for the oldest.

A link is one connection, so whatever is on its way goes first. The backlog may therefore put no more on its way than
the link carries in `QUEUE_NS`; how much that is shows in how fast it drains. When what is urgent has a backlog of its
own, the two divide the link by their windows: `OLDEST_SHARE` stays with the oldest. Without urgent streams nothing is
paced.

A window must not be smaller than what the parent has stored and the consumer does not know of, after a break that lost
acknowledgements or a crash that lost the consumer's newest state: nats-server 2.15.1 then sends a window full of what
the parent skips, and ignores an acknowledgement beyond what it has sent, for ever. So a window starts no smaller than
what was on its way at the break, and one that is full and does not move grows until it does. The window of an outbox
that is new is one message until that is stored: `provision` says why.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ganglion.core.errors import MessagingError
from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.host.ports import Clock
from ganglion.messaging.provision import (
    FIRST_WINDOW,
    UNACKNOWLEDGED_MAX,
    SiteBus,
    drop_uplink,
    make_uplink,
    set_window,
    untouched,
)
from ganglion.messaging.subjects import BULK, URGENT, Lane, outbox

EVERY_NS = 250 * NS_PER_MS
UNPACED_EVERY_NS = NS_PER_S
QUEUE_NS = 500 * NS_PER_MS
"""How long the backlog's messages on their way may take to be stored."""
OLDEST_SHARE = 0.25
"""Of the bytes on their way, when both lanes have a backlog."""
FIRST_BYTES = 16_000
"""On their way before anything is known of a link."""
MEASURED_OVER_NS = 2 * NS_PER_S
WINDOW_MIN = 1
STUCK_AFTER_NS = 3 * NS_PER_S
"""A full window without a new acknowledgement for so long is made `STUCK_GROWTH` times as large."""
STUCK_GROWTH = 8
STUCK_WINDOW_MAX = 1 << 20
UNNOTICED_AFTER_NS = 5 * NS_PER_S
"""A first message of a new outbox that is not stored for so long was taken for one of the old outbox: the parent
counts as many messages of that as this one has delivered, and sees no difference. The lane is taken away for
`FORGOTTEN_AFTER_NS`, by when the parent misses its heartbeats; 10 s were too short. A message may also take that long
on a slow link, so each try is given twice the time of the one before."""
FORGOTTEN_AFTER_NS = 20 * NS_PER_S
CHANGE_MIN = 0.25
"""A smaller change of a window is not worth a write to the server's disk."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A lane at one moment. ``acknowledged`` counts from when the parent last began to draw.

    ``floor``: the number up to which all is acknowledged; ``untouched``: nothing is, and the parent may take this
    outbox for another.
    """

    floor: int
    acknowledged: int
    under_way: int
    waiting: int
    bound: bool
    untouched: bool = False


@dataclass(slots=True)
class LanePace:
    """How fast one lane drains, from what was acknowledged in the last `MEASURED_OVER_NS`."""

    window: int = UNACKNOWLEDGED_MAX
    backlogged: bool = False
    unconfirmed: int = UNACKNOWLEDGED_MAX
    """As many messages may be with the parent without the consumer knowing."""
    _history: deque[tuple[int, int]] = field(default_factory=deque)
    _last: Seen | None = None
    _moved_ns: int = 0

    def look(self, seen: Seen, now_ns: int) -> None:
        """Takes one observation."""
        last = self._last
        if last is None or seen.floor != last.floor or not seen.waiting or not seen.bound:
            self._moved_ns = now_ns
        if not seen.bound:
            self.unconfirmed = max(self.unconfirmed if last is None else 0, seen.under_way)
        elif last is not None and seen.acknowledged < last.acknowledged:
            # It broke and was made again unseen.
            self.unconfirmed = max(self.unconfirmed, self.window, last.under_way)
        if seen.bound and seen.acknowledged > 0 and last is not None and seen.floor > last.floor:
            self.unconfirmed = 0
        if not seen.bound or (self._history and seen.acknowledged < self._history[-1][1]):
            self._history.clear()  # the connection is another one, and so may be the link
        self._history.append((now_ns, seen.acknowledged))
        while len(self._history) > 2 and self._history[1][0] <= now_ns - MEASURED_OVER_NS:
            self._history.popleft()
        self.backlogged = seen.waiting > 0
        self._last = seen

    def set(self, wanted: float, now_ns: int) -> int:
        """The window from now on: as wanted, unless the lane needs more to move at all."""
        if self._last is not None and self._last.untouched:
            self._moved_ns = now_ns
            self.window = FIRST_WINDOW
        elif now_ns - self._moved_ns >= STUCK_AFTER_NS:
            self.window = min(STUCK_WINDOW_MAX, max(UNACKNOWLEDGED_MAX, STUCK_GROWTH * self.window))
            self.unconfirmed = self.window
            self._moved_ns = now_ns
        elif self.unconfirmed > UNACKNOWLEDGED_MAX:
            self.window = self.unconfirmed
        else:
            self.window = max(_clamped(wanted), self.unconfirmed)
        return self.window

    @property
    def per_s(self) -> float | None:
        """Messages stored per second; None while that is not known."""
        (began_ns, before), (ended_ns, after) = self._history[0], self._history[-1]
        return None if ended_ns <= began_ns else (after - before) * NS_PER_S / (ended_ns - began_ns)

    def within(self, queue_ns: int, first: int) -> int:
        """As many messages as are stored within ``queue_ns``, at least ``first``."""
        rate = self.per_s
        return max(first, 0 if rate is None else math.ceil(rate * queue_ns / NS_PER_S))


class Windows:
    """Decides both lanes' windows: pure, from observations and their times."""

    def __init__(self) -> None:
        self.bulk = LanePace()
        self.urgent = LanePace()

    def judge(
        self, bulk: Seen, urgent: Seen, bulk_bytes: float, urgent_bytes: float, now_ns: int
    ) -> tuple[int, int]:
        """(bulk's, urgent's) windows from now on; ``*_bytes``: the mean size of a message of each."""
        self.bulk.look(bulk, now_ns)
        self.urgent.look(urgent, now_ns)
        first_bulk = _clamped(FIRST_BYTES / max(1.0, bulk_bytes))
        first_urgent = _clamped(FIRST_BYTES / max(1.0, urgent_bytes))
        if self.urgent.backlogged:
            most_urgent = self.urgent.within(QUEUE_NS, first_urgent)
            ratio = urgent_bytes / max(1.0, bulk_bytes)
            most_bulk = math.ceil(most_urgent * ratio * OLDEST_SHARE / (1 - OLDEST_SHARE))
        else:
            most_urgent = UNACKNOWLEDGED_MAX if urgent.bound else first_urgent
            # Without a backlog the rate is what comes, not what the link could carry: room for twice as much.
            most_bulk = self.bulk.within(QUEUE_NS * (1 if self.bulk.backlogged else 2), first_bulk)
        return self.bulk.set(most_bulk, now_ns), self.urgent.set(most_urgent, now_ns)

    def unpaced(self, bulk: Seen, now_ns: int) -> int:
        """The only lane's window, where nothing is urgent."""
        self.bulk.look(bulk, now_ns)
        return self.bulk.set(UNACKNOWLEDGED_MAX, now_ns)


def _clamped(messages: float) -> int:
    return max(WINDOW_MIN, min(UNACKNOWLEDGED_MAX, math.ceil(messages)))


class Pacer:
    """Sets the windows of one outbox's lanes. ``mean_bytes``: of a lane's messages, as they are appended.

    ``urgent`` False: there is one lane, and nothing to pace; it is only kept moving. ``offset``: as `provision` gave
    it.
    """

    def __init__(
        self,
        bus: SiteBus,
        site: str,
        clock: Clock,
        mean_bytes: Callable[[Lane], float],
        *,
        urgent: bool = True,
        offset: int = 0,
    ) -> None:
        self.windows = Windows()
        self.trouble = ""
        self._bus = bus
        self._site = site
        self._clock = clock
        self._mean_bytes = mean_bytes
        self._urgent = urgent
        self._offset = offset
        self._untouched = False
        self._unstored_ns: dict[Lane, int] = {}
        self._patience_ns = UNNOTICED_AFTER_NS
        self._dropped: tuple[Lane, int] | None = None
        self._set: dict[Lane, int] = {}

    async def run(self) -> None:
        """Goes on for ever; what cannot be asked now is asked next time, and `trouble` says why."""
        while True:
            try:
                await self._step()
                self.trouble = ""
            except MessagingError as error:
                self.trouble = str(error)
            await self._clock.sleep_ns(EVERY_NS if self._urgent or self._untouched else UNPACED_EVERY_NS)

    async def _step(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if self._dropped is not None:
            lane, until_ns = self._dropped
            if now_ns < until_ns:
                return
            await make_uplink(self._bus, self._site, lane, self._offset)
            self._dropped = None
        bulk = await self._look(BULK)
        self._untouched = bulk.untouched
        wanted: dict[Lane, int] = {}
        if self._urgent:
            urgent = await self._look(URGENT)
            self._untouched |= urgent.untouched
            await self._introduce(URGENT, urgent, now_ns)
            sizes = self._mean_bytes(BULK), self._mean_bytes(URGENT)
            wanted[BULK], wanted[URGENT] = self.windows.judge(bulk, urgent, *sizes, now_ns)
        else:
            wanted[BULK] = self.windows.unpaced(bulk, now_ns)
        await self._introduce(BULK, bulk, now_ns)
        for lane, window in wanted.items():
            if self._dropped is not None:
                return
            now = self._set.get(lane, UNACKNOWLEDGED_MAX)
            # A larger one may be what a stuck lane needs: only a somewhat smaller one can wait.
            if window > now or now - window > CHANGE_MIN * now:
                await set_window(self._bus, self._site, lane, window)
                self._set[lane] = window

    async def _introduce(self, lane: Lane, seen: Seen, now_ns: int) -> None:
        """Lets the parent notice that this outbox is a new one, when nothing else does."""
        if self._dropped is not None or not (seen.untouched and seen.bound and seen.under_way):
            self._unstored_ns.pop(lane, None)
        elif now_ns - self._unstored_ns.setdefault(lane, now_ns) >= self._patience_ns:
            del self._unstored_ns[lane]
            self._patience_ns *= 2
            await drop_uplink(self._bus, self._site, lane)
            self._dropped = lane, now_ns + FORGOTTEN_AFTER_NS

    async def _look(self, lane: Lane) -> Seen:
        info = await self._bus.ask(f"CONSUMER.INFO.{outbox(self._site)}.{lane.consumer}", {})
        self._set[lane] = int(info["config"]["max_ack_pending"])
        return Seen(
            int(info["ack_floor"]["stream_seq"]),
            int(info["ack_floor"]["consumer_seq"]),
            int(info["num_ack_pending"]),
            int(info["num_pending"]),
            bool(info.get("push_bound")),
            untouched(self._offset, info),
        )
