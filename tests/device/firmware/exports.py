"""Exports written, compiled and started, for the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from ganglion.device.firmware.export import Kind, export
from ganglion.device.firmware.generate import Firmware
from tests.device.firmware.benches import ORIGIN, PATH, firmware_of, stage

STUBS = Path(__file__).with_name("stubs")
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
PREFIXES = {"plant": "plant", "feeder-protection": "feeder_protection"}


def exported(flow: str, kind: Kind, directory: Path) -> tuple[Firmware, Path]:
    """The firmware, and the folder that it was exported to."""
    firmware = firmware_of(*stage(flow))
    folder = directory / f"{flow}-{kind}"
    export(firmware, kind, folder, [PATH], ORIGIN)
    return firmware, folder


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [p for p in programs if shutil.which(p) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def run_in(folder: Path, *command: str | Path, **more) -> str:
    done = subprocess.run(
        [str(c) for c in command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **more,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def zig(cache: Path) -> tuple[Sequence[str], dict[str, str]]:
    """zig's C compiler and what it has to be told."""
    names = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    return (sys.executable, "-m", "ziglang", "cc"), {name: str(cache / name.lower()) for name in names}


def sources(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("src/*/*.c"))
