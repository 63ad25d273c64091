"""Labels that ride on a stream: where its data comes from and what kind it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ganglion.core.errors import FlowError

CATEGORIES = frozenset(
    {
        "direct-id",
        "quasi-id",
        "biometric",
        "location",
        "health",
        "payment",
        "critical-infrastructure",
        "trade-secret",
    }
)
_JURISDICTION = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")


def jurisdictions(codes: Iterable[str]) -> tuple[str, ...]:
    """The codes, when each is ISO 3166-1 alpha-2, 3166-2 or ``"EU"`` in form; raises ``flow.label`` otherwise."""
    given = (codes,) if isinstance(codes, str) else tuple(codes)
    wrong = [str(c) for c in given if not isinstance(c, str) or not _JURISDICTION.fullmatch(c)]
    if wrong:
        raise FlowError(
            "flow.label",
            f"{', '.join(wrong) or 'an empty text'} is not a jurisdiction",
            why="jurisdictions are ISO 3166 codes like DE or US-CA, or EU, in capitals",
            next_step='write e.g. origin="DE" or keep_in=("DE", "FR")',
        )
    return given


@dataclass(frozen=True, slots=True)
class Labels:
    """Origin jurisdictions (ISO 3166 codes or ``"EU"``) and data categories; joins on combination.

    An unlabelled stream has empty sets; the first version of placement uses ``origins`` only where a
    stage says ``keep_in``.
    """

    origins: frozenset[str] = field(default_factory=frozenset)
    categories: frozenset[str] = field(default_factory=frozenset)

    @staticmethod
    def make(origin: str | None = None, categories: Iterable[str] = frozenset()) -> Labels:
        """Labels as a flow writes them; raises ``flow.label`` for an unknown category or a malformed origin."""
        given = {categories} if isinstance(categories, str) else set(categories)
        unknown = sorted(str(c) for c in given - CATEGORIES)
        if unknown:
            raise FlowError(
                "flow.label",
                f"unknown data category {', '.join(unknown)}",
                why=f"known are {', '.join(sorted(CATEGORIES))}",
                next_step="use one of those",
            )
        return Labels(frozenset(() if origin is None else jurisdictions((origin,))), frozenset(given))

    def join(self, other: Labels) -> Labels:
        """What a combination of two streams must carry: the union of both."""
        return Labels(self.origins | other.origins, self.categories | other.categories)
