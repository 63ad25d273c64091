"""The virtual network: datagrams between real CoAP endpoints, in all weathers."""

from __future__ import annotations

import asyncio

import pytest

from ganglion.connectors.coap import Endpoint, Response
from ganglion.connectors.coap.message import Code
from ganglion.connectors.coap.settings import Settings
from ganglion.core.errors import ConnectorError, HostError
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.chance import SeededChances
from ganglion.sim.virtual.machine import LIFE, Machine, MachinesOutside
from ganglion.sim.virtual.network import Network
from ganglion.sim.virtual.paths import Weather
from ganglion.sim.virtual.servers import Servers
from ganglion.sim.virtual.trace import Trace
from ganglion.sim.virtual.world import _adopt

FAST = Settings(ack_timeout_ns=200_000_000, max_retransmit=8)


class Pair:
    """Two machines, one of which answers."""

    def __init__(self, loop, weather, seed=1):
        loop.outside, loop.on_task = MachinesOutside(), _adopt
        self.trace = Trace()
        chances = SeededChances(seed)
        self.network = Network(lambda: loop.virtual_time.now_ns, chances, self.trace, weather)
        servers = Servers(self.network)
        self.machines = [
            Machine(n, loop, self.network, servers, chances, self.trace) for n in ("near", "far")
        ]
        self.loop = loop
        self.handled = []

    async def open(self):
        def handle(request):
            self.handled.append(request.payload)
            return Response(Code.CONTENT, request.payload)

        self.near = await self.on(
            0, lambda life: Endpoint.open(random=life.chances.stream("coap"), settings=FAST)
        )
        self.far = await self.on(
            1, lambda life: Endpoint.open(handler=handle, random=life.chances.stream("coap"), settings=FAST)
        )

    async def on(self, number, program):
        async def alive(life):
            LIFE.set(life)
            return await program(life)

        machine = self.machines[number]
        life = machine.life if machine.life is not None and machine.life.alive else machine.boot()
        return await self.loop.create_task(alive(life))

    async def ask(self, payload):
        return await self.on(
            0, lambda _life: self.near.request(self.far.address, Code.GET, "x", payload, timeout_ns=10**11)
        )


def on_pair(story, weather=None, seed=1):
    async def main(loop):
        pair = Pair(loop, weather or Weather(), seed)
        await pair.open()
        await story(pair)
        return pair

    return virtual.run(main)


def test_loss_and_doubles_are_got_over_and_each_request_is_handled_once():
    async def story(pair):
        for number in range(200):
            assert (await pair.ask(b"%d" % number)).payload == b"%d" % number

    pair = on_pair(story, Weather(loss=0.2, duplication=0.2, delay_max_ns=300_000_000))
    assert pair.handled == [b"%d" % n for n in range(200)]
    assert pair.near.counters.retransmitted > 20
    assert pair.far.counters.duplicates > 20


def test_equal_seeds_give_equal_traces_and_others_do_not():
    async def story(pair):
        for number in range(20):
            await pair.ask(b"%d" % number)

    weather = Weather(loss=0.2, duplication=0.2)
    digests = [on_pair(story, weather, seed).trace.digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_a_parted_path_lets_nothing_through_until_it_heals():
    async def story(pair):
        path = pair.network.path("near", "far")
        path.parted += 1
        asking = asyncio.ensure_future(pair.ask(b"x"))
        await asyncio.sleep(2)
        assert pair.handled == []
        path.parted -= 1
        assert (await asking).ok

    on_pair(story)


def test_a_slow_path_takes_the_time_of_its_bytes():
    async def story(pair):
        pair.network.path("near", "far").storms.append(Weather(rate_bytes_per_s=1000))
        began_s = pair.loop.time()
        await pair.ask(bytes(900))
        assert 1.8 < pair.loop.time() - began_s < 5

    on_pair(story)


def test_a_dead_machine_is_silent_and_its_port_is_free_again():
    async def story(pair):
        port = pair.far.address[1]
        with pytest.raises(HostError):
            await pair.on(1, lambda life: Endpoint.open(port=port, random=life.chances.stream("coap")))
        pair.machines[1].kill()
        with pytest.raises(ConnectorError):
            await pair.ask(b"x")
        again = await pair.on(1, lambda life: Endpoint.open(port=port, random=life.chances.stream("coap")))
        assert again.address[1] == port

    on_pair(story)
