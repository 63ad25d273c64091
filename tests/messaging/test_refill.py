"""A parent that comes back with an older disk gets from its child what the child still holds."""

from __future__ import annotations

import asyncio
import contextlib
import shutil

from ganglion.messaging.janitor import Janitor, Tail
from ganglion.messaging.provision import reaches, refill
from ganglion.messaging.subjects import inbox, outbox
from tests.messaging.sites import CAPS, NatsSites, pacing, until


async def send(bus, name, count):
    for n in range(count):
        await bus.append(outbox("down"), "out.a.b", f"{name} {n}".encode())


def test_a_restored_parent_is_refilled_in_order_and_once_each(tmp_path):
    async def test():
        sites, pacer = NatsSites(tmp_path), contextlib.ExitStack()
        sites.born_s = 1_800_000_000
        store, backup = tmp_path / "up" / "messaging" / "store", tmp_path / "backup"
        try:
            up = await sites.add("up", CAPS, children=["down"])
            down = await sites.add("down", CAPS, parent="up")
            janitor = Janitor(
                down,
                sites.clock("down"),
                source=inbox("down"),
                outbox=outbox("down"),
                tail=Tail(1 << 18, CAPS.outbox_max_bytes),
            )
            cleaning = asyncio.create_task(janitor.run())
            pacer.enter_context(pacing(sites, down))

            def arrived(count):
                async def there():
                    return (await up.state(inbox("up"))).last_seq >= count

                return there

            await send(down, "early", 5)
            await until(arrived(5))
            await sites.stop("up")
            shutil.copytree(store, backup)
            await sites.start("up")
            await send(down, "forgotten", 20)
            await until(arrived(25))

            async def acknowledged():
                return await down.delivered(outbox("down")) == sites.offsets["down"] + 25

            await until(acknowledged)
            await asyncio.sleep(1.5)  # the janitor had its turn, and left the tail
            await sites.stop("up")
            shutil.rmtree(store)
            shutil.copytree(backup, store)
            await sites.start("up")
            await until(lambda: reaches(up, "down"))
            assert (await up.state(inbox("up"))).last_seq == 5
            await refill(up, "down")
            await send(down, "late", 3)
            await until(arrived(28))
            cleaning.cancel()
            pacer.close()
            messages = up.read(inbox("up"), 0)
            found = [(await anext(messages)).payload.decode() for _ in range(28)]
            await messages.aclose()
            wanted = [f"{k} {n}" for k, c in (("early", 5), ("forgotten", 20), ("late", 3)) for n in range(c)]
            assert found == wanted
        finally:
            await sites.close()

    asyncio.run(test())
