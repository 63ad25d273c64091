"""What a network needs: sizes of an image, instructions of an emulated processor, and C that others can build."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from ganglion.core.errors import GanglionError
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.networks.emission import emit_network
from ganglion.kernels.networks.reference import compute
from ganglion.learning import footprint as measuring
from ganglion.learning.c_files import c_files, symbol_of
from ganglion.learning.footprint import board, footprint
from ganglion.learning.int8_network import Int8Network
from ganglion.learning.recipe import Dense
from tests.learning.nets import drawn, images, needs_compiler, needs_emulator, needs_runtime

pytestmark = needs_runtime


@pytest.fixture(scope="module")
def networks():
    """A narrow and a wide one."""
    from ganglion.learning.float_graph import float_graph
    from ganglion.learning.onnx_runtime import quantised

    rng = np.random.default_rng(5)
    inputs = rng.normal(0, 1, (100, 12)).astype(np.float32)
    return [
        Int8Network.read(quantised(float_graph(drawn(rng, (12,), (Dense(w),), 4), "net"), inputs))
        for w in (8, 64)
    ]


def frames_of(network, count):
    rng = np.random.default_rng(2)
    return rng.integers(-128, 128, (count, *network.network.input_shape)).astype(np.int8)


@needs_emulator
def test_a_wider_network_needs_more_of_everything(networks):
    small, large = (
        footprint(n.network, frames_of(n, 3), board("cortex-m4f"), images(), SystemProcesses())
        for n in networks
    )
    assert not small.missing
    for name in ("flash_bytes", "ram_bytes", "instructions"):
        assert 0 < getattr(small, name) < getattr(large, name)
    assert (large.flash_bytes or 0) - (small.flash_bytes or 0) > 56 * 16, "its weights lie in flash"
    assert (large.instructions or 0) > 64 * 16 // 4


@needs_emulator
def test_wrong_integers_of_a_processor_are_noticed(networks, monkeypatch):
    """Planted: the image is of another network than the reference."""
    small, _ = networks
    layers = tuple(replace(la, bias=la.bias + 500) for la in small.network.layers)
    other = replace(small.network, layers=layers)
    written = emit_network(other, "gg_network")
    monkeypatch.setattr(measuring, "emit_network", lambda *_: written)
    with pytest.raises(AssertionError, match="emulated integers differ"):
        footprint(small.network, frames_of(small, 3), board("cortex-m4f"), images(), SystemProcesses())


def test_what_cannot_be_measured_is_named(networks, monkeypatch):
    monkeypatch.setattr(measuring, "compilers", list)
    found = footprint(
        networks[0].network, frames_of(networks[0], 1), board("cortex-m4f"), images(), SystemProcesses()
    )
    assert (found.flash_bytes, found.stack_bytes, found.instructions) == (None, None, None)
    assert found.ram_bytes > 0
    assert "ziglang" in found.missing[0]


def test_unknown_names_are_refused():
    for call, code in (
        (lambda: board("z80"), "learning.target"),
        (lambda: symbol_of("1 net"), "learning.symbol"),
    ):
        with pytest.raises(GanglionError) as caught:
            call()
        assert caught.value.code == code


MAIN = """\
#include <stdio.h>
#include "my_net.h"
int main(void) {
  int8_t in[MY_NET_INPUT_BYTES], out[MY_NET_OUTPUT_BYTES];
  static int64_t work[MY_NET_WORKSPACE_BYTES / 8 + 1];
  while (fread(in, 1, sizeof in, stdin) == sizeof in) {
    my_net_step(in, out, work);
    fwrite(out, 1, sizeof out, stdout);
  }
  return MY_NET_INPUT_SCALE > 0 && MY_NET_OUTPUT_ZERO < 128 ? 0 : 1;
}
"""


@needs_compiler
def test_the_files_build_in_a_program_of_ones_own(networks, tmp_path):
    network = networks[1]
    for name, text in c_files(network.network, "my-net").items():
        (tmp_path / name).write_text(text)
    (tmp_path / "main.c").write_text(MAIN)
    gcc = shutil.which("gcc")
    command = [gcc] if gcc else list(compilers()[0].command)
    flags = ["-O1", "-ffp-contract=off", "-o", "program", "main.c", "my_net.c"]
    subprocess.run([*command, *flags], cwd=tmp_path, check=True, capture_output=True)
    frames = frames_of(network, 50)
    done = subprocess.run([tmp_path / "program"], input=frames.tobytes(), capture_output=True, check=True)
    assert np.array_equal(np.frombuffer(done.stdout, np.int8), compute(network.network, frames).ravel())
