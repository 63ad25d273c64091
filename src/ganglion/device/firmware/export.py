"""Firmware for people's own boards: a C library, a Zephyr module or an Arduino library of one device class.

The runtime and the flow's part are the files that images are built from, under names that begin with the flow's, so
that they can live beside other code. What a board has to give are the hooks of ``gd_port`` (docs/adr/0015).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, get_args

from ganglion.core.errors import DataError, FlowError
from ganglion.device.firmware.generate import PARTS, Firmware
from ganglion.device.firmware.selftest import selftest

Kind = Literal["library", "zephyr", "arduino"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WHAT: Mapping[Kind, str] = {
    "library": "a C library",
    "zephyr": "a Zephyr module",
    "arduino": "an Arduino library",
}
MARK = "ganglion-export.json"
"""Names the files of an export, so that the next may replace them and touches nothing else."""
RUNTIME = (*(p for p in PARTS if p != "memory.c"), "loop.c", "slip.c")
HEADERS = ("device.h", "loop.h", "slip.h")
SOURCES = (*RUNTIME, "flow.c", "selftest.c")
_UNUSED_SIZES = ("GD_STACK_BYTES", "GD_IN_BYTES", "GD_OUT_BYTES")
_EXACT = """\
/* Results equal the gateway's bit for bit: no fused multiply-add, no assumption about types in memory. The build files
 * set the flags; where nobody does, an Arduino for one, GCC is asked here. Generated code names values that it does not
 * read. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off", "no-math-errno", "no-trapping-math", "no-strict-aliasing")
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
"""


_FLOW_H = """\
/* The memory of the flow's part, and what runs on it. */
#ifndef GANGLION_FLOW_H
#define GANGLION_FLOW_H
#include "device.h"

%memory%#ifdef __cplusplus
extern "C" {
#endif

void gd_flow_start(gd_flow *f);
void gd_flow_frame(gd_flow *f, const uint8_t *stored, uint64_t number, int64_t time_ns);

/* How many kernels give other bits than the reference, 0 on a processor and compiler that keep them.
 * `memory`: GD_SELFTEST_BYTES at a multiple of 16. */
#define GD_SELFTEST_BYTES %bytes%
uint32_t gd_selftest(uint8_t *memory);

#ifdef __cplusplus
}
#endif
#endif
"""


def prefix_of(firmware: Firmware) -> str:
    """What every name of the export begins with: the flow's name as C spells it."""
    return firmware.spec.name.replace("-", "_")


def export(
    firmware: Firmware, kind: Kind, directory: Path, devices: Sequence[str], origin: str
) -> list[Path]:
    """Writes the export into ``directory``, where nothing or an earlier export lies; gives the files, sorted.

    ``devices``: the paths it is for; ``origin``: an example of a device's name. The same input gives the same files.
    Raises `FlowError` ``firmware.export`` when its devices neither compute nor send, `DataError`
    ``export.directory`` when the folder holds other things or cannot be written.
    """
    if not firmware.streams and not firmware.stages:
        raise FlowError(
            "firmware.export",
            f"devices of {', '.join(devices)} neither compute nor send anything",
            why=f"the plan puts no stage of {firmware.spec.name} on them, and no stream leaves them",
            next_step="see ganglion plan --why STAGE, or place a stage with .on('device')",
        )
    words = _words(firmware, kind, devices, origin)
    content = dict(_files(firmware, kind, words))
    content[MARK] = (
        json.dumps({"flow": firmware.spec.name, "kind": kind, "files": sorted(content)}, indent=1) + "\n"
    )
    _write(directory, content)
    return sorted(directory / name for name in content)


def _words(firmware: Firmware, kind: Kind, devices: Sequence[str], origin: str) -> dict[str, str]:
    prefix, source = prefix_of(firmware), firmware.measured
    field = source.schema.fields[0]
    inner = [f"src/{prefix}/{name}" for name in SOURCES]
    actuators = "".join(
        f"#define {prefix.upper()}_ACTUATOR_{name.upper().replace('-', '_')} {k}\n"
        for k, name in enumerate(firmware.actuators)
    )
    return {
        "prefix": prefix,
        "PREFIX": prefix.upper(),
        "flow": firmware.spec.name,
        "kind": kind,
        "what": WHAT[kind],
        "frame": str(field.type),
        "unit": f" of {field.unit}" if field.unit else "",
        "frame_bytes": str(firmware.sizes["GD_FRAME_BYTES"]),
        "period_ns": str(source.every_ns),
        "stages": ", ".join(firmware.stages) or "no stage",
        "streams": ", ".join(e.stage.id for e in firmware.streams) or "nothing",
        "devices": ", ".join(devices),
        "origin": origin,
        "digest": firmware.spec.digest,
        "actuators": actuators,
        "version": version("ganglion"),
        "sources_cmake": "".join(f"  {name}\n" for name in inner).rstrip(),
        "objects_make": " \\\n".join(f"  {name.removesuffix('.c')}.o" for name in inner),
        "sources_zephyr": "".join(f"    ../{name}\n" for name in inner),
        "steps": _resource("templates", kind, "steps.md").read_text(encoding="utf-8"),
    }


