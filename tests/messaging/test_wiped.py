"""A child whose disk was replaced by an empty one: what it sends from then on arrives, all of it."""

from __future__ import annotations

import asyncio

import pytest

from ganglion.messaging.provision import INCARNATION_BITS, provision
from ganglion.messaging.subjects import inbox, outbox
from tests.messaging.sites import CAPS, NatsSites, pacing, payloads, until


def test_a_wiped_child_loses_nothing_of_what_it_sends_afterwards(tmp_path):
    async def test():
        sites = NatsSites(tmp_path)
        sites.born_s = 1_800_000_000
        try:
            up = await sites.add("up", CAPS, children=["down"])
            down = await sites.add("down", CAPS, parent="up")
            expected = [f"before {n}".encode() for n in range(5)]
            for payload in expected:
                await down.append(outbox("down"), "out.a.b", payload)

            async def arrived():
                return (await up.state(inbox("up"))).last_seq >= len(expected)

            await until(arrived)
            sites.cut("down")
            await sites.wipe("down", CAPS)
            for n in range(16):
                expected.append(f"islanded {n}".encode())
                await down.append(outbox("down"), "out.a.b", expected[-1])
            sites.heal("down")
            for n in range(16):
                expected.append(f"after {n}".encode())
                await down.append(outbox("down"), "out.a.b", expected[-1])

            async def delivered():
                return await down.delivered(outbox("down")) == (await down.state(outbox("down"))).last_seq

            with pacing(sites, down):
                await until(delivered)
            assert await payloads(up, inbox("up")) == expected
        finally:
            await sites.close()

    asyncio.run(test())


@pytest.mark.parametrize("had", [1, 2, 5])
def test_a_child_that_is_back_with_an_empty_disk_before_its_parent_noticed_loses_nothing(tmp_path, had):
    async def test():
        sites = NatsSites(tmp_path)
        sites.born_s = 1_800_000_000
        try:
            up = await sites.add("up", CAPS, children=["down"])
            down = await sites.add("down", CAPS, parent="up")
            expected: list[bytes] = []

            async def send(count):
                for _ in range(count):
                    expected.append(f"message {len(expected)}".encode())
                    await down.append(outbox("down"), "out.a.b", expected[-1])

            async def arrived():
                return (await up.state(inbox("up"))).last_seq >= len(expected)

            with pacing(sites, down):
                await send(1)
                await until(arrived)
                await send(had - 1)
                await until(arrived)
            await sites.wipe("down", CAPS)
            with pacing(sites, down):
                for _ in range(30):  # more than before, while the parent still counts what the old one sent
                    await send(1)
                    await asyncio.sleep(0.05)
                await until(arrived)
            assert await payloads(up, inbox("up")) == expected
        finally:
            await sites.close()

    asyncio.run(test())


def test_an_outbox_keeps_its_first_number_and_counts_nothing_as_owed_before_the_first_message(tmp_path):
    async def test():
        sites = NatsSites(tmp_path)
        sites.born_s = 1_800_000_000
        try:
            bus = await sites.add("down", CAPS)
            offset = sites.offsets["down"]
            assert offset == sites.born_s << INCARNATION_BITS
            assert (await bus.state(outbox("down"))).last_seq == offset
            assert await bus.delivered(outbox("down")) in (0, offset)
            assert await provision(bus, "down", CAPS, born_s=sites.born_s + 100) == offset
            assert await bus.append(outbox("down"), "out.a.b", b"x", expect_last=offset) == offset + 1
        finally:
            await sites.close()

    asyncio.run(test())
