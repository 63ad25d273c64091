"""One stream of chance per component and start, all from one seed."""

from __future__ import annotations

import random


class SeededChances:
    """`Chances` of the virtual world. ``scope`` keeps apart what bears the same component name elsewhere.

    A draw added in one component shifts no other's. Streams are CPython's Mersenne Twister seeded with text, which
    gives the same numbers on every supported version.
    """

    def __init__(self, seed: int, scope: str = "") -> None:
        self._seed = seed
        self._scope = scope

    def stream(self, component: str) -> random.Random:
        return random.Random(f"{self._seed}/{self._scope}/{component}")  # noqa: S311  # chance on purpose, no secret

    def within(self, scope: str) -> SeededChances:
        """The streams of a part."""
        return SeededChances(self._seed, f"{self._scope}/{scope}" if self._scope else scope)
