"""Errors: text with what, why and next; they survive a trip between processes."""

import pickle

import pytest

from ganglion.core import errors
from ganglion.core.errors import FlowError, GanglionError

KINDS = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, GanglionError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_code_what_why_and_next_and_can_be_pickled(kind):
    error = kind("area.kind", "it broke", why="it was old", next_step="buy another")
    assert str(error) == "[area.kind] it broke | why: it was old | next: buy another"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.code, again.what, again.why, again.next_step, str(again)) == (
        error.code,
        error.what,
        error.why,
        error.next_step,
        str(error),
    )


def test_empty_parts_are_left_out():
    assert str(FlowError("flow.x", "it broke")) == "[flow.x] it broke"


def test_every_kind_is_documented_and_derives_from_one_root():
    assert len(KINDS) >= 9
    assert all(k.__doc__ for k in KINDS)
