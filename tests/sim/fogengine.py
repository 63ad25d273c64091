"""How iFogSim's engine lets time pass, as far as its loop delays show it: from its behaviour, for comparison only.

Beside queues on links and shared processors (`ganglion.sim.fogmodel`) it has habits of its own, and what was published
contains them. Work that is done is noticed only when a device looks: at an event that was set when a piece of work came
(for when it would be done, alone with what was there then), 10 ms after the last look that found something running, or
when the next piece comes; a look with something running forgets all looks set before. What is sent down goes to every
child, and once one of them is through with it, none of the others begins. Whole millions of instructions are counted.
Between cause and effect in one device lie 0.1 ms.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

GAP_MS, LOOK_MS, MANAGE_MS = 0.1, 10.0, 100.0


@dataclass(frozen=True)
class Kind:
    """A kind of message: where it is worked on, millions of instructions there, bytes, and whether it goes up."""

    name: str
    module: str
    work: int
    size: int
    up: bool


@dataclass
class Message:
    kind: Kind
    origin: int | None = None
    born: float | None = None
    finished: int | None = None


@dataclass
class _Work:
    message: Message
    done: int = 0


@dataclass
class Device:
    """``modules``: what it works on, in order; ``rate``: millions of instructions per ms; links by bytes per ms."""

    name: str
    rate: float
    up_rate: float
    down_rate: float
    modules: tuple[str, ...] = ()
    parent: int | None = None
    latency: float = 0.0
    origin: int | None = None
    children: list[int] = field(default_factory=list)
    running: dict[str, list[_Work]] = field(default_factory=dict)
    ended: deque[tuple[str, Message]] = field(default_factory=deque)
    share: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    looked: float = 0.0
    submitted: float = -1.0
    looks: list[list[float | bool]] = field(default_factory=list)
    waiting: dict[str, deque[tuple[int, Message]]] = field(
        default_factory=lambda: {"up": deque(), "down": deque()}
    )
    sending: set[str] = field(default_factory=set)


class Engine:
    """Events until ``end_ms``; ``react(device, message)`` gives what a finished message makes.

    The loop whose delays are collected ends at a display, or where a message of the kind ``ends_at`` is worked on.
    """

    def __init__(
        self,
        devices: list[Device],
        react: Callable[[Device, Message], list[Message]],
        end_ms: float,
        ends_at: Kind | None = None,
    ) -> None:
        self.devices, self.react, self.end_ms, self.ends_at = devices, react, end_ms, ends_at
        self.now = 0.0
        self._heap: list[tuple[float, int, str, int, Any]] = []
        self._number = 0
        self.delays: list[float] = []
        for place, device in enumerate(devices):
            device.running = {m: [] for m in device.modules}
            device.share = dict.fromkeys(device.modules, 0.0)
            device.seen = dict.fromkeys(device.modules, 0.0)
            if device.parent is not None:
                devices[device.parent].children.append(place)
            self.later(0.0, "manage", place, None)

    def later(self, delay: float, what: str, place: int, data: Any) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, what, place, data))

    def run(self) -> float:
        while self._heap and self._heap[0][0] <= self.end_ms:
            self.now, _, what, place, data = heapq.heappop(self._heap)
            getattr(self, f"_{what}")(place, data)
        return sum(self.delays) / len(self.delays)

    # -- events ----------------------------------------------------------------------------------------
    def _manage(self, place: int, _: Any) -> None:
        for module in self.devices[place].modules:
            self._progress(self.devices[place], module)
        self.later(MANAGE_MS, "manage", place, None)

    def _every(self, place: int, data: Any) -> None:
        period, make = data
        for message in make():
            self.later(GAP_MS, "arrive", place, message)
        self.later(period, "every", place, data)

    def _sense(self, place: int, data: Any) -> None:
        period, latency, kind = data
        self.later(latency, "arrive", place, Message(kind, None, self.now))
        self.later(period, "sense", place, data)

    def _shown(self, _: int, message: Any) -> None:
        if message.born is not None:
            self.delays.append(self.now - message.born)

    def _look(self, place: int, look: Any) -> None:
        self.devices[place].looks.remove(look)
        if look[1]:
            self._update(place)
            self._collect(place)

    def _look_later(self, place: int, delay: float, *, alone: bool = False) -> None:
        """Sets a look; ``alone``: those set before are forgotten, but for any of this very moment."""
        device = self.devices[place]
        for look in device.looks if alone else ():
            look[1] = look[1] and look[0] == self.now
        device.looks.append([self.now + delay, True])
        self.later(delay, "look", place, device.looks[-1])

    def _arrive(self, place: int, data: Any) -> None:
        device, message = self.devices[place], data
        kind = message.kind
        if kind.module == "display":
            self.later(1.0, "shown", place, message)
            return
        if device.modules and self.now > 0:
            # Whatever comes, the first module gets its part of the processor, with or without work.
            device.share[device.modules[0]] = device.rate
            busy = [m for m in device.modules if device.share[m] > 0]
            device.share.update(dict.fromkeys(busy, device.rate / len(busy)))
        if kind.module in device.modules:
            origin = message.origin
            if kind.up or origin is None or device.origin is None or origin == device.origin:
                self._execute(place, message)
        elif kind.up:
            self._up(place, message)
        else:
            for child in device.children:
                self._send(place, "down", child, message)

    # -- links -----------------------------------------------------------------------------------------
    def _up(self, place: int, message: Message) -> None:
        parent = self.devices[place].parent
        if parent is not None:
            self._send(place, "up", parent, message)

    def _send(self, place: int, way: str, to: int, message: Message) -> None:
        """One message at a time goes up, and one down, whatever child it is for."""
        device = self.devices[place]
        if way in device.sending:
            device.waiting[way].append((to, message))
            return
        device.sending.add(way)
        each = message.kind.size / (device.up_rate if way == "up" else device.down_rate)
        latency = device.latency if way == "up" else self.devices[to].latency
        self.later(each, "sent", place, way)
        self.later(each + latency, "arrive", to, message)

    def _sent(self, place: int, way: Any) -> None:
        device = self.devices[place]
        device.sending.discard(way)
        if device.waiting[way]:
            self._send(place, way, *device.waiting[way].popleft())

    # -- processors ------------------------------------------------------------------------------------
    def _execute(self, place: int, message: Message) -> None:
        if message.kind is self.ends_at:
            self._shown(place, message)
        device, module = self.devices[place], message.kind.module
        self._allot(device, module)
        self._update(place)
        if message.finished is not None and message.finished >= message.kind.work:
            # One of those who were sent the same message is through with it: nobody else works on it.
            device.submitted = self.now
            self._allot(device, module)
            return
        message.finished = 0
        device.running[module].append(_Work(message))
        capacity = self._capacity(device, module)
        if capacity > 0:
            self._look_later(place, message.kind.work / capacity)
        self._collect(place)
        device.submitted = self.now
        self._allot(device, module)

    def _allot(self, device: Device, coming: str | None) -> None:
        """Each module with work gets the whole processor; where several have, they share it."""
        busy = [m for m in device.modules if device.running[m] or m == coming]
        for module in device.modules:
            device.share[module] = device.rate / len(busy) if module in busy else 0.0
        for module in device.modules:
            self._progress(device, module)

    @staticmethod
    def _capacity(device: Device, module: str) -> float:
        return device.share[module] / max(1, len(device.running[module]))

    def _progress(self, device: Device, module: str) -> float:
        """What was done since the last time; gives when the first of the rest would be done, 0 without any."""
        span, device.seen[module] = self.now - device.seen[module], self.now
        works = device.running[module]
        if not works:
            return 0.0
        each = math.floor(self._capacity(device, module) * span * 1e6)
        for work in works:
            work.done += each
        left = [max(0, w.message.kind.work * 1_000_000 - w.done) // 1_000_000 for w in works]
        for work, rest in zip(works, left, strict=True):
            if rest <= 0:
                work.message.finished = min(work.done // 1_000_000, work.message.kind.work)
                device.ended.append((module, work.message))
        device.running[module] = [w for w, rest in zip(works, left, strict=True) if rest > 0]
        rests = [rest for rest in left if rest > 0]
        capacity = self._capacity(device, module)
        if not rests or capacity <= 0:
            return math.inf
        return self.now + max(GAP_MS, min(rests) / capacity)

    def _update(self, place: int) -> None:
        device = self.devices[place]
        if device.submitted in (-1.0, self.now):
            self._look_later(place, LOOK_MS, alone=True)
            return
        if self.now > device.looked:
            first = min((t for m in device.modules if (t := self._progress(device, m)) > 0), default=math.inf)
            self._collect(place)
            if first != math.inf:
                self._look_later(place, LOOK_MS, alone=True)
            device.looked = self.now

    def _collect(self, place: int) -> None:
        device = self.devices[place]
        if not device.ended:
            return
        while device.ended:
            _, message = device.ended.popleft()
            for made in self.react(device, message):
                self.later(GAP_MS, "arrive", place, made)
        self._allot(device, None)
