"""YAML text -> `Topology`; every mistake is a `TopologyError` that names file, line and field.

The text is read as a subset of YAML 1.2: one document, plain mappings, lists and scalars. No anchors, tags or
merge keys; ``NO`` is Norway and not false.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel, ValidationError

from ganglion.core.declarations import RuleBroken
from ganglion.core.errors import TopologyError
from ganglion.core.topology import DeviceGroup, Link, Node, NodeClass, Site, Topology

TEXT_CHARS_MAX = 4 << 20
SCALAR_CHARS_MAX = 200
DEPTH_MAX = 8

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_MODELS: tuple[tuple[tuple[str, ...], type[BaseModel]], ...] = (
    ((), Topology),
    (("classes", "*"), NodeClass),
    (("sites", "*"), Site),
    (("sites", "*", "node"), Node),
    (("sites", "*", "uplink"), Link),
    (("devices", "*"), DeviceGroup),
    (("devices", "*", "link"), Link),
)

Path = tuple[str, ...]


def read_topology(text: str, file: str) -> Topology:
    """The topology that ``text`` describes; ``file`` is its name in messages.

    Raises `TopologyError` ``topology.yaml`` (not the YAML we read), ``topology.field`` (a key or value is
    wrong) or ``topology.rule`` (the whole does not fit together).
    """
    value, lines = _Reader(text, file).read()
    try:
        return Topology.model_validate(value)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: _order(e, lines))
        raise _refusal(first, lines, file) from None


class _Reader:
    """Builds plain values from YAML events and remembers the line of each path."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self._lines: dict[Path, int] = {(): 1}
        self._events: Any = iter(())

    def read(self) -> tuple[Any, dict[Path, int]]:
        if len(self.text) > TEXT_CHARS_MAX:
            raise _broken(self.file, 1, f"the text is longer than {TEXT_CHARS_MAX} characters")
        try:
            self._events = yaml.parse(self.text, Loader=yaml.SafeLoader)
            next(self._events)  # the start of the stream
            if isinstance(next(self._events), yaml.StreamEndEvent):
                return {}, self._lines
            value = self._value(next(self._events), ())
            next(self._events)  # the end of the document
            after = next(self._events)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise _broken(self.file, line, error.problem or "the text cannot be read") from error
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, error.position) + 1
            code = ord(self.text[error.position])
            raise _broken(self.file, line, f"character U+{code:04X} is not allowed") from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # PyYAML lets chr() and int() fail on escapes and directives it does not check.
            raise _broken(self.file, 1, f"the text cannot be read: {error}") from error
        if not isinstance(after, yaml.StreamEndEvent):
            self._stop(after, "a second document (---) begins")
        return value, self._lines

    def _value(self, event: Any, path: Path) -> Any:
        if len(path) > DEPTH_MAX:
            self._stop(event, f"lists and mappings are nested more than {DEPTH_MAX} deep")
        if getattr(event, "anchor", None) is not None or isinstance(event, yaml.AliasEvent):
            self._stop(event, "anchors and aliases are not read here")
        if getattr(event, "tag", None) is not None:
            self._stop(event, f"the tag {event.tag} is not read here")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        return self._list(path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(path)

    def _list(self, path: Path) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*path, str(len(values)))
            self._lines[here] = self._line(event)
            values.append(self._value(event, here))
        return values

    def _mapping(self, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None:
                self._stop(event, "a key must be a plain word")
            key = event.value
            line = self._line(event)
            if key in values:
                dotted = ".".join((*path, key))
                first = self._lines[*path, key]
                raise _broken(self.file, line, f"{dotted} is given twice (first in line {first})")
            self._lines[*path, key] = line
            values[key] = self._value(next(self._events), (*path, key))
        return values

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text: str = event.value
        if len(text) > SCALAR_CHARS_MAX:
            self._stop(event, f"a value is longer than {SCALAR_CHARS_MAX} characters")
        if not event.implicit[0]:  # quoted
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    @staticmethod
    def _line(event: Any) -> int:
        return int(event.start_mark.line) + 1

    def _stop(self, event: Any, what: str) -> NoReturn:
        raise _broken(self.file, self._line(event), what)


def _broken(file: str, line: int, what: str) -> TopologyError:
    return TopologyError(
        "topology.yaml",
        f"{file}:{line}: {what}",
        why="a topology is one YAML document of plain mappings, lists and values",
        next_step=f"correct line {line} of {file}; docs/reference/topology.md shows the form",
    )


def _path(loc: tuple[int | str, ...]) -> Path:
    return tuple(str(part) for part in loc if part != "[key]")


def _line(lines: dict[Path, int], path: Path) -> int:
    while path not in lines:
        path = path[:-1]
    return lines[path]


def _broken_rule(error: Any) -> RuleBroken | None:
    broken = error.get("ctx", {}).get("error")
    return broken if isinstance(broken, RuleBroken) else None


def _place(error: Any) -> Path:
    broken = _broken_rule(error)
    return (*_path(error["loc"]), *(broken.path if broken is not None else ()))


def _order(error: Any, lines: dict[Path, int]) -> tuple[bool, int, str]:
    # A misspelt key is also a missing one: what is written there is the better message.
    return error["type"] == "missing", _line(lines, _place(error)), str(error["loc"])


def _refusal(error: Any, lines: dict[Path, int], file: str) -> TopologyError:
    path, broken = _place(error), _broken_rule(error)
    if broken is not None:
        code = "topology.rule" if len(path) == len(broken.path) else "topology.field"
        what, why, next_step = broken.what, broken.why, broken.next_step
    else:
        code = "topology.field"
        what, why, next_step = _explain(error, path)
    where = f"{file}:{_line(lines, path)}: {'.'.join(path) or 'the document'}"
    return TopologyError(code, f"{where}: {what}", why=why, next_step=next_step)


def _explain(error: Any, path: Path) -> tuple[str, str, str]:
    """What, why and next of one of pydantic's own errors."""
    kind, message = error["type"], str(error["msg"])
    known = _known_keys(path[:-1])
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], known, 1)
        next_step = f"did you mean {close[0]}?" if close else "remove it"
        return "unknown key", f"known here are {', '.join(known)}", next_step
    if kind == "missing":
        return "missing", "it has no default", f"add {path[-1]}: ... here"
    if kind == "string_pattern_mismatch":
        pattern = error["ctx"]["pattern"]
        return "this is not written as it must be", f"it must match {pattern}", "rewrite it"
    return message[:1].lower() + message[1:], "of the field's type and limits", "correct the value"


def _known_keys(path: Path) -> list[str]:
    for pattern, model in _MODELS:
        if len(pattern) == len(path) and all(p in ("*", q) for p, q in zip(pattern, path, strict=True)):
            return [field.alias or name for name, field in model.model_fields.items()]
    return []
