"""Topics and filters (MQTT 5, section 4.7), with names for levels: ``plant/+/{sensor}/temp``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ganglion.core.topology_mqtt import topic_filter

_NAMED = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_FORBIDDEN = re.compile(r"[+#\0]")


class Pattern:
    """A filter whose levels may have names. ``filter`` is what a broker understands."""

    def __init__(self, text: str) -> None:
        self.filter = topic_filter(text)
        parts = []
        levels = text.split("/")
        for level in levels:
            named = _NAMED.fullmatch(level)
            if named:
                parts.append(f"(?P<{named[1]}>[^/]*)")
            elif level == "+":
                parts.append("[^/]*")
            elif level != "#":
                parts.append(re.escape(level))
        pattern = "/".join(parts)
        if levels[-1] == "#":
            # It stands for the level above it as well: a/# matches a.
            pattern = f"{pattern}(?:/.*)?" if parts else ".*"
        self._pattern = re.compile(pattern, re.DOTALL)
        self._open = self.filter[0] in "+#"

    def match(self, topic: str) -> Mapping[str, str] | None:
        """The named levels of a topic that matches, else None; a wildcard at the start matches no ``$SYS`` (4.7.2)."""
        if self._open and topic.startswith("$"):
            return None
        found = self._pattern.fullmatch(topic)
        return None if found is None else found.groupdict()


def fill(template: str, values: Mapping[str, str]) -> str | None:
    """The topic that a template makes; None when a value cannot stand in a topic (``/ + #``), or is unknown."""
    wanted = _NAMED.findall(template)
    if any(n not in values or "/" in values[n] or _FORBIDDEN.search(values[n]) for n in wanted):
        return None
    return _NAMED.sub(lambda m: values[m[1]], template)


def filters(texts: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Patterns with their QoS as subscriptions: each filter once, with the highest QoS asked for."""
    wanted: dict[str, int] = {}
    for text, qos in texts:
        name = topic_filter(text)
        wanted[name] = max(qos, wanted.get(name, 0))
    return tuple(wanted.items())
