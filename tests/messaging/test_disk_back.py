"""What a backlog took of the disk is given back once the parent has it: the files themselves are measured."""

from __future__ import annotations

import asyncio

from ganglion.messaging.janitor import Janitor
from ganglion.messaging.provision import Caps
from ganglion.messaging.subjects import inbox, outbox, outbox_subject, stream_filter
from tests.messaging.sites import NatsSites, until

CAPS = Caps(1 << 20, 64 << 20, 64 << 20)
MESSAGES, SIZE = 200, 100_000


def test_files_of_an_outbox_shrink_behind_the_parent_and_when_a_stream_is_shed(tmp_path):
    async def test():
        sites = NatsSites(tmp_path)

        def taken(site):
            store = tmp_path / site / "messaging" / "store"
            return sum(f.stat().st_size for f in store.rglob("*.blk"))

        async def fill(stream):
            for _ in range(0, MESSAGES, 20):
                subject = outbox_subject(stream, "a")
                await asyncio.gather(*(down.append(outbox("down"), subject, bytes(SIZE)) for _n in range(20)))
            assert taken("down") > MESSAGES * SIZE

        async def small():
            return taken("down") < MESSAGES * SIZE // 20

        try:
            up = await sites.add("up", CAPS, children=["down"])
            down = await sites.add("down", CAPS, parent="up")
            sites.cut("down")
            await fill("shed")
            await down.ask(f"STREAM.PURGE.{outbox('down')}", {"filter": stream_filter("shed")})
            await until(small)
            await fill("kept")
            janitor = Janitor(down, sites.clock("down"), source=inbox("down"), outbox=outbox("down"))
            cleaning = asyncio.create_task(janitor.run())
            sites.heal("down")
            await until(small)
            cleaning.cancel()
            assert (await up.state(inbox("up"))).messages == MESSAGES
        finally:
            await sites.close()

    asyncio.run(test())
