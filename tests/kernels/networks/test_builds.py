"""The C of every kind of layer gives the reference's integers: this machine's compilers and emulated processors."""

import importlib.util
import os

import numpy as np
import pytest

from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.networks import emission, memory
from ganglion.kernels.networks.layers import sources
from ganglion.kernels.networks.onnx_reader import read_onnx
from ganglion.kernels.networks.operations import lower
from ganglion.kernels.networks.reference import compute
from tests.kernels.networks.bundle import Bundle
from tests.kernels.networks.kinds import KINDS
from tests.kernels.networks.sketches import QOPERATOR, frames_for

SEED = 20_261_125
FRAMES = 12
SHAPES = 4
"""How many networks of each kind; their shapes are drawn once, from SEED."""
COMPILERS = compilers()
ZIG = [c for c in COMPILERS if c.kind == "zig"]
UNDEFINED_TRAPS = ("-O0", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")
MISSING = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
MAIN = ("cortex-m4f", "cortex-m3", "cortex-m0plus")
CHOSEN = list(TARGETS) if "GANGLION_FRAMES" in os.environ else [*MAIN, "aarch64"]


def drawn(kind, seed):
    rng = np.random.default_rng(seed)
    return lower(read_onnx(KINDS[kind](QOPERATOR, lambda low, high: int(rng.integers(low, high + 1))).file()))


@pytest.fixture(scope="module")
def bundle():
    networks = [drawn(kind, SEED + k) for kind in KINDS for k in range(SHAPES)]
    rng = np.random.default_rng(SEED)
    return Bundle(networks, [frames_for(n, rng, FRAMES) for n in networks])


@pytest.fixture(scope="module")
def wanted(bundle):
    return [compute(n, f) for n, f in zip(bundle.networks, bundle.frames, strict=True)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


def differing(wanted, got):
    """The kinds of which an integer differs."""
    names = [kind for kind in KINDS for _ in range(SHAPES)]
    return sorted({n for n, w, g in zip(names, wanted, got, strict=True) if not np.array_equal(w, g)})


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("compiler", COMPILERS, ids=[c.kind for c in COMPILERS])
@pytest.mark.parametrize("flags", [UNDEFINED_TRAPS, ("-O3",)], ids=["sanitized", "O3"])
def test_every_compiler_of_this_machine_gives_the_integers(bundle, wanted, compiler, flags, directory):
    assert differing(wanted, bundle.on_host(compiler, directory, flags)) == []


@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} is not installed")
@pytest.mark.parametrize("target", CHOSEN)
def test_every_processor_gives_the_integers(bundle, wanted, target, directory):
    assert differing(wanted, bundle.emulated(target, ZIG[0], directory)) == []


ROUNDING = "x + 12582912.0f) - (0x4B400000 - zero)"
PLANTED = {
    "half up instead of to even": (ROUNDING, "gg_floor(x + 0.5f) + 12582912.0f) - (0x4B400000 - zero)"),
    "half away from zero": (
        ROUNDING,
        "(float)(int32_t)(x < 0.0f ? x - 0.5f : x + 0.5f) + 12582912.0f) - (0x4B400000 - zero)",
    ),
    "padding with 0 instead of the zero point": ("to[c] = (int8_t)zero;", "to[c] = 0;"),
}


@pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_noticed(bundle, wanted, bug, directory, monkeypatch):
    right, wrong = PLANTED[bug]
    text = emission.runtime_text()
    assert right in text
    monkeypatch.setattr(emission, "runtime_text", lambda: text.replace(right, wrong))
    planted = Bundle(bundle.networks, bundle.frames)
    assert differing(wanted, planted.on_host(COMPILERS[0], directory))


def test_a_result_over_an_operand_that_is_still_read_is_noticed(bundle, wanted, directory, monkeypatch):
    monkeypatch.setattr(memory, "overwrites", sources)
    planted = Bundle(bundle.networks, bundle.frames)
    assert differing(wanted, planted.on_host(COMPILERS[0], directory))
