"""Exports: what is in them, that every compiler here takes them without a warning, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ganglion.cli.main import app
from ganglion.core.errors import DataError, FlowError, GanglionError
from ganglion.device.firmware.export import KINDS, MARK, export
from ganglion.device.firmware.generate import Firmware
from ganglion.kernels.c.targets import TARGETS
from tests.device.firmware.benches import FEEDER, ORIGIN, PATH, firmware_of, plant
from tests.device.firmware.exports import PREFIXES, STRICT, STUBS, exported, needs, run_in, sources, zig

ROOT = Path(__file__).parents[3]
needs_zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
CORTEX_M4F = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")


@pytest.fixture(scope="module", params=KINDS)
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Firmware, Path]:
    return exported("plant", request.param, tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("feeder-protection", "library", tmp_path_factory.mktemp("library"))[1]


# --- what is in them ---


def test_an_export_is_whole_and_says_what_it_is(each: tuple[Firmware, Path]) -> None:
    _, folder = each
    files = {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}
    assert {"README.md", "LICENSE", "src/plant.h", "src/plant/flow.c", MARK} <= set(files)
    assert sorted(files) == sorted([*json.loads(files[MARK])["files"], MARK])
    assert files["LICENSE"] == (ROOT / "LICENSE").read_text()
    for name, text in files.items():
        assert not re.search(r"@\w+@|(?<!%)%(?:memory|bytes)%", text), f"{name} has a word left to fill in"
        if name.startswith("src/") and not name.endswith("kernel_runtime.h"):
            assert not re.search(r"\b(?:gd|GD|board)_|\bgg_k\d", text), (
                f"{name} has a name without the flow's"
            )
    assert "level" in files["README.md"] and ORIGIN in files["README.md"]


def test_the_same_flow_gives_the_same_files(each: tuple[Firmware, Path], tmp_path: Path) -> None:
    firmware, folder = each
    kind = json.loads((folder / MARK).read_text())["kind"]
    written = export(firmware, kind, tmp_path / "again", [PATH], ORIGIN)
    assert [p.read_bytes() for p in written] == [
        (folder / p.relative_to(tmp_path / "again")).read_bytes() for p in written
    ]


# --- compilers ---


@needs("gcc", "nm")
def test_gcc_takes_it_without_a_warning_and_all_names_begin_with_the_flows(
    library: Path, tmp_path: Path
) -> None:
    run_in(tmp_path, "gcc", "-std=c99", *STRICT, "-O1", "-fno-pie", "-c", *sources(library))
    objects = sorted(tmp_path.glob("*.o"))
    assert len(objects) == len(list(sources(library)))
    names = run_in(tmp_path, "nm", "-g", "--defined-only", *objects)
    symbols = re.findall(r"^[0-9a-f]+ (\w) (\w+)$", names, re.MULTILINE)
    assert len(symbols) > 20 and all(name.startswith("feeder_protection_") for _, name in symbols)
    everything = re.findall(r"^[0-9a-f]+ (\w) \w+$", run_in(tmp_path, "nm", *objects), re.MULTILINE)
    assert set(everything) <= {"T", "t", "R", "r"}, "functions and constants only: no variable of its own"
    run_in(tmp_path, "gcc", "-std=c11", *STRICT, "-fsyntax-only", *sources(library))


@needs("clang")
@pytest.mark.parametrize("standard", ["c99", "c11"])
def test_clang_takes_it_without_a_warning(library: Path, tmp_path: Path, standard: str) -> None:
    run_in(tmp_path, "clang", f"-std={standard}", *STRICT, "-fsyntax-only", *sources(library))


@needs_zig
@pytest.mark.parametrize("target", ["this machine", "cortex-m4f"])
def test_zig_takes_it_without_a_warning(library: Path, tmp_path: Path, target: str) -> None:
    """All sources as one, as some build systems do: zig starts slowly."""
    command, environment = zig(tmp_path / "cache")
    flags = () if target == "this machine" else TARGETS[target].flags
    (tmp_path / "one.c").write_text("".join(f'#include "{file}"\n' for file in sources(library)))
    more = {"env": os.environ | environment}
    run_in(tmp_path, *command, "-std=c99", *flags, *STRICT, "-O1", "-c", "one.c", "-o", "one.o", **more)
    assert (tmp_path / "one.o").stat().st_size > 10_000


@needs("arm-none-eabi-gcc", "arm-none-eabi-objdump")
def test_no_multiply_add_is_fused_even_where_nobody_sets_a_flag(library: Path, tmp_path: Path) -> None:
    """An Arduino core compiles as GNU C with optimisation, where GCC fuses."""
    flow = library / "src" / "feeder_protection" / "flow.c"
    for name, text in (
        ("kept", flow.read_text()),
        ("planted", flow.read_text().replace('"fp-contract=off", ', "")),
    ):
        file = flow.with_name(f"{name}.c")
        file.write_text(text)
        run_in(tmp_path, "arm-none-eabi-gcc", "-std=gnu11", "-O2", *CORTEX_M4F, "-c", file, "-o", f"{name}.o")
        file.unlink()
        code = run_in(tmp_path, "arm-none-eabi-objdump", "-d", f"{name}.o")
        fused = re.findall(r"\bv(?:fma|fms|fnma|fnms|mla|mls|nmla|nmls)\.f32", code)
        assert bool(fused) == (name == "planted")


@needs("g++")
@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_the_header_is_for_cpp_too(library: Path, tmp_path: Path, standard: str) -> None:
    program = '#include "feeder_protection.h"\nstatic feeder_protection_firmware one;\n'
    program += "int main() { return feeder_protection_firmware_is_done(&one); }\n"
    (tmp_path / "main.cpp").write_text(program)
    run_in(tmp_path, "g++", f"-std={standard}", *STRICT, "-fsyntax-only", f"-I{library / 'src'}", "main.cpp")


SELFTEST = """
#include "PREFIX.h"
#include <stdio.h>
static _Alignas(16) uint8_t memory[UPPER_SELFTEST_BYTES];
int main(void) { printf("%u\\n", (unsigned)PREFIX_selftest(memory)); return 0; }
"""


def selftested(
    folder: Path, prefix: str, room: Path, compiler: str, *flags: str, flow: Sequence[str] = ()
) -> int:
    """What the test gives that comes along; ``flow``: more flags for the kernels' file."""
    text = SELFTEST.replace("PREFIX", prefix).replace("UPPER", prefix.upper())
    (room / "selftest_main.c").write_text(text)
    command, include = (compiler, *flags), f"-I{folder / 'src'}"
    rest = [file for file in sources(folder) if file.name != "flow.c"]
    if not (room / "device.o").exists():
        run_in(room, *command, include, "-c", "selftest_main.c", *rest)
    run_in(room, *command, *flow, "-c", folder / "src" / prefix / "flow.c")
    run_in(room, *command, *sorted(room.glob("*.o")), "-o", "selftest", "-lm")
    return int(run_in(room, room / "selftest"))


