"""Which place lies in which jurisdiction; a small table until there is a policy package."""

from __future__ import annotations

from collections.abc import Iterable

_EU_WEST = {"AT", "BE", "DE", "DK", "ES", "FI", "FR", "IE", "IT", "LU", "NL", "PT", "SE"}
_EU_EAST = {"BG", "CY", "CZ", "EE", "GR", "HR", "HU", "LT", "LV", "MT", "PL", "RO", "SI", "SK"}
EU = frozenset(_EU_WEST | _EU_EAST)
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
