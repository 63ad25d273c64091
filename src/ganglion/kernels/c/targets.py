"""Processors other than this machine's that kernels are built for, by zig."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """``triple`` and ``cpu`` as zig names them; ``float_unit``: single precision in hardware."""

    name: str
    triple: str
    cpu: str
    float_unit: bool

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags that choose the processor."""
        return ("-target", self.triple, f"-mcpu={self.cpu}")


TARGETS = {
    target.name: target
    for target in (
        # A bare cortex_m4 means soft float, even with eabihf: the unit has to be named.
        Target("cortex-m0plus", "thumb-freestanding-eabi", "cortex_m0plus", float_unit=False),
        Target("cortex-m3", "thumb-freestanding-eabi", "cortex_m3", float_unit=False),
        Target("cortex-m4", "thumb-freestanding-eabi", "cortex_m4", float_unit=False),
        Target("cortex-m4f", "thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp", float_unit=True),
        Target("cortex-m7f", "thumb-freestanding-eabihf", "cortex_m7+fp_armv8d16sp", float_unit=True),
        Target("cortex-m33f", "thumb-freestanding-eabihf", "cortex_m33+dsp+fp_armv8d16sp", float_unit=True),
        Target("riscv32imc", "riscv32-freestanding", "generic_rv32+m+c", float_unit=False),
        Target("aarch64", "aarch64-freestanding", "generic", float_unit=True),
    )
}
