"""Durations, sizes and rates as people write them, as exact integers inside."""

from __future__ import annotations

import re
from decimal import Decimal

from ganglion.core.errors import GanglionError

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
SECONDS_PER_DAY = 86_400
DAYS_PER_MONTH = Decimal("30.4375")

_DURATION_NS = {
    "ns": 1,
    "us": NS_PER_US,
    "ms": NS_PER_MS,
    "s": NS_PER_S,
    "min": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
    "d": SECONDS_PER_DAY * NS_PER_S,
}
_SIZE_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_RATE_BIT_PER_S = {"bit": 1, "Kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_NUMBER = re.compile(r"\s*([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([A-Za-z]{1,4})\s*")
_VALUE_MAX = (1 << 63) - 1
"""Values live in 64-bit signed integers, about 292 years as nanoseconds."""


def _parse(text: str, table: dict[str, int], kind: str, example: str) -> int:
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    unit = match.group(2) if match else ""
    value = (
        int((Decimal(match.group(1)) * table[unit]).to_integral_value()) if match and unit in table else -1
    )
    if not 0 <= value <= _VALUE_MAX:
        raise GanglionError(
            f"unit.{kind}",
            f"{str(text)[:80]!r} is not a {kind}",
            why=f"it must be text: a number (below 2^63 of the least unit) and one of {', '.join(table)}",
            next_step=f"write it like {example}",
        )
    return value


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of ``"16.7ms"``, ``"40s"``, ``"1min"``, ``"2h"``, ``"3d"``; raises ``unit.duration``."""
    return _parse(text, _DURATION_NS, "duration", '"250ms" or "1min"')


def parse_size_bytes(text: str) -> int:
    """Bytes of ``"64KB"`` (decimal) or ``"64KiB"`` (binary); raises ``unit.size``."""
    return _parse(text, _SIZE_BYTES, "size", '"64KB" or "2GiB"')


def parse_rate_bit_per_s(text: str) -> int:
    """Bits per second of ``"10Mbit"``; raises ``unit.rate``."""
    return _parse(text, _RATE_BIT_PER_S, "rate", '"10Mbit"')


def format_duration(duration_ns: int) -> str:
    """The shortest usual spelling, for people: ``"20ms"``, ``"1.5s"``, ``"1min"``."""
    for unit in ("d", "h", "min", "s", "ms", "us"):
        size = _DURATION_NS[unit]
        if abs(duration_ns) >= size:
            value = duration_ns / size
            return f"{value:.0f}{unit}" if abs(value) >= 1000 else f"{value:.4g}{unit}"
    return f"{duration_ns}ns"


def format_bytes(size_bytes: float) -> str:
    """Decimal units for people: ``"1.53 MB"``."""
    value = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if abs(value) < 999.5:  # what would be rounded to four digits is said in the next unit
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB" if abs(value) < 999.5 else f"{value:.0f} TB"
