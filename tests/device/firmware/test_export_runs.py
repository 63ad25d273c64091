"""The exported library runs on this machine: by UDP with the port that comes along, by a line with a test's."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import numpy as np
import pytest

from ganglion.connectors.coap import Code
from ganglion.connectors.serial import Bridge
from ganglion.core.batch import Batch
from ganglion.core.packing import pack
from ganglion.host.line import SerialLine
from tests.device.firmware.benches import (
    FRAMES,
    ORIGIN,
    PLANT_PART,
    START_NS,
    Reference,
    needs_compiler,
    plant,
    proven,
)
from tests.device.firmware.exports import STRICT, exported, needs, run_in, sources
from tests.device.gateways import Gateway, run
from tests.host.test_line import FarEnd

pytestmark = [needs("gcc", "make", "ar"), needs_compiler]
COUNT = 60
HERE = Path(__file__).parent
TIMELESS = ("raw", "level", "every_third", "busy", "alarms", "worse")
"""Streams that do not hang on when a frame came: what is near a trigger does."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("plant", "library", tmp_path_factory.mktemp("runs"))[1]


@pytest.fixture(scope="module")
def node(folder: Path) -> Path:
    """The example that comes along, built as its README says."""
    run_in(folder, "make", "node", "CC=gcc", f"CFLAGS=-O1 {' '.join(STRICT)}")
    return folder / "node"