CPUINFO = Path("/proc/cpuinfo")


@needs("gcc")
@pytest.mark.parametrize("flow", PREFIXES)
def test_the_kernels_give_the_references_bits(flow: str, tmp_path: Path) -> None:
    _, folder = exported(flow, "library", tmp_path)
    assert selftested(folder, PREFIXES[flow], tmp_path, "gcc", "-std=gnu11", "-O1") == 0


@needs("clang")
@pytest.mark.skipif(
    not CPUINFO.exists() or " fma " not in CPUINFO.read_text(),
    reason="this processor names no fused multiply-add (fma in /proc/cpuinfo), so contraction cannot be planted",
)
def test_the_test_that_comes_along_finds_other_bits(library: Path, tmp_path: Path) -> None:
    """Contraction is planted."""
    flags = ("-std=gnu11", "-O1", "-mfma", "-fno-math-errno", "-fno-strict-aliasing")
    assert selftested(library, "feeder_protection", tmp_path, "clang", *flags) == 0
    assert (
        selftested(library, "feeder_protection", tmp_path, "clang", *flags, flow=["-ffp-contract=fast"]) > 0
    )


# --- build systems ---


@needs("cmake", "gcc", "make")
def test_cmake_builds_the_library_as_a_part_of_another_project(library: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(
        '#include "feeder_protection.h"\nstatic feeder_protection_firmware f;\n'
        "int main(void) { return (int)feeder_protection_firmware_is_done(&f); }\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(app C)\n"
        f'add_subdirectory("{library}" firmware)\nadd_executable(app main.c)\n'
        "target_link_libraries(app feeder_protection)\n"
    )
    run_in(tmp_path, "cmake", "-S", ".", "-B", "build")
    run_in(tmp_path, "cmake", "--build", "build")
    run_in(tmp_path, tmp_path / "build" / "app")


@needs("make", "gcc", "ar", "pkg-config")
def test_make_installs_an_archive_that_pkg_config_finds(tmp_path: Path) -> None:
    _, folder = exported("plant", "library", tmp_path)
    there = tmp_path / "there"
    run_in(folder, "make", "install", f"PREFIX={there}", "CC=gcc", f"CFLAGS=-O0 {' '.join(STRICT)}")
    environment = os.environ | {"PKG_CONFIG_PATH": str(there / "lib" / "pkgconfig")}
    flags = run_in(tmp_path, "pkg-config", "--cflags", "--libs", "plant", env=environment).split()
    (tmp_path / "main.c").write_text(
        '#include <plant.h>\nstatic const uint8_t nine[] = "123456789";\n'
        "int main(void) { return plant_slip_check(0xffff, nine, 9) != 0x29b1; }\n"
    )
    run_in(tmp_path, "gcc", "main.c", *flags, "-o", "main")
    run_in(tmp_path, tmp_path / "main")


@needs("gcc")
def test_the_zephyr_module_compiles_against_stand_ins(tmp_path: Path) -> None:
    """Not Zephyr: tests/device/firmware/stubs says what stands in for it."""
    _, folder = exported("plant", "zephyr", tmp_path)
    kconfig = (folder / "zephyr" / "Kconfig").read_text()
    defines = []
    for name, kind in re.findall(r"^config (\w+)\n\t(string|int|bool)", kconfig, re.MULTILINE):
        value = {"string": '"192.0.2.1"', "int": "5683", "bool": "1"}[kind]
        defines.append(f"-DCONFIG_{name}={value}")
    used = set(re.findall(r"\bCONFIG_PLANT\w*", (folder / "samples/node/src/main.c").read_text()))
    assert used and {f"-D{name}" for name in used} <= {d.partition("=")[0] for d in defines}
    set_there = set(
        re.findall(r"^CONFIG_(PLANT\w*)=", (folder / "samples/node/prj.conf").read_text(), re.MULTILINE)
    )
    assert set_there <= set(re.findall(r"^config (\w+)", kconfig, re.MULTILINE))
    listed = re.findall(
        r"^\s+\.\./(src/\S+\.c)$", (folder / "zephyr/CMakeLists.txt").read_text(), re.MULTILINE
    )
    assert sorted(folder / name for name in listed) == list(sources(folder))
    include = (f"-I{STUBS / 'zephyr'}", f"-I{folder / 'src'}")
    run_in(
        tmp_path, "gcc", "-std=c11", *STRICT, *include, *defines, "-c", *[folder / name for name in listed]
    )
    run_in(tmp_path, "gcc", "-std=c11", *STRICT, *include, *defines, "-c", folder / "samples/node/src/main.c")


@needs("gcc", "g++")
def test_the_arduino_library_compiles_against_stand_ins(tmp_path: Path) -> None:
    """Not an Arduino core: tests/device/firmware/stubs says what stands in for it."""
    _, folder = exported("plant", "arduino", tmp_path)
    properties = dict(
        line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines() if line
    )
    assert properties["name"] == "plant" and properties["includes"] == "plant.h"
    wanted = {
        "name",
        "version",
        "author",
        "maintainer",
        "sentence",
        "paragraph",
        "category",
        "url",
        "architectures",
    }
    assert wanted <= set(properties)
    include = (f"-I{STUBS / 'arduino'}", f"-I{folder / 'src'}")
    # As an Arduino builder does: the sketch is C++ behind Arduino.h, the library's files are what they are.
    sketch = ("-include", "Arduino.h", "-x", "c++", folder / "examples" / "Node" / "Node.ino")
    run_in(tmp_path, "g++", "-std=gnu++11", *STRICT, *include, "-c", *sketch, "-o", "sketch.o")
    run_in(tmp_path, "gcc", "-std=gnu11", *STRICT, *include, "-c", *sources(folder))
    run_in(tmp_path, "g++", "-r", "-nostdlib", *tmp_path.glob("*.o"), "-o", "whole")
    missing = set(re.findall(r" U (\w+)", run_in(tmp_path, "nm", "whole")))
    assert not [name for name in missing if name.startswith("plant_")], (
        "the sketch asks for what is not there"
    )


# --- refused ---


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError) as raised:
        exported_into(tmp_path)
    assert raised.value.code == "export.directory"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def exported_into(folder: Path, kind="library") -> list[Path]:
    firmware = firmware_of(plant(), {"runs": ("level",), "exports": ("level",)})
    return export(firmware, kind, folder, [PATH], ORIGIN)


