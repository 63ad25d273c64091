"""The same bytes on processors that this machine is not: Cortex-M with and without floating point, RISC-V, ARM64."""

import importlib.util
import os

import numpy as np
import pytest

from ganglion.device.firmware.calls import Calls
from ganglion.device.firmware.stepping import step
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c import toolchain
from ganglion.kernels.c.emission import emit, runtime_header
from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import build_image, compilers, cross_compilers
from ganglion.kernels.vectors import differences
from tests.kernels import zoo

FRAMES = int(os.environ.get("GANGLION_FRAMES", "300"))
SEED = 20_261_125
FLASH, RAM = 0x10000, 0x2000_0000
ENTRY = "gg_kernel_step"
ZIG = [c for c in compilers() if c.kind == "zig"]
NEEDED = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
pytestmark = pytest.mark.skipif(bool(NEEDED), reason=f"{', '.join(NEEDED)} is not installed")


# Every kernel on the three that differ most; the others share a core with one of them. All with GANGLION_FRAMES set.
MAIN = ("cortex-m4f", "cortex-m3", "cortex-m0plus")
HARD = ("bands", "mathematics", "statistics", "whole_numbers", "quaternion", "feeder_decide")
WHOLE = "GANGLION_FRAMES" in os.environ
CASES = [(n, t) for t in TARGETS for n in zoo.ZOO if WHOLE or t in MAIN or n in HARD]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


def reference(name):
    return zoo.reference(name, FRAMES, SEED)


def emulated(program, given, held, target, directory, compiler=None):
    """The program's rows, computed in another process on an emulated processor."""
    written = emit(program, "gg_kernel")
    image = build_image(
        written.source,
        TARGETS[target],
        compiler or ZIG[0],
        directory,
        entry=ENTRY,
        flash=FLASH,
        ram=RAM,
    )
    table = np.zeros(FRAMES, written.state)
    for name, values in held.items():
        table[name] = values
    with Calls(image, target, SystemProcesses(), directory / "emulator.txt") as calls:
        return step(calls, program, "gg_kernel", written.workspace_bytes, given, table).computed


@pytest.mark.parametrize("name, target", CASES)
def test_every_processor_gives_the_bytes_of_the_reference(name, target, directory):
    program, given, held, wanted = reference(name)
    got = emulated(program, given, held, target, directory)
    assert differences(wanted, got) == 0, f"seed {SEED}, {FRAMES} frames"


ARM = [c for c in cross_compilers(TARGETS["cortex-m4f"]) if c.kind == "gcc"]


@pytest.mark.skipif(not ARM, reason="arm-none-eabi-gcc is not installed (Debian: gcc-arm-none-eabi)")
@pytest.mark.parametrize("target", [t for t in TARGETS if TARGETS[t].gcc and (WHOLE or t in MAIN)])
@pytest.mark.parametrize("name", zoo.ZOO if WHOLE else HARD)
def test_the_embedded_gcc_gives_the_bytes_of_the_reference(name, target, directory):
    program, given, held, wanted = reference(name)
    got = emulated(program, given, held, target, directory, ARM[0])
    assert differences(wanted, got) == 0, f"seed {SEED}, {FRAMES} frames, {ARM[0].version}"


@pytest.mark.skipif(not ARM, reason="arm-none-eabi-gcc is not installed (Debian: gcc-arm-none-eabi)")
def test_what_the_embedded_gcc_contracts_by_itself_is_noticed(directory, monkeypatch):
    monkeypatch.setattr(toolchain, "EXACT", toolchain.EXACT[1:])
    program, given, held, wanted = reference("feeder_decide")
    assert differences(wanted, emulated(program, given, held, "cortex-m4f", directory, ARM[0])) > 0


def test_a_division_that_cuts_subnormals_off_is_noticed(directory, monkeypatch):
    """What the compiler's own library does where there is no floating-point unit."""
    header = runtime_header().replace(
        "float gg_div(float a, float b) {\n", "float gg_div(float a, float b) {\n  return a / b;\n"
    )
    assert header != runtime_header()
    monkeypatch.setattr(toolchain, "runtime_header", lambda: header)
    program, given, held, wanted = reference("statistics")
    assert differences(wanted, emulated(program, given, held, "cortex-m3", directory)) > 0
