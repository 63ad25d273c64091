"""A bridge: CoAP over a line to a real endpoint, with noise on the way, and what happens when the line ends."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from ganglion.connectors.coap import Code, Endpoint, Request, Response, Settings
from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.message import Message, MessageType
from ganglion.connectors.serial import Bridge, Frames, encode
from ganglion.core.errors import HostError
from ganglion.host.line import SerialLine, memory_line
from tests.device.gateways import run, until
from tests.host.test_line import FarEnd

QUICK = Settings(ack_timeout_ns=20_000_000, max_retransmit=8, datagram_bytes_max=4096)


class Speaker:
    """A device on the far end of a line: asks, repeats until it is answered, and answers commands."""

    def __init__(self, far) -> None:
        self.far = far
        self.frames = Frames()
        self.commands: list[Message] = []
        self.answers: dict[bytes, Message] = {}
        self.listening = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        while content := await self.far.read():
            for datagram in self.frames.take(content):
                message = wire.decode(datagram)
                if wire.is_response(message.code):
                    self.answers[message.token] = message
                else:
                    self.commands.append(message)
                    ack = Message(MessageType.ACK, Code.CHANGED, message.message_id, message.token)
                    self.far.write(encode(wire.encode(ack)))

    async def ask(self, number: int, payload: bytes) -> Message:
        token = number.to_bytes(2, "big")
        options = wire.request_options(["s", "x"], (), None, None)
        asked = encode(wire.encode(Message(MessageType.CON, Code.POST, number, token, options, payload)))
        for _ in range(200):
            self.far.write(asked)
            for _ in range(40):
                await asyncio.sleep(0.001)
                if token in self.answers:
                    return self.answers[token]
        raise AssertionError("never answered")

    async def close(self) -> None:
        self.listening.cancel()
        await asyncio.gather(self.listening, return_exceptions=True)


def noisy(seed: int):
    """One write in seven is hit: bytes lost, altered or added."""
    rng = random.Random(seed)

    def passes(content: bytes) -> bytes:
        out = bytearray(content)
        if rng.random() < 0.15:
            at = rng.randrange(len(out))
            kind = rng.randrange(3)
            if kind == 0:
                del out[at : at + rng.randrange(1, 5)]
            elif kind == 1:
                out[at] ^= rng.randrange(1, 256)
            else:
                out[at:at] = rng.randbytes(rng.randrange(1, 40))
        return bytes(out)

    return passes


def pty_line():
    master, slave = os.openpty()
    line = SerialLine(os.ttyname(slave))
    os.close(slave)
    return line, FarEnd(master)


async def conversation(line, far, *, count: int) -> Bridge:
    heard: list[bytes] = []
    peers: set[tuple[str, int]] = set()

    def handle(request: Request) -> Response:
        heard.append(request.payload)
        peers.add(request.peer)
        return Response(Code.CHANGED)

    async with await Endpoint.open(handler=handle, random=random.Random(1), settings=QUICK) as gateway:
        bridge = await Bridge.open(line, gateway.address)
        running = asyncio.ensure_future(bridge.run())
        speaker = Speaker(far)
        payloads = [bytes([n, 0xC0, 0xDB]) * (1 + 20 * n) for n in range(count)]
        for n, payload in enumerate(payloads):
            assert (await speaker.ask(n, payload)).code == Code.CHANGED
        assert list(dict.fromkeys(heard)) == payloads and len(heard) == count, (
            "each once, in order, unaltered"
        )
        # The other way: a command to the address the rows came from.
        (peer,) = peers
        answer = await gateway.request(peer[:2], Code.PUT, "a/breaker", b"now", timeout_ns=20_000_000_000)
        assert answer.code == Code.CHANGED and speaker.commands[0].payload == b"now"
        await speaker.close()
        far.close()
        await running
    return bridge


@pytest.mark.parametrize("lines", [pty_line, memory_line])
def test_a_device_on_a_line_speaks_with_a_gateway(lines) -> None:
    async def story() -> None:
        bridge = await conversation(*lines(), count=20)
        assert bridge.counts.to_gateway == 21 and bridge.counts.to_device == 21
        counts = bridge.counts.line
        assert (counts.received, counts.bad_check, counts.bad_escape, counts.too_long) == (21, 0, 0, 0)

    run(story())


@pytest.mark.parametrize("seed", range(3))
def test_noise_costs_repeats_and_nothing_else(seed: int) -> None:
    async def story() -> None:
        bridge = await conversation(*memory_line(noisy(seed)), count=25)
        counts = bridge.counts.line
        assert counts.bad_check + counts.bad_escape + counts.too_long > 0, "the noise was heard"

    run(story())


def test_only_the_gateway_reaches_the_device() -> None:
    async def story() -> None:
        line, far = memory_line()
        async with await Endpoint.open(handler=None, random=random.Random(1), settings=QUICK) as gateway:
            bridge = await Bridge.open(line, gateway.address)
            running = asyncio.ensure_future(bridge.run())
            assert bridge._transport is not None
            here = bridge._transport.get_extra_info("sockname")
            other = await Endpoint.open(handler=None, random=random.Random(2), settings=QUICK)
            asking = asyncio.ensure_future(other.request(here[:2], Code.PUT, "a/breaker", b"mine"))
            await asyncio.sleep(0.1)
            assert bridge.counts.to_device == 0
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await other.close()
            far.close()
            await running

    run(story())


def test_what_the_line_cannot_take_is_counted() -> None:
    async def story() -> None:
        line, far = memory_line()
        bridge = await Bridge.open(line, ("127.0.0.1", 9))
        running = asyncio.ensure_future(bridge.run())
        bridge.datagram_received(bytes(5000), ("127.0.0.1", 9))
        far.close()
        await until(running.done)
        bridge.datagram_received(b"too late", ("127.0.0.1", 9))
        assert (bridge.counts.to_device, bridge.counts.unsent) == (0, 2)

    run(story())


def test_an_address_that_is_none_is_refused() -> None:
    async def story() -> None:
        with pytest.raises(HostError) as raised:
            await Bridge.open(memory_line()[0], ("256.1.1.1", 5683))
        assert raised.value.code == "host.network"

    run(story())
