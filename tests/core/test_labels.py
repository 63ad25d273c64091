"""Labels: known categories and well-formed places only; the join is a union."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import FlowError
from ganglion.core.labels import CATEGORIES, Labels, jurisdictions

labels = st.builds(
    Labels,
    st.frozensets(st.sampled_from(["DE", "FR", "US-CA"])),
    st.frozensets(st.sampled_from(sorted(CATEGORIES))),
)


@given(labels, labels, labels)
def test_the_join_is_a_semilattice_with_the_empty_label_as_zero(a, b, c):
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a
    assert a.join(Labels()) == a
    assert a.join(b).origins >= a.origins


def test_labels_as_a_flow_writes_them():
    assert Labels.make() == Labels()
    made = Labels.make("DE-BY", {"health"})
    assert (made.origins, made.categories) == (frozenset({"DE-BY"}), frozenset({"health"}))
    assert Labels.make(categories="health") == Labels(frozenset(), frozenset({"health"}))


@pytest.mark.parametrize("categories", [{"secret"}, {"health", "weather"}, "wealth", {5}])
def test_an_unknown_category_is_refused_with_the_known_ones(categories):
    with pytest.raises(FlowError) as caught:
        Labels.make("DE", categories)
    assert caught.value.code == "flow.label"
    assert "trade-secret" in caught.value.why


@pytest.mark.parametrize("origin", ["de", "Germany", "", "DE-", "D", "DE_BY", 49, ["DE"]])
def test_a_malformed_origin_is_refused(origin):
    with pytest.raises(FlowError) as caught:
        Labels.make(origin)
    assert caught.value.code == "flow.label"
    assert caught.value.next_step


def test_one_place_as_text_is_one_place_not_its_letters():
    assert jurisdictions("DE") == ("DE",)
    assert jurisdictions(["DE", "EU", "US-CA"]) == ("DE", "EU", "US-CA")
    assert jurisdictions(()) == ()
