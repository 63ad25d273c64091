"""Labels that ride on a stream: where its data comes from and what kind it is."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Labels:
    """Origin jurisdictions (ISO 3166 codes or ``"EU"``) and data categories; joins on combination.

    An unlabelled stream has empty sets; the first version of placement uses ``origins`` only where a
    stage says ``keep_in``.
    """

    origins: frozenset[str] = field(default_factory=frozenset)
    categories: frozenset[str] = field(default_factory=frozenset)

    @staticmethod
    def make(origin: str | None = None, categories: set[str] | frozenset[str] = frozenset()) -> Labels:
        """Labels as a flow writes them; raises ``flow.label`` for a category that is not known."""
        unknown = sorted(set(categories) - CATEGORIES)
        if unknown:
            raise FlowError(
                "flow.label",
                f"unknown data category {', '.join(unknown)}",
                why=f"known are {', '.join(sorted(CATEGORIES))}",
                next_step="use one of those",
            )
        return Labels(frozenset({origin} if origin else ()), frozenset(categories))

    def join(self, other: Labels) -> Labels:
        """What a combination of two streams must carry: the union of both."""
        return Labels(self.origins | other.origins, self.categories | other.categories)
