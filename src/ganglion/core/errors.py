"""Errors that a person can act on.

Every operating error carries a stable code (listed in ``docs/reference/errors.md``), what happened,
why, and what to do next. Bugs are assertions, never one of these.
"""

from __future__ import annotations

from typing import Any


class GanglionError(Exception):
    """Root of all operating errors; subclasses say who must act.

    ``code`` is stable and documented (``area.kind``), ``what`` says what happened, ``why`` the reason,
    ``next_step`` the command or edit that helps.
    """

    def __init__(self, code: str, what: str, *, why: str = "", next_step: str = "") -> None:
        self.code = code
        self.what = what
        self.why = why
        self.next_step = next_step
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [f"[{self.code}] {self.what}"]
        if self.why:
            parts.append(f"why: {self.why}")
        if self.next_step:
            parts.append(f"next: {self.next_step}")
        return " | ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.code, self.what, self.why, self.next_step))


def _rebuild(kind: type[GanglionError], code: str, what: str, why: str, next_step: str) -> GanglionError:
    return kind(code, what, why=why, next_step=next_step)


class FlowError(GanglionError):
    """The flow's definition is wrong: the developer acts."""


class KernelError(GanglionError):
    """A kernel is declared or called wrongly: the developer acts."""


class TopologyError(GanglionError):
    """The topology file is wrong: the operator edits the named line."""


class PlacementInfeasible(GanglionError):
    """No placement obeys every rule; the message names the rules that clash."""


class DataError(GanglionError):
    """A payload, batch or recording does not have the form that was promised."""


class ConnectorError(GanglionError):
    """A peer on the site's network broke the protocol or did not answer."""


class MessagingError(GanglionError):
    """The site's message server refused or could not do what was asked."""


class HostError(GanglionError):
    """The machine said no: port taken, disk full, file missing, process would not start."""


class RunError(GanglionError):
    """A local run could not be started or did not end well."""
