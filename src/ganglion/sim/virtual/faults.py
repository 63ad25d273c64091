"""What goes wrong: each fault of a scenario, at each of its places, by chance of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ganglion.core.units import NS_PER_MS
from ganglion.sim.virtual.scenario import Fault

if TYPE_CHECKING:
    from ganglion.host.ports import Chance
    from ganglion.sim.virtual.machine import Machine
    from ganglion.sim.virtual.world import World

RESTART_S = (0.2, 5.0)
"""How long a killed program stays away, as its keeper restarts it with back-off."""
AIMED = 0.5
TOUCHES_MAX = 8
AIM_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault at one place, once."""

    world: World
    name: str
    fault: Fault
    lasts_s: float
    chance: Chance

    @property
    def machine(self) -> Machine:
        return self.world.machines[self.name]


class Faults:
    """Runs every fault until `end`; then what is broken heals."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tasks: list[asyncio.Task[None]] = []
        self._doing: dict[asyncio.Future[None], None] = {}
        self.count = 0

    def begin(self) -> None:
        """From now on things break."""
        for number, fault in enumerate(self._world.scenario.fault):
            for name in self._world.places(fault.at):
                chance = self._world.chances.stream(f"fault/{number}/{name}")
                task = asyncio.get_running_loop().create_task(
                    self._run(fault, name, chance), name=f"{fault.kind} at {name}"
                )
                self._tasks.append(task)

    async def end(self) -> None:
        """No new faults; returns when the last one has healed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._doing:
            await asyncio.gather(*self._doing)

    async def _run(self, fault: Fault, name: str, chance: Chance) -> None:
        do = _KINDS[fault.kind]
        while True:
            # Exponential waits, from the inverse of the distribution, so that one draw makes one wait.
            await asyncio.sleep(-fault.every / 1e9 * _ln(1.0 - chance.random()))
            lasts_s = chance.uniform(*fault.lasts) / 1e9
            self.count += 1
            # A fault that has begun ends: the world does not stay broken.
            doing = asyncio.ensure_future(do(Blow(self._world, name, fault, lasts_s, chance)))
            self._doing[doing] = None
            await asyncio.shield(doing)
            del self._doing[doing]


def _ln(x: float) -> float:
    """The natural logarithm to a part in a thousand, by arithmetic alone: no C library's last bit decides a wait."""
    mantissa, exponent = x, 0
    while mantissa < 0.75:
        mantissa *= 2
        exponent -= 1
    y = (mantissa - 1) / (mantissa + 1)
    return exponent * 0.6931471805599453 + 2 * (y + y**3 / 3 + y**5 / 5 + y**7 / 7)


async def _aimed(blow: Blow) -> None:
    """Half of the blows wait for a moment at which the program has touched the outside: there they hurt most."""
    life = blow.machine.life
    aimed, touches = blow.chance.random() < AIMED, 1 + int(blow.chance.random() * TOUCHES_MAX)
    if aimed and life is not None and life.alive:
        await asyncio.wait({life.aim(touches)}, timeout=AIM_WITHIN_S)


async def _kill(blow: Blow) -> None:
    await _aimed(blow)
    blow.machine.kill()
    await blow.world.restart(blow.name, blow.chance.uniform(*RESTART_S))


async def _power_cut(blow: Blow) -> None:
    await _aimed(blow)
    blow.machine.power_cut()
    await blow.world.restart(blow.name, blow.lasts_s)


async def _kill_server(blow: Blow) -> None:
    await _aimed(blow)
    life = blow.machine.life
    if life is not None and life.alive and life.processes.server is not None and life.processes.server.serves:
        blow.machine.note("message server killed")
        life.processes.server.kill()


async def _cut(blow: Blow) -> None:
    path, above = blow.world.uplink(blow.name)
    path.parted += 1
    blow.machine.note("uplink cut")
    blow.world.servers.parted(blow.name, above)
    await asyncio.sleep(blow.lasts_s)
    path.parted -= 1
    if path.whole:
        blow.machine.note("uplink healed")
        blow.world.servers.healed(blow.name, above)


async def _slow_link(blow: Blow) -> None:
    await _storm(blow, "uplink slow", rate_bytes_per_s=blow.fault.rate // 8)


async def _bad_radio(blow: Blow) -> None:
    await _storm(blow, "radio bad", loss=0.4, duplication=0.2, delay_max_ns=400 * NS_PER_MS)


async def _storm(blow: Blow, note: str, **changes: Any) -> None:
    path, _ = blow.world.uplink(blow.name)
    storm = replace(path.weather, **changes)
    path.storms.append(storm)
    blow.machine.note(note)
    await asyncio.sleep(blow.lasts_s)
    path.storms.remove(storm)


async def _slow_disk(blow: Blow) -> None:
    machine = blow.machine
    machine.slow_disk += 1
    machine.note("disk slow")
    await asyncio.sleep(blow.lasts_s)
    machine.slow_disk -= 1


async def _disk_full(blow: Blow) -> None:
    machine = blow.machine
    machine.fill_disk(full=True)
    await asyncio.sleep(blow.lasts_s)
    machine.fill_disk(full=False)


async def _clock_jump(blow: Blow) -> None:
    machine = blow.machine
    jump_ns = int((blow.chance.random() * 2 - 1) * blow.fault.jump)
    machine.jump(jump_ns)
    await asyncio.sleep(blow.lasts_s)
    machine.jump(-jump_ns)


_KINDS: dict[str, Callable[[Blow], Coroutine[None, None, None]]] = {
    "kill": _kill,
    "kill-server": _kill_server,
    "power-cut": _power_cut,
    "cut": _cut,
    "slow-link": _slow_link,
    "slow-disk": _slow_disk,
    "disk-full": _disk_full,
    "clock-jump": _clock_jump,
    "bad-radio": _bad_radio,
}
