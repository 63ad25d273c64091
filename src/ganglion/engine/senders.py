"""Whose rows a child may send: those of origins below it, and nobody else's (docs/adr/0023)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ganglion.flow.assignment import path_of

ORIGINS_MAX = 100_000
"""Origins of a child that are remembered; with further ones it begins anew."""


class Senders:
    """``below``: child -> the paths whose rows may come from it. What a child was not given is not its to send."""

    def __init__(self, below: Mapping[str, Collection[str]]) -> None:
        self._below = {child: frozenset(paths) for child, paths in below.items()}
        self._known: dict[str, set[str]] = {child: set() for child in below}

    def may_send(self, child: str, origins: Collection[str]) -> bool:
        """True when the child is known and each of the origins is below it."""
        known = self._known.get(child)
        if known is None:
            return False
        if known.issuperset(origins):
            return True
        paths = self._below[child]
        for origin in origins:
            if origin in known:
                continue
            if path_of(origin) not in paths:
                return False
            if len(known) >= ORIGINS_MAX:
                known.clear()
            known.add(origin)
        return True
