"""What is to be small, in words: ``money``, ``money, then latency``, ``money + 50 EUR/t carbon``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ganglion.core.errors import FlowError

QUANTITIES = ("links", "energy", "cpu", "kwh", "carbon_kg", "latency_ms", "height")
"""What levels are sums of: money of links by volume, for energy and for processors; kilowatt hours and kilograms of
CO2-equivalent per month; milliseconds of all devices' loops; sum of the ranks of tiers."""
_WORDS: dict[str, dict[str, float]] = {
    "money": {"links": 1.0, "energy": 1.0, "cpu": 1.0},
    "energy": {"kwh": 1.0},
    "carbon": {"carbon_kg": 1.0},
    "latency": {"latency_ms": 1.0},
}
_PRICED = {
    ("t", "carbon"): ("carbon_kg", 1e-3),
    ("kg", "carbon"): ("carbon_kg", 1.0),
    ("kwh", "energy"): ("kwh", 1.0),
    ("ms", "latency"): ("latency_ms", 1.0),
}
_TERM = re.compile(
    r"(?:(?P<weight>[0-9]+(?:\.[0-9]*)?)\s*(?P<currency>[A-Z]{3})/(?P<unit>\w+)\s+)?(?P<word>[a-z]+)"
)
LEVELS_MAX = 4
TEXT_CHARS_MAX = 200
WEIGHT_MAX = 1e9


@dataclass(frozen=True, slots=True)
class Objective:
    """Levels of weighted sums over `QUANTITIES`; each next one decides among what the ones before leave equal."""

    text: str
    levels: tuple[Mapping[str, float], ...]

    @property
    def by_money(self) -> bool:
        """True when the first level is money alone."""
        return dict(self.levels[0]) == _WORDS["money"]


def parse_objective(text: str, currency: str) -> Objective:
    """The objective that ``text`` states; then faster loops and lower tiers decide, as always.

    Raises `FlowError` ``flow.objective``. Weights are prices in the topology's currency: ``EUR/t`` and ``EUR/kg`` of
    carbon, ``EUR/kWh`` of energy (beyond its price in money), ``EUR/ms`` of latency (per device and month).
    """
    if len(text) > TEXT_CHARS_MAX:
        raise _refused(text[:40] + "...", f"it is longer than {TEXT_CHARS_MAX} characters")
    parts = re.split(r"\s*,\s*(?:then\s+)?|\s+then\s+", text.strip())
    if len(parts) > LEVELS_MAX:
        raise _refused(text, f"it has more than {LEVELS_MAX} levels")
    levels = [_level(part, text, currency) for part in parts]
    for last in ({"latency_ms": 1.0}, {"height": 1.0}):
        if last not in levels:
            levels.append(last)
    return Objective(text.strip(), tuple(levels))


def _level(part: str, text: str, currency: str) -> dict[str, float]:
    level: dict[str, float] = {}
    priced = []
    terms = re.split(r"\s*\+\s*", part)
    for term in terms:
        match = _TERM.fullmatch(term)
        if match is None:
            raise _refused(text, f"{term!r} is not understood")
        weight, word = match["weight"], match["word"]
        if weight is None:
            found = _WORDS.get(word)
            if found is None:
                raise _refused(text, f"{word!r} is none of {', '.join(_WORDS)}")
            factors = found
        else:
            named = _PRICED.get((match["unit"].lower(), word))
            if named is None or match["currency"] != currency or float(weight) > WEIGHT_MAX:
                known = ", ".join(f"{currency}/{unit} {word}" for unit, word in _PRICED)
                raise _refused(text, f"{term!r} has no price that is known here; known are {known}")
            factors = {named[0]: float(weight) * named[1]}
        priced.append(weight is not None or word == "money")
        for quantity, factor in factors.items():
            level[quantity] = level.get(quantity, 0.0) + factor
    if len(terms) > 1 and not all(priced):
        raise _refused(text, f"the parts of {part!r} have different units")
    return level


def _refused(text: str, why: str) -> FlowError:
    return FlowError(
        "flow.objective",
        f"the objective {text!r} cannot be used",
        why=why,
        next_step='write e.g. "money, then latency" or "money + 50 EUR/t carbon"',
    )
