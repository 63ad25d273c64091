"""Assignments: what a node is told to run, as JSON and back, and which origins a path covers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.flow.assignment import ALL, Assignment, origin_name, path_of

ids = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
paths = st.tuples(ids, ids).map("-".join)
shares = st.dictionaries(ids, st.frozensets(paths, max_size=3), max_size=3)
assignments = st.builds(Assignment, ids, ids, ids, ids, shares, shares)


@given(assignments)
def test_an_assignment_survives_json_text(assignment):
    assert Assignment.from_json(json.loads(json.dumps(assignment.to_json()))) == assignment


@given(shares)
def test_the_json_does_not_depend_on_order(share):
    turned = dict(reversed(share.items()))
    one, two = (Assignment("n", "s", "edge", "d", s, s) for s in (share, turned))
    assert json.dumps(one.to_json()) == json.dumps(two.to_json())


@given(paths, st.integers(0, 500))
def test_an_origin_tells_its_path(path, number):
    assert path_of(origin_name(path, number)) == path


def test_what_runs_and_leaves_here():
    assignment = Assignment("n", "s", "edge", "d", {"f": frozenset({"gw1-relay"})}, {"f": frozenset({ALL})})
    assert assignment.runs_here("f", "gw1-relay-03")
    assert not assignment.runs_here("f", "gw2-relay-03")
    assert not assignment.runs_here("g", "gw1-relay-03")
    assert assignment.exported("f", "all")
    assert not assignment.exported("f", "gw1-relay-03")


GOOD = Assignment("n", "s", "edge", "d", {"f": frozenset({"a-b"})}, {}).to_json()


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        None,
        "text",
        *({k: v for k, v in GOOD.items() if k != name} for name in GOOD),
        {**GOOD, "runs": []},
        {**GOOD, "runs": {"f": 5}},
        {**GOOD, "exports": None},
        {**GOOD, "exports": {"f": [["a"]]}},
    ],
)
def test_another_form_is_refused(value):
    with pytest.raises(DataError) as caught:
        Assignment.from_json(value)
    assert caught.value.code == "assignment.form"
    assert caught.value.next_step