@pytest.fixture(scope="module")
def serial(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("serial") / "serial"
    files = [f for f in sources(folder) if f.name != "selftest.c"]
    flags = ("-std=c99", "-O1", *STRICT, f"-I{folder / 'src'}")
    run_in(folder, "gcc", *flags, HERE / "ports" / "serial.c", *files, "-o", built, "-lm")
    return built


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return FRAMES["plant"](np.random.default_rng(11), COUNT)


@pytest.fixture(scope="module")
def reference(frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    known = Reference(plant(), PLANT_PART, proven(plant(), PLANT_PART, tmp_path_factory.mktemp("kernels")))
    for number, frame in enumerate(frames):
        known.frame(number, START_NS + number, frame)
    return known


async def started(*command: str | Path) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*map(str, command), stdin=pipe, stdout=pipe, stderr=pipe)


async def gateway_of() -> Gateway:
    spec = plant()
    return await Gateway({s: spec[s].schema for s in PLANT_PART["exports"]}).open()


def hold_to(reference: Reference, gateway: Gateway, boot: int, *, repeats: bool = False) -> None:
    """Every row of every timeless stream, in order, with the reference's bytes; and every stream's end.

    ``repeats``: answers were lost, so messages may have come again, with the same numbers.
    """
    for stream in TIMELESS:
        got, wanted = Batch.concat(gateway.batches(stream)), Batch.concat(reference.exported[stream])
        if repeats:
            _, first = np.unique(got.seq, return_index=True)
            got = got.take(np.sort(first))
        assert got.origin == ORIGIN
        assert (got.seq >> 40).tolist() == [boot] * len(wanted)
        assert (got.seq & (1 << 40) - 1).tolist() == (wanted.seq & (1 << 40) - 1).tolist(), stream
        for name, column in wanted.columns.items():
            assert got.columns[name].tobytes() == column.tobytes(), (stream, name)
    for stream in PLANT_PART["exports"]:
        ends = [h.payload for h in gateway.ends(stream)]
        assert set(ends) == {ORIGIN.encode()} and (repeats or len(ends) == 1)


def hold_acts_to(reference: Reference, lines: str) -> None:
    """Commands of the device's own stages, with the reference's verbs and frames."""
    got = [
        (verb, act, int(seq) & (1 << 40) - 1)
        for verb, act, seq in re.findall(r"act \d+ (\w+) (\w+):\S+:(\d+)", lines)
    ]
    wanted = [(verb, name.split(":")[0], seq & (1 << 40) - 1) for _, verb, name, seq in reference.acts]
    assert got == wanted and wanted


def test_the_example_that_comes_along_speaks_with_a_gateway(
    node: Path, frames: np.ndarray, reference: Reference, tmp_path: Path
) -> None:
    async def story() -> None:
        for boot in (1, 2):  # it counts its starts in a file
            gateway = await gateway_of()
            address, port = gateway.address
            child = await started(node, ORIGIN, address, str(port), tmp_path / "boots")
            out, err = await child.communicate(frames.tobytes())
            assert child.returncode == 0, err.decode()
            hold_to(reference, gateway, boot)
            hold_acts_to(reference, out.decode())
            told = re.search(r"frames (\d+) sent (\d+) bytes (\d+) wakeups (\d+)", out.decode())
            assert told and int(told[1]) == COUNT and int(told[2]) == len(gateway.heard)
            await gateway.close()

    run(story())


def test_the_example_obeys_commands_and_survives_a_deaf_gateway(
    node: Path, frames: np.ndarray, reference: Reference, tmp_path: Path
) -> None:
    async def story() -> None:
        gateway = await gateway_of()
        gateway.deaf = True
        address, port = gateway.address
        child = await started(node, ORIGIN, address, str(port), tmp_path / "boots")
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(frames[: COUNT // 2].tobytes())
        await child.stdin.drain()
        await asyncio.sleep(0.2)
        assert gateway.unheard > 0
        gateway.deaf = False
        while not gateway.peers:
            await asyncio.sleep(0.01)
        command = pack({"verb": "close", "id": "x:y:1", "seq": 1})
        answers = [
            (await gateway.endpoint.request(gateway.peers[0], Code.PUT, f"a/{name}", command)).code
            for name in ("valve", "valve", "nobody")
        ]
        assert answers == [Code.CHANGED, Code.CHANGED, Code.NOT_FOUND]
        large = pack({"verb": "close", "id": "x" * 2000, "seq": 1})
        refused = await gateway.endpoint.request(gateway.peers[0], Code.PUT, "a/valve", large)
        assert refused.code == Code.REQUEST_ENTITY_TOO_LARGE
        ledger = await gateway.endpoint.request(gateway.peers[0], Code.GET, "ledger")
        assert ledger.code == Code.CONTENT and ledger.content_format == 60
        out, _ = await child.communicate(frames[COUNT // 2 :].tobytes())
        hold_to(reference, gateway, boot=1)
        assert re.findall(r"act \d+ close x:y:1 1( repeated)?", out.decode()) == ["", " repeated"]
        await gateway.close()

    run(story())


@pytest.mark.parametrize("boots", ["", "minus one", "0"])
def test_a_count_of_starts_that_cannot_be_read_is_not_begun_anew(
    node: Path, tmp_path: Path, boots: str
) -> None:
    async def story() -> None:
        (tmp_path / "boots").write_text(boots)
        child = await started(node, ORIGIN, "127.0.0.1", "9", tmp_path / "boots")
        _, err = await child.communicate()
        assert child.returncode == 1 and b"starts cannot be counted" in err
        assert (tmp_path / "boots").read_text() == boots

    run(story())


def a_line() -> tuple[SerialLine, str, int]:
    """A gateway's end, the device's name for its own, and the file that keeps the pair."""
    master, slave = os.openpty()
    name = os.ttyname(slave)
    line = SerialLine(name)
    os.close(slave)
    return line, name, master


async def joined(one: int, other: int, spoil) -> None:
    """Carries bytes between the masters of two pseudo-terminals, as a cable does."""
    ends = [FarEnd(os.dup(f)) for f in (one, other)]

    async def way(a: FarEnd, b: FarEnd) -> None:
        while content := await a.read():
            b.write(spoil(content))

    try:
        await asyncio.gather(way(*ends), way(*reversed(ends)))
    finally:
        for end in ends:
            end.close()


@pytest.mark.parametrize("every", [0, 7])
def test_a_device_on_a_serial_line_speaks_with_a_gateway(
    serial: Path, frames: np.ndarray, reference: Reference, every: int
) -> None:
    """With every seventh piece of the cable's bytes hit, it takes longer and nothing else changes."""

    async def story() -> None:
        gateway = await gateway_of()
        line, _, near = a_line()
        far, slave = os.openpty()
        pieces = 0

        def spoil(content: bytes) -> bytes:
            nonlocal pieces
            pieces += 1
            hit = every and pieces % every == 0
            return bytes([content[0] ^ 0x55]) + content[1:] if hit else content

        bridge = await Bridge.open(line, gateway.address)
        bridging = asyncio.ensure_future(bridge.run())
        cable = asyncio.ensure_future(joined(near, far, spoil))
        child = await started(serial, os.ttyname(slave), ORIGIN, "6")
        out, err = await child.communicate(frames.tobytes())
        assert child.returncode == 0, (child.returncode, err.decode())
        hold_to(reference, gateway, boot=6, repeats=every > 0)
        hold_acts_to(reference, out.decode())
        told = re.search(r"frames (\d+) broken (\d+) cycles 1", out.decode())
        assert told and int(told[1]) == COUNT
        broken = int(told[2]) + bridge.counts.line.bad_check + bridge.counts.line.bad_escape
        assert (broken > 0) == (every > 0)
        for task in (cable, bridging):
            task.cancel()
        await asyncio.gather(cable, bridging, return_exceptions=True)
        for file in (near, far, slave):
            os.close(file)
        await gateway.close()

    run(story())
