"""What was declared as JSON or YAML, read strictly as a frozen dataclass; what does not fit is named by its place.

The annotations of fields say all: types, and with `Annotated` functions that raise `RuleBroken` for a value that does
not fit. An agent reads its configuration so, without pydantic and its ten megabytes; the reader of topologies comes
here for what both of them read (docs/adr/0033).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Place = tuple[str, ...]
"""Keys and list places from the outside in."""
Check = Callable[[Any], None]
Form = TypeVar("Form")
SHOWN_CHARS_MAX = 80
_TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a text"),
    int: ((int,), "a whole number"),
    bool: ((bool,), "true or false"),
    tuple: ((list, tuple), "a list"),
    dict: ((dict,), "a mapping"),
}


class RuleBroken(ValueError):
    """What was declared breaks a rule at ``path``; whoever knows the file makes an operating error of it."""

    def __init__(self, path: Place, what: str, why: str, next_step: str) -> None:
        super().__init__(what)
        self.path = path
        self.what = what
        self.why = why
        self.next_step = next_step


def declaration(form: type[Form], value: Any, place: Place = ()) -> Form:
    """``value``, which stands at ``place``, as a ``form``: a frozen dataclass, ``tuple[str, ...]``, ``int`` and so on.

    Nothing is converted: ``1`` is no text, ``true`` no number. Raises `RuleBroken` for the first thing that is wrong,
    in the order of what is there; what is missing comes last, since a misspelt key is also a missing one.
    """
    made: Form = _read(form, value, place)
    return made


def matching(pattern: str) -> Check:
    """A text that ``pattern`` matches as a whole."""
    compiled = re.compile(pattern)

    def check(value: str) -> None:
        if compiled.fullmatch(value) is None:
            raise RuleBroken(
                (), f"{_shown(value)} is not written as it must be", f"it must match {pattern}", "rewrite it"
            )

    return check


def between(least: int, most: int) -> Check:
    """A number of at least ``least`` and at most ``most``."""

    def check(value: int) -> None:
        if not least <= value <= most:
            raise RuleBroken(
                (), f"{value} is out of range", f"it goes from {least} to {most}", "correct the value"
            )

    return check


def sized(least: int, most: int) -> Check:
    """A text with so many characters, or a list or mapping with so many entries."""

    def check(value: Sized) -> None:
        if not least <= len(value) <= most:
            raise RuleBroken(
                (),
                f"{_shown(value)} has a length of {len(value)}",
                f"it goes from {least} to {most}",
                "correct the value",
            )

    return check


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "..."


def _read(form: Any, value: Any, place: Place) -> Any:
    origin, parts = get_origin(form), get_args(form)
    if origin is Annotated:
        made = _read(parts[0], value, place)
        with _placed(place):
            for check in parts[1:]:
                check(made)
        return made
    if origin in (Union, UnionType):
        (inner,) = (p for p in parts if p is not NoneType)
        return None if value is None else _read(inner, value, place)
    if origin is Literal:
        if type(value) is not str or value not in parts:
            known = ", ".join(parts)
            raise RuleBroken(
                place, f"{_shown(value)} is not known here", f"known are {known}", "name one of those"
            )
        return value
    if is_dataclass(form):
        return _record(form, value, place)
    found = _of_type(origin or form, value, place)
    if origin is tuple:
        return tuple(_read(parts[0], one, (*place, str(n))) for n, one in enumerate(found))
    if origin is dict:
        key, inner = parts
        return {
            _read(key, k, (*place, str(k))): _read(inner, one, (*place, str(k))) for k, one in found.items()
        }
    return found


def _of_type(form: Any, value: Any, place: Place) -> Any:
    types, name = _TYPES[form]
    if type(value) not in types:  # a bool is an int to isinstance
        raise RuleBroken(place, f"{_shown(value)} is not {name}", f"{name} belongs here", "correct the value")
    return value


@cache
def _fields(form: type[Any]) -> Mapping[str, tuple[Any, bool]]:
    """Field -> (annotation, whether it must be there)."""
    hints = get_type_hints(form, include_extras=True)
    return {
        f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(form)
    }


def _record(form: Any, value: Any, place: Place) -> Any:
    known = _fields(form)
    made = {}
    for name, one in _of_type(dict, value, place).items():
        if name not in known:
            raise _unknown((*place, str(name)), tuple(known))
        made[name] = _read(known[name][0], one, (*place, name))
    for name, (_, needed) in known.items():
        if needed and name not in made:
            raise RuleBroken((*place, name), "missing", "it has no default", f"add {name}: ... here")
    with _placed(place):
        return form(**made)


def _unknown(place: Place, known: tuple[str, ...]) -> RuleBroken:
    from difflib import get_close_matches  # only who is wrong needs it

    close = get_close_matches(place[-1], known, 1)
    next_step = f"did you mean {close[0]}?" if close else "remove it"
    return RuleBroken(place, "unknown key", f"known here are {', '.join(known)}", next_step)


@contextmanager
def _placed(place: Place) -> Iterator[None]:
    """What is wrong inside is wrong below ``place``."""
    try:
        yield
    except RuleBroken as error:
        raise RuleBroken((*place, *error.path), error.what, error.why, error.next_step) from None