def _resource(*path: str) -> Traversable:
    return files("ganglion.device.firmware").joinpath(*path)


def _files(firmware: Firmware, kind: Kind, words: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    prefix = words["prefix"]
    for name, text in _sources(firmware):
        yield f"src/{prefix}/{name}", _renamed(text, prefix)
    runtime = files("ganglion.kernels.c").joinpath("kernel_runtime.h").read_text(encoding="utf-8")
    yield f"src/{prefix}/kernel_runtime.h", runtime
    yield f"src/{prefix}.h", _filled(_resource("templates", "all", "flow.h"), words)
    yield "README.md", _filled(_resource("templates", "all", "README.md"), words)
    yield "LICENSE", _resource("templates", "all", "LICENSE").read_text(encoding="utf-8")
    for name, file in _tree(_resource("templates", kind)):
        if name != "steps.md":
            yield (f"{prefix}.pc.in" if name == "flow.pc.in" else name), _filled(file, words)


def _tree(folder: Traversable, at: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            yield from _tree(entry, f"{at}{entry.name}/")
        else:
            yield at + entry.name, entry


def _sources(firmware: Firmware) -> Iterator[tuple[str, str]]:
    """The runtime as it is, and the flow's part in files of its own."""
    for name in (*RUNTIME, *HEADERS):
        text = _resource("runtime", name).read_text(encoding="utf-8")
        if name == "device.h":
            text = text.replace(
                "#define GANGLION_DEVICE_H\n", '#define GANGLION_DEVICE_H\n#include "sizes.h"\n'
            )
        yield name, text
    test = selftest(firmware)
    sizes = {k: v for k, v in firmware.sizes.items() if k not in _UNUSED_SIZES}
    yield "sizes.h", "".join(f"#define {name} {value}\n" for name, value in sizes.items())
    yield "flow.h", _FLOW_H.replace("%memory%", firmware.memory).replace("%bytes%", str(test.memory_bytes))
    yield "flow.c", f'{_EXACT}#include "flow.h"\n\n{firmware.code}'
    yield "selftest.c", test.source


def _renamed(text: str, prefix: str) -> str:
    """Every name of ours begins with the flow's: two exports and other code can be linked together."""
    text = re.sub(r"\bgd_", f"{prefix}_", text)
    text = re.sub(r"\bgg_k(?=\d)", f"{prefix}_k", text)
    text = re.sub(r"\bGANGLION_(?=(?:DEVICE|FLOW|LOOP|SLIP)_H\b)", f"{prefix.upper()}_", text)
    return re.sub(r"\bGD_", f"{prefix.upper()}_", text)


def _filled(file: Traversable, words: Mapping[str, str]) -> str:
    text = file.read_text(encoding="utf-8")
    for _ in range(2):  # what is put in may hold names itself
        text = re.sub(r"@(\w+)@", lambda m: words.get(m[1], m[0]), text)
    return text


def _write(directory: Path, content: Mapping[str, str]) -> None:
    try:
        for stale in _earlier(directory):
            (directory / stale).unlink(missing_ok=True)
        for name, text in content.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _refused(directory, error.strerror or str(error)) from error


def _earlier(directory: Path) -> list[str]:
    """The files of the export that lies there. Raises ``export.directory`` when something else does."""
    if not directory.exists() or not any(directory.iterdir()):
        return []
    try:
        names = json.loads((directory / MARK).read_text(encoding="utf-8"))["files"]
        assert all(isinstance(n, str) and ".." not in n and not n.startswith("/") for n in names)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise _refused(directory, "it is not empty, and not an earlier export") from error
    return list(names)


def _refused(directory: Path, why: str) -> DataError:
    return DataError(
        "export.directory",
        f"nothing can be exported to {directory}",
        why=why,
        next_step="name another directory with --out",
    )
