"""Gateway -> edge -> cloud on real servers: whatever is cut or killed, the cloud has everything once, in order."""

from __future__ import annotations

import asyncio

from ganglion.core.errors import MessagingError
from ganglion.messaging.janitor import Janitor
from ganglion.messaging.subjects import inbox, outbox, outbox_subject, parse
from tests.messaging.sites import CAPS, NatsSites, until

SUBJECT = outbox_subject("amps", "meter-1")


async def owe(bus, stream, ordinal, payload):
    """Makes ``payload`` the stream's message number ``ordinal``, once, as an engine does."""
    while True:
        try:
            await bus.append(stream, SUBJECT, payload, expect_last=ordinal - 1)
            return
        except MessagingError as error:
            if error.code not in ("messaging.unavailable", "messaging.fence"):
                raise
        try:
            if (await bus.state(stream)).last_seq >= ordinal:
                return
        except MessagingError:
            await asyncio.sleep(0.02)


async def forward(bus, janitor):
    """The least edge engine there can be: the n-th input is the n-th output."""
    async for message in bus.read(inbox("edge"), 0):
        await owe(bus, outbox("edge"), message.seq, message.payload)
        janitor.processed(message.seq)


async def collect(bus, seen, janitor):
    async for message in bus.read(inbox("cloud"), 0):
        seen.append(message)
        janitor.processed(message.seq)


class Chain:
    """The three sites at work."""

    def __init__(self, sites):
        self.sites = sites
        self.seen = []
        self.written = 0
        self._over = False
        self._tasks = []

    async def start(self):
        cloud = await self.sites.add("cloud", CAPS, children=["edge"])
        edge = await self.sites.add("edge", CAPS, parent="cloud", children=["gw-1"])
        gateway = await self.sites.add("gw-1", CAPS, parent="edge")
        self.buses = {"cloud": cloud, "edge": edge, "gw-1": gateway}
        janitors = {
            site: Janitor(bus, self.sites.clock(site), source=inbox(site), outbox=outbox(site))
            for site, bus in self.buses.items()
        }
        work = [j.run() for j in janitors.values()]
        work += [forward(edge, janitors["edge"]), collect(cloud, self.seen, janitors["cloud"])]
        self._tasks = [asyncio.create_task(w) for w in work]
        self._writing = asyncio.create_task(self._write(gateway))

    async def _write(self, bus):
        while not self._over:
            await owe(bus, outbox("gw-1"), self.written + 1, b"%d" % self.written)
            self.written += 1
            await asyncio.sleep(0.002)

    async def more(self, count):
        """Waits until so many more messages are written."""
        target = self.written + count

        async def written():
            return self.written >= target

        await until(written)

    async def drain(self):
        """Stops writing; waits until the cloud has all and every stream below is empty."""
        self._over = True  # a cancelled append could still be stored after we have counted
        await self._writing
        total = (await self.buses["gw-1"].state(outbox("gw-1"))).last_seq

        async def arrived():
            return len(self.seen) >= total

        async def empty():
            held = [await self.buses[s].state(outbox(s)) for s in ("gw-1", "edge")]
            held += [await self.buses[s].state(inbox(s)) for s in ("edge", "cloud")]
            return not any(h.messages for h in held)

        await until(arrived)
        await until(empty)
        return total

    async def stop(self):
        for task in [*self._tasks, self._writing]:
            if task.done() and not task.cancelled():
                task.result()
            task.cancel()
        await asyncio.gather(*self._tasks, self._writing, return_exceptions=True)


def check(chain, total):
    assert [int(m.payload) for m in chain.seen] == list(range(total))
    assert {m.subject for m in chain.seen} == {f"in.edge.{SUBJECT}"}
    address = parse(chain.seen[0].subject)
    assert (address.child, address.stream, address.origin) == ("edge", "amps", "meter-1")


def test_cut_links_and_killed_servers_neither_lose_nor_repeat_nor_reorder(tmp_path):
    async def whole():
        sites = NatsSites(tmp_path)
        sites.keep = True
        chain = Chain(sites)
        try:
            await chain.start()
            await chain.more(50)
            for link in ("gw-1", "edge"):
                sites.cut(link)
                await asyncio.sleep(1)
            sites.heal("gw-1")
            sites.heal("edge")
            for site in ("gw-1", "edge", "cloud"):
                await chain.more(100)
                await sites.stop(site)
            await chain.more(100)
            # An outage of everything at once, parents and children.
            for site in ("cloud", "edge", "gw-1"):
                await sites.stop(site)
            await chain.more(50)
            check(chain, await chain.drain())
            await chain.stop()
            assert sum(sites.server(s).restarts for s in ("cloud", "edge", "gw-1")) >= 6
        finally:
            await sites.close()

    asyncio.run(whole())
