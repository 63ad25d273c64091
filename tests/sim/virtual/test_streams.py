"""Connections of a world: order, delays, cuts, pauses, and the ends of programs and machines."""

from __future__ import annotations

import asyncio

import pytest

from ganglion.core.units import NS_PER_MS
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.chance import SeededChances
from ganglion.sim.virtual.machine import LIFE, Machine, MachinesOutside
from ganglion.sim.virtual.network import Network
from ganglion.sim.virtual.paths import Weather
from ganglion.sim.virtual.servers import Servers
from ganglion.sim.virtual.streams import WINDOW_BYTES
from ganglion.sim.virtual.trace import Trace
from ganglion.sim.virtual.world import _adopt

PORT = 50_000


class End(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self):
        self.got, self.lost, self.life = [], [], None

    def connection_made(self, transport):
        self.transport, self.life = transport, LIFE.get()

    def data_received(self, data):
        self.got.append(data)
        assert LIFE.get() is self.life, "handled as the owner's doing"

    def connection_lost(self, exc):
        self.lost.append(exc)


class Pair:
    """Two machines; ``far`` listens."""

    def __init__(self, loop, seed):
        loop.outside, loop.on_task = MachinesOutside(), _adopt
        self.loop, chances, trace = loop, SeededChances(seed), Trace()
        self.network = Network(
            lambda: loop.virtual_time.now_ns, chances, trace, Weather(delay_max_ns=20 * NS_PER_MS)
        )
        servers = Servers(self.network)
        self.near, self.far = (
            Machine(n, loop, self.network, servers, chances, trace) for n in ("near", "far")
        )
        self.path = self.network.path("near", "far")
        self.accepted = []

    async def on(self, machine, program):
        """Runs it as the machine's doing."""
        life = machine.life if machine.life is not None and machine.life.alive else machine.boot()

        async def alive():
            LIFE.set(life)
            return await program(life)

        return await self.loop.create_task(alive())

    async def listen(self):
        def made():
            self.accepted.append(End())
            return self.accepted[-1]

        async def serve(life):
            self.network.serve(life, PORT, made)

        await self.on(self.far, serve)

    async def connect(self):
        async def connect(_life):
            return (await asyncio.get_running_loop().create_connection(End, "127.0.0.1", PORT))[1]

        return await self.on(self.near, connect)


def play(scenario, seed=1):
    async def main(loop):
        pair = Pair(loop, seed)
        await pair.listen()
        await scenario(pair)

    virtual.run(main)


@pytest.mark.parametrize("seed", range(5))
def test_bytes_come_in_order_whatever_each_takes_and_wait_while_the_path_is_parted(seed):
    async def scenario(pair):
        near = await pair.connect()
        far = pair.accepted[0]
        for number in range(50):
            near.transport.write(b"%d," % number)
            far.transport.write(b"%d;" % number)
            if number == 20:
                pair.path.parted += 1
                await asyncio.sleep(1)
                held = len(far.got)
                await asyncio.sleep(10)
                assert len(far.got) == held < 21
                pair.path.parted -= 1
            await asyncio.sleep(0.003)
        await asyncio.sleep(1)
        assert b"".join(far.got) == b"".join(b"%d," % n for n in range(50))
        assert b"".join(near.got) == b"".join(b"%d;" % n for n in range(50))

    play(scenario, seed)


def test_who_pauses_is_felt_by_who_writes():
    async def scenario(pair):
        near = await pair.connect()
        far = pair.accepted[0]
        far.transport.pause_reading()
        for _ in range(10):
            near.transport.write(b"x" * WINDOW_BYTES)
        await asyncio.sleep(1)
        assert far.got == []
        assert near.transport.get_write_buffer_size() == 9 * WINDOW_BYTES
        far.transport.resume_reading()
        await asyncio.sleep(1)
        assert len(far.got) == 10
        assert near.transport.get_write_buffer_size() == 0

    play(scenario)


@pytest.mark.parametrize("how, error", [("close", type(None)), ("abort", ConnectionResetError)])
def test_what_was_written_before_the_end_comes_before_it(how, error):
    async def scenario(pair):
        near = await pair.connect()
        far = pair.accepted[0]
        near.transport.write(b"last")
        getattr(near.transport, how)()
        near.transport.write(b"too late")
        await asyncio.sleep(1)
        assert far.got == [b"last"]
        assert [type(e) for e in far.lost] == [error]
        assert near.lost == [None]

    play(scenario)


def test_a_killed_program_s_system_says_so_and_a_dark_machine_says_nothing():
    async def scenario(pair):
        near = await pair.connect()
        pair.far.kill()
        await asyncio.sleep(1)
        assert [type(e) for e in near.lost] == [ConnectionResetError]
        with pytest.raises(ConnectionRefusedError):
            await pair.connect()
        await pair.listen()
        near = await pair.connect()
        pair.far.power_cut()
        near.transport.write(b"is anybody there")
        await asyncio.sleep(60)
        assert near.lost == []
        await pair.listen()
        near.transport.write(b"and now")
        await asyncio.sleep(1)
        assert [type(e) for e in near.lost] == [ConnectionResetError]

    play(scenario)


def test_a_dead_program_hears_nothing():
    async def scenario(pair):
        near = await pair.connect()
        far = pair.accepted[0]
        far.transport.write(b"on its way")
        pair.near.kill()
        await asyncio.sleep(1)
        assert near.got == near.lost == []
        assert [type(e) for e in far.lost] == [ConnectionResetError]

    play(scenario)


def test_nobody_is_reached_on_a_path_that_is_parted():
    async def scenario(pair):
        pair.path.parted += 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await pair.connect()
        pair.path.parted -= 1
        assert (await pair.connect()).transport is not None

    play(scenario)
