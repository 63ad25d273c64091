"""The devices of a group: names as they send them, and what they are called here."""

from __future__ import annotations

import re

from ganglion.connectors.mqtt.columns import Refused, shown
from ganglion.core.origins import is_name

NAME_CHARS_MAX = 64
NUMBERED_BELOW = 10**NAME_CHARS_MAX
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Devices:
    """The devices of one group at a gateway: names as they send them, and what they are called here.

    Names may be anything; an origin is ``<gateway>-<group>-<name>``, with characters other than letters, digits, ``_``
    and ``.`` as ``:`` and two hexadecimal digits for each byte.
    """

    def __init__(self, path: str, count_max: int) -> None:
        self._path = path
        self._count_max = count_max
        self._origins: dict[str, str] = {}
        self.names: dict[str, str] = {}
        """Origin -> the name the device goes by."""

    def origin(self, name: str, allowed: re.Pattern[str] | None) -> str:
        """The origin of a device, which is let in when it is new; raises `Refused` ``mqtt.device``."""
        origin = self._origins.get(name)
        if origin is not None:
            return origin
        if not 1 <= len(name) <= NAME_CHARS_MAX:
            raise Refused("mqtt.device", f"a device's name has 1 to {NAME_CHARS_MAX} characters")
        if _SURROGATE.search(name):
            raise Refused("mqtt.device", f"{shown(name)} cannot be written as UTF-8")
        if allowed is not None and not allowed.fullmatch(name):
            raise Refused("mqtt.device", f"{shown(name)} does not match {allowed.pattern}")
        if not is_name(self._named(name)):
            raise Refused("mqtt.device", f"{shown(name)} makes an origin's name of more than 128 characters")
        if len(self._origins) >= self._count_max:
            raise Refused(
                "mqtt.device", f"{shown(name)} is one more than the {self._count_max} devices of {self._path}"
            )
        return self._admit(name)

    def remember(self, origin: str) -> None:
        """Lets a device in that sent before a restart, as far as it belongs here."""
        path, _, written = origin.rpartition("-")
        name = _unescaped(written)
        # A device that came in another way may have a name that no escape makes: it is none of ours.
        ours = path == self._path and _escaped(name) == written and is_name(origin)
        if ours and len(self._origins) < self._count_max:
            self._admit(name)

    def _named(self, name: str) -> str:
        return f"{self._path}-{_escaped(name)}"

    def _admit(self, name: str) -> str:
        origin = self._named(name)
        self._origins[name] = origin
        self.names[origin] = name
        return origin

    def __len__(self) -> int:
        return len(self._origins)


def _escaped(name: str) -> str:
    if _PLAIN.fullmatch(name):
        return name
    return "".join(c if _PLAIN.fullmatch(c) else "".join(f":{b:02x}" for b in c.encode()) for c in name)


def _unescaped(written: str) -> str:
    content = re.sub(rb":([0-9a-f]{2})", lambda m: bytes((int(m[1], 16),)), written.encode())
    return content.decode("utf-8", "replace")
