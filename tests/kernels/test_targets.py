"""Libraries for other systems: they are what their name says, are the same bytes wherever they are built, and where
one can be executed here (by this processor, by QEMU, by Node.js) it gives the bytes of the reference."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ganglion.core.errors import KernelError
from ganglion.kernels.c import toolchain
from ganglion.kernels.c.emission import emit, runtime_header
from ganglion.kernels.c.grouped import group_of
from ganglion.kernels.c.library import Library
from ganglion.kernels.c.proof import proven
from ganglion.kernels.c.targets import LIBRARIES, TARGETS
from ganglion.kernels.c.toolchain import build_image, build_library, compilers, cross_compilers
from ganglion.kernels.ir.interpret import Computed
from ganglion.kernels.vectors import differences
from tests.kernels import zoo
from tests.kernels.test_bits import cpu_features

FRAMES = int(os.environ.get("GANGLION_FRAMES", "300"))
WHOLE = "GANGLION_FRAMES" in os.environ
SEED = 20_261_125
HARD = ("bands", "mathematics", "statistics", "whole_numbers", "biquad", "feeder_decide")
NAMES = list(zoo.ZOO) if WHOLE else HARD
EXPORTS = ("gg_kernel_rows", "gg_kernel_workspace_bytes")
ZIG = [c for c in compilers() if c.kind == "zig"]
pytestmark = pytest.mark.skipif(not ZIG, reason="ziglang is not installed")
NODE = shutil.which("node")
EMULATORS = {"linux-aarch64": shutil.which("qemu-aarch64"), "linux-armv7": shutil.which("qemu-arm")}
LEVELS = {
    "linux-x86-64-v2": {"sse4_2", "popcnt"},
    "linux-x86-64-v3": {"avx2", "bmi2", "fma"},
    "linux-x86-64-v4": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
}
X86, ARM64, ARM32 = 62, 183, 40
MACHINES = {"linux-x86-64": X86, "linux-aarch64": ARM64, "linux-armv7": ARM32}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("libraries")


def source(name):
    return emit(zoo.program_of(name), "gg_kernel", group_of).source


def kind_of(content):
    """The format of an object file and the processor it is for, read from its first bytes."""
    if content[:4] == b"\x7fELF":
        return "elf", struct.unpack_from("<H", content, 18)[0]
    if content[:4] == b"\xcf\xfa\xed\xfe":
        return "mach-o", struct.unpack_from("<I", content, 4)[0]
    if content[:2] == b"MZ":
        header = struct.unpack_from("<I", content, 60)[0]
        assert content[header : header + 4] == b"PE\0\0"
        return "pe", struct.unpack_from("<H", content, header + 4)[0]
    assert content[:8] == b"\0asm\1\0\0\0"
    return "wasm", 0


def wanted_kind(target):
    if target == "wasm32":
        return "wasm", 0
    system, _, processor = target.partition("-")
    if system == "linux":
        return "elf", next(m for name, m in MACHINES.items() if target.startswith(name))
    numbers = {"macos": (0x0100_0007, 0x0100_000C), "windows": (0x8664, 0xAA64)}[system]
    return {"macos": "mach-o", "windows": "pe"}[system], numbers[processor == "aarch64"]


@pytest.mark.parametrize("target", LIBRARIES)
def test_every_kernel_is_built_for_every_system(target, directory):
    """All in one file, each under names of its own: one call of the compiler for each system."""
    text = "\n".join(emit(zoo.program_of(n), f"k_{n}").source for n in zoo.ZOO)
    exports = [f"k_{n}_rows" for n in zoo.ZOO]
    library = build_library(text, ZIG[0], directory, ("-O1",), LIBRARIES[target], exports)
    content = library.read_bytes()
    assert library.suffix == LIBRARIES[target].suffix
    assert kind_of(content) == wanted_kind(target)
    assert all(name.encode() in content for name in exports)


def runnable(level):
    needed = LEVELS[level]
    return pytest.param(
        level,
        marks=pytest.mark.skipif(not needed <= cpu_features(), reason=f"this processor lacks {level[6:]}"),
    )


@pytest.mark.parametrize("level", [runnable(level) for level in LEVELS])
@pytest.mark.parametrize("name", NAMES)
def test_every_level_of_this_processor_gives_the_bytes_of_the_reference(name, level, directory):
    program, given, held, wanted = zoo.reference(name, FRAMES, SEED)
    library = Library(program, build_library(source(name), ZIG[0], directory, target=LIBRARIES[level]))
    table = library.fresh(FRAMES)
    for field, values in held.items():
        table[field] = values
    assert differences(wanted, library.compute(given, table)) == 0, f"seed {SEED}, {FRAMES} frames"


def executed(program, given, held, state, command):
    """What a program that reads a job and writes a result makes of the frames."""
    table = np.zeros(FRAMES, state)
    for name, values in held.items():
        table[name] = values
    columns = [
        np.ascontiguousarray(given[name]).view(np.uint8).reshape(FRAMES, -1) for name, _ in program.inputs
    ]
    outputs = [(name, program.nodes[n].type) for name, n in program.outputs]
    sizes = [c.shape[1] for c in columns] + [kind.size_bytes for _, kind in outputs]
    head = np.array([FRAMES, len(columns), len(outputs), state.itemsize, *sizes], np.int32)
    job = head.tobytes() + b"".join(c.tobytes() for c in columns) + table.tobytes()
    done = subprocess.run(command, input=job, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    at, results = 0, {}
    for name, kind in outputs:
        part = done.stdout[at : at + FRAMES * kind.size_bytes]
        results[name] = np.frombuffer(part, kind.numpy).reshape(FRAMES, *kind.shape)
        at += len(part)
    emitted = np.frombuffer(done.stdout[at : at + FRAMES], np.bool_)
    left = done.stdout[at + FRAMES :]
    after = np.frombuffer(left, state) if state.itemsize else table
    return Computed(results, emitted, {f.name: after[f.name] for f in program.state})


def static_program(name, target, directory, exact=toolchain.EXACT):
    """The kernel and what reads jobs, linked for a foreign Linux without a C library."""
    room = directory / f"{target}-{name}{exact[0]}"
    room.mkdir()
    (room / "kernel.c").write_text(source(name), "utf-8")
    (room / "kernel_runtime.h").write_text(runtime_header(), "utf-8")
    flags = (
        *toolchain.SPEED,
        *LIBRARIES[target].flags,
        *exact,
        *toolchain.OURS,
        *toolchain.quiet(ZIG[0]),
        "-static",
        "-nostdlib",
    )
    cache = str(directory / "zig")
    subprocess.run(
        [*ZIG[0].command, *flags, "-o", room / "run", "kernel.c", Path(__file__).with_name("runner.c")],
        cwd=room,
        env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
        check=True,
    )
    return room / "run"


def emulated(target):
    missing = EMULATORS[target] is None
    return pytest.param(
        target, marks=pytest.mark.skipif(missing, reason="qemu-user is not installed (Debian: qemu-user)")
    )


@pytest.mark.parametrize("target", [emulated(target) for target in EMULATORS])
@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_linux_gives_the_bytes_of_the_reference(name, target, directory):
    program, given, held, wanted = zoo.reference(name, FRAMES, SEED)
    run = static_program(name, target, directory)
    state = emit(program, "gg_kernel").state
    got = executed(program, given, held, state, [EMULATORS[target], run])
    assert differences(wanted, got) == 0, f"seed {SEED}, {FRAMES} frames"


@pytest.mark.skipif(
    EMULATORS["linux-aarch64"] is None, reason="qemu-user is not installed (Debian: qemu-user)"
)
def test_fused_multiply_add_on_arm64_is_noticed(directory):
    program, given, held, wanted = zoo.reference("feeder_decide", FRAMES, SEED)
    run = static_program(
        "feeder_decide", "linux-aarch64", directory, ("-ffp-contract=fast", *toolchain.EXACT[1:])
    )
    got = executed(program, given, held, emit(program, "k").state, [EMULATORS["linux-aarch64"], run])
    assert differences(wanted, got) > 0


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_webassembly_gives_the_bytes_of_the_reference(name, directory):
    program, given, held, wanted = zoo.reference(name, FRAMES, SEED)
    library = build_library(source(name), ZIG[0], directory, target=LIBRARIES["wasm32"], exports=EXPORTS)
    command = [NODE, Path(__file__).with_name("runner.mjs"), library]
    got = executed(program, given, held, emit(program, "gg_kernel").state, command)
    assert differences(wanted, got) == 0, f"seed {SEED}, {FRAMES} frames"


@pytest.mark.parametrize("target", [*LIBRARIES, None], ids=lambda t: t or "this machine")
def test_a_library_is_the_same_bytes_wherever_it_is_built(target, tmp_path):
    """Folders of other names and depths, each with an empty cache."""
    folders = (tmp_path / "a", tmp_path / "b" / "somewhere" / "deeper")
    chosen = None if target is None else LIBRARIES[target]
    first, second = (
        build_library(source("trip"), ZIG[0], folder, target=chosen, exports=EXPORTS) for folder in folders
    )
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()


def loaded(image):
    """What an image puts into memory."""
    elftools = pytest.importorskip("elftools.elf.elffile")
    with image.open("rb") as file:
        segments = elftools.ELFFile(file).iter_segments()
        return [(s["p_paddr"], s.data()) for s in segments if s["p_type"] == "PT_LOAD"]


@pytest.mark.parametrize("compiler", cross_compilers(TARGETS["cortex-m4f"]), ids=lambda c: c.kind)
def test_an_image_is_the_same_bytes_wherever_it_is_built(compiler, tmp_path):
    text = emit(zoo.program_of("trip"), "gg_kernel").source
    first, second = (
        build_image(
            text,
            TARGETS["cortex-m4f"],
            compiler,
            folder,
            entry="gg_kernel_rows",
            flash=0x10000,
            ram=0x2000_0000,
        )
        for folder in (tmp_path / "a", tmp_path / "b" / "deeper")
    )
    assert first.name == second.name
    assert loaded(first) == loaded(second)


@pytest.mark.parametrize("flag", ["-ffast-math", "-ffinite-math-only"])
@pytest.mark.parametrize("compiler", compilers(), ids=lambda c: c.kind)
def test_a_build_with_fast_math_is_refused(compiler, flag, directory):
    with pytest.raises(KernelError) as caught:
        build_library(source("trip"), compiler, directory, (*toolchain.SPEED, flag))
    assert caught.value.code == "kernel.compile"
    assert "kernels must keep IEEE 754" in str(caught.value)


@pytest.mark.parametrize(
    "triple, cpu, why",
    [
        ("arm-linux-gnueabihf", "cortex_a7", "32-bit NEON flushes subnormals"),
        ("x86-linux-gnu", "i686", "floats must be computed in float precision"),
    ],
)
def test_a_processor_that_cannot_keep_the_bits_is_refused(triple, cpu, why, directory):
    from ganglion.kernels.c.targets import Target

    with pytest.raises(KernelError, match=why):
        build_library(
            source("trip"), ZIG[0], directory, target=Target("hopeless", triple, cpu, float_unit=True)
        )


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.skipif("fma" not in cpu_features(), reason="this processor has no fused multiply-add to plant")
def test_a_compiler_that_fails_the_vectors_is_passed_over(tmp_path, monkeypatch):
    """One that contracts, whatever it is told."""
    rude = tmp_path / "rude-gcc"
    rude.write_text('#!/bin/sh\nexec gcc "$@" -ffp-contract=fast\n', "utf-8")
    rude.chmod(0o755)
    program = zoo.program_of("z_score")
    honest = compilers()
    monkeypatch.setenv(toolchain.COMPILER_VARIABLE, str(rude))
    assert proven(program, compilers(), tmp_path / "cache") is None
    found = proven(program, [*compilers(), *honest], tmp_path / "cache")
    assert found is not None
    assert found.path.with_suffix(".same-bits").exists()
    assert len(list((tmp_path / "cache").glob("*.so"))) == 2
    assert len(list((tmp_path / "cache").glob("*.same-bits"))) == 1


def test_the_cache_asks_for_everything_that_goes_into_a_build(tmp_path, monkeypatch):
    def name(text="trip", flags=toolchain.SPEED, target=None):
        return build_library(source(text), ZIG[0], tmp_path, flags, target).name

    first = name()
    made = (tmp_path / first).stat().st_mtime_ns
    assert name() == first
    assert (tmp_path / first).stat().st_mtime_ns == made
    others = {name("ring"), name(flags=("-O1",)), name(target=LIBRARIES["linux-x86-64-v3"])}
    header = runtime_header()
    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "runtime_header", lambda: header + "\n")
        others.add(name())
    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "_processor", lambda: "another processor")
        others.add(name())
    assert len(others | {first}) == 6
