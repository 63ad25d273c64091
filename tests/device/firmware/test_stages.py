"""The generated C gives the engine's rows, byte for byte, and its commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ganglion.connectors.batch_senml import decode, encode
from ganglion.core.batch import Batch
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.kernels.c.toolchain import Compiler, compilers
from tests.device.firmware import benches
from tests.device.firmware.benches import (
    FRAMES,
    Reference,
    core_of,
    firmware_of,
    needs_compiler,
    needs_onnx,
    play,
    stage,
)

pytestmark = needs_compiler
CASES = [("feeder-protection", 600), ("plant", 4000), pytest.param("watch", 600, marks=needs_onnx)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("built")


@pytest.mark.parametrize("compiler", compilers(), ids=lambda c: c.kind)
@pytest.mark.parametrize("name, count", CASES)
def test_the_rows_and_commands_of_the_engine(
    name: str, count: int, compiler: Compiler, folder: Path, rng: np.random.Generator
) -> None:
    spec, part = stage(name)
    frames = FRAMES[name](rng, count)
    every_ns = spec.sources[0].every_ns
    wanted = Reference(spec, part, benches.proven(spec, part, folder))
    for number, frame in enumerate(frames):
        wanted.frame(number, benches.START_NS + (number + 1) * every_ns, frame)
    firmware = firmware_of(spec, part)
    core = core_of(firmware, HostedFirmware.build(firmware, compiler, folder).device())
    got = play(core, frames, every_ns=every_ns)

    report = core.report()
    for stream, batches in wanted.exported.items():
        schema = spec[stream].schema
        assert batches, f"{stream}: nothing to compare"
        rows = benches.rows_of(spec, stream, got.payloads[stream])
        assert benches.same_rows(rows, Batch.concat(batches)), stream
        for payload in got.payloads[stream]:
            assert payload == encode(decode(payload, stream, schema), schema)
        counts = report.uplinks[stream]
        assert counts.offered == counts.acknowledged == sum(map(len, batches))
        acknowledged = Batch.concat([b for b in got.acknowledged if b.stream == stream])
        assert benches.same_rows(acknowledged, Batch.concat(batches))
    assert wanted.acts and got.acts == wanted.acts
    assert sorted(got.ends) == sorted(part["exports"])
    assert {s: c.to_json() for s, c in report.stages.items()} == {
        s: c.to_json() for s, c in wanted.graph.counts.items() if not s.startswith("in:")
    }
    assert report.ledger.frames == count and report.coap.unmatched == 0
