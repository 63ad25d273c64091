"""What is declared is read strictly, and what is wrong is named by its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from ganglion.core.declarations import RuleBroken, between, declaration, matching, sized


@dataclass(frozen=True, slots=True, kw_only=True)
class Lamp:
    name: Annotated[str, matching("[a-z]+")]
    level: Annotated[int, between(0, 10)] = 5
    lit: bool = False
    mode: Literal["steady", "flash"] | None = None

    def __post_init__(self) -> None:
        if self.lit and self.level == 0:
            raise RuleBroken(("level",), "a lit lamp of level 0", "it gives no light", "raise it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hall:
    lamps: Annotated[tuple[Lamp, ...], sized(1, 3)]
    keys: dict[str, int] = field(default_factory=dict)
    spare: Lamp | None = None


GOOD = {"lamps": [{"name": "a"}, {"name": "b", "level": 0, "mode": "flash"}], "keys": {"x": 1}, "spare": None}


def test_what_fits_is_read_whole():
    assert declaration(Hall, GOOD) == Hall(
        lamps=(Lamp(name="a"), Lamp(name="b", level=0, mode="flash")), keys={"x": 1}
    )
    assert declaration(Hall, {"lamps": ({"name": "a"},)}) == Hall(lamps=(Lamp(name="a"),))
    assert declaration(tuple[str, ...], ["a", "b"]) == ("a", "b")


@pytest.mark.parametrize(
    "value, path, part",
    [
        ([], (), "not a mapping"),
        (None, (), "nothing is not a mapping"),
        ({}, ("lamps",), "missing"),
        ({"lamps": []}, ("lamps",), "length of 0"),
        ({"lamps": [{"name": "a"}] * 4}, ("lamps",), "length of 4"),
        ({"lamps": "ab"}, ("lamps",), "not a list"),
        ({"lamps": [{"name": "a"}, 3]}, ("lamps", "1"), "3 is not a mapping"),
        ({"lamps": [{"name": "a", "levle": 1}]}, ("lamps", "0", "levle"), "did you mean level?"),
        ({"lamps": [{"name": "a", "qqqq": 1}]}, ("lamps", "0", "qqqq"), "remove it"),
        ({"lamps": [{"name": "A"}]}, ("lamps", "0", "name"), "must match [a-z]+"),
        ({"lamps": [{"name": "a\n"}]}, ("lamps", "0", "name"), "must match"),
        ({"lamps": [{"name": 1}]}, ("lamps", "0", "name"), "not a text"),
        ({"lamps": [{"name": "a", "level": 11}]}, ("lamps", "0", "level"), "from 0 to 10"),
        ({"lamps": [{"name": "a", "level": True}]}, ("lamps", "0", "level"), "not a whole number"),
        ({"lamps": [{"name": "a", "level": "1"}]}, ("lamps", "0", "level"), "not a whole number"),
        ({"lamps": [{"name": "a", "level": 1.0}]}, ("lamps", "0", "level"), "not a whole number"),
        ({"lamps": [{"name": "a", "lit": 1}]}, ("lamps", "0", "lit"), "not true or false"),
        ({"lamps": [{"name": "a", "mode": "slow"}]}, ("lamps", "0", "mode"), "known are steady, flash"),
        ({"lamps": [{"name": "a", "lit": True, "level": 0}]}, ("lamps", "0", "level"), "no light"),
        ({**GOOD, "keys": {"x": "1"}}, ("keys", "x"), "not a whole number"),
        ({**GOOD, "spare": {}}, ("spare", "name"), "missing"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(value, path, part):
    with pytest.raises(RuleBroken) as caught:
        declaration(Hall, value)
    error = caught.value
    assert error.path == path
    assert part in f"{error.what}; {error.why}; {error.next_step}"


def test_the_first_that_is_wrong_in_the_order_of_the_text_is_named():
    with pytest.raises(RuleBroken) as caught:
        declaration(Lamp, {"level": 99, "names": "a"})
    assert caught.value.path == ("level",)


def test_what_is_shown_of_a_value_is_bounded():
    with pytest.raises(RuleBroken) as caught:
        declaration(Lamp, {"name": "A" * 10_000})
    assert len(caught.value.what) < 200
