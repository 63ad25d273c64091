"""Processors and systems other than this machine's that kernels are built for."""

from __future__ import annotations

from dataclasses import dataclass

_M4F = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
_M7F = ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16")
_M33F = ("-mcpu=cortex-m33", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16")


def _soft(cpu: str) -> tuple[str, ...]:
    return (f"-mcpu={cpu}", "-mthumb", "-mfloat-abi=soft")


@dataclass(frozen=True, slots=True)
class Target:
    """``triple`` and ``cpu`` as zig names them; ``float_unit``: single precision in hardware.

    ``gcc``: what chooses the same processor in arm-none-eabi-gcc, empty where that does not build for it.
    """

    name: str
    triple: str
    cpu: str
    float_unit: bool
    gcc: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags that choose the processor."""
        return ("-target", self.triple, f"-mcpu={self.cpu}")

    @property
    def suffix(self) -> str:
        """How a shared library's file name ends there."""
        system = self.triple.split("-")[1]
        if self.triple.startswith("wasm"):
            return ".wasm"
        return {"macos": ".dylib", "windows": ".dll"}.get(system.split(".")[0], ".so")


TARGETS = {
    target.name: target
    for target in (
        # A bare cortex_m4 means soft float, even with eabihf: the unit has to be named.
        Target(
            "cortex-m0plus",
            "thumb-freestanding-eabi",
            "cortex_m0plus",
            float_unit=False,
            gcc=_soft("cortex-m0plus"),
        ),
        Target("cortex-m3", "thumb-freestanding-eabi", "cortex_m3", float_unit=False, gcc=_soft("cortex-m3")),
        Target("cortex-m4", "thumb-freestanding-eabi", "cortex_m4", float_unit=False, gcc=_soft("cortex-m4")),
        Target("cortex-m4f", "thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp", float_unit=True, gcc=_M4F),
        Target(
            "cortex-m7f", "thumb-freestanding-eabihf", "cortex_m7+fp_armv8d16sp", float_unit=True, gcc=_M7F
        ),
        Target(
            "cortex-m33f",
            "thumb-freestanding-eabihf",
            "cortex_m33+dsp+fp_armv8d16sp",
            float_unit=True,
            gcc=_M33F,
        ),
        Target("riscv32imc", "riscv32-freestanding", "generic_rv32+m+c", float_unit=False),
        Target("aarch64", "aarch64-freestanding", "generic", float_unit=True),
    )
}
"""Processors that images are linked for, without a system."""

LIBRARIES = {
    target.name: target
    for target in (
        Target("linux-x86-64-v2", "x86_64-linux-gnu.2.17", "x86_64_v2", float_unit=True),
        Target("linux-x86-64-v3", "x86_64-linux-gnu.2.17", "x86_64_v3", float_unit=True),
        Target("linux-x86-64-v4", "x86_64-linux-gnu.2.17", "x86_64_v4", float_unit=True),
        Target("linux-aarch64", "aarch64-linux-gnu.2.17", "generic", float_unit=True),
        # Without NEON, which flushes subnormals to zero; with whole-number division, so that no library is needed.
        Target("linux-armv7", "arm-linux-gnueabihf.2.17", "cortex_a7-neon-vfp4+vfp4d16", float_unit=True),
        Target("macos-aarch64", "aarch64-macos", "apple_m1", float_unit=True),
        Target("macos-x86-64", "x86_64-macos", "x86_64_v2", float_unit=True),
        Target("windows-x86-64", "x86_64-windows-gnu", "x86_64_v2", float_unit=True),
        Target("windows-aarch64", "aarch64-windows-gnu", "generic", float_unit=True),
        Target("wasm32", "wasm32-freestanding", "generic+simd128", float_unit=True),
    )
}
"""Systems that shared libraries are built for, to be proven where they are loaded."""
