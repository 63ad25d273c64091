"""Names of streams and subjects."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import MessagingError
from ganglion.messaging import subjects
from ganglion.messaging.subjects import Address

ALLOWED = r"[A-Za-z0-9_:/.-]{1,128}"
PARTS = st.from_regex(ALLOWED, fullmatch=True)
SITES = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)


@given(PARTS, PARTS, SITES)
def test_every_subject_is_read_back_and_has_fixed_parts(stream, origin, site):
    assert subjects.parse(subjects.journal_subject(stream, origin)) == Address("", stream, origin)
    assert subjects.parse(subjects.outbox_subject(stream, origin)) == Address("", stream, origin)
    subject = subjects.inbox_subject(site, stream, origin)
    assert subjects.parse(subject) == Address(site, stream, origin)
    assert subject == f"in.{site}.{subjects.outbox_subject(stream, origin)}"
    assert subject.count(".") == 5


@given(st.text(max_size=20).filter(lambda text: not re.fullmatch(ALLOWED, text)))
def test_nothing_else_becomes_a_subject(text):
    with pytest.raises(MessagingError) as caught:
        subjects.outbox_subject("amps", text)
    assert caught.value.code == "messaging.subject"


@pytest.mark.parametrize(
    "subject",
    ["", "j", "j.a", "j.a.b.c", "in.gw.a.b.c", "x.a.b", "out.a.0.*", "out.a.b", "in.G.out.a.4.meter-1"],
)
def test_other_subjects_are_refused(subject):
    with pytest.raises(MessagingError) as caught:
        subjects.parse(subject)
    assert caught.value.code in ("messaging.subject", "messaging.site")


@pytest.mark.parametrize("site", ["", "1a", "Edge", "a_b", "a.b", "a" * 32, "a\n"])
def test_other_site_ids_are_refused(site):
    for name in (subjects.journal, subjects.outbox, subjects.inbox, subjects.deliver):
        with pytest.raises(MessagingError) as caught:
            name(site)
        assert caught.value.code == "messaging.site"
