"""The relay passes bytes, counts them, and a cut is a cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ganglion.sim.relay import Pipe, Relay


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data * 2)
    writer.close()


async def asked(port: int, text: bytes) -> bytes:
    """One exchange through the relay; empty when the connection was refused or aborted."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    try:
        writer.write(text)
        return await asyncio.wait_for(reader.readexactly(2 * len(text)), 10)
    except (OSError, asyncio.IncompleteReadError):
        return b""
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


def test_bytes_pass_and_are_counted_both_ways() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        relay = Relay("a>b", server.sockets[0].getsockname()[1])
        port = await relay.open()
        assert await asked(port, b"x" * 100_000) == b"x" * 200_000
        assert (relay.bytes.up, relay.bytes.down) == (100_000, 200_000)
        await relay.close()
        server.close()

    asyncio.run(scenario())


def test_a_cut_aborts_what_is_connected_and_what_comes_until_the_heal() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        relay = Relay("a>b", server.sockets[0].getsockname()[1])
        port = await relay.open()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        assert await reader.readexactly(6) == b"oneone"
        relay.cut()
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        assert await asked(port, b"three") == b""
        relay.heal()
        assert await asked(port, b"four") == b"fourfour"
        await relay.close()
        assert await asked(port, b"five") == b""
        server.close()

    asyncio.run(scenario())


def test_a_parent_that_is_down_looks_like_a_refusal() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        target = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        relay = Relay("a>b", target)
        port = await relay.open()
        assert await asked(port, b"x") == b""
        await relay.close()

    asyncio.run(scenario())


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[Relay, int]]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    relay = Relay("a>b", server.sockets[0].getsockname()[1])
    try:
        yield relay, await relay.open()
    finally:
        await relay.close()
        server.close()


def test_a_swallowed_connection_stays_open_and_dead_while_new_ones_pass() -> None:
    async def scenario() -> None:
        async with relayed() as (relay, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"one")
            assert await reader.readexactly(6) == b"oneone"
            relay.swallow()
            writer.write(b"two")
            await writer.drain()
            assert await asked(port, b"three") == b"threethree"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.2)
            writer.transport.abort()

    asyncio.run(scenario())


def test_a_link_that_swallows_all_accepts_new_connections_and_says_nothing_until_the_heal() -> None:
    async def scenario() -> None:
        async with relayed() as (relay, port):
            relay.swallow(also_new=True)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"one")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.2)
            relay.heal()
            assert await asked(port, b"two") == b"twotwo"
            writer.transport.abort()

    asyncio.run(scenario())


def test_a_far_and_narrow_link_carries_every_byte_in_order_and_no_sooner() -> None:
    async def scenario() -> None:
        async with relayed() as (relay, port):
            relay.pipe = Pipe(delay_ns=50_000_000, bytes_per_s=1_000_000)
            content = bytes(range(256)) * 200
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began = asyncio.get_running_loop().time()
            writer.write(content)
            first = await reader.read(1)
            took = asyncio.get_running_loop().time() - began
            # No sooner than both ways take; how much later is the machine's affair.
            assert took >= 0.1
            got = first + await reader.readexactly(2 * len(content) - 1)
            assert sorted(got) == sorted(content * 2)
            writer.transport.abort()

    asyncio.run(scenario())