def test_an_earlier_export_is_replaced_and_what_was_added_stays(tmp_path: Path) -> None:
    exported_into(tmp_path / "x", "zephyr")
    (tmp_path / "x" / "notes.txt").write_text("mine")
    exported_into(tmp_path / "x", "arduino")
    names = {p.relative_to(tmp_path / "x").as_posix() for p in (tmp_path / "x").rglob("*") if p.is_file()}
    assert "notes.txt" in names and "library.properties" in names and "zephyr/module.yml" not in names


@pytest.mark.parametrize(
    "mark", ["{", '{"files": 3}', '{"files": ["../../precious"]}', '{"files": ["/etc/x"]}']
)
def test_a_mark_that_is_none_of_ours_is_not_followed(tmp_path: Path, mark: str) -> None:
    (tmp_path / MARK).write_text(mark)
    with pytest.raises(DataError) as raised:
        exported_into(tmp_path)
    assert raised.value.code == "export.directory"


def test_a_file_in_the_way_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as raised:
        exported_into(tmp_path / "file" / "below")
    assert raised.value.code == "export.directory"


def test_devices_that_do_nothing_have_no_firmware(tmp_path: Path) -> None:
    firmware = firmware_of(plant(), {"runs": (), "exports": ("alarms",)})
    with pytest.raises(FlowError) as raised:
        export(firmware, "library", tmp_path / "x", [PATH], ORIGIN)
    assert raised.value.code == "firmware.export" and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "arguments, code",
    [
        ((), "cli.export"),
        (("--zephyr", "--arduino"), "cli.export"),
        (("--library", "--class", "moon"), "cli.device-class"),
    ],
)
def test_wrong_calls_say_what_is_wrong(tmp_path: Path, arguments: Sequence[str], code: str) -> None:
    done = CliRunner().invoke(app, ["device", "export", str(FEEDER), *arguments, "--out", str(tmp_path)])
    assert isinstance(done.exception, GanglionError) and done.exception.code == code
    assert not list(tmp_path.iterdir())


def test_the_command_writes_and_says_what_to_read(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["device", "export", str(FEEDER), "--library", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (folder,) = tmp_path.iterdir()
    assert f"next: read {folder / 'README.md'}" in done.output and (folder / "README.md").is_file()
