"""Which place lies in which jurisdiction; a small table until there is a policy package."""

from __future__ import annotations

from collections.abc import Iterable

EU = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split()  # noqa: SIM905
)
"""The member states of the European Union (ISO 3166-1), 2026."""


def lies_in(place: str | None, allowed: Iterable[str]) -> bool:
    """True when ``place`` is one of ``allowed`` or a part of one: ``DE-BY`` lies in ``DE``, ``DE`` in ``EU``.

    A site that does not say where it is (None) lies nowhere; ``EU`` itself lies in no member state.
    """
    if place is None:
        return False
    country = place.partition("-")[0]
    names = {place, country} | ({"EU"} if country in EU else set())
    return not names.isdisjoint(allowed)
