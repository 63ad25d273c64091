"""A model card that is read again."""

import pytest

from ganglion.core.errors import DataError
from ganglion.learning import card


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"card": 2}', b'{"card": 1}', b'{"card": 1, "network": 3}']
)
def test_what_is_no_card_is_refused(content):
    with pytest.raises(DataError) as caught:
        card.loads(content, "beside.json")
    assert caught.value.code == "learning.card"
    assert caught.value.why and caught.value.next_step
